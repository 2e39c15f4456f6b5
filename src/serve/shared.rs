//! What all calls share.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::admission::Admission;
use super::blocked::Blocked;
use super::metrics::Metrics;
use super::naming::Names;
use super::roster::Roster;
use super::source::SecretSource;
use super::wire::encoding::Encoder;
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
    /// For SotW and Fetch.
    pub(super) sotw: Encoder,
    pub(super) delta: Encoder,
    pub(super) ads_resync: Option<Duration>,
    pub(super) blocked: Arc<Blocked>,
    pub(super) roster: Roster,
    pub(super) names: Names,
}
