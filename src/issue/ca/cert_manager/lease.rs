//! The sign of life of this process: a Lease that other servers look at before they delete what it has created.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Api;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Timing;
use super::resource::{INSTANCE, MANAGED_BY, MANAGER, Origin};
use crate::runtime::clock::Clock;
use crate::runtime::cluster::{explain, is_not_found};

/// How the lease stands.
#[derive(Debug, Clone, Default)]
pub(super) struct Standing {
    renewed: Option<Instant>,
    error: Option<String>,
}

/// Tells whether the lease is held.
#[derive(Debug, Clone)]
pub(super) struct Held(watch::Receiver<Standing>);

impl Held {
    /// Waits until the lease is fresh. No request may be made before: under a stale lease, another server might take it
    /// for an orphan.
    pub(super) async fn fresh(&mut self, timing: &Timing) {
        let fresh = |standing: &Standing| standing.renewed.is_some_and(|at| at.elapsed() < timing.lease_fresh);
        if self.0.wait_for(fresh).await.is_err() {
            // The task that renews it is gone: shutdown.
            std::future::pending::<()>().await;
        }
    }

    /// Why it is not fresh, as far as is known.
    pub(super) fn error(&self) -> String {
        self.0.borrow().error.clone().unwrap_or_else(|| "no answer".to_owned())
    }
}

/// The task that creates the lease and renews it.
#[derive(Debug)]
pub(super) struct Renewal {
    api: Api<Lease>,
    origin: Origin,
    clock: Clock,
    timing: Timing,
    standing: watch::Sender<Standing>,
}

/// The name of an instance's lease.
pub(super) fn lease_name(instance: &str) -> String {
    format!("{MANAGER}-{instance}")
}

impl Renewal {
    pub(super) fn new(api: Api<Lease>, origin: Origin, clock: Clock, timing: Timing) -> (Self, Held) {
        let (standing, held) = watch::channel(Standing::default());
        (Self { api, origin, clock, timing, standing }, Held(held))
    }

    /// Renews for ever.
    pub(super) async fn run(self) {
        loop {
            // Taken before the call: others count from the moment that the API server wrote it, which is later.
            let began = Instant::now();
            let outcome = tokio::time::timeout(self.timing.api_call, Box::pin(self.renew())).await;
            let error = match outcome {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(explain(&error)),
                Err(_elapsed) => Some("no answer".to_owned()),
            };
            self.standing.send_modify(|standing| {
                match (&standing.error, &error) {
                    (None, Some(error)) => tracing::warn!(error, "cannot renew this server's Lease"),
                    (Some(_), None) => tracing::info!("this server's Lease is renewed again"),
                    _ => {}
                }
                if error.is_none() {
                    standing.renewed = Some(began);
                }
                standing.error = error.clone();
            });
            let pause = if error.is_some() { self.timing.lease_retry } else { self.timing.lease_renewal };
            tokio::time::sleep_until(began + pause).await;
        }
    }

    async fn renew(&self) -> kube::Result<()> {
        let (name, now) = (lease_name(&self.origin.instance), self.clock.now());
        let renewal = Patch::Merge(json!({"spec": {"renewTime": MicroTime(now)}}));
        match self.api.patch(&name, &PatchParams::default(), &renewal).await {
            // The first time, or somebody took us for dead, or an operator tidied up.
            Err(error) if is_not_found(&error) => {
                self.api.create(&PostParams::default(), &self.lease(name, now)).await.map(drop)
            }
            other => other.map(drop),
        }
    }

    fn lease(&self, name: String, now: Timestamp) -> Lease {
        let labels = [(MANAGED_BY, MANAGER), (INSTANCE, self.origin.instance.as_str())];
        let metadata = ObjectMeta {
            name: Some(name),
            namespace: Some(self.origin.namespace.clone()),
            labels: Some(BTreeMap::from(labels.map(|(key, value)| (key.to_owned(), value.to_owned())))),
            ..ObjectMeta::default()
        };
        let spec = LeaseSpec {
            holder_identity: Some(self.origin.instance.clone()),
            acquire_time: Some(MicroTime(now)),
            renew_time: Some(MicroTime(now)),
            lease_duration_seconds: i32::try_from(self.timing.dead_after.as_secs()).ok(),
            ..LeaseSpec::default()
        };
        Lease { metadata, spec: Some(spec) }
    }
}

/// Gives the lease up, so that others need not wait before they sweep.
pub(super) async fn give_up(api: &Api<Lease>, instance: &str) -> Result<(), kube::Error> {
    match Box::pin(api.delete(&lease_name(instance), &DeleteParams::default())).await {
        Err(error) if !is_not_found(&error) => Err(error),
        _ => Ok(()),
    }
}
