//! The one task behind [`Manager`]: asks [`Schedule`] what to do and does it.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::Instant;

use super::ca::AuthoritySource;
use super::inbox::{Inbox, Note};
use super::issuer::{IssueError, Issuer, Subject, TRUST_GRACE};
use super::manager::{Manager, Slots, Status};
use super::metrics::{BackendLabels, DurationLabels, ISSUED, IssuanceLabels, Metrics};
use super::progress::Board;
use super::recognise::Recognised;
use super::renewal::{renew_issued_at, retry_after};
use super::resume::Anchors;
use super::schedule::{Schedule, Step};
use super::signer::{Signer, trust_domain};
use super::signing_cas::SigningCas;
use super::verify::is_trusted;
use crate::model::bundle::{Bundle, TrustSet};
use crate::model::identity::ProxyKey;
use crate::model::policy::{Backend, PolicySet};
use crate::model::roots::RootSink;
use crate::model::svid::Svid;
use crate::runtime::clock::Clock;
use crate::runtime::state_dir::StateDir;
use crate::runtime::tasks::Tasks;

/// The longest sleep: the clock may be set, and a machine may be suspended.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// A backend that cannot be used is tried again: its state directory may be mounted later.
pub(super) const TRY_AGAIN: Duration = Duration::from_secs(10);

/// How many proxies' news are heard in one turn. Thousands come at once when proxies reconnect: one look at the schedule serves
/// many, but what has landed, what is due and another policy or trust must not wait until all have been heard.
pub(super) const HEARD_AT_ONCE: usize = 256;

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
    /// Where it is kept which CAs have signed.
    pub state_dir: StateDir,
    /// The time.
    pub clock: Clock,
    /// Metrics.
    pub metrics: Arc<Metrics>,
}

impl Manager {
    /// Starts the worker.
    pub fn start(settings: ManagerSettings, tasks: &Tasks) -> Self {
        let manager = Self {
            slots: Slots::default(),
            inbox: Arc::default(),
            next_report: Arc::default(),
            progress: Board::default(),
            signing_cas: SigningCas::start(&settings.state_dir, settings.clock.clone(), tasks),
        };
        let worker = Worker {
            schedule: Schedule::new(settings.in_flight_limit),
            slots: manager.slots.clone(),
            inbox: manager.inbox.clone(),
            progress: manager.progress.clone(),
            signing_cas: manager.signing_cas.clone(),
            issuers: HashMap::new(),
            unusable: HashMap::new(),
            retry_at: None,
            checked: Arc::default(),
            anchors: HashMap::new(),
            recognised: Recognised::default(),
            running: JoinSet::new(),
            flights: HashMap::new(),
            flying: HashMap::new(),
            settings,
        };
        tasks.spawn_essential("certificate manager", worker.run());
        manager
    }
}

pub(super) struct Worker {
    pub(super) schedule: Schedule,
    pub(super) slots: Slots,
    inbox: Arc<Inbox>,
    progress: Board,
    signing_cas: SigningCas,
    /// What each mesh's enabled backend, and that of each of its identity policies, can be asked by.
    pub(super) issuers: HashMap<Signer, Issuer>,
    /// Backends that cannot be used, by mesh and name, and why.
    pub(super) unusable: HashMap<(Arc<str>, Arc<str>), String>,
    /// When to try the backends again that cannot be used.
    pub(super) retry_at: Option<Instant>,
    /// The trust that leaves were last checked against.
    pub(super) checked: Arc<TrustSet>,
    /// The same, by mesh and trust domain, for leaves of which only the version is known.
    pub(super) anchors: HashMap<Domain, Anchors>,
    pub(super) recognised: Recognised,
    running: JoinSet<Result<Svid, IssueError>>,
    /// The schedule has one signing at most in flight for each.
    pub(super) flights: HashMap<ProxyKey, Flight>,
    flying: HashMap<Id, ProxyKey>,
    pub(super) settings: ManagerSettings,
}

/// A mesh, and one of its own trust domains.
pub(super) type Domain = (Arc<str>, Arc<str>);

pub(super) struct Flight {
    id: Id,
    pub(super) issuance: Issuance,
    abort: AbortHandle,
}

/// What is being issued, or was.
pub(super) struct Issuance {
    pub(super) backend: Arc<Backend>,
    began: Instant,
    renewal: bool,
}

type Landed = Result<(Id, Result<Svid, IssueError>), JoinError>;

