//! Who is issued a certificate when: the pure core of the certificate manager. No clock, task or channel in it.
//!
//! Every proxy that somebody wants a certificate for has an entry. An entry waits until it is due, then for its turn
//! (a mesh has a bounded number of signings in flight), then for the CA. Those without a usable leaf go first; among those
//! that have one, the one that ends first.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::model::identity::ProxyKey;

/// How long a proxy that nobody asks for any more is remembered: a stream that breaks and comes back finds its key and leaf
/// (or its pending request) as they were.
pub const REMEMBERED: SignedDuration = SignedDuration::from_mins(10);

/// A signing that takes longer gives its turn back: requests that an approver or an issuer sits on must not keep the rest of
/// the mesh from being served. They stay in flight all the same.
const SLOW_AFTER: SignedDuration = SignedDuration::from_secs(30);

/// How many slow signings there may be for each regular turn; a bound on what is pending at the CA.
const SLOW_PER_TURN: usize = 16;

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Begin to sign for this proxy; it counts as in flight until one of [`Schedule::issued`], [`Schedule::failed`],
    /// [`Schedule::restart`] or [`Step::Forget`].
    Sign(ProxyKey),
    /// Nobody has wanted it for a while: drop its leaf, and its signing if that is in flight.
    Forget(ProxyKey),
}

#[derive(Debug)]
struct Entry {
    subscribers: usize,
    phase: Phase,
    /// Until when the leaf in use is good; `None` without a leaf.
    usable_until: Option<Timestamp>,
    forget_at: Option<Timestamp>,
    failures: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Not before this.
    Waiting(Timestamp),
    /// In the queue of its mesh.
    Ready(Turn),
    /// In flight.
    Signing(Flight),
}

/// How a signing counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flight {
    /// It has a turn, until then.
    Quick(Timestamp),
    /// It has given its turn back.
    Slow,
}

/// The order within a mesh's queue: those without a usable leaf first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    /// No leaf that can be served; since when it waits.
    Unserved(Timestamp),
    /// A leaf that is good until then.
    Renewal(Timestamp),
}

#[derive(Debug, Default)]
struct Queue {
    open: bool,
    in_flight: usize,
    slow: usize,
    ready: BTreeSet<(Turn, ProxyKey)>,
}

impl Queue {
    fn has_turn(&self, limit: usize) -> bool {
        self.in_flight < limit && self.slow < limit.saturating_mul(SLOW_PER_TURN)
    }

    fn land(&mut self, flight: Flight) {
        let count = match flight {
            Flight::Quick(_) => &mut self.in_flight,
            Flight::Slow => &mut self.slow,
        };
        *count = count.saturating_sub(1);
    }
}

/// See the module.
#[derive(Debug)]
pub struct Schedule {
    entries: HashMap<ProxyKey, Entry>,
    queues: HashMap<Arc<str>, Queue>,
    wakes: BTreeSet<(Timestamp, ProxyKey)>,
    in_flight_limit: usize,
}

impl Schedule {
    /// Nobody is wanted yet; every mesh is closed until [`Schedule::open`].
    pub fn new(in_flight_limit: usize) -> Self {
        Self { entries: HashMap::new(), queues: HashMap::new(), wakes: BTreeSet::new(), in_flight_limit }
    }

    /// Somebody wants this proxy's certificate.
    pub fn wanted(&mut self, key: &ProxyKey, now: Timestamp) {
        let entry = self.entries.entry(key.clone()).or_insert_with(|| {
            self.wakes.insert((now, key.clone()));
            Entry { subscribers: 0, phase: Phase::Waiting(now), usable_until: None, forget_at: None, failures: 0 }
        });
        entry.subscribers += 1;
        if let Some(at) = entry.forget_at.take() {
            self.wakes.remove(&(at, key.clone()));
            // A renewal that came due while nobody wanted it was put off until now.
            if let Phase::Waiting(due) = entry.phase {
                self.wakes.insert((due, key.clone()));
            }
        }
    }

