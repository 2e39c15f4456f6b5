//! Who is issued a certificate when: the pure core of the certificate manager. No clock, task or channel in it.
//!
//! Every proxy that somebody wants a certificate for has an entry. An entry waits until it is due, then for its turn
//! (a mesh has a bounded number of signings in flight), then for the CA. Who waits for one signer does not hold up another's.
//! Those without a usable leaf go first; among those that have one, the one that ends first. A leaf counts whether it was
//! issued here or all of the proxy's subscribers hold one that the server stands by ([`super::resume`]); that of the latter
//! counts as long as nobody needs another.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::entry::{Entry, Flight, Leaf, Phase, Turn};
use super::queue::{Queue, SLOW_AFTER};
use super::resume::Held;
use super::signer::Signer;
use super::subscribers::{Report, ReportId};
use crate::model::held::HeldLeaf;
use crate::model::identity::ProxyKey;

/// How long a proxy that nobody asks for any more is remembered: a stream that breaks and comes back finds its key and leaf
/// (or its pending request) as they were.
pub const REMEMBERED: SignedDuration = SignedDuration::from_mins(10);

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Begin to sign for this proxy; it counts as in flight until one of [`Schedule::issued`], [`Schedule::failed`],
    /// [`Schedule::restart`] or [`Step::Forget`].
    Sign(ProxyKey),
    /// Nobody has wanted it for a while: drop its leaf, and its signing if that is in flight.
    Forget(ProxyKey),
}

/// See the module.
#[derive(Debug)]
pub struct Schedule {
    entries: HashMap<ProxyKey, Entry>,
    queues: HashMap<Arc<str>, Queue>,
    wakes: BTreeSet<(Timestamp, ProxyKey)>,
    in_flight_limit: usize,
    /// When it was last asked what to do.
    asked_at: Timestamp,
}

impl Schedule {
    /// Nobody is wanted yet; every signer is closed until [`Schedule::open`].
    pub fn new(in_flight_limit: usize) -> Self {
        Self {
            entries: HashMap::new(),
            queues: HashMap::new(),
            wakes: BTreeSet::new(),
            in_flight_limit,
            asked_at: Timestamp::MIN,
        }
    }

    /// Somebody wants this proxy's certificate. One who comes with a report that the server stands by needs none until that
    /// leaf is due; the report counts only if the proxy has no leaf that was issued here.
    pub fn wanted(&mut self, key: &ProxyKey, report: Option<(ReportId, Report)>, now: Timestamp) {
        let entry = self.entries.entry(key.clone()).or_insert_with(|| {
            self.wakes.insert((now, key.clone()));
            Entry::new(now)
        });
        entry.add(report);
        if let Some(at) = entry.forget_at.take() {
            self.wakes.remove(&(at, key.clone()));
            // A renewal that came due while nobody wanted it was put off until now.
            if let Some(at) = entry.phase.wakes_at() {
                self.wakes.insert((at, key.clone()));
            }
        }
        self.settle(key, now);
    }

