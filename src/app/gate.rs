//! When streams are let in (xds-conformance item 17): once everything that the server was configured with has been read
//! for the first time. Before that they are refused as UNAVAILABLE, which Envoy repeats, perhaps to a replica that is ready.
//!
//! Mesh resources are read before anything listens, so what there is to wait for are the cluster's mesh Secrets, if a mesh
//! names any. Not for long: an API server that does not answer must not lock out the meshes that need nothing of it, nor
//! the proxies that already have what they need. A secret that is not there yet is waited for in silence, so a gate that
//! opens early makes nobody be told something wrong; this one only spares proxies the wait.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::model::policy::PolicySet;
use crate::model::secrets::MeshSecrets;
use crate::observe::readiness::Readiness;
use crate::runtime::tasks::Tasks;

/// The longest that streams are refused.
const AT_MOST: Duration = Duration::from_secs(10);

/// Becomes true once, and stays so; until then the server is not ready.
pub(super) fn start(
    readiness: &Readiness,
    policies: &watch::Receiver<Arc<PolicySet>>,
    cluster_secrets: Option<watch::Receiver<Option<Arc<MeshSecrets>>>>,
    tasks: &Tasks,
) -> watch::Receiver<bool> {
    let needed = cluster_secrets.filter(|_| policies.borrow().names_secrets());
    let (open, is_open) = watch::channel(needed.is_none());
    if let Some(mut secrets) = needed {
        let closed = readiness.block("kubernetes", "the cluster's mesh Secrets are not listed yet");
        tasks.spawn(async move {
            if tokio::time::timeout(AT_MOST, secrets.wait_for(Option::is_some)).await.is_err() {
                tracing::warn!("the cluster's mesh Secrets are still unknown; streams are let in for what needs none");
            }
            open.send_replace(true);
            drop(closed);
        });
    }
    is_open
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::model::policy::{Backend, BackendKind, CaSource, IssuerRef, MeshPolicy};

    fn with_a_secret() -> PolicySet {
        let issuer = IssuerRef { name: "mesh".into(), kind: "Issuer".into(), group: "cert-manager.io".into() };
        let backend = Backend {
            name: "ca-1".into(),
            leaf_lifetime: None,
            request_timeout: Duration::from_secs(10),
            trust_domain: "default".into(),
            kind: BackendKind::CertManager { issuer, trust: CaSource::Secret("mesh-ca".into()) },
        };
        let mesh = MeshPolicy::classic("default".into(), "ca-1".into(), vec![Arc::new(backend)]);
        PolicySet { meshes: [("default".into(), Arc::new(mesh))].into() }
    }

    async fn opens_after(mut gate: watch::Receiver<bool>) -> Duration {
        let before = Instant::now();
        gate.wait_for(|open| *open).await.unwrap();
        before.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn item_17_streams_wait_for_the_secrets_that_a_mesh_names_and_not_for_ever() {
        let (tasks, _deaths) = Tasks::new();
        let (_policies, without) = watch::channel(Arc::new(PolicySet::default()));
        let (_policies, with) = watch::channel(Arc::new(with_a_secret()));
        let (publish, secrets) = watch::channel(None);
        let readiness = Readiness::new();
        let mut ready = readiness.watch();
        assert!(*start(&readiness, &with, None, &tasks).borrow(), "there is no cluster");
        assert!(*start(&readiness, &without, Some(secrets.clone()), &tasks).borrow(), "no mesh names one");
        assert!(*ready.borrow());
        let gate = start(&readiness, &with, Some(secrets.clone()), &tasks);
        assert!(!*gate.borrow());
        assert!(!*ready.borrow_and_update(), "who would be refused is not sent here");
        assert_eq!(opens_after(gate).await, AT_MOST);
        ready.wait_for(|ready| *ready).await.unwrap();

        let gate = start(&readiness, &with, Some(secrets), &tasks);
        publish.send_replace(Some(Arc::default()));
        assert_eq!(opens_after(gate).await, Duration::ZERO);
        ready.wait_for(|ready| *ready).await.unwrap();
    }
}
