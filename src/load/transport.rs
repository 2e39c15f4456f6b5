//! Connections to the server: TCP or a unix socket, TLS or not, and the bytes on them counted.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::meters::Counters;
use super::plan::Target;

/// A loopback address has 28,000 ports for clients, and those of connections that have ended linger: so many come from
/// several addresses.
const PER_SOURCE: usize = 5000;

/// How long an address may take to accept a connection while another one of the same name may be the server's: as long as a
/// connection may take with Envoy (`connect_timeout`).
const PATIENCE: Duration = Duration::from_secs(5);

/// What HTTP/2 runs on.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Why there is no connection: in general, and in full.
#[derive(Debug)]
pub(crate) struct Unconnected {
    pub(crate) what: String,
    pub(crate) detail: String,
}

impl Unconnected {
    fn tls(detail: impl ToString) -> Self {
        Self { what: "cannot connect: TLS handshake failed".to_owned(), detail: detail.to_string() }
    }

    /// Who does not speak TLS hangs up, or answers in what it speaks; which it does cannot be told from a server that has had
    /// enough, so it is asked.
    fn handshake(error: &io::Error) -> Self {
        let of_tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        Self::tls(match of_tls {
            Some(rustls::Error::InvalidMessage(_)) | None => format!("{error}; does the server speak TLS there?"),
            Some(_) => error.to_string(),
        })
    }
}

impl From<io::Error> for Unconnected {
    fn from(error: io::Error) -> Self {
        Self { what: format!("cannot connect: {}", error.kind()), detail: error.to_string() }
    }
}

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
    Tcp(Addresses),
    Unix(PathBuf),
}

/// What a name stands for, as the resolver prefers it. The first that accepts a connection is the server from then on.
#[derive(Debug, Clone)]
struct Addresses {
    all: Vec<SocketAddr>,
    found: OnceLock<SocketAddr>,
}

impl Server {
    /// Looks the server up. Where its name stands for several addresses, it is looked for at each, before anything is timed.
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
                let addresses = Addresses::new(found.map(Iterator::collect).unwrap_or_default());
                if addresses.all.is_empty() {
                    return Err(format!("nobody knows the host {host:?}"));
                }
                if addresses.found.get().is_none() {
                    // If there is none yet, each connection looks for it again.
                    let _ = addresses.connect(0, 0, 1).await;
                }
                let shown = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
                (Place::Tcp(addresses), host.as_str(), shown)
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

    /// Whether it is spoken to in TLS.
    pub(crate) fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// `http` or `https`.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.is_secure() { "https" } else { "http" }
    }

    /// Where it was found; `None` if it is a unix socket, or no address of its name has accepted a connection.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match &self.place {
            Place::Tcp(addresses) => addresses.found.get().copied(),
            Place::Unix(_) => None,
        }
    }

    /// Connects, TLS included. `index` is the connection's, and `attempt` counts those that it has made before.
    ///
    /// # Errors
    /// What the system or TLS says.
    pub(crate) async fn connect(&self, index: usize, attempt: usize, of: usize) -> Result<Box<dyn Io>, Unconnected> {
        let counters = self.counters.clone();
        match &self.place {
            Place::Unix(path) => self.secure(Counted { io: UnixStream::connect(path).await?, counters }, index).await,
            Place::Tcp(addresses) => {
                let io = addresses.connect(index, attempt, of).await?;
                self.secure(Counted { io, counters }, index).await
            }
        }
    }

    async fn secure<S: Io + 'static>(&self, io: Counted<S>, index: usize) -> Result<Box<dyn Io>, Unconnected> {
        match &self.tls {
            None => Ok(Box::new(io)),
            Some((configs, name)) => {
                let config = configs.get(index % configs.len().max(1));
                let config = config.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
                let secured = TlsConnector::from(config.clone()).connect(name.clone(), io).await;
                let secured = secured.map_err(|error| Unconnected::handshake(&error))?;
                if secured.get_ref().1.alpn_protocol() != Some(b"h2") {
                    return Err(Unconnected::tls("the server does not offer HTTP/2 (ALPN h2)"));
                }
                Ok(Box::new(secured))
            }
        }
    }
}

impl Addresses {
    fn new(all: Vec<SocketAddr>) -> Self {
        let found = match all[..] {
            [only] => OnceLock::from(only),
            _ => OnceLock::new(),
        };
        Self { all, found }
    }

    /// Connects to the one that was found, or else to the first that accepts.
    async fn connect(&self, index: usize, attempt: usize, of: usize) -> io::Result<TcpStream> {
        if let Some(found) = self.found.get() {
            return connect(*found, index, attempt, of).await;
        }
        let (mut kind, mut tried) = (io::ErrorKind::AddrNotAvailable, Vec::new());
        for address in &self.all {
            let connected = timeout(PATIENCE, connect(*address, index, attempt, of)).await;
            match connected.unwrap_or_else(|_late| Err(io::ErrorKind::TimedOut.into())) {
                Ok(stream) => {
                    self.found.get_or_init(|| *address);
                    return Ok(stream);
                }
                Err(error) => {
                    kind = error.kind();
                    tried.push(format!("{address}: {error}"));
                }
            }
        }
        Err(io::Error::new(kind, tried.join("; ")))
    }
}

async fn connect(server: SocketAddr, index: usize, attempt: usize, of: usize) -> io::Result<TcpStream> {
    let socket = if server.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    if let Some(source) = source(server, index, attempt, of) {
        socket.bind(source)?;
    }
    socket.connect(server).await
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

    #[tokio::test]
    async fn the_first_address_that_accepts_is_kept() {
        // Their ports are taken, and nobody listens there.
        let silent = ["127.0.0.1:0", "127.0.0.1:0"].map(|any| {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(any.parse().unwrap()).unwrap();
            socket
        });
        let [nobody, nobody_else] = silent.each_ref().map(|socket| socket.local_addr().unwrap());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let somebody = listener.local_addr().unwrap();
        let server = |addresses: Addresses| {
            let place = Place::Tcp(addresses);
            Server { place, tls: None, authority: String::new(), counters: Arc::default() }
        };

        let reached = server(Addresses::new(vec![nobody, somebody]));
        assert_eq!(reached.address(), None);
        assert!(reached.connect(0, 0, 1).await.is_ok());
        assert_eq!(reached.address(), Some(somebody));

        let kept = server(Addresses { all: vec![nobody, somebody], found: nobody.into() });
        assert!(kept.connect(0, 0, 1).await.is_err(), "no other one is tried");
        assert_eq!(server(Addresses::new(vec![nobody])).address(), Some(nobody), "there is no choice");

        let away = server(Addresses::new(vec![nobody, nobody_else]));
        let error = away.connect(0, 0, 1).await.err().unwrap();
        assert_eq!((&*error.what, away.address()), ("cannot connect: connection refused", None));
        for address in [nobody, nobody_else] {
            assert!(error.detail.contains(&format!("{address}: Connection refused")), "{error:?}");
        }
    }
}
