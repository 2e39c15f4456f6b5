//! When policies come into force, and then streams are let in (xds-conformance item 17): once everything that the server was
//! configured with has been read for the first time. Before that streams are refused as UNAVAILABLE, which Envoy repeats,
//! perhaps to a replica that is ready; and no policy is in force, since the kinds of the cluster's objects come one after
//! the other, and with half of them a proxy may be somebody else.
//!
//! Resource files are read before anything listens, so what there is to wait for are the cluster's mesh objects, and its
//! mesh Secrets, if a mesh names any. For those that were listed when the server ran before, and for Secrets, not for long: an
//! API server that does not answer must not lock out the meshes that need nothing of it, nor the proxies that already have
//! what they need. What is not there yet is waited for in silence, so who waits for a Secret is told nothing wrong.
//!
//! Objects of which nothing is known, not even from before, are waited for as long as it takes: taken for none, they would
//! leave proxies to the mesh and the identity that they have without them. That holds also where this server may not list
//! them. Whoever has none of them and gives no permission says `clusterResources: false`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::resources::Known;
use crate::mesh::LISTED_WITHIN;
use crate::model::policy::PolicySet;
use crate::model::secrets::MeshSecrets;
use crate::observe::readiness::{Blocker, Readiness};
use crate::runtime::tasks::Tasks;

/// The longest that streams are refused where something is known: after that it is in force, complete or not.
const AT_MOST: Duration = LISTED_WITHIN;

/// What has to be known.
pub(super) struct Awaited {
    /// What is known of the cluster's objects.
    pub(super) objects: watch::Receiver<Known>,
    pub(super) policies: watch::Receiver<Arc<PolicySet>>,
    /// `None` without a cluster.
    pub(super) cluster_secrets: Option<watch::Receiver<Option<Arc<MeshSecrets>>>>,
}

impl Awaited {
    /// What is not known yet.
    fn missing(&self) -> Option<String> {
        let unknown = |secrets: &watch::Receiver<Option<Arc<MeshSecrets>>>| secrets.borrow().is_none();
        match &*self.objects.borrow() {
            Known::Unknown(why) => Some(why.clone()),
            Known::Remembered => Some("the cluster's mesh objects are not listed yet".to_owned()),
            Known::Listed if self.cluster_secrets.as_ref().is_some_and(unknown) => {
                let needed = self.policies.borrow().names_secrets();
                needed.then(|| "the cluster's mesh Secrets are not listed yet".to_owned())
            }
            Known::Listed => None,
        }
    }

    async fn wait(&mut self) {
        // Errors are those of a server that ends.
        let _ = self.objects.wait_for(|known| *known == Known::Listed).await;
        if let Some(secrets) = self.cluster_secrets.as_mut().filter(|_| self.policies.borrow().names_secrets()) {
            let _ = secrets.wait_for(Option::is_some).await;
        }
    }

    /// The same, at most for [`AT_MOST`]; says whether all is known.
    async fn wait_at_most(&mut self) -> bool {
        tokio::time::timeout(AT_MOST, self.wait()).await.is_ok()
    }

    /// Waits until nothing is unknown of which it must not be assumed that there is none, and says in `closed` what is. Says
    /// whether there was something.
    async fn wait_for_objects(&mut self, closed: &Blocker) -> bool {
        let mut has_waited = false;
        loop {
            let Known::Unknown(why) = self.objects.borrow_and_update().clone() else { return has_waited };
            has_waited = true;
            let why =
                format!("{why}; until then nobody can tell which identities proxies are to have, and none is let in");
            tracing::warn!("{why}. If resource files are all that there is, say `clusterResources: false`");
            closed.restate(why);
            if self.objects.changed().await.is_err() {
                return has_waited;
            }
        }
    }
}

/// Becomes true once all is known or has been waited for long enough, and stays so; until then the server is not ready.
pub(super) fn start(readiness: &Readiness, mut awaited: Awaited, tasks: &Tasks) -> watch::Receiver<bool> {
    let missing = awaited.missing();
    let (open, is_open) = watch::channel(missing.is_none());
    if let Some(missing) = missing {
        let closed = readiness.block("kubernetes", missing);
        tasks.spawn(async move {
            let is_known =
                awaited.wait_at_most().await || awaited.wait_for_objects(&closed).await && awaited.wait_at_most().await;
            if !is_known {
                let missing = awaited.missing().unwrap_or_default();
                tracing::warn!("{missing}; what is known without them comes into force");
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
        PolicySet { meshes: [("default".into(), Arc::new(mesh))].into(), ..PolicySet::default() }
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
        let start = |objects: &watch::Receiver<Known>, policies: &watch::Receiver<_>, cluster_secrets| {
            let awaited = Awaited { objects: objects.clone(), policies: policies.clone(), cluster_secrets };
            start(&readiness, awaited, &tasks)
        };
        let (_publish, known) = watch::channel(Known::Listed);
        assert!(*start(&known, &with, None).borrow(), "there is no cluster");
        assert!(*start(&known, &without, Some(secrets.clone())).borrow(), "no mesh names one");
        assert!(*ready.borrow());
        let gate = start(&known, &with, Some(secrets.clone()));
        assert!(!*gate.borrow());
        assert!(!*ready.borrow_and_update(), "who would be refused is not sent here");
        assert_eq!(opens_after(gate).await, AT_MOST);
        ready.wait_for(|ready| *ready).await.unwrap();

        let gate = start(&known, &with, Some(secrets.clone()));
        publish.send_replace(Some(Arc::default()));
        assert_eq!(opens_after(gate).await, Duration::ZERO);
        ready.wait_for(|ready| *ready).await.unwrap();

        let (list, listed) = watch::channel(Known::Remembered);
        let gate = start(&listed, &without, Some(secrets.clone()));
        assert!(!*gate.borrow(), "the cluster may have other meshes by now");
        assert_eq!(opens_after(gate).await, AT_MOST);
        let gate = start(&listed, &without, Some(secrets));
        list.send_replace(Known::Listed);
        assert_eq!(opens_after(gate).await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn objects_that_nobody_has_ever_seen_are_not_taken_for_none() {
        let (tasks, _deaths) = Tasks::new();
        let (_policies, policies) = watch::channel(Arc::new(with_a_secret()));
        let (_secrets, secrets) = watch::channel(None);
        let readiness = Readiness::new();
        let (list, objects) = watch::channel(Known::Unknown("not listed".to_owned()));
        let gate = start(&readiness, Awaited { objects, policies, cluster_secrets: Some(secrets) }, &tasks);
        tokio::time::sleep(100 * AT_MOST).await;
        assert!(!*gate.borrow());
        assert!(readiness.reasons()["kubernetes"].starts_with("not listed; "));
        list.send_replace(Known::Unknown("may not".to_owned()));
        tokio::time::sleep(AT_MOST).await;
        assert!(!*gate.borrow());
        assert!(readiness.reasons()["kubernetes"].starts_with("may not; "));
        list.send_replace(Known::Listed);
        assert_eq!(opens_after(gate).await, AT_MOST, "the Secrets get their time");
    }
}
