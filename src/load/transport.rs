//! Connections to the server: TCP or a unix socket, TLS or not, and the bytes on them counted.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, UnixStream};
use tokio_rustls::TlsConnector;

use super::meters::Counters;
use super::plan::Target;

/// A loopback address has 28,000 ports for clients, and those of connections that have ended linger: so many come from
/// several addresses.
const PER_SOURCE: usize = 5000;

/// What HTTP/2 runs on.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// The server, found.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    place: Place,
    tls: Option<(Vec<Arc<rustls::ClientConfig>>, ServerName<'static>)>,
    /// For `:authority`.
    pub(crate) authority: String,
    counters: Arc<Counters>,
}

#[derive(Debug, Clone)]
enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Server {
    /// Looks the server up.
    ///
    /// # Errors
    /// If its name is not known, or cannot be in a certificate.
    pub(crate) async fn find(
        target: &Target,
        server_name: Option<&str>,
        tls: Option<Vec<Arc<rustls::ClientConfig>>>,
        counters: Arc<Counters>,
    ) -> Result<Self, String> {
        let (place, host, authority) = match target {
            Target::Unix(path) => (Place::Unix(path.clone()), "localhost", "localhost".to_owned()),
            Target::Tcp(host, port) => {
                let found = tokio::net::lookup_host((host.as_str(), *port)).await;
                let found = found.ok().and_then(|mut addresses| addresses.next());
                let address = found.ok_or_else(|| format!("nobody knows the host {host:?}"))?;
                let shown = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
                (Place::Tcp(address), host.as_str(), shown)
            }
        };
        let name = server_name.unwrap_or(host);
        let tls = match tls {
            None => None,
            Some(configs) => {
                let valid = ServerName::try_from(name.to_owned());
                Some((configs, valid.map_err(|_error| format!("{name:?} cannot be a server's name (--server-name)"))?))
            }
        };
        Ok(Self { place, tls, authority: server_name.map_or(authority, str::to_owned), counters })
    }

    /// `http` or `https`.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Connects, TLS included. `index` is the connection's, and `attempt` counts those that it has made before.
    ///
    /// # Errors
    /// What the system or TLS says.
    pub(crate) async fn connect(&self, index: usize, attempt: usize, of: usize) -> io::Result<Box<dyn Io>> {
        let counters = self.counters.clone();
        match &self.place {
            Place::Unix(path) => self.secure(Counted { io: UnixStream::connect(path).await?, counters }, index).await,
            Place::Tcp(address) => {
                let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
                socket.set_nodelay(true)?;
                if let Some(source) = source(*address, index, attempt, of) {
                    socket.bind(source)?;
                }
                self.secure(Counted { io: socket.connect(*address).await?, counters }, index).await
            }
        }
    }

    async fn secure<S: Io + 'static>(&self, io: Counted<S>, index: usize) -> io::Result<Box<dyn Io>> {
        match &self.tls {
            None => Ok(Box::new(io)),
            Some((configs, name)) => {
                let config = configs.get(index % configs.len().max(1)).ok_or(io::ErrorKind::InvalidInput)?;
                let secured = TlsConnector::from(config.clone()).connect(name.clone(), io).await?;
                if secured.get_ref().1.alpn_protocol() != Some(b"h2") {
                    return Err(io::Error::other("the server does not offer HTTP/2 (ALPN h2)"));
                }
                Ok(Box::new(secured))
            }
        }
    }
}

/// The address to connect from; `None` leaves it to the system.
fn source(server: SocketAddr, index: usize, attempt: usize, of: usize) -> Option<SocketAddr> {
    let many = of > PER_SOURCE || attempt > 0;
    // Elsewhere, only one loopback address is there.
    let usable = cfg!(target_os = "linux") && server.is_ipv4() && server.ip().is_loopback();
    (many && usable).then(|| {
        let byte = |number: usize| u8::try_from(1 + number % 250).unwrap_or(1);
        let source = Ipv4Addr::new(127, byte(std::process::id() as usize), byte(attempt), byte(index / PER_SOURCE));
        SocketAddr::new(IpAddr::V4(source), 0)
    })
}

/// Counts what goes through.
struct Counted<S> {
    io: S,
    counters: Arc<Counters>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        self.counters.bytes_in.fetch_add((buffer.filled().len() - before) as u64, Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        self.counters.bytes_out.fetch_add(written as u64, Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, slices))?;
        self.counters.bytes_out.fetch_add(written as u64, Relaxed);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn many_connections_come_from_several_addresses() {
        let server = |text: &str| text.parse::<SocketAddr>().unwrap();
        let from = |index, attempt, of| source(server("127.0.0.1:1"), index, attempt, of).map(|from| from.ip());
        assert_eq!(from(0, 0, PER_SOURCE), None);
        assert!(from(0, 0, PER_SOURCE + 1).is_some());
        assert_ne!(from(0, 0, 10_000), from(PER_SOURCE, 0, 10_000));
        assert_ne!(from(0, 1, 10), from(0, 2, 10), "ports of the connection before linger");
        assert_eq!(source(server("192.0.2.1:1"), 0, 1, 10_000), None);
        assert_eq!(source(server("[::1]:1"), 0, 1, 10_000), None);
    }
}