impl Worker {
    async fn run(mut self) {
        self.settings.policies.mark_unchanged();
        self.settings.trust.mark_unchanged();
        self.policies_changed();
        self.trust_changed();
        loop {
            if self.retry_at.is_some_and(|at| at <= Instant::now()) {
                self.policies_changed();
            }
            let steps = self.schedule.steps(self.settings.clock.now());
            let is_alone = self.flights.is_empty() && steps.len() == 1;
            let mut has_room_again = false;
            for step in steps {
                match step {
                    Step::Sign(key) => has_room_again |= self.sign(key, is_alone),
                    Step::Forget(key) => self.forget(&key),
                }
            }
            self.recognised.tell(Instant::now());
            self.progress.note(self.schedule.backlogs(), Instant::now());
            let nap = self.nap();
            tokio::select! {
                // Whichever it is, all that has landed and a part of the news are heard below: none keeps another waiting.
                biased;
                changed = self.settings.policies.changed() => match changed {
                    Ok(()) => self.policies_changed(),
                    Err(_) => return,
                },
                changed = self.settings.trust.changed() => match changed {
                    Ok(()) => self.trust_changed(),
                    Err(_) => return,
                },
                Some(landed) = self.running.join_next_with_id() => self.landed(landed),
                () = self.inbox.wait() => {}
                // Somebody may have waited for this very place.
                () = tokio::task::yield_now(), if has_room_again => {}
                () = tokio::time::sleep(nap) => {}
            }
            // At most as many as there were in flight: new ones begin with the next turn.
            while let Some(landed) = self.running.try_join_next_with_id() {
                self.landed(landed);
            }
            for (key, note) in self.inbox.take(HEARD_AT_ONCE) {
                self.hear(&key, note);
            }
        }
    }

    fn nap(&self) -> Duration {
        let longest = if self.retry_at.is_some() { TRY_AGAIN } else { LOOK_AGAIN };
        let now = Instant::now();
        let to_tell = [self.recognised.tell_in(now), self.progress.tell_in(now)];
        let longest = to_tell.into_iter().flatten().fold(longest, Duration::min);
        let Some(at) = self.schedule.wake_at() else { return longest };
        let until = at.duration_since(self.settings.clock.now()).max(SignedDuration::ZERO).unsigned_abs();
        // Timers have millisecond resolution: never wake a moment too early and spin.
        (until + Duration::from_millis(1)).min(longest)
    }

    /// What has happened to a proxy. Those who come are first: should others go, the proxy was never alone.
    fn hear(&mut self, key: &ProxyKey, note: Note) {
        let now = self.settings.clock.now();
        for (id, leaf) in note.reports {
            let report = self.recognise(key, leaf).map(|report| (id, report));
            self.schedule.wanted(key, report, now);
        }
        // Who has gone already was there all the same: what it left behind is to be forgotten in time.
        let passed = usize::from(note.passed);
        for _ in 0..note.come + passed {
            self.schedule.wanted(key, None, now);
        }
        for id in note.withdrawn {
            self.schedule.unwanted(key, Some(id), now);
        }
        for _ in 0..note.gone + passed {
            self.schedule.unwanted(key, None, now);
        }
        self.show_held(key);
        if note.rotate {
            self.schedule.call_for(key, now);
            if !self.flights.contains_key(key) {
                self.restart(key, now, now);
            }
        }
    }

    pub(super) fn restart(&mut self, key: &ProxyKey, at: Timestamp, now: Timestamp) {
        if self.schedule.restart(key, at, now) {
            self.abort(key);
        }
        self.show_held(key);
    }

    fn abort(&mut self, key: &ProxyKey) {
        if let Some(flight) = self.flights.remove(key) {
            self.flying.remove(&flight.id);
            flight.abort.abort();
        }
    }

    fn forget(&mut self, key: &ProxyKey) {
        self.abort(key);
        // A subscriber may have come since: it has a note in the inbox, and holds a receiver of this very slot.
        if self.slots.remove_if(key, |_, slot| slot.current.receiver_count() == 0).is_none() {
            self.remember(key);
        }
    }

    /// Begins to issue. For one who comes alone it is tried at once, without a task: a CA whose key is here needs no more than
    /// that, and each change of tasks is time that the proxy waits. Says whether it has come to its end already: nothing else tells.
    fn sign(&mut self, key: ProxyKey, is_alone: bool) -> bool {
        let Some(issuer) = self.issuers.get(&Signer::from(&key)).cloned() else { return false };
        let subject = subject(&key);
        let current = self.slots.get(&key).and_then(|slot| slot.current.borrow().clone());
        let renewal = current.is_some() || self.schedule.held_until(&key).is_some();
        let in_no_hurry = self.can_wait(&key, current.as_deref());
        let backend = issuer.backend.clone();
        let began = Instant::now();
        let mut issuing = Box::pin(async move { issuer.issue(&subject, in_no_hurry).await });
        // A task of its own would take a panic to itself, and so must this.
        if is_alone && let Some(result) = AssertUnwindSafe(&mut issuing).catch_unwind().now_or_never() {
            let result = result.unwrap_or_else(|_panic| Err(IssueError::Internal("issuing it panicked".to_owned())));
            self.finished(&key, &Issuance { backend, began, renewal }, result);
            return true;
        }
        let abort = self.running.spawn(issuing);
        self.flying.insert(abort.id(), key.clone());
        self.flights.insert(key, Flight { id: abort.id(), issuance: Issuance { backend, began, renewal }, abort });
        false
    }

