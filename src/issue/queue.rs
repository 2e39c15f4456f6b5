//! Those of one mesh that are due, in order, and how many of it are in flight. Pure.
//!
//! Each signer of the mesh has a line of its own: one that is closed, or that sits on what it was asked, does not keep those
//! waiting who stand in another line.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::entry::{Flight, Turn};
use super::progress::Backlog;
use crate::model::identity::ProxyKey;

/// How many slow signings there may be for each regular turn; a bound on what is pending at one CA.
pub(super) const SLOW_PER_TURN: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Queue {
    in_flight: usize,
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
}

impl Line {
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
        let most_slow = limit.saturating_mul(SLOW_PER_TURN);
        let lines = self.lines.values_mut().filter(|line| line.open && line.slow < most_slow);
        let first = lines.filter(|line| !line.ready.is_empty()).min_by(|a, b| a.ready.first().cmp(&b.ready.first()))?;
        first.pop()
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
            Flight::Quick(_) => self.in_flight = self.in_flight.saturating_sub(1),
            Flight::Slow => {
                if let Some(line) = self.lines.get_mut(&key.identity_policy) {
                    line.slow = line.slow.saturating_sub(1);
                }
            }
        }
    }

    /// How many wait, and how many have a turn.
    pub(super) fn backlog(&self) -> Backlog {
        let first = self.lines.values().map(|line| line.unserved).sum();
        let waiting: usize = self.lines.values().map(|line| line.ready.len()).sum();
        Backlog { first, renewals: waiting - first, in_flight: self.in_flight }
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
            line.open || line.slow > 0 || !line.ready.is_empty()
        });
    }
}
