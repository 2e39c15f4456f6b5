//! Not ready while no mesh has a trust bundle: such a server can give no proxy anything. One mesh's trouble, on the other
//! hand, is a warning: it must not take the server away from the others.

use tokio::sync::watch;

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

/// Whether the policies in force are all there is: those of the cluster are listed, and the first have come into force. A
/// resource that is broken is no reason to wait: the policies themselves say which meshes it may hide.
pub(super) fn complete(
    mut listed: watch::Receiver<bool>,
    mut decided: watch::Receiver<bool>,
    tasks: &Tasks,
) -> watch::Receiver<bool> {
    let (publish, complete) = watch::channel(false);
    tasks.spawn_essential("completeness of resources", async move {
        // Neither is ever taken back, and they end with the server only.
        let is_listed = listed.wait_for(|listed| *listed).await.is_ok();
        let is_decided = decided.wait_for(|decided| *decided).await.is_ok();
        publish.send_replace(is_listed && is_decided);
        publish.closed().await;
    });
    complete
}