    /// One of those who wanted it has gone.
    pub fn unwanted(&mut self, key: &ProxyKey, now: Timestamp) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.subscribers = entry.subscribers.saturating_sub(1);
        if entry.subscribers == 0 && entry.forget_at.is_none() {
            let at = now.saturating_add(REMEMBERED).unwrap_or(Timestamp::MAX);
            entry.forget_at = Some(at);
            self.wakes.insert((at, key.clone()));
        }
    }

    /// It has been signed, and what came back is good.
    pub fn issued(&mut self, key: &ProxyKey, renew_at: Timestamp, usable_until: Timestamp) {
        if let Some(entry) = self.landed(key) {
            entry.failures = 0;
            entry.usable_until = Some(usable_until);
            self.wait(key, renew_at);
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
        let left = entry.usable_until.map(|until| until.duration_since(now).max(SignedDuration::ZERO).unsigned_abs());
        let next = now.saturating_add(delay(entry.failures, left)).unwrap_or(Timestamp::MAX);
        self.wait(key, next);
        Some(next)
    }

    /// What it is issued for has changed. One that is in flight is taken back (`true`: the caller has to end it) and begins
    /// again; one that has a leaf is renewed at `at`, or when it was due anyway, whichever is first; one without begins at
    /// once. Backoff is forgotten: what failed before may go well now.
    pub fn restart(&mut self, key: &ProxyKey, at: Timestamp, now: Timestamp) -> bool {
        let Some(entry) = self.entries.get_mut(key) else { return false };
        entry.failures = 0;
        let target = if entry.usable_until.is_some() { at } else { now };
        match entry.phase {
            Phase::Signing(flight) => {
                if let Some(queue) = self.queues.get_mut(&key.mesh) {
                    queue.land(flight);
                }
                self.wait(key, target);
                true
            }
            Phase::Waiting(due) => {
                self.wakes.remove(&(due, key.clone()));
                // Without a leaf a due time is backoff; with one it may be backoff too, which ends here as well.
                self.wait(key, target.min(due));
                false
            }
            Phase::Ready(turn @ Turn::Renewal(_)) => {
                if let Some(queue) = self.queues.get_mut(&key.mesh) {
                    queue.ready.remove(&(turn, key.clone()));
                }
                self.wait(key, target);
                false
            }
            Phase::Ready(Turn::Unserved(_)) => false,
        }
    }

    /// Opens or closes a mesh: a closed one (no policy, no trust) signs nothing, and what is due waits.
    pub fn open(&mut self, mesh: &Arc<str>, open: bool) {
        self.queues.entry(mesh.clone()).or_default().open = open;
    }

    /// Closes every mesh that `keep` does not want open.
    pub fn close_others(&mut self, keep: impl Fn(&str) -> bool) {
        for (mesh, queue) in &mut self.queues {
            queue.open &= keep(mesh);
        }
    }

    /// What is to be done at `now`.
    pub fn steps(&mut self, now: Timestamp) -> Vec<Step> {
        let mut steps = Vec::new();
        while self.wakes.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, key)) = self.wakes.pop_first() else { break };
            self.wake(key, now, &mut steps);
        }
        for queue in self.queues.values_mut().filter(|queue| queue.open) {
            while queue.has_turn(self.in_flight_limit) {
                let Some((_, key)) = queue.ready.pop_first() else { break };
                let Some(entry) = self.entries.get_mut(&key) else { continue };
                if entry.subscribers == 0 {
                    // It has gone while it waited; should it come back, it is due.
                    entry.phase = Phase::Waiting(now);
                    continue;
                }
                let slow_at = now.saturating_add(SLOW_AFTER).unwrap_or(Timestamp::MAX);
                entry.phase = Phase::Signing(Flight::Quick(slow_at));
                self.wakes.insert((slow_at, key.clone()));
                queue.in_flight += 1;
                steps.push(Step::Sign(key));
            }
        }
        steps
    }

    /// When [`Schedule::steps`] has something to say next, unless something happens before.
    pub fn wake_at(&self) -> Option<Timestamp> {
        self.wakes.first().map(|(at, _)| *at)
    }

    /// Every proxy that there is an entry for.
    pub fn keys(&self) -> impl Iterator<Item = &ProxyKey> {
        self.entries.keys()
    }

    fn wake(&mut self, key: ProxyKey, now: Timestamp, steps: &mut Vec<Step>) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        if entry.forget_at.is_some_and(|at| at <= now) {
            self.forget(&key);
            steps.push(Step::Forget(key));
            return;
        }
        if let Phase::Signing(Flight::Quick(slow_at)) = entry.phase
            && slow_at <= now
            && let Some(queue) = self.queues.get_mut(&key.mesh)
        {
            entry.phase = Phase::Signing(Flight::Slow);
            queue.in_flight = queue.in_flight.saturating_sub(1);
            queue.slow += 1;
        }
        let Phase::Waiting(due) = entry.phase else { return };
        if due > now || entry.subscribers == 0 {
            // Nobody wants it: it is put off until somebody does, or it is forgotten.
            return;
        }
        let turn = match entry.usable_until {
            Some(until) if until > now => Turn::Renewal(until),
            _ => Turn::Unserved(due),
        };
        entry.phase = Phase::Ready(turn);
        self.queues.entry(key.mesh.clone()).or_default().ready.insert((turn, key));
    }

    fn forget(&mut self, key: &ProxyKey) {
        let Some(entry) = self.entries.remove(key) else { return };
        let Some(queue) = self.queues.get_mut(&key.mesh) else { return };
        match entry.phase {
            Phase::Waiting(due) => {
                self.wakes.remove(&(due, key.clone()));
            }
            Phase::Ready(turn) => {
                queue.ready.remove(&(turn, key.clone()));
            }
            Phase::Signing(flight) => {
                queue.land(flight);
                if let Flight::Quick(slow_at) = flight {
                    self.wakes.remove(&(slow_at, key.clone()));
                }
            }
        }
    }

    /// The entry, if it is in flight; it is no longer.
    fn landed(&mut self, key: &ProxyKey) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(key)?;
        let Phase::Signing(flight) = entry.phase else { return None };
        if let Some(queue) = self.queues.get_mut(&key.mesh) {
            queue.land(flight);
        }
        if let Flight::Quick(slow_at) = flight {
            self.wakes.remove(&(slow_at, key.clone()));
        }
        Some(entry)
    }

    fn wait(&mut self, key: &ProxyKey, due: Timestamp) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.phase = Phase::Waiting(due);
            self.wakes.insert((due, key.clone()));
        }
    }
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
