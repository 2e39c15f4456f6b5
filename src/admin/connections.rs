//! The connections of the admin addresses, and how long they may take to say what they want.
//!
//! They are driven here and not by axum, which gives no request a time to be there, and whose connections are nobody's tasks.

use std::future::pending;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::serve::Listener;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// How long the head of a connection's first request may take to be there as a whole.
const FIRST: Duration = Duration::from_secs(10);

/// How long the next one may take, from the answer before, the time without a byte of it included: longer than most are left
/// alone between two scrapes. (Of HTTP/1; HTTP/2 has signs of life.)
const NEXT: Duration = Duration::from_secs(120);

/// An HTTP/2 connection on which no frame has come for this long is asked for a sign of life …
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// … and dropped if none comes within this time, as none can from the midst of another frame.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may take to end after shutdown has begun. Some never would: a watch of the health, a reader that
/// does not read.
const GRACE: Duration = Duration::from_secs(1);

/// What is understood on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
    /// HTTP/1 alone.
    Http1,
    /// And HTTP/2 without TLS.
    Http1And2,
}

/// Serves `routes` until `shutdown`, and a moment longer to whoever is being answered.
pub(super) async fn serve<L: Listener>(mut socket: L, routes: Router, speaks: Speaks, shutdown: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            (stream, _from) = socket.accept() => {
                connections.spawn(serve_one(stream, routes.clone(), speaks, shutdown.clone()));
            }
            Some(_ended) = connections.join_next() => {}
            () = shutdown.cancelled() => break,
        }
    }
    drop(socket);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    // The rest is ended with the set.
    let _ = tokio::time::timeout(GRACE, all_ended).await;
}

/// One connection to its end.
async fn serve_one<I>(stream: I, routes: Router, speaks: Speaks, shutdown: CancellationToken)
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let asked = CancellationToken::new();
    let service = service_fn(|request: Request<Incoming>| {
        asked.cancel();
        routes.clone().oneshot(request)
    });
    let mut protocol = auto::Builder::new(TokioExecutor::new());
    protocol.http1().timer(TokioTimer::new()).header_read_timeout(NEXT);
    protocol
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    if speaks == Speaks::Http1 {
        protocol = protocol.http1_only();
    }
    let mut served = pin!(protocol.serve_connection(TokioIo::new(stream), service));
    // Also while it is not known yet which protocol it is, for which hyper has no bound.
    let is_silent = async {
        if tokio::time::timeout(FIRST, asked.cancelled()).await.is_ok() {
            pending::<()>().await;
        }
    };
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = is_silent => return tracing::debug!("no request has come on an admin connection; closing it"),
        () = shutdown.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        // The client's mistakes and its going away are its own business.
        tracing::debug!(%error, "an admin connection has ended");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::time::Instant;

    use super::*;

    const ASK: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

    /// HTTP/2's preface, `SETTINGS`, and a `GET` of `/` in `HEADERS`.
    const ASK_HTTP_2: &[u8] =
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x06\x01\x05\0\0\0\x01\x82\x86\x84\x41\x01a";

    fn connect(speaks: Speaks) -> (DuplexStream, JoinSet<()>) {
        let (client, stream) = tokio::io::duplex(64 << 10);
        let routes = Router::new().route("/", get(async || "answer"));
        let mut server = JoinSet::new();
        server.spawn(serve_one(stream, routes, speaks, CancellationToken::new()));
        (client, server)
    }

    /// Sends `text` over and over, a byte a second, until the connection has ended; says how long that took.
    async fn trickle(mut client: DuplexStream, text: &[u8], mut server: JoinSet<()>) -> Duration {
        let begin = Instant::now();
        let (mut read, mut write) = tokio::io::split(&mut client);
        let bytes = async {
            for byte in text.iter().cycle() {
                // It may have ended, which is told below.
                let _ = write.write_all(&[*byte]).await;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let answers = async {
            let mut all = Vec::new();
            let _ = read.read_to_end(&mut all).await;
            pending::<()>().await;
        };
        tokio::select! {
            ended = server.join_next() => ended.unwrap().unwrap(),
            () = bytes => {}
            () = answers => {}
            () = tokio::time::sleep(Duration::from_secs(3600)) => panic!("it has not ended"),
        }
        begin.elapsed()
    }

    async fn answer(client: &mut DuplexStream) -> String {
        let mut answer = Vec::new();
        while !answer.ends_with(b"answer") {
            assert_ne!(client.read_buf(&mut answer).await.unwrap(), 0, "it has ended");
        }
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_request_that_trickles_in_is_not_waited_for() {
        let head = [b"GET / HTTP/1.1\r\nx: ".as_slice(), &[b'x'; 5000]].concat();
        for (text, speaks) in [(&head[..], Speaks::Http1), (&head, Speaks::Http1And2), (ASK_HTTP_2, Speaks::Http1And2)]
        {
            let (client, server) = connect(speaks);
            assert_eq!(trickle(client, text, server).await, FIRST, "{speaks:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nor_is_the_next_one() {
        for speaks in [Speaks::Http1, Speaks::Http1And2] {
            let (mut client, server) = connect(speaks);
            client.write_all(ASK.as_bytes()).await.unwrap();
            answer(&mut client).await;
            let head = [b"GET / HTTP/1.1\r\nx: ".as_slice(), &[b'x'; 5000]].concat();
            assert_eq!(trickle(client, &head, server).await, NEXT, "{speaks:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_that_trickles_in_is_no_sign_of_life() {
        let (mut client, server) = connect(Speaks::Http1And2);
        client.write_all(ASK_HTTP_2).await.unwrap();
        let begun = [b"\0\x3f\0\x01\x05\0\0\0\x03\0".as_slice(), &[b'x'; 5000]].concat();
        let lasted = trickle(client, &begun, server).await;
        assert!((KEEPALIVE_INTERVAL..KEEPALIVE_INTERVAL * 3).contains(&lasted), "{lasted:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_nobody_reads_is_not_waited_for() {
        let (mut client, mut server) = connect(Speaks::Http1);
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n").await.unwrap();
        let begin = Instant::now();
        answer(&mut client).await;
        server.join_next().await.unwrap().unwrap();
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_now_and_then_stays() {
        let (mut client, mut server) = connect(Speaks::Http1);
        for _ in 0..20 {
            client.write_all(ASK.as_bytes()).await.unwrap();
            assert!(answer(&mut client).await.starts_with("HTTP/1.1 200 OK"));
            tokio::time::sleep(NEXT - Duration::from_secs(1)).await;
        }
        assert!(server.try_join_next().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_to_speak_http_1_cannot_speak_http_2() {
        let (mut client, mut server) = connect(Speaks::Http1);
        client.write_all(ASK_HTTP_2).await.unwrap();
        server.join_next().await.unwrap().unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert!(!answer.starts_with(b"\0"), "{answer:?}");
    }
}
