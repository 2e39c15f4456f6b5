//! Not ready while no mesh has a trust bundle: such a server can give no proxy anything. One mesh's trouble, on the other
//! hand, is a warning: it must not take the server away from the others.

use std::sync::Arc;

use tokio::sync::watch;

use crate::model::diagnostic::Problem;
use crate::observe::readiness::Readiness;
use crate::runtime::tasks::Tasks;
use crate::trust::store::TrustStore;

const NAME: &str = "trust";

pub(super) fn start(readiness: &Readiness, trust: &TrustStore, tasks: &Tasks) {
    let (readiness, mut bundles, mut troubles) = (readiness.clone(), trust.all(), trust.troubles());
    let mut blocker = Some(readiness.block(NAME, "no mesh has a trust bundle yet"));
    tasks.spawn_essential("trust readiness", async move {
        loop {
            let none = bundles.borrow_and_update().meshes.is_empty();
            let reasons: Vec<String> = troubles
                .borrow_and_update()
                .iter()
                .map(|((mesh, backend), trouble)| format!("mesh {mesh}, backend {backend}: {}", trouble.reason))
                .collect();
            let reason = if reasons.is_empty() { "no mesh has mTLS on".to_owned() } else { reasons.join("; ") };
            let reason = format!("no mesh has a trust bundle: {reason}");
            match &blocker {
                Some(blocker) if none => blocker.restate(reason),
                None if none => blocker = Some(readiness.block(NAME, reason)),
                _ => blocker = None,
            }
            let changed = tokio::select! {
                changed = bundles.changed() => changed,
                changed = troubles.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    });
}

/// Whether the resources are all there is: those of the cluster are listed, and none of all is broken, so none hides a mesh.
pub(super) fn complete(
    mut problems: watch::Receiver<Arc<Vec<Problem>>>,
    mut listed: watch::Receiver<bool>,
    tasks: &Tasks,
) -> watch::Receiver<bool> {
    let (publish, complete) = watch::channel(false);
    tasks.spawn_essential("completeness of resources", async move {
        loop {
            publish.send_replace(problems.borrow_and_update().is_empty() && *listed.borrow_and_update());
            let changed = tokio::select! {
                changed = problems.changed() => changed,
                changed = listed.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    });
    complete
}
