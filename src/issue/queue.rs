//! Those of one mesh that are due, in order, and how many of it are in flight. Pure.
//!
//! Each signer of the mesh has a line of its own: one that is closed, or that sits on what it was asked, does not keep those
//! waiting who stand in another line.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::entry::{Flight, Turn};
use super::progress::Backlog;
use crate::model::identity::ProxyKey;

/// How many slow signings there may be for each regular turn; a bound on what is pending at one CA.
pub(super) const SLOW_PER_TURN: usize = 16;

/// When a signing is looked at that has not been answered: a request that somebody sits on gives its turn back, so that it
/// does not keep the rest of the mesh from being served. It stays in flight all the same.
pub(super) const SLOW_AFTER: SignedDuration = SignedDuration::from_secs(30);

/// And again and again after so long, if it has kept its turn.
pub(super) const LOOK_AGAIN: SignedDuration = SignedDuration::from_secs(10);

/// A CA answers in about the order in which it was asked. Who was asked for so much earlier than somebody who has been answered
/// does not wait in line, but for a decision on itself.
const OVERTAKEN_BY: SignedDuration = SignedDuration::from_secs(10);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Queue {
    in_flight: usize,
    /// How many have no leaf that can be served, and are not in line because they have failed.
    retrying: usize,
    /// By identity policy.
    lines: HashMap<Option<Arc<str>>, Line>,
}

/// Those who wait for one signer.
#[derive(Debug, Default)]
struct Line {
    open: bool,
    slow: usize,
    ready: BTreeSet<(Turn, ProxyKey)>,
    /// How many of those have no leaf that can be served.
    unserved: usize,
    /// It has answered since the time was told.
    has_answered: bool,
    /// When it answered last.
    answered_at: Option<Timestamp>,
    /// Of what it has answered, when the last of it began.
    newest_answered: Option<Timestamp>,
}

impl Line {
    /// Whether it has somebody who may begin as soon as there is a turn. (A line that is full waits for answers, not for turns.)
    fn waits_for_a_turn(&self, limit: usize) -> bool {
        let is_full = self.slow >= limit.saturating_mul(SLOW_PER_TURN);
        self.open && !is_full && !self.ready.is_empty()
    }

    /// Whether nobody is in it, and nobody may begin from it.
    fn is_over(&self) -> bool {
        !self.open && self.slow == 0 && self.ready.is_empty()
    }

    fn insert(&mut self, turn: Turn, key: ProxyKey) {
        if self.ready.insert((turn, key)) {
            self.unserved += usize::from(turn.is_unserved());
        }
    }

    fn remove(&mut self, turn: Turn, key: &ProxyKey) {
        if self.ready.remove(&(turn, key.clone())) {
            self.unserved -= usize::from(turn.is_unserved());
        }
    }

    fn pop(&mut self) -> Option<ProxyKey> {
        let (turn, key) = self.ready.pop_first()?;
        self.unserved -= usize::from(turn.is_unserved());
        Some(key)
    }
}

impl Queue {
    /// Takes who is next out of the queue, if one more may begin.
    pub(super) fn pop(&mut self, limit: usize) -> Option<ProxyKey> {
        if self.in_flight >= limit {
            return None;
        }
        let lines = self.lines.values_mut().filter(|line| line.waits_for_a_turn(limit));
        lines.min_by(|a, b| a.ready.first().cmp(&b.ready.first()))?.pop()
    }

    /// Somebody waits for a turn.
    pub(super) fn push(&mut self, turn: Turn, key: ProxyKey) {
        self.lines.entry(key.identity_policy.clone()).or_default().insert(turn, key);
    }

    /// It does not any more.
    pub(super) fn remove(&mut self, turn: Turn, key: &ProxyKey) {
        if let Some(line) = self.lines.get_mut(&key.identity_policy) {
            line.remove(turn, key);
        }
    }

    /// One more is in flight.
    pub(super) fn begin(&mut self) {
        self.in_flight += 1;
    }

