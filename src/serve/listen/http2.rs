//! HTTP/2 on accepted connections: its limits, and how a connection comes to its end.
//!
//! hyper is driven here and not through tonic's `Server`, because that retires all connections of one age at the same
//! moment, cannot end a single one gracefully, and does not let go of peers that come in and never prove who they are.
//!
//! What peers can do wrong on this level is bounded as follows; the tests try each.
//!
//! | attack | bound |
//! |---|---|
//! | connect and say nothing, or never open a stream that is let in, or none any more | `HELLO`, [`UNPROVEN`], [`IDLE`] |
//! | open streams and reset them ("rapid reset") | [`PENDING_RESETS`], else `GOAWAY` (`ENHANCE_YOUR_CALM`) |
//! | make us reset streams | [`LOCAL_RESETS`], likewise |
//! | streams at a time | [`CONCURRENT_STREAMS`], else the stream is refused |
//! | endless or large headers, `CONTINUATION`s | [`HEADERS`]; h2 counts frames too |
//! | `PING`s, `SETTINGS` | h2 keeps one answer, and reads on when that is written |
//! | empty or tiny `DATA` | h2 counts the empty ones, and has a budget for tiny ones that nobody has taken yet; then `GOAWAY` |
//! | requests as fast as they fit | `session` reads so many a second of a stream, and its window closes |
//! | windows that do not open | `blocked` ends the connection |
//! | no answer to our own `PING` | [`KEEPALIVE_TIMEOUT`] |

use std::future::pending;
use std::time::Duration;

use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::mpsc;
use tonic::body::Body;
use tower::Service;

use super::Lifetimes;
use super::calls::{Begun, WithCalls};
use super::connection::{Connection, Peer};
use crate::runtime::tasks::Tasks;
use crate::serve::SdsServer;

/// HTTP/2 windows. A real Envoy sends four requests of 61 KB at once, more than HTTP/2's 64 KiB default lets through
/// without waiting for us.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// Calls at a time on one connection; Envoy opens further connections when it needs more (xds-conformance item 12).
pub(super) const CONCURRENT_STREAMS: u32 = 1024;

/// Bytes of a call's headers. A Kubernetes token has about 1.2 KB.
const HEADERS: u32 = 32 << 10;

/// Streams that a peer has opened and reset before they were looked at.
const PENDING_RESETS: usize = 20;

/// Streams that were reset because of a peer's mistakes, in the life of a connection.
const LOCAL_RESETS: usize = 256;

/// Bytes that HTTP/2 holds of a response whose peer does not read.
const SEND_BUFFER: usize = 64 << 10;

/// A connection that is silent for this long is asked for a sign of life (item 13) …
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// … and dropped if none comes within this time.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection on which no call was let in for this long since it began is ended: descriptors are for those who prove
/// who they are. A proxy whose token is not accepted yet comes back with the next attempt.
pub(super) const UNPROVEN: Duration = Duration::from_secs(60);

/// A connection without a stream for this long is ended, signs of life or not: the proof that let its last one in may be long over.
/// A proxy that has secrets to ask for has one.
pub(super) const IDLE: Duration = Duration::from_secs(600);

/// Serves `server` on what is accepted, until shutdown begins. Each connection ends within `lifetimes.drain` of that.
pub(super) async fn serve(
    mut accepted: mpsc::Receiver<Connection>,
    server: SdsServer,
    tasks: Tasks,
    lifetimes: Lifetimes,
) {
    while let Some(connection) = tasks.shutdown().run_until_cancelled(accepted.recv()).await.flatten() {
        tasks.spawn_to_end(run(connection, server.clone(), tasks.clone(), lifetimes));
    }
}

/// One connection to its end.
async fn run(connection: Connection, server: SdsServer, tasks: Tasks, lifetimes: Lifetimes) {
    let peer = connection.peer(tasks.shutdown());
    let service = service_fn({
        let peer = peer.clone();
        move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            server.clone().call(request.map(Body::new))
        }
    });
    let begun = Begun::default();
    let served = protocol(begun.clone()).serve_connection(TokioIo::new(connection), service);
    let mut served = WithCalls::new(served, begun);
    // Nearly every time that this task is woken, it is not for this, which is looked at only when it is.
    let mut retired = FuturesUnordered::from_iter([retired(peer.clone(), lifetimes.max_age).boxed()]);
    let ended = tokio::select! {
        ended = &mut served => ended,
        Some(()) = retired.next() => {
            // Envoy does not move its streams because of the GOAWAY, so they are ended too, each at a time of its own
            // (items 102 and 103).
            served.connection().graceful_shutdown();
            peer.leave.cancel();
            match tokio::time::timeout(lifetimes.drain, &mut served).await {
                Ok(ended) => ended,
                Err(_elapsed) => return tracing::debug!(%peer, "the connection did not end in time; closing it"),
            }
        }
    };
    if let Err(error) = ended {
        // The peer's mistakes and its going away are its own business (item 101).
        tracing::debug!(%peer, %error, "the connection has ended");
    }
    served.rest().await;
}

/// Resolves when the connection is to be ended: it is old, or of no use, or somebody says so.
async fn retired(peer: Peer, max_age: Option<Duration>) {
    let aged = async {
        match max_age {
            // As far apart as gRPC puts them, so that connections which began together do not end together.
            Some(age) => tokio::time::sleep(age.mul_f64(0.9 + 0.2 * fastrand::f64())).await,
            None => pending().await,
        }
    };
    let unused = async {
        if tokio::time::timeout(UNPROVEN, peer.let_in.cancelled()).await.is_err() {
            return;
        }
        let mut streams = peer.streams.subscribe();
        // The sender is the peer's: it is not gone before this is.
        while streams.wait_for(|count| *count == 0).await.is_ok()
            && tokio::time::timeout(IDLE, streams.changed()).await.is_ok()
        {}
    };
    tokio::select! {
        () = peer.leave.cancelled() => {}
        () = aged => tracing::debug!(%peer, "the connection has reached its maximum age"),
        () = unused => tracing::debug!(%peer, "nobody was let in on the connection, or for long none has stayed"),
    }
}

fn protocol(begun: Begun) -> http2::Builder<Begun> {
    let mut builder = http2::Builder::new(begun);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(CONCURRENT_STREAMS)
        .max_header_list_size(HEADERS)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(LOCAL_RESETS)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    builder
}

#[cfg(test)]
#[path = "http2_tests.rs"]
mod tests;
