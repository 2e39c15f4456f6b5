//! The connections of the address for metrics, which others than operators reach: only so many, and none that nobody uses.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// How many connections there may be at a time; whoever comes then waits to be accepted.
const MOST: usize = 64;

/// How long nothing may come or go on a connection before it ends. Longer than most are left alone between two scrapes. (How
/// long a request may take to come is bounded by [`super::connections`].)
const IDLE: Duration = Duration::from_secs(120);

/// How long a client may take to read an answer, however steadily: longer than any scrape may.
const ANSWER: Duration = Duration::from_secs(300);

/// Accepts [`MOST`] connections at a time.
#[derive(Debug)]
pub(super) struct Bounded {
    socket: TcpListener,
    places: Arc<Semaphore>,
}

impl Bounded {
    pub(super) fn new(socket: TcpListener) -> Self {
        Self { socket, places: Arc::new(Semaphore::new(MOST)) }
    }
}

impl Listener for Bounded {
    type Io = Used<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Used<TcpStream>, SocketAddr) {
        // It is never closed; if it were, there would be no bound, and still metrics.
        let place = self.places.clone().acquire_owned().await.ok();
        let (stream, from) = Listener::accept(&mut self.socket).await;
        (Used::new(stream, place), from)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// A connection that ends [`IDLE`] after it was last used, and when an answer has taken [`ANSWER`].
#[derive(Debug)]
pub(super) struct Used<S> {
    stream: S,
    until: Pin<Box<Sleep>>,
    /// When what is being sent, or was sent last, has to have been taken.
    answer_until: Option<Instant>,
    /// The client has yet to take what was sent before.
    is_full: bool,
    _place: Option<OwnedSemaphorePermit>,
}

impl<S> Used<S> {
    fn new(stream: S, place: Option<OwnedSemaphorePermit>) -> Self {
        let until = Box::pin(tokio::time::sleep(IDLE));
        Self { stream, until, answer_until: None, is_full: false, _place: place }
    }

    /// Of what was tried: if it did something, the time begins anew; if it waits, for no longer than the time.
    fn judged<T>(&mut self, context: &mut Context<'_>, tried: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if tried.is_ready() {
            let idle = Instant::now() + IDLE;
            self.until.as_mut().reset(self.answer_until.map_or(idle, |until| until.min(idle)));
            return tried;
        }
        self.until.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    fn has_read<T>(&mut self, context: &mut Context<'_>, tried: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        // What comes while an answer is stuck gives it no more time.
        if tried.is_ready() && !self.is_full {
            self.answer_until = None;
        }
        self.judged(context, tried)
    }

    fn has_written<T>(&mut self, context: &mut Context<'_>, tried: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.is_full = tried.is_pending();
        self.answer_until.get_or_insert_with(|| Instant::now() + ANSWER);
        self.judged(context, tried)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Used<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let tried = Pin::new(&mut self.stream).poll_read(context, into);
        self.has_read(context, tried)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Used<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let tried = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.has_written(context, tried)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let tried = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.has_written(context, tried)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn bound() -> (Bounded, SocketAddr) {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        (Bounded::new(socket), address)
    }

    #[tokio::test]
    async fn one_more_is_accepted_when_another_has_gone() {
        let (mut bounded, address) = bound().await;
        let (mut clients, mut accepted) = (Vec::new(), Vec::new());
        for _ in 0..MOST {
            clients.push(TcpStream::connect(address).await.unwrap());
            accepted.push(bounded.accept().await);
        }
        let next = TcpStream::connect(address).await.unwrap();
        let mut accept = Box::pin(bounded.accept());
        assert!(accept.as_mut().now_or_never().is_none());
        accepted.pop();
        let (_, from) = accept.await;
        assert_eq!(from, next.local_addr().unwrap());
    }

    #[tokio::test]
    async fn a_connection_that_nobody_uses_ends() {
        let (mut bounded, address) = bound().await;
        let mut client = TcpStream::connect(address).await.unwrap();
        let (mut used, _) = bounded.accept().await;
        client.write_all(b"x").await.unwrap();
        assert_eq!(used.read(&mut [0; 2]).await.unwrap(), 1);
        tokio::time::pause();
        let begin = Instant::now();
        let error = used.read(&mut [0; 2]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        // But for what has passed of it before time was stopped.
        assert!(begin.elapsed() > IDLE / 2 && begin.elapsed() <= IDLE + Duration::from_millis(1));
    }

    /// Writes `bytes` to a client that reads one of them a second; says how that ends, and when.
    async fn read_slowly(bytes: usize, answers: usize) -> (io::Result<()>, Duration) {
        let (mut client, stream) = tokio::io::duplex(1);
        let mut used = Used::new(stream, None);
        let begin = Instant::now();
        let reads = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                // It asks again before it has read.
                let _ = client.write_all(b"x").now_or_never();
                client.read_exact(&mut [0]).await.unwrap();
            }
        };
        let writes = async {
            for _ in 0..answers {
                used.read_exact(&mut [0]).await?;
                used.write_all(&vec![0; bytes]).await?;
            }
            Ok(())
        };
        let ended = tokio::select! {
            ended = writes => ended,
            () = reads => unreachable!("it reads for ever"),
        };
        (ended, begin.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_read_slowly_ends_and_one_that_is_read_for_ever_does_too() {
        let (ended, _) = read_slowly(200, 3).await;
        assert!(ended.is_ok(), "{ended:?}");
        let (ended, after) = read_slowly(100_000, 1).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!((ANSWER..ANSWER + Duration::from_secs(3)).contains(&after), "{after:?}");
    }
}