    /// One that is in flight gives its turn back.
    pub(super) fn slow_down(&mut self, key: &ProxyKey) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.lines.entry(key.identity_policy.clone()).or_default().slow += 1;
    }

    /// One is no longer in flight.
    pub(super) fn land(&mut self, key: &ProxyKey, flight: Flight) {
        match flight {
            Flight::Quick { .. } => self.in_flight = self.in_flight.saturating_sub(1),
            Flight::Slow => {
                if let Some(line) = self.lines.get_mut(&key.identity_policy) {
                    line.slow = line.slow.saturating_sub(1);
                }
            }
        }
    }

    /// The signer has answered, be it with a certificate or not.
    pub(super) fn answered(&mut self, key: &ProxyKey, flight: Flight) {
        let Some(line) = self.lines.get_mut(&key.identity_policy) else { return };
        line.has_answered = true;
        if let Flight::Quick { began, .. } = flight {
            line.newest_answered = line.newest_answered.max(Some(began));
        }
    }

    /// It is `now`: what was answered since this was told last was answered now.
    pub(super) fn hear(&mut self, now: Timestamp) {
        for line in self.lines.values_mut() {
            if std::mem::take(&mut line.has_answered) {
                line.answered_at = Some(now);
            }
        }
    }

    /// The clock was set back: what was answered, was so long ago all the same.
    pub(super) fn set_back(&mut self, earlier: impl Fn(Timestamp) -> Timestamp) {
        for line in self.lines.values_mut() {
            line.answered_at = line.answered_at.map(&earlier);
            line.newest_answered = line.newest_answered.map(&earlier);
        }
    }

    /// Whether one that is in flight since `began` is to give its turn back: the signer answers others and not this one, or has
    /// not answered anybody for long, or others wait for a turn of another signer. A signer that answers one after the other,
    /// however slowly, has as many requests as it may have, and not more and more.
    pub(super) fn is_stuck(&self, key: &ProxyKey, began: Timestamp, now: Timestamp, limit: usize) -> bool {
        let Some(line) = self.lines.get(&key.identity_policy) else { return true };
        let is_overtaken = line.newest_answered.is_some_and(|newest| newest.duration_since(began) >= OVERTAKEN_BY);
        let is_silent = line.answered_at.is_none_or(|at| now.duration_since(at) >= SLOW_AFTER);
        let mut others = self.lines.iter().filter(|(policy, _)| **policy != key.identity_policy);
        is_overtaken || is_silent || others.any(|(_, line)| line.waits_for_a_turn(limit))
    }

    /// One that has no leaf is not in line because it has failed, or no longer so.
    pub(super) fn count_retrying(&mut self, is_so: bool) {
        self.retrying = if is_so { self.retrying + 1 } else { self.retrying.saturating_sub(1) };
    }

    /// Who has no certificate yet, or waits for another, and why.
    pub(super) fn backlog(&self) -> Backlog {
        let first = self.lines.values().map(|line| line.unserved).sum();
        let waiting: usize = self.lines.values().map(|line| line.ready.len()).sum();
        let pending = self.lines.values().map(|line| line.slow).sum();
        let (in_flight, retrying) = (self.in_flight, self.retrying);
        Backlog { first, renewals: waiting - first, in_flight, pending, retrying }
    }

    /// Opens a signer's line, or closes it.
    pub(super) fn open(&mut self, identity_policy: &Option<Arc<str>>, open: bool) {
        self.lines.entry(identity_policy.clone()).or_default().open = open;
    }

    /// Whether a signer's line is open.
    pub(super) fn is_open(&self, identity_policy: &Option<Arc<str>>) -> bool {
        self.lines.get(identity_policy).is_some_and(|line| line.open)
    }

    /// Closes every line that `keep` does not want open; those that nothing is left of are dropped.
    pub(super) fn close_others(&mut self, keep: impl Fn(&Option<Arc<str>>) -> bool) {
        self.lines.retain(|identity_policy, line| {
            line.open &= keep(identity_policy);
            !line.is_over()
        });
    }

    /// Whether nothing is left of the mesh, neither a signer nor anybody who is counted here.
    pub(super) fn is_over(&self) -> bool {
        self.in_flight == 0 && self.retrying == 0 && self.lines.values().all(Line::is_over)
    }
}
