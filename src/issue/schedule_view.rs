//! What others want to know of the schedule.

use std::sync::Arc;

use jiff::Timestamp;

use super::Schedule;
use crate::issue::entry::{Entry, Leaf, Phase};
use crate::issue::progress::Backlog;
use crate::issue::resume::Held;
use crate::model::identity::ProxyKey;

impl Schedule {
    /// How each mesh stands that has a signer which is open, or anybody who waits.
    pub fn backlogs(&self) -> impl Iterator<Item = (&Arc<str>, Backlog)> {
        self.queues.iter().map(|(mesh, queue)| (mesh, queue.backlog()))
    }

    /// Every proxy that there is an entry for.
    pub fn keys(&self) -> impl Iterator<Item = &ProxyKey> {
        self.entries.keys()
    }

    /// Until when the proxy can do with what its subscribers hold; `None` if it has a leaf that was issued here, or none.
    pub fn held_until(&self, key: &ProxyKey) -> Option<Timestamp> {
        match self.entries.get(key)?.leaf {
            Leaf::Held(until) => Some(until),
            Leaf::None | Leaf::Issued(_) => None,
        }
    }

    /// The leaves that subscribers of the proxy hold and the server stands by, whether or not all hold one.
    pub fn held(&self, key: &ProxyKey) -> impl Iterator<Item = &Held> {
        self.entries.get(key).into_iter().flat_map(|entry| entry.subscribers.held())
    }

    /// When it is due; `None` if it is already.
    pub fn due(&self, key: &ProxyKey) -> Option<Timestamp> {
        match self.entries.get(key)?.phase {
            Phase::Waiting(due) => Some(due),
            Phase::Ready(_) | Phase::Signing(_) => None,
        }
    }

    /// Whether its next attempt follows up a failure.
    pub fn is_retrying(&self, key: &ProxyKey) -> bool {
        self.entries.get(key).is_some_and(Entry::is_retrying)
    }
}
