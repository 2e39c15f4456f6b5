//! A connection of any kind, and what it proves about its peer.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::places::ConnectionPlace;
use crate::identify::client_ca::ClientCaWatch;
use crate::identify::client_certificate::ClientChain;
use crate::identify::{UnixPeer, process};

/// What a connection proves about its peer. It is in the extensions of every call.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// Where it comes from; `None` for a unix socket.
    pub address: Option<SocketAddr>,
    /// Its certificate chain, if it has shown one; all streams of the connection live by this one.
    pub certificate: Option<Arc<ClientChain>>,
    /// The credentials of the peer of a unix socket.
    pub unix: Option<UnixPeer>,
    /// Closes the connection when cancelled.
    pub(crate) end: CancellationToken,
    /// Cancelled when the connection is to end by and by: its streams end themselves, no new ones are let in.
    pub(crate) leave: CancellationToken,
    /// Cancelled when a call was let in on it.
    pub(crate) let_in: CancellationToken,
    /// Its calls that were let in and have not ended.
    pub(crate) streams: Arc<watch::Sender<usize>>,
    /// Its streams that have not sent a request.
    pub(crate) silent: Arc<AtomicUsize>,
    /// Its streams whose proof of identity is being verified.
    pub(crate) verifying: Arc<AtomicUsize>,
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

/// Bytes of the preface with which each HTTP/2 connection begins (RFC 9113 §3.4).
const PREFACE: usize = 24;

/// An accepted connection, past its TLS handshake.
#[derive(Debug)]
pub struct Connection {
    io: Io,
    end: CancellationToken,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    /// `None` once the peer has spoken.
    silence: Option<Silence>,
    proven: Proven,
    _place: Option<ConnectionPlace>,
}

/// What the transport has proven of the peer, read once, when the connection was made.
#[derive(Debug, Default)]
struct Proven {
    certificate: Option<Arc<ClientChain>>,
    unix: Option<UnixPeer>,
}

#[derive(Debug)]
pub(super) enum Io {
    /// TCP without TLS.
    Plain(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
    /// A unix socket.
    Unix(UnixStream),
    /// No socket, so that a test can pause time.
    #[cfg(test)]
    Memory(tokio::io::DuplexStream),
}

/// A peer that has not spoken HTTP/2 yet. Keep-alive begins only after that, and idle connections are free to make.
#[derive(Debug)]
struct Silence {
    missing: usize,
    limit: Pin<Box<Sleep>>,
}

impl Connection {
    /// A connection whose peer must have sent HTTP/2's preface by `deadline`.
    pub(super) fn new(io: Io, deadline: Instant) -> Self {
        let end = CancellationToken::new();
        let ended = Box::pin(end.clone().cancelled_owned());
        let limit = Box::pin(tokio::time::sleep_until(deadline));
        let silence = Some(Silence { missing: PREFACE, limit });
        Self { io, end, ended, silence, proven: Proven::default(), _place: None }
    }

    /// One of a unix socket, to be made as soon as it is accepted: by the time that its peer speaks, the number of the process
    /// that connected may be another's. `proc` is where the kernel tells of processes.
    pub(super) fn unix(stream: UnixStream, deadline: Instant, proc: &Path) -> Self {
        let peer = |peer: tokio::net::unix::UCred| UnixPeer {
            uid: peer.uid(),
            gid: peer.gid(),
            pid: peer.pid(),
            started: peer.pid().and_then(|pid| process::started(proc, pid)),
        };
        let unix = stream.peer_cred().ok().map(peer);
        let connection = Self::new(Io::Unix(stream), deadline);
        Self { proven: Proven { unix, ..Proven::default() }, ..connection }
    }

    /// One of TLS. `client_ca` is what the peer's certificate was verified against, if it has shown one.
    pub(super) fn tls(stream: TlsStream<TcpStream>, deadline: Instant, client_ca: Option<ClientCaWatch>) -> Self {
        let (_, session) = stream.get_ref();
        let shown = session.peer_certificates().filter(|chain| !chain.is_empty()).zip(client_ca);
        let certificate = shown.map(|(chain, client_ca)| Arc::new(ClientChain::new(chain.to_vec(), client_ca)));
        let connection = Self::new(Io::Tls(Box::new(stream)), deadline);
        Self { proven: Proven { certificate, ..Proven::default() }, ..connection }
    }

    /// The connection with the place that it has.
    pub(super) fn at(self, place: Option<ConnectionPlace>) -> Self {
        Self { _place: place, ..self }
    }

