//! Tells the trust store which CA each listed backend issues under, before any proxy asks.
//!
//! A mesh's trust bundle holds the CAs of *all* listed backends, also of those that do not sign. A builtin CA just shows
//! its root, and a provided one what it was given to lead to, whenever it is given another. An issuer that is to name its CA itself (no `conf.caCert`) does so only with an answer to a request: so one
//! certificate is asked for that nobody gets (`spiffe://<trust domain>/envoy-sds/probe`; approvers have to know it), its key thrown
//! away at once. A server that knows the issuer's root from before it was restarted does not ask at once: what proxies are
//! issued tells it of another as well.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::ca::provided::{Given, Provided};
use super::ca::{AuthoritySource, Signed, SigningRequest};
use super::issuer::{IssueError, learnable};
use super::metrics::Metrics;
use super::renewal::retry_after;
use super::verify::{Expected, valid_in};
use crate::model::certificate::Certificate;
use crate::model::policy::{Backend, PolicySet};
use crate::model::roots::{RootNews, RootSink};
use crate::runtime::clock::Clock;

/// An issuer's CA changes without anybody telling us: it is asked again. (Issuances tell sooner, where there are any.)
const ASK_AGAIN: Duration = Duration::from_secs(3600);

/// A state directory that is not there yet may be mounted later.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// The probe's lifetime where the Mesh says none: it is of no use to anybody, so let it be short.
const PROBE_LIFETIME: Duration = Duration::from_secs(3600);

/// What it works with.
#[derive(Debug, Clone)]
pub struct Announcer {
    /// Makes a CA of a backend's policy.
    pub authorities: Arc<dyn AuthoritySource>,
    /// Where the roots are told.
    pub roots: Arc<dyn RootSink>,
    /// The time.
    pub clock: Clock,
    /// Metrics.
    pub metrics: Arc<Metrics>,
}

type Key = (Arc<str>, Arc<str>);

impl Announcer {
    /// Announces the roots of all backends of `policies`, for as long as they are listed.
    pub async fn run(self, mut policies: watch::Receiver<Arc<PolicySet>>) {
        let mut running = JoinSet::new();
        let mut probes: HashMap<Key, (Arc<Backend>, AbortHandle)> = HashMap::new();
        loop {
            let wanted = policies.borrow_and_update().clone();
            let mut kept = HashMap::new();
            for policy in wanted.meshes.values() {
                for backend in &policy.backends {
                    let key = (policy.name.clone(), backend.name.clone());
                    let probe = match probes.remove(&key) {
                        Some((same, probe)) if same == *backend => probe,
                        changed => {
                            // It may name another issuer now, whose root is not the one that is known.
                            let is_changed = changed.is_some();
                            if let Some((_, old)) = changed {
                                old.abort();
                            }
                            running.spawn(self.clone().announce(policy.name.clone(), backend.clone(), is_changed))
                        }
                    };
                    kept.insert(key, (backend.clone(), probe));
                }
            }
            for (_, probe) in std::mem::replace(&mut probes, kept).into_values() {
                probe.abort();
            }
            while running.try_join_next().is_some() {}
            if policies.changed().await.is_err() {
                return;
            }
        }
    }

