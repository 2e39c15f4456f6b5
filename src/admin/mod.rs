//! What operators and probes ask: over HTTP `/livez`, `/readyz`, `/metrics` and a status page, over gRPC who the proxies are
//! and what they were sent. Nothing here ever shows key material: the types that are rendered hold none, but for
//! [`crate::model::svid::Svid`], of which only the leaf is looked at.

mod certificates;
mod csds;
mod grpc;
mod health;
pub mod http;
pub mod proto;
mod service;
mod status;
#[cfg(test)]
mod testing;
pub mod text;
mod view;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::issue::ca::cert_manager::PendingBoard;
use crate::issue::manager::Manager;
use crate::model::diagnostic::Problem;
use crate::model::policy::PolicySet;
use crate::observe::readiness::Readiness;
use crate::serve::roster::Roster;
use crate::trust::store::TrustStore;

/// All that the admin pages show.
pub struct Admin {
    /// Why the server is not ready.
    pub readiness: Readiness,
    /// The SDS addresses that are really bound.
    pub listeners: Vec<String>,
    /// The meshes.
    pub policies: watch::Receiver<Arc<PolicySet>>,
    /// What is wrong with the resources at the moment.
    pub problems: watch::Receiver<Arc<Vec<Problem>>>,
    /// The trust bundles.
    pub trust: TrustStore,
    /// The certificates.
    pub manager: Manager,
    /// The live streams.
    pub roster: Roster,
    /// Requests that cert-manager has not answered; `None` without a cluster.
    pub pending: Option<PendingBoard>,
    /// The metrics.
    pub registry: Registry,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("listeners", &self.listeners).finish_non_exhaustive()
    }
}

impl Admin {
    /// What an operator should know of, though the server does its work: by what it is about.
    fn warnings(&self) -> BTreeMap<String, Vec<String>> {
        let mut warnings: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for problem in self.problems.borrow().iter() {
            warnings.entry("resources".to_owned()).or_default().push(problem.to_string());
        }
        for ((mesh, backend), trouble) in self.trust.troubles().borrow().iter() {
            let consequence = if trouble.has_last_good {
                "what it said before stays trusted"
            } else {
                "the mesh has no trust bundle until this is mended"
            };
            let text = format!("backend {backend}: {}; {consequence}", trouble.reason);
            warnings.entry(format!("trust/{mesh}")).or_default().push(text);
        }
        let waiting = self.pending.iter().flat_map(PendingBoard::snapshot);
        // Every request is pending for a moment; what is told here is what somebody may have to do something about.
        for pending in waiting.filter(|pending| pending.slow || pending.hint.is_some()) {
            let hint = pending.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
            let text = format!(
                "{} has been waiting for {} {} since {}: {}: {}{hint}",
                pending.proxy, pending.issuer.kind, pending.issuer.name, pending.since, pending.reason, pending.message
            );
            warnings.entry(format!("pending/{}", pending.mesh)).or_default().push(text);
        }
        for (key, (_, status)) in self.manager.snapshot() {
            let Some(error) = status.error else { continue };
            let next = status.next.map(|next| format!("; next attempt at {next}")).unwrap_or_default();
            warnings.entry(format!("issuance/{}", key.mesh)).or_default().push(format!("{key}: {error}{next}"));
        }
        for texts in warnings.values_mut().filter(|texts| texts.len() > SHOWN) {
            let more = texts.len() - SHOWN;
            texts.truncate(SHOWN);
            texts.push(format!("and {more} more"));
        }
        warnings
    }
}

/// How many of one kind are listed: when a CA is away, every proxy has the same trouble.
const SHOWN: usize = 20;