    /// What has come of reading or writing; an error once it has been ended from within. HTTP/2 always reads or writes, so
    /// one of these is always waiting, and asking then is enough: a peer that is never waited for does not get far, as the
    /// runtime makes everybody wait now and then.
    fn unless_ended<T>(&mut self, outcome: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if outcome.is_pending() && self.ended.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "closed by the server")));
        }
        outcome
    }

    /// Takes note of `read` bytes, or of nothing to read; an error if the peer has been silent for too long.
    fn poll_silence(&mut self, read: Option<usize>, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(silence) = &mut self.silence else { return Ok(()) };
        silence.missing = silence.missing.saturating_sub(read.unwrap_or(0));
        if silence.missing == 0 {
            self.silence = None;
        } else if read.is_none() && silence.limit.as_mut().poll(cx).is_ready() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not speak HTTP/2"));
        }
        Ok(())
    }
}

impl Connection {
    /// What there is to know of the peer; the connection is to end when `shutdown` begins.
    pub(super) fn peer(&self, shutdown: &CancellationToken) -> Peer {
        let address = match &self.io {
            Io::Plain(stream) => stream.peer_addr().ok(),
            Io::Tls(stream) => stream.get_ref().0.peer_addr().ok(),
            Io::Unix(_) => None,
            #[cfg(test)]
            Io::Memory(_) => None,
        };
        Peer {
            address,
            certificate: self.proven.certificate.clone(),
            unix: self.proven.unix,
            end: self.end.clone(),
            leave: shutdown.child_token(),
            ..Peer::default()
        }
    }
}

/// Calls the same method on whatever it is.
macro_rules! each {
    ($self:expr, $stream:ident => $call:expr) => {
        match &mut $self.get_mut().io {
            Io::Plain($stream) => $call,
            Io::Tls($stream) => $call,
            Io::Unix($stream) => $call,
            #[cfg(test)]
            Io::Memory($stream) => $call,
        }
    };
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = each!(self.as_mut(), stream => Pin::new(stream).poll_read(cx, buf))?;
        self.poll_silence(read.is_ready().then(|| buf.filled().len() - before), cx)?;
        self.unless_ended(read.map(Ok), cx)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = each!(self.as_mut(), stream => Pin::new(stream).poll_write(cx, buf));
        self.unless_ended(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = each!(self.as_mut(), stream => Pin::new(stream).poll_write_vectored(cx, bufs));
        self.unless_ended(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(stream) => stream.is_write_vectored(),
            Io::Tls(stream) => stream.is_write_vectored(),
            Io::Unix(stream) => stream.is_write_vectored(),
            #[cfg(test)]
            Io::Memory(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = each!(self.as_mut(), stream => Pin::new(stream).poll_flush(cx));
        self.unless_ended(flushed, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn pair() -> (UnixStream, Connection) {
        let (peer, ours) = UnixStream::pair().unwrap();
        (peer, Connection::unix(ours, Instant::now() + Duration::from_secs(10), Path::new(process::PROC)))
    }

    /// What the number of the process means later does not count.
    #[tokio::test]
    async fn the_peer_is_the_process_that_there_was_when_the_connection_was_made() {
        let proc = tempfile::tempdir().unwrap();
        let process = proc.path().join(std::process::id().to_string());
        std::fs::create_dir(&process).unwrap();
        let began =
            |at: u64| std::fs::write(process.join("stat"), format!("1 (a) S {}{at} 0\n", "0 ".repeat(18))).unwrap();
        began(700);
        let (_peer, ours) = UnixStream::pair().unwrap();
        let connection = Connection::unix(ours, Instant::now() + Duration::from_secs(10), proc.path());
        began(701);
        let peer = connection.peer(&CancellationToken::new());
        assert_eq!(peer.unix.unwrap().started, Some(700));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_has_to_speak_and_may_be_silent_afterwards() {
        for (said, lives) in
            [(&b""[..], false), (b"PRI * HTTP/2.0", false), (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", true)]
        {
            let (mut peer, mut connection) = pair();
            peer.write_all(said).await.unwrap();
            let mut rest = Vec::new();
            let read = tokio::time::timeout(Duration::from_secs(3600), connection.read_to_end(&mut rest)).await;
            assert_eq!(rest, said);
            match read {
                Ok(read) => assert_eq!((read.unwrap_err().kind(), lives), (io::ErrorKind::TimedOut, false)),
                Err(_elapsed) => assert!(lives, "{said:?}"),
            }
        }
    }

    #[tokio::test]
    async fn it_can_be_ended_from_within() {
        let (_peer, mut connection) = pair();
        let end = connection.peer(&CancellationToken::new()).end;
        let (read, ()) = tokio::join!(connection.read_u8(), async { end.cancel() });
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        // More than there is room for, so that it waits for the peer.
        let written = connection.write_all(&[0; 1 << 20]).await;
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }
}