    async fn announce(self, mesh: Arc<str>, backend: Arc<Backend>, is_changed: bool) {
        self.metrics.begin(&mesh, &backend.name);
        if let Some(ca) = self.authorities.given(&mesh, &backend) {
            return self.follow(&mesh, &backend, &ca).await;
        }
        loop {
            match self.authorities.own_root(&mesh, &backend) {
                Ok(Some(root)) => return self.roots.publish(&mesh, &backend, RootNews::Own(root)),
                Ok(None) if backend.kind.takes_trust_from_issuer() => {
                    if !is_changed && self.roots.has_learned(&mesh, &backend) {
                        tokio::time::sleep(jittered(ASK_AGAIN)).await;
                    }
                    return self.probe_for_ever(&mesh, &backend).await;
                }
                Ok(None) => return,
                Err(reason) => self.roots.publish(&mesh, &backend, RootNews::Missing(reason)),
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
    }

    /// Tells what a provided CA leads to. That is told before anything is signed with it, and then again with what is.
    async fn follow(&self, mesh: &Arc<str>, backend: &Arc<Backend>, ca: &Provided) {
        let ready = self.metrics.provided_ca_ready(mesh, &backend.name);
        let mut told = None;
        ca.follow(|Given { anchor, trouble }| {
            ready.set(anchor.is_some() && trouble.is_none());
            // Each time, as the CA that was named last stays for good; but what is in trouble has been told already.
            if let Some(root) = anchor.filter(|anchor| trouble.is_none() || told.as_ref() != Some(anchor)) {
                told = Some(root.clone());
                let needed_until = self.clock.now();
                self.roots.publish(mesh, backend, RootNews::Learned { root, needed_until });
            }
            if let Some(trouble) = trouble {
                self.roots.publish(mesh, backend, RootNews::Missing(trouble));
            }
        })
        .await;
    }

    async fn probe_for_ever(&self, mesh: &Arc<str>, backend: &Arc<Backend>) {
        let mut failures = 0;
        loop {
            let wait = match self.probe(mesh, backend).await {
                Ok((root, needed_until)) => {
                    failures = 0;
                    self.roots.publish(mesh, backend, RootNews::Learned { root, needed_until });
                    jittered(ASK_AGAIN)
                }
                Err(error) => {
                    failures += 1;
                    let wait = retry_after(error.patience(), failures, None, fastrand::f64());
                    tracing::warn!(%mesh, backend = %backend.name, %error, again_in = ?wait, "the issuer's CA is not known");
                    self.roots.publish(mesh, backend, RootNews::Missing(error.to_string()));
                    wait
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn probe(&self, mesh: &Arc<str>, backend: &Arc<Backend>) -> Result<(Certificate, Timestamp), IssueError> {
        let authority = self.authorities.of(mesh, backend).map_err(IssueError::Internal)?;
        let spiffe_id: Arc<str> = format!("spiffe://{}/envoy-sds/probe", backend.trust_domain).into();
        let Signed { key, chain: issued } = authority
            .sign(SigningRequest {
                mesh: mesh.clone(),
                proxy: "probe".into(),
                spiffe_id: spiffe_id.clone(),
                lifetime: Some(backend.leaf_lifetime.unwrap_or(PROBE_LIFETIME)),
                request_timeout: backend.request_timeout,
            })
            .await?;
        // The probe is given to nobody.
        let expected = Expected { spiffe_id, public_key: key.public_key().to_vec(), policy_digest: "".into() };
        if let Some(wait) = valid_in(&issued, &expected, self.clock.now()) {
            tokio::time::sleep(wait).await;
        }
        learnable(&backend.kind, &issued, &expected, &key.pem(), self.clock.now())
    }
}

fn jittered(every: Duration) -> Duration {
    every.mul_f64(0.9 + 0.2 * fastrand::f64())
}

#[cfg(test)]
#[path = "announce_provided_tests.rs"]
mod provided_tests;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use async_trait::async_trait;
    use prometheus_client::registry::Registry;
    use tokio::sync::mpsc;

    use super::*;
    use crate::issue::ca::{CaError, CertificateAuthority};
    use crate::model::policy::{BackendKind, CaSource, IssuerRef, MeshPolicy};
    use crate::testing::certs::timestamp;

    /// An issuer that tells when it is asked, and has nothing to say; a sink that has learned its root, or not.
    #[derive(Debug, Clone)]
    struct Issuer {
        asked: mpsc::UnboundedSender<tokio::time::Instant>,
        has_learned: bool,
    }

    #[async_trait]
    impl CertificateAuthority for Issuer {
        async fn sign(&self, _: SigningRequest) -> Result<Signed, CaError> {
            self.asked.send(tokio::time::Instant::now()).unwrap();
            std::future::pending().await
        }
    }

    impl AuthoritySource for Issuer {
        fn of(&self, _: &str, _: &Backend) -> Result<Arc<dyn CertificateAuthority>, String> {
            Ok(Arc::new(self.clone()))
        }

        fn own_root(&self, _: &str, _: &Backend) -> Result<Option<Certificate>, String> {
            Ok(None)
        }
    }

    impl RootSink for Issuer {
        fn publish(&self, _: &Arc<str>, _: &Arc<Backend>, _: RootNews) {}

        fn has_learned(&self, _: &Arc<str>, _: &Backend) -> bool {
            self.has_learned
        }
    }

    fn policies(issuer: &str) -> Arc<PolicySet> {
        let issuer = IssuerRef { name: issuer.into(), kind: "Issuer".into(), group: "cert-manager.io".into() };
        let backend = Arc::new(Backend {
            name: "cm".into(),
            leaf_lifetime: None,
            request_timeout: Duration::from_secs(10),
            trust_domain: "default".into(),
            kind: BackendKind::CertManager { issuer, trust: CaSource::Issuer },
        });
        let policy = MeshPolicy::classic("default".into(), "cm".into(), vec![backend]);
        Arc::new(PolicySet { meshes: BTreeMap::from([("default".into(), Arc::new(policy))]), ..PolicySet::default() })
    }

    #[tokio::test(start_paused = true)]
    async fn an_issuer_whose_root_is_known_is_not_asked_because_the_server_starts() {
        for has_learned in [false, true] {
            let (tell, mut asked) = mpsc::unbounded_channel();
            let issuer = Arc::new(Issuer { asked: tell, has_learned });
            let clock = Clock::simulated(timestamp(1_800_000_000));
            let metrics = Metrics::new(&mut Registry::default());
            let announcer = Announcer { authorities: issuer.clone(), roots: issuer, clock, metrics };
            let (change, heard) = watch::channel(policies("one"));
            let began = tokio::time::Instant::now();
            let mut running = JoinSet::new();
            running.spawn(announcer.run(heard));
            let after = asked.recv().await.unwrap().duration_since(began);
            assert_eq!(after >= ASK_AGAIN.mul_f64(0.9), has_learned, "asked after {after:?}");
            let began = tokio::time::Instant::now();
            change.send_replace(policies("other"));
            assert_eq!(asked.recv().await.unwrap(), began, "another issuer, another root");
        }
    }
}
