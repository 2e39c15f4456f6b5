//! Ends connections whose peers do not take what they are sent (xds-conformance item 96).
//!
//! HTTP/2 does not ask a call's body for anything while a piece of it waits for the peer's leave to be sent. So a stream
//! whose peer has stopped reading notices nothing: not the end of its proof, not a change of policy, not the time. What
//! waits is therefore listed here, and one task looks at the list. It is empty unless peers are slow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;

/// The pieces that wait, of all streams.
#[derive(Debug, Default)]
pub(crate) struct Blocked {
    next: AtomicU64,
    waiting: DashMap<u64, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    connection: CancellationToken,
}

/// One stream's way out.
#[derive(Debug)]
pub(crate) struct Exit {
    blocked: Arc<Blocked>,
    id: u64,
    connection: CancellationToken,
}

impl Blocked {
    /// For a stream on the connection that `connection` ends.
    pub(crate) fn exit(self: &Arc<Self>, connection: CancellationToken) -> Exit {
        Exit { blocked: self.clone(), id: self.next.fetch_add(1, Ordering::Relaxed), connection }
    }

    /// Ends connections on which a piece has waited for `limit`, for ever. There is no way to end only the stream from
    /// outside; a peer that does not read one is not likely to read others, and it comes back with all of them.
    pub(crate) async fn sweep(self: Arc<Self>, limit: Duration, metrics: Metrics) {
        loop {
            tokio::time::sleep(limit / 6).await;
            for waiting in &self.waiting {
                if waiting.since.elapsed() >= limit && !waiting.connection.is_cancelled() {
                    tracing::warn!(?limit, "a proxy does not take what it is sent; its connection is closed");
                    metrics.stalled();
                    waiting.connection.cancel();
                }
            }
        }
    }
}

impl Exit {
    /// A piece is handed to HTTP/2.
    pub(crate) fn handed_over(&self) {
        let waiting = Waiting { since: Instant::now(), connection: self.connection.clone() };
        self.blocked.waiting.insert(self.id, waiting);
    }

    /// HTTP/2 asks for more, so it has sent what it had.
    pub(crate) fn asked(&self) {
        self.blocked.waiting.remove(&self.id);
    }
}

impl Drop for Exit {
    fn drop(&mut self) {
        self.asked();
    }
}