    /// Only who has a leaf that peers accept can afford to wait for them to learn of a new CA.
    fn can_wait(&self, key: &ProxyKey, current: Option<&Svid>) -> bool {
        let now = self.settings.clock.now();
        let spread = now.saturating_add(TRUST_GRACE).unwrap_or(now);
        let trust = self.settings.trust.borrow();
        match (current, trust_of(&trust, key)) {
            (Some(svid), Some(bundle)) => svid.usable_until() > spread && is_trusted(svid, bundle, now),
            (None, Some(_)) => {
                self.schedule.held_until(key).is_some_and(|until| until > spread) && !self.holds_refused(key, now)
            }
            (_, None) => false,
        }
    }

    fn landed(&mut self, landed: Landed) {
        let (id, result) = match landed {
            Ok((id, result)) => (id, result),
            Err(error) => (error.id(), Err(IssueError::Internal(format!("a signing task died: {error}")))),
        };
        // One that was aborted has left the table before.
        let Some(key) = self.flying.remove(&id) else { return };
        let Some(flight) = self.flights.remove(&key) else { return };
        self.finished(&key, &flight.issuance, result);
    }

    fn finished(&mut self, key: &ProxyKey, issuance: &Issuance, result: Result<Svid, IssueError>) {
        // The trust may have changed since it was checked, as may the policy of a moment ago.
        let result = result.and_then(|svid| self.still_trusted(key, svid));
        self.count(key, issuance, &result);
        match result {
            Ok(svid) => self.issued(key, issuance, svid),
            Err(error) => self.failed(key, issuance, &error),
        }
    }

    fn still_trusted(&self, key: &ProxyKey, svid: Svid) -> Result<Svid, IssueError> {
        let trust = trust_of(&self.settings.trust.borrow(), key).cloned().ok_or(IssueError::TrustUnknown)?;
        if is_trusted(&svid, &trust, self.settings.clock.now()) { Ok(svid) } else { Err(IssueError::TrustChanged) }
    }

    fn issued(&mut self, key: &ProxyKey, issuance: &Issuance, svid: Svid) {
        let now = self.settings.clock.now();
        let (due, until) = (renew_issued_at(&svid, now), svid.usable_until());
        tracing::info!(
            proxy = %key, mesh = %key.mesh, serial = svid.leaf.serial(), issuer = svid.leaf.issuer(),
            not_after = %svid.validity().not_after, renewal = %due, renewed = issuance.renewal, "certificate issued"
        );
        self.signing_cas.note(&key.mesh, &svid);
        if let Some(mut slot) = self.slots.get_mut(key) {
            slot.status = Status { next: Some(due), ..Status::default() };
            slot.current.send_replace(Some(Arc::new(svid)));
        }
        self.schedule.issued(key, due, until);
        self.progress.issued(&key.mesh);
    }

    fn failed(&mut self, key: &ProxyKey, issuance: &Issuance, error: &IssueError) {
        let now = self.settings.clock.now();
        self.call_for_what_is_no_good(key, now);
        let patience = error.patience();
        let next =
            self.schedule.failed(key, now, |failures, left| retry_after(patience, failures, left, fastrand::f64()));
        let text = error.to_string();
        let Some(mut slot) = self.slots.get_mut(key) else { return };
        let repeated = slot.status.error.as_ref() == Some(&text);
        let held_until = self.schedule.held_until(key);
        slot.status = Status { next, error: Some(text), held_until, wants_other_trust: error.wants_other_trust() };
        drop(slot);
        self.show_held(key);
        let next = next.map(|next| next.to_string());
        // The first is news; the same again and again is not.
        if repeated {
            tracing::debug!(proxy = %key, mesh = %key.mesh, backend = %issuance.backend.name, %error, next, "no certificate, again");
        } else {
            tracing::warn!(
                proxy = %key, mesh = %key.mesh, backend = %issuance.backend.name, %error, next,
                keeps_the_old_one = issuance.renewal, "no certificate"
            );
        }
    }

    fn count(&self, key: &ProxyKey, issuance: &Issuance, result: &Result<Svid, IssueError>) {
        let (mesh, backend) = (key.mesh.to_string(), issuance.backend.name.to_string());
        let metrics = &self.settings.metrics;
        let outcome = result.as_ref().map_or_else(IssueError::label, |_| ISSUED);
        metrics
            .issuances
            .get_or_create(&IssuanceLabels { mesh: mesh.clone(), backend: backend.clone(), outcome })
            .inc();
        match result {
            Ok(_) => metrics
                .duration
                .get_or_create(&DurationLabels { backend })
                .observe(issuance.began.elapsed().as_secs_f64()),
            Err(_) if issuance.renewal => {
                metrics.renewal_errors.get_or_create(&BackendLabels { mesh, backend }).inc();
            }
            Err(_) => {}
        }
    }
}

pub(super) fn subject(key: &ProxyKey) -> Subject {
    Subject {
        mesh: key.mesh.clone(),
        proxy: key.instance.name().into(),
        spiffe_id: key.spiffe_id.clone(),
        identity_policy: key.identity_policy.clone(),
    }
}

/// What the proxy's leaf has to lead to: the CAs by which its peers judge SPIFFE IDs such as its own.
pub(super) fn trust_of<'t>(trust: &'t TrustSet, key: &ProxyKey) -> Option<&'t Arc<Bundle>> {
    trust.of(&key.mesh, trust_domain(&key.spiffe_id))
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
