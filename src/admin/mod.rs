//! What operators and probes ask: over HTTP `/livez`, `/readyz`, `/metrics` and a status page, over gRPC who the proxies are
//! and what they were sent. Nothing here ever shows key material: the types that are rendered hold none, but for
//! [`crate::model::svid::Svid`], of which only the leaf is looked at.

mod certificates;
mod connections;
mod csds;
mod exposition;
mod grpc;
mod health;
mod host;
pub mod http;
pub mod proto;
mod scraping;
mod service;
mod status;
#[cfg(test)]
mod testing;
mod view;
mod warnings;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::issue::ca::cert_manager::PendingBoard;
use crate::issue::manager::Manager;
use crate::model::diagnostic::Problem;
use crate::model::policy::PolicySet;
use crate::model::preflight::Verdicts;
use crate::observe::readiness::Readiness;
use crate::runtime::watch_board::WatchBoard;
use crate::serve::refusals::Refusals;
use crate::serve::roster::Roster;
use crate::trust::store::TrustStore;

/// All that the admin pages show.
pub struct Admin {
    /// Why the server is not ready.
    pub readiness: Readiness,
    /// What the pages are asked for by, beside names that nobody can publish: the host of the admin address, as it is
    /// configured, and its further names.
    pub host_names: Vec<String>,
    /// The SDS addresses that are really bound.
    pub listeners: Vec<String>,
    /// The meshes, by the policies that are in force.
    pub policies: watch::Receiver<Arc<PolicySet>>,
    /// What is wrong with the resources at the moment.
    pub problems: watch::Receiver<Arc<Vec<Problem>>>,
    /// The same of what proofs of identity are verified with.
    pub proof_problems: Vec<watch::Receiver<Arc<Vec<Problem>>>>,
    /// What cannot be kept for the next start, by file.
    pub state_troubles: watch::Receiver<Arc<BTreeMap<PathBuf, String>>>,
    /// What the API server does not list at the moment.
    pub cluster: WatchBoard,
    /// How the test certificates of the signing backends did.
    pub verdicts: watch::Receiver<Arc<Verdicts>>,
    /// The trust bundles.
    pub trust: TrustStore,
    /// The certificates.
    pub manager: Manager,
    /// The live streams.
    pub roster: Roster,
    /// Whom streams were refused.
    pub refusals: Refusals,
    /// The meshes that the configuration names, and where: there may be none of that name.
    pub named_meshes: Vec<(String, String)>,
    /// What is to be known of a CA that this server has made because it found no mesh.
    pub own_ca: watch::Receiver<Option<&'static str>>,
    /// Requests that cert-manager has not answered; `None` without a cluster.
    pub pending: Option<PendingBoard>,
    /// The metrics.
    pub registry: Arc<Registry>,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("listeners", &self.listeners).finish_non_exhaustive()
    }
}
