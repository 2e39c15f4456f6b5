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

/// How long nothing may come or go on a connection before it ends. Longer than most are left alone between two scrapes.
const IDLE: Duration = Duration::from_secs(120);

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
    type Io = Used;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Used, SocketAddr) {
        // It is never closed; if it were, there would be no bound, and still metrics.
        let place = self.places.clone().acquire_owned().await.ok();
        let (stream, from) = Listener::accept(&mut self.socket).await;
        (Used { stream, idle: Box::pin(tokio::time::sleep(IDLE)), _place: place }, from)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// A connection that ends [`IDLE`] after it was last used.
#[derive(Debug)]
pub(super) struct Used {
    stream: TcpStream,
    idle: Pin<Box<Sleep>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Used {
    /// Of what was tried: if it did something, the time begins anew; if it waits, for no longer than the time.
    fn judged<T>(&mut self, context: &mut Context<'_>, tried: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if tried.is_ready() {
            self.idle.as_mut().reset(Instant::now() + IDLE);
            return tried;
        }
        self.idle.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Used {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let tried = Pin::new(&mut self.stream).poll_read(context, into);
        self.judged(context, tried)
    }
}

impl AsyncWrite for Used {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let tried = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judged(context, tried)
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
        self.judged(context, tried)
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
}
