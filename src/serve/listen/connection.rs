//! A connection of any kind, and what it proves about its peer.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::identify::UnixPeer;

/// What a connection proves about its peer. It is in the extensions of every call.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// Where it comes from; `None` for a unix socket.
    pub address: Option<SocketAddr>,
    /// Its certificate chain, verified against the listener's client CA; empty if it has shown none.
    pub certificates: Arc<[CertificateDer<'static>]>,
    /// The credentials of the peer of a unix socket.
    pub unix: Option<UnixPeer>,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.address, self.unix) {
            (Some(address), _) => write!(f, "{address}"),
            (None, Some(peer)) => write!(f, "unix:uid={},gid={}", peer.uid, peer.gid),
            (None, None) => f.write_str("unknown"),
        }
    }
}

/// An accepted connection, past its TLS handshake.
#[derive(Debug)]
pub enum Connection {
    /// TCP without TLS.
    Plain(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
    /// A unix socket.
    Unix(UnixStream),
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        match self {
            Self::Plain(stream) => Peer { address: stream.peer_addr().ok(), ..Peer::default() },
            Self::Tls(stream) => {
                let (stream, session) = stream.get_ref();
                Peer {
                    address: stream.peer_addr().ok(),
                    certificates: session.peer_certificates().unwrap_or_default().into(),
                    unix: None,
                }
            }
            Self::Unix(stream) => {
                let peer =
                    |peer: tokio::net::unix::UCred| UnixPeer { uid: peer.uid(), gid: peer.gid(), pid: peer.pid() };
                Peer { unix: stream.peer_cred().ok().map(peer), ..Peer::default() }
            }
        }
    }
}

/// Calls the same method on whatever it is.
macro_rules! each {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Connection::Plain($stream) => $call,
            Connection::Tls($stream) => $call,
            Connection::Unix($stream) => $call,
        }
    };
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