    /// One of those who wanted it has gone; `report` is the one that it came with.
    pub fn unwanted(&mut self, key: &ProxyKey, report: Option<ReportId>, now: Timestamp) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.subscribers.remove(report);
        if entry.subscribers.is_empty() && entry.forget_at.is_none() {
            let at = now.saturating_add(REMEMBERED).unwrap_or(Timestamp::MAX);
            entry.forget_at = Some(at);
            self.wakes.insert((at, key.clone()));
        }
        self.settle(key, now);
    }

    /// Judges what the proxies of `signer` reported while there was nothing to judge it by; `None` is a leaf that the server
    /// does not stand by. Returns whose reports were judged.
    pub fn judge(
        &mut self,
        signer: &Signer,
        now: Timestamp,
        mut judge: impl FnMut(&ProxyKey, HeldLeaf) -> Option<Held>,
    ) -> Vec<ProxyKey> {
        let waited = self.entries.iter_mut().filter(|(key, _)| signer.signs_for(key));
        let judged: Vec<ProxyKey> =
            waited.filter_map(|(key, entry)| entry.judge(|leaf| judge(key, leaf)).then(|| key.clone())).collect();
        for key in &judged {
            self.settle(key, now);
        }
        judged
    }

    /// It has been signed, and what came back is good.
    pub fn issued(&mut self, key: &ProxyKey, renew_at: Timestamp, usable_until: Timestamp) {
        if let Some(entry) = self.landed(key) {
            entry.reset(Leaf::Issued(usable_until));
            entry.subscribers.served();
            self.wait(key, renew_at);
        }
    }

    /// The leaf that was issued is not given to anybody any more: one is needed by whoever comes next without a good one.
    pub fn lost(&mut self, key: &ProxyKey, now: Timestamp) {
        if let Some(entry) = self.entries.get_mut(key).filter(|entry| matches!(entry.leaf, Leaf::Issued(_))) {
            entry.reset(Leaf::None);
            self.settle(key, now);
        }
    }

    /// The proxy has come with a leaf that was issued elsewhere after the one that was issued here: that is not to be given to
    /// anybody any more, and who is subscribed without reporting one needs another. Refused (`false`) if it was done within
    /// [`REMEMBERED`], since a client that lies could otherwise have as many issued as it likes.
    pub fn give_up(&mut self, key: &ProxyKey, now: Timestamp) -> bool {
        let entry = self.entries.get_mut(key).filter(|entry| matches!(entry.leaf, Leaf::Issued(_)));
        let Some(entry) = entry else { return false };
        if entry.given_up.is_some_and(|at| now.duration_since(at) < REMEMBERED) {
            return false;
        }
        entry.given_up = Some(now);
        self.lost(key, now);
        true
    }

    /// Somebody came at the moment at which the proxy was forgotten, and its leaf is still there: it is remembered anew.
    pub fn remember(&mut self, key: &ProxyKey, renew_at: Timestamp, usable_until: Timestamp, now: Timestamp) {
        let mut entry = Entry::new(renew_at);
        let at = now.saturating_add(REMEMBERED).unwrap_or(Timestamp::MAX);
        (entry.leaf, entry.forget_at) = (Leaf::Issued(usable_until), Some(at));
        self.wakes.insert((at, key.clone()));
        self.entries.insert(key.clone(), entry);
    }

    /// The leaves that subscribers hold, or will be found to hold, are to be replaced now. (Those that are issued here are
    /// renewed by [`Schedule::restart`].) Backoff stays.
    pub fn call_for(&mut self, key: &ProxyKey, now: Timestamp) {
        if let Some(entry) = self.entries.get_mut(key).filter(|entry| !matches!(entry.leaf, Leaf::Issued(_))) {
            entry.call_for(now);
            self.settle(key, now);
        }
    }

    /// Signing failed. `delay` is asked how long to wait, given the number of failures in a row and how long the leaf in
    /// use is still good; the time of the next attempt is returned.
    pub fn failed(
        &mut self,
        key: &ProxyKey,
        now: Timestamp,
        delay: impl FnOnce(u32, Option<Duration>) -> Duration,
    ) -> Option<Timestamp> {
        let entry = self.landed(key)?;
        entry.failures = entry.failures.saturating_add(1);
        let until = entry.leaf.usable_until();
        let left = until.map(|until| until.duration_since(now).max(SignedDuration::ZERO).unsigned_abs());
        let next = now.saturating_add(delay(entry.failures, left)).unwrap_or(Timestamp::MAX);
        entry.backoff = Some(next);
        self.wait(key, next);
        // Whoever needed a leaf may have gone while it was asked for, and those who are left may hold good ones.
        self.settle(key, now);
        self.due(key)
    }

    /// What it is issued for has changed. One that is in flight is taken back (`true`: the caller has to end it) and begins
    /// again; one that has a leaf is renewed at `at`, or when it was due anyway, whichever is first; one without begins at
    /// once. Backoff is forgotten: what failed before may go well now.
    pub fn restart(&mut self, key: &ProxyKey, at: Timestamp, now: Timestamp) -> bool {
        let Some(entry) = self.entries.get_mut(key) else { return false };
        entry.failures = 0;
        entry.backoff = None;
        let target = if entry.leaf == Leaf::None { now } else { at };
        if entry.subscribers.held().next().is_some() {
            entry.call_for(target);
        }
        match entry.phase {
            Phase::Signing(flight) => {
                if let Some(queue) = self.queues.get_mut(&key.mesh) {
                    queue.land(key, flight);
                }
                self.sleep(key);
                self.wait(key, target);
                true
            }
            Phase::Waiting(due) => {
                // Without a leaf a due time is backoff; with one it may be backoff too, which ends here as well.
                self.put_off(key, target.min(due));
                self.recount(key, now);
                false
            }
            Phase::Ready(Turn::Renewal(_)) => {
                self.put_off(key, target);
                false
            }
            Phase::Ready(Turn::Unserved(_)) => false,
        }
    }

    /// Opens or closes a signer: a closed one (no policy, no trust) signs nothing, and what is due waits.
    pub fn open(&mut self, signer: &Signer, open: bool) {
        self.queues.entry(signer.mesh.clone()).or_default().open(&signer.identity_policy, open);
    }

    /// Whether a signer is open.
    pub fn is_open(&self, signer: &Signer) -> bool {
        self.queues.get(&signer.mesh).is_some_and(|queue| queue.is_open(&signer.identity_policy))
    }

    /// Closes every signer that is not one of these.
    pub fn close_others(&mut self, keep: &HashSet<Signer>) {
        for (mesh, queue) in &mut self.queues {
            let signer =
                |identity_policy: &Option<_>| Signer { mesh: mesh.clone(), identity_policy: identity_policy.clone() };
            queue.close_others(|identity_policy| keep.contains(&signer(identity_policy)));
        }
    }

    /// What is to be done at `now`.
    pub fn steps(&mut self, now: Timestamp) -> Vec<Step> {
        let set_back = std::mem::replace(&mut self.asked_at, now).duration_since(now);
        if set_back.is_positive() {
            self.shorten_backoff(set_back);
            self.set_back_flights(set_back);
        }
        self.queues.values_mut().for_each(|queue| queue.hear(now));
        let mut steps = Vec::new();
        while self.wakes.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, key)) = self.wakes.pop_first() else { break };
            self.wake(key, now, &mut steps);
        }
        for queue in self.queues.values_mut() {
            while let Some(key) = queue.pop(self.in_flight_limit) {
                let Some(entry) = self.entries.get_mut(&key) else { continue };
                if let Some(until) = entry.wakes_apart() {
                    self.wakes.remove(&(until, key.clone()));
                }
                if entry.subscribers.is_empty() {
                    // It has gone while it waited; should it come back, it is due.
                    entry.phase = Phase::Waiting(now);
                    continue;
                }
                let look_at = now.saturating_add(SLOW_AFTER).unwrap_or(Timestamp::MAX);
                entry.phase = Phase::Signing(Flight::Quick { began: now, look_at });
                self.wakes.insert((look_at, key.clone()));
                queue.begin();
                steps.push(Step::Sign(key));
            }
        }
        // Its proxies were remembered for a while after the mesh had gone.
        self.queues.retain(|_, queue| !queue.is_over());
        steps
    }

    /// When [`Schedule::steps`] has something to say next, unless something happens before.
    pub fn wake_at(&self) -> Option<Timestamp> {
        self.wakes.first().map(|(at, _)| *at)
    }
}

#[path = "schedule_moves.rs"]
mod moves;
#[path = "schedule_view.rs"]
mod view;

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
