//! Those of one mesh that are due, in order, and how many of it are in flight. Pure.

use std::collections::BTreeSet;

use super::entry::{Flight, Turn};
use crate::model::identity::ProxyKey;

/// How many slow signings there may be for each regular turn; a bound on what is pending at the CA.
pub(super) const SLOW_PER_TURN: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) open: bool,
    pub(super) in_flight: usize,
    pub(super) slow: usize,
    pub(super) ready: BTreeSet<(Turn, ProxyKey)>,
}

impl Queue {
    /// Whether one more may begin.
    pub(super) fn has_turn(&self, limit: usize) -> bool {
        self.in_flight < limit && self.slow < limit.saturating_mul(SLOW_PER_TURN)
    }

    /// One is no longer in flight.
    pub(super) fn land(&mut self, flight: Flight) {
        let count = match flight {
            Flight::Quick(_) => &mut self.in_flight,
            Flight::Slow => &mut self.slow,
        };
        *count = count.saturating_sub(1);
    }
}
