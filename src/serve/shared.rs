//! What all calls share.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::admission::Admission;
use super::blocked::Blocked;
use super::bucket::Bucket;
use super::metrics::Metrics;
use super::naming::Names;
use super::refusals::Refusals;
use super::roster::Roster;
use super::source::SecretSource;
use super::state::Limits;
use super::wire::encoding::Encoder;
use super::wire::response::Response;
use crate::identify::Authenticate;
use crate::runtime::clock::Clock;

/// See [`super::SdsServer::new`].
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) drain: Duration,
    pub(super) source: Arc<dyn SecretSource>,
    pub(super) authenticate: Arc<dyn Authenticate>,
    pub(super) metrics: Metrics,
    pub(super) ready: watch::Receiver<bool>,
    pub(super) shutdown: CancellationToken,
    pub(super) clock: Clock,
    pub(super) admission: Admission,
    pub(super) encoder: Encoder,
    /// Names this replica to Envoy (item 50).
    pub(super) control_plane: String,
    pub(super) limits: Limits,
    /// How often large responses are told of. A lock, because it is held for some nanoseconds and never across an await.
    pub(super) large: Mutex<Bucket>,
    pub(super) ads_resync: Option<Duration>,
    pub(super) blocked: Arc<Blocked>,
    pub(super) roster: Roster,
    pub(super) refusals: Refusals,
    pub(super) names: Names,
}

/// Large responses are told of this often: a bundle that is large is so for all streams.
pub(super) const TELL: Duration = Duration::from_secs(60);

impl Shared {
    /// Counts a response that is large, and tells of it (item 9).
    pub(super) fn note_size(&self, response: &Response) {
        if !response.is_large() {
            return;
        }
        self.metrics.large_response();
        if self.large.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now()) {
            tracing::warn!(bytes = response.len(), "a large response (others of this minute are only counted)");
        }
    }
}
