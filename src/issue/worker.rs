//! The one task behind [`Manager`]: asks [`Schedule`] what to do and does it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::Instant;

use super::ca::AuthoritySource;
use super::issuer::{IssueError, Issuer, Subject, TRUST_GRACE, policy_digest};
use super::manager::{Command, Manager, Slots, Status};
use super::metrics::{BackendLabels, DurationLabels, IssuanceLabels, Metrics};
use super::renewal::{renew_at, retry_after};
use super::schedule::{Schedule, Step};
use super::verify::is_trusted;
use crate::model::bundle::TrustSet;
use crate::model::identity::ProxyKey;
use crate::model::policy::{Backend, PolicySet};
use crate::model::roots::RootSink;
use crate::model::svid::Svid;
use crate::runtime::clock::Clock;
use crate::runtime::tasks::Tasks;

/// The longest sleep: the clock may be set, and a machine may be suspended.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// A backend that cannot be used is tried again: its state directory may be mounted later.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// What the manager works with.
#[derive(Debug)]
pub struct ManagerSettings {
    /// How many signings of one mesh may be in flight.
    pub in_flight_limit: usize,
    /// The meshes, as they are wanted now.
    pub policies: watch::Receiver<Arc<PolicySet>>,
    /// What the meshes trust now.
    pub trust: watch::Receiver<Arc<TrustSet>>,
    /// Makes a CA of a backend's policy.
    pub authorities: Arc<dyn AuthoritySource>,
    /// Where roots that issuers name are told.
    pub roots: Arc<dyn RootSink>,
    /// The time.
    pub clock: Clock,
    /// Metrics.
    pub metrics: Arc<Metrics>,
}

impl Manager {
    /// Starts the worker.
    pub fn start(settings: ManagerSettings, tasks: &Tasks) -> Self {
        let (commands, inbox) = mpsc::unbounded_channel();
        let manager = Self { slots: Slots::default(), commands };
        let worker = Worker {
            schedule: Schedule::new(settings.in_flight_limit),
            slots: manager.slots.clone(),
            issuers: HashMap::new(),
            retry_at: None,
            checked: Arc::default(),
            running: JoinSet::new(),
            flights: HashMap::new(),
            settings,
        };
        tasks.spawn_essential("certificate manager", worker.run(inbox));
        manager
    }
}

struct Worker {
    schedule: Schedule,
    slots: Slots,
    /// The enabled backend of each mesh.
    issuers: HashMap<Arc<str>, Issuer>,
    /// When to try the backends again that cannot be used.
    retry_at: Option<Instant>,
    /// The trust that leaves were last checked against.
    checked: Arc<TrustSet>,
    running: JoinSet<Result<Svid, IssueError>>,
    flights: HashMap<Id, Flight>,
    settings: ManagerSettings,
}

struct Flight {
    key: ProxyKey,
    backend: Arc<Backend>,
    began: Instant,
    renewal: bool,
    abort: AbortHandle,
}

type Landed = Result<(Id, Result<Svid, IssueError>), JoinError>;

impl Worker {
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Command>) {
        self.settings.policies.mark_unchanged();
        self.settings.trust.mark_unchanged();
        self.policies_changed();
        self.trust_changed();
        loop {
            if self.retry_at.is_some_and(|at| at <= Instant::now()) {
                self.policies_changed();
            }
            for step in self.schedule.steps(self.settings.clock.now()) {
                match step {
                    Step::Sign(key) => self.sign(key),
                    Step::Forget(key) => self.forget(&key),
                }
            }
            let nap = self.nap();
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(command) => {
                        self.command(command);
                        // Thousands come at once when proxies reconnect: one look at the schedule serves them all.
                        while let Ok(command) = inbox.try_recv() {
                            self.command(command);
                        }
                    }
                    None => return,
                },
                Some(landed) = self.running.join_next_with_id() => self.landed(landed),
                changed = self.settings.policies.changed() => match changed {
                    Ok(()) => self.policies_changed(),
                    Err(_) => return,
                },
                changed = self.settings.trust.changed() => match changed {
                    Ok(()) => self.trust_changed(),
                    Err(_) => return,
                },
                () = tokio::time::sleep(nap) => {}
            }
        }
    }

    fn nap(&self) -> Duration {
        let longest = if self.retry_at.is_some() { TRY_AGAIN } else { LOOK_AGAIN };
        let Some(at) = self.schedule.wake_at() else { return longest };
        let until = at.duration_since(self.settings.clock.now()).max(SignedDuration::ZERO).unsigned_abs();
        // Timers have millisecond resolution: never wake a moment too early and spin.
        (until + Duration::from_millis(1)).min(longest)
    }

    fn command(&mut self, command: Command) {
        let now = self.settings.clock.now();
        match command {
            Command::Wanted(key) => self.schedule.wanted(&key, now),
            Command::Unwanted(key) => self.schedule.unwanted(&key, now),
            Command::Rotate(keys) => {
                tracing::info!(proxies = keys.len(), "certificates are renewed because an operator asks for it");
                let in_flight: HashSet<ProxyKey> = self.flights.values().map(|flight| flight.key.clone()).collect();
                for key in keys.iter().filter(|key| !in_flight.contains(key)) {
                    self.restart(key, now, now);
                }
            }
        }
    }

    fn policies_changed(&mut self) {
        let policies = self.settings.policies.borrow_and_update().clone();
        let mut issuers = HashMap::new();
        let tried_before = self.retry_at.take().is_some();
        for (mesh, policy) in &policies.meshes {
            let Some(backend) = policy.enabled() else { continue };
            let kept = self.issuers.remove(mesh).filter(|issuer| issuer.backend == *backend);
            match kept.map_or_else(|| self.issuer(mesh, backend), Ok) {
                Ok(issuer) => {
                    issuers.insert(mesh.clone(), issuer);
                }
                Err(reason) => {
                    self.retry_at = Some(Instant::now() + TRY_AGAIN);
                    if !tried_before {
                        tracing::error!(%mesh, backend = %backend.name, reason, "the backend cannot be used");
                    }
                }
            }
        }
        self.issuers = issuers;
        self.open_meshes();
        let now = self.settings.clock.now();
        let outdated: Vec<ProxyKey> = self.schedule.keys().filter(|key| self.is_outdated(key)).cloned().collect();
        if !outdated.is_empty() {
            tracing::info!(proxies = outdated.len(), "the policy has changed; certificates are issued anew");
        }
        for key in outdated {
            // The trust bundle that goes with the new policy is sent first.
            self.restart(&key, now.saturating_add(TRUST_GRACE).unwrap_or(now), now);
        }
    }

    fn issuer(&self, mesh: &Arc<str>, backend: &Arc<Backend>) -> Result<Issuer, String> {
        Ok(Issuer {
            backend: backend.clone(),
            authority: self.settings.authorities.of(mesh, backend)?,
            trust: self.settings.trust.clone(),
            roots: self.settings.roots.clone(),
            clock: self.settings.clock.clone(),
        })
    }

    /// Whether what is held or asked for is not what the policy wants now.
    fn is_outdated(&self, key: &ProxyKey) -> bool {
        let Some(issuer) = self.issuers.get(&key.mesh) else { return false };
        let in_flight = self.flights.values().find(|flight| flight.key == *key);
        let wanted = policy_digest(&issuer.backend, &subject(key));
        if let Some(flight) = in_flight {
            // The answer is looked at the way that the policy said at the start; the trust of another policy may have been
            // here before it.
            let takes_trust_from_issuer = |backend: &Backend| backend.kind.takes_trust_from_issuer();
            if takes_trust_from_issuer(&flight.backend) != takes_trust_from_issuer(&issuer.backend) {
                return true;
            }
            return policy_digest(&flight.backend, &subject(key)) != wanted;
        }
        self.slots
            .get(key)
            .is_some_and(|slot| slot.current.borrow().as_ref().is_none_or(|svid| svid.policy_digest != wanted))
    }

    fn trust_changed(&mut self) {
        let trust = self.settings.trust.borrow_and_update().clone();
        self.open_meshes();
        let now = self.settings.clock.now();
        let before = std::mem::replace(&mut self.checked, trust.clone());
        let changed = |mesh: &str| trust.meshes.get(mesh).filter(|bundle| before.meshes.get(mesh) != Some(bundle));
        let in_flight: HashSet<&ProxyKey> = self.flights.values().map(|flight| &flight.key).collect();
        let refused: Vec<ProxyKey> = self
            .slots
            .iter()
            .filter(|slot| {
                let current = slot.current.borrow();
                // One that has ended is due anyway; one in flight is checked against the trust of the moment it lands.
                let usable = current.as_ref().filter(|svid| svid.usable_until() > now);
                let bundle = changed(&slot.key().mesh).filter(|_| !in_flight.contains(slot.key()));
                bundle.zip(usable).is_some_and(|(bundle, svid)| !is_trusted(svid, bundle, now))
            })
            .map(|slot| slot.key().clone())
            .collect();
        if !refused.is_empty() {
            tracing::warn!(
                proxies = refused.len(),
                "certificates in use are no longer trusted by their mesh; they are issued anew at once"
            );
        }
        // What failed for lack of trust has backed off by up to minutes.
        let waiting: Vec<ProxyKey> = self
            .slots
            .iter()
            .filter(|slot| slot.status.wants_other_trust && changed(&slot.key().mesh).is_some())
            .filter(|slot| !in_flight.contains(slot.key()))
            .map(|slot| slot.key().clone())
            .collect();
        for key in refused {
            // Who comes back to it must not be given what its peers refuse; who holds it keeps the last good one until the
            // new one is there.
            if let Some(slot) = self.slots.get(&key).filter(|slot| slot.current.receiver_count() == 0) {
                slot.current.send_replace(None);
            }
            self.restart(&key, now, now);
        }
        for key in waiting {
            self.restart(&key, now.saturating_add(TRUST_GRACE).unwrap_or(now), now);
        }
    }

    /// A mesh signs when it has a policy, and a trust bundle to check the answers against that has its backend's CA in it.
    fn open_meshes(&mut self) {
        let trust = self.settings.trust.borrow().clone();
        let is_open = |mesh: &str| {
            let backend =
                self.issuers.get_key_value(mesh).map(|(mesh, issuer)| (mesh.clone(), issuer.backend.name.clone()));
            backend.is_some_and(|backend| trust.meshes.contains_key(mesh) && trust.known.contains(&backend))
        };
        self.schedule.close_others(is_open);
        for mesh in self.issuers.keys().filter(|mesh| is_open(mesh)) {
            self.schedule.open(mesh, true);
        }
    }

    fn restart(&mut self, key: &ProxyKey, at: Timestamp, now: Timestamp) {
        if self.schedule.restart(key, at, now) {
            self.abort(key);
        }
    }

    fn abort(&mut self, key: &ProxyKey) {
        let flight = self.flights.iter().find(|(_, flight)| flight.key == *key).map(|(id, _)| *id);
        if let Some(flight) = flight.and_then(|id| self.flights.remove(&id)) {
            flight.abort.abort();
        }
    }

    fn forget(&mut self, key: &ProxyKey) {
        self.abort(key);
        // A subscriber may have come since: its `Wanted` is in the inbox, and it holds a receiver of this very slot.
        self.slots.remove_if(key, |_, slot| slot.current.receiver_count() == 0);
    }

    fn sign(&mut self, key: ProxyKey) {
        let Some(issuer) = self.issuers.get(&key.mesh).cloned() else { return };
        let subject = subject(&key);
        let current = self.slots.get(&key).and_then(|slot| slot.current.borrow().clone());
        let renewal = current.is_some();
        let now = self.settings.clock.now();
        let bundle = self.settings.trust.borrow().meshes.get(&key.mesh).cloned();
        // Only who has a leaf that peers accept can afford to wait for them to learn of a new CA.
        let in_no_hurry = current
            .zip(bundle)
            .is_some_and(|(svid, bundle)| svid.usable_until() > now + TRUST_GRACE && is_trusted(&svid, &bundle, now));
        let backend = issuer.backend.clone();
        let abort = self.running.spawn(async move { issuer.issue(&subject, in_no_hurry).await });
        let flight = Flight { key, backend, began: Instant::now(), renewal, abort: abort.clone() };
        self.flights.insert(abort.id(), flight);
    }

    fn landed(&mut self, landed: Landed) {
        let (id, result) = match landed {
            Ok((id, result)) => (id, result),
            Err(error) => (error.id(), Err(IssueError::Internal(format!("a signing task died: {error}")))),
        };
        // One that was aborted has left the table before.
        let Some(flight) = self.flights.remove(&id) else { return };
        // The trust may have changed since it was checked, as may the policy of a moment ago.
        let result = result.and_then(|svid| self.still_trusted(&flight.key, svid));
        self.count(&flight, &result);
        match result {
            Ok(svid) => self.issued(&flight, svid),
            Err(error) => self.failed(&flight, &error),
        }
    }

    fn still_trusted(&self, key: &ProxyKey, svid: Svid) -> Result<Svid, IssueError> {
        let trust = self.settings.trust.borrow().meshes.get(&key.mesh).cloned().ok_or(IssueError::TrustUnknown)?;
        if is_trusted(&svid, &trust, self.settings.clock.now()) { Ok(svid) } else { Err(IssueError::TrustChanged) }
    }

    fn issued(&mut self, flight: &Flight, svid: Svid) {
        let now = self.settings.clock.now();
        let (due, until) = (renew_at(&svid, now, fastrand::f64()), svid.usable_until());
        tracing::info!(
            proxy = %flight.key, mesh = %flight.key.mesh, serial = svid.leaf.serial(), issuer = svid.leaf.issuer(),
            not_after = %svid.validity().not_after, renewal = %due, renewed = flight.renewal, "certificate issued"
        );
        if let Some(mut slot) = self.slots.get_mut(&flight.key) {
            slot.status = Status { next: Some(due), ..Status::default() };
            slot.current.send_replace(Some(Arc::new(svid)));
        }
        self.schedule.issued(&flight.key, due, until);
    }

    fn failed(&mut self, flight: &Flight, error: &IssueError) {
        let now = self.settings.clock.now();
        let patience = error.patience();
        let next = self
            .schedule
            .failed(&flight.key, now, |failures, left| retry_after(patience, failures, left, fastrand::f64()));
        let text = error.to_string();
        let Some(mut slot) = self.slots.get_mut(&flight.key) else { return };
        let repeated = slot.status.error.as_ref() == Some(&text);
        slot.status = Status { next, error: Some(text), wants_other_trust: error.wants_other_trust() };
        drop(slot);
        let next = next.map(|next| next.to_string());
        // The first is news; the same again and again is not.
        if repeated {
            tracing::debug!(proxy = %flight.key, mesh = %flight.key.mesh, backend = %flight.backend.name, %error, next, "no certificate, again");
        } else {
            tracing::warn!(
                proxy = %flight.key, mesh = %flight.key.mesh, backend = %flight.backend.name, %error, next,
                keeps_the_old_one = flight.renewal, "no certificate"
            );
        }
    }

    fn count(&self, flight: &Flight, result: &Result<Svid, IssueError>) {
        let (mesh, backend) = (flight.key.mesh.to_string(), flight.backend.name.to_string());
        let metrics = &self.settings.metrics;
        let outcome = result.as_ref().map_or_else(IssueError::label, |_| "issued");
        metrics
            .issuances
            .get_or_create(&IssuanceLabels { mesh: mesh.clone(), backend: backend.clone(), outcome })
            .inc();
        match result {
            Ok(_) => metrics
                .duration
                .get_or_create(&DurationLabels { backend })
                .observe(flight.began.elapsed().as_secs_f64()),
            Err(_) if flight.renewal => {
                metrics.renewal_errors.get_or_create(&BackendLabels { mesh, backend }).inc();
            }
            Err(_) => {}
        }
    }
}

fn subject(key: &ProxyKey) -> Subject {
    Subject { mesh: key.mesh.clone(), proxy: key.instance.name().into(), spiffe_id: key.spiffe_id.clone() }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
