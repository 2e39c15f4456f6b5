//! How an entry comes from one phase into the next, and what is counted and woken up for that.

use jiff::{SignedDuration, Timestamp};

use super::{Schedule, Step};
use crate::issue::entry::{Entry, Flight, Phase, Turn};
use crate::issue::queue::LOOK_AGAIN;
use crate::model::identity::ProxyKey;

impl Schedule {
    /// Goes by what the subscribers need now.
    pub(super) fn settle(&mut self, key: &ProxyKey, now: Timestamp) {
        if let Some(due) = self.entries.get_mut(key).and_then(|entry| entry.settle(now)) {
            self.put_off(key, due);
        }
        self.recount(key, now);
    }

    /// Backoff is so long, not until a time of day: when the clock is set back, it ends as much earlier.
    pub(super) fn shorten_backoff(&mut self, by: SignedDuration) {
        let entries = self.entries.iter_mut();
        let sooner: Vec<_> =
            entries.filter_map(|(key, entry)| Some((key.clone(), entry.shorten_backoff(by)?))).collect();
        for (key, due) in sooner {
            self.put_off(&key, due);
        }
    }

    /// What is in flight has been there so long, whatever time of day it is: turns come back when they would have.
    pub(super) fn set_back_flights(&mut self, by: SignedDuration) {
        for (key, entry) in &mut self.entries {
            // The same moment may be the one at which it is forgotten.
            let wake = entry.wakes_apart();
            let Phase::Signing(Flight::Quick { began, look_at }) = &mut entry.phase else { continue };
            if let Some(at) = wake {
                self.wakes.remove(&(at, key.clone()));
            }
            (*began, *look_at) = (earlier(*began, by), earlier(*look_at, by));
            self.wakes.insert((*look_at, key.clone()));
        }
        self.queues.values_mut().for_each(|queue| queue.set_back(|at| earlier(at, by)));
    }

    /// The time has come at which it was to be looked at.
    pub(super) fn wake(&mut self, key: ProxyKey, now: Timestamp, steps: &mut Vec<Step>) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        if entry.forget_at.is_some_and(|at| at <= now) {
            self.forget(&key);
            steps.push(Step::Forget(key));
            return;
        }
        if entry.phase.wakes_at().is_none_or(|at| at > now) {
            return;
        }
        match entry.phase {
            // Nobody wants it: it is put off until somebody does, or it is forgotten.
            Phase::Waiting(_) if entry.subscribers.is_empty() => {}
            Phase::Waiting(due) => {
                let turn = match entry.leaf.usable_until() {
                    Some(until) if until > now => Turn::Renewal(until),
                    _ => Turn::Unserved(due),
                };
                self.line_up(&key, turn, now);
            }
            // Its leaf has ended while it waited: it is no longer one of those who can wait.
            Phase::Ready(Turn::Renewal(until)) => {
                if let Some(queue) = self.queues.get_mut(&key.mesh) {
                    queue.remove(Turn::Renewal(until), &key);
                }
                self.line_up(&key, Turn::Unserved(until), now);
            }
            Phase::Signing(Flight::Quick { began, .. }) => self.look_at_flight(&key, began, now),
            Phase::Ready(Turn::Unserved(_)) | Phase::Signing(Flight::Slow) => {}
        }
    }

    /// It waits for a turn from now on.
    fn line_up(&mut self, key: &ProxyKey, turn: Turn, now: Timestamp) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.phase = Phase::Ready(turn);
        if let Some(at) = entry.phase.wakes_at() {
            self.wakes.insert((at, key.clone()));
        }
        self.queues.entry(key.mesh.clone()).or_default().push(turn, key.clone());
        self.recount(key, now);
    }

    /// It has been in flight for long.
    fn look_at_flight(&mut self, key: &ProxyKey, began: Timestamp, now: Timestamp) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let Some(queue) = self.queues.get_mut(&key.mesh) else { return };
        if queue.is_stuck(key, began, now, self.in_flight_limit) {
            entry.phase = Phase::Signing(Flight::Slow);
            queue.slow_down(key);
        } else {
            let look_at = now.saturating_add(LOOK_AGAIN).unwrap_or(Timestamp::MAX);
            entry.phase = Phase::Signing(Flight::Quick { began, look_at });
            self.wakes.insert((look_at, key.clone()));
        }
    }

    fn forget(&mut self, key: &ProxyKey) {
        self.sleep(key);
        let Some(entry) = self.entries.remove(key) else { return };
        let Some(queue) = self.queues.get_mut(&key.mesh) else { return };
        if entry.is_counted {
            queue.count_retrying(false);
        }
        match entry.phase {
            Phase::Waiting(_) => {}
            Phase::Ready(turn) => queue.remove(turn, key),
            Phase::Signing(flight) => queue.land(key, flight),
        }
    }

    /// The entry, if it is in flight; it is no longer.
    pub(super) fn landed(&mut self, key: &ProxyKey) -> Option<&mut Entry> {
        let Phase::Signing(flight) = self.entries.get(key)?.phase else { return None };
        self.sleep(key);
        if let Some(queue) = self.queues.get_mut(&key.mesh) {
            queue.land(key, flight);
            queue.answered(key, flight);
        }
        self.entries.get_mut(key)
    }

    /// Lets one that is not in flight wait until `due`, wherever it is now.
    pub(super) fn put_off(&mut self, key: &ProxyKey, due: Timestamp) {
        self.sleep(key);
        if let Some(Phase::Ready(turn)) = self.entries.get(key).map(|entry| entry.phase)
            && let Some(queue) = self.queues.get_mut(&key.mesh)
        {
            queue.remove(turn, key);
        }
        self.wait(key, due);
    }

    /// It is not to be looked at for the sake of what it is now.
    pub(super) fn sleep(&mut self, key: &ProxyKey) {
        // The same moment may be the one at which it is forgotten.
        if let Some(at) = self.entries.get(key).and_then(Entry::wakes_apart) {
            self.wakes.remove(&(at, key.clone()));
        }
    }

    pub(super) fn wait(&mut self, key: &ProxyKey, due: Timestamp) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.phase = Phase::Waiting(due);
            self.wakes.insert((due, key.clone()));
        }
    }

    /// Counts it among those that have no leaf and wait after a failure, or no longer. One whose leaf ends while it waits is
    /// counted with its next attempt, which is soon then.
    pub(super) fn recount(&mut self, key: &ProxyKey, now: Timestamp) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let is_so = entry.retries_unserved(now);
        if std::mem::replace(&mut entry.is_counted, is_so) != is_so {
            self.queues.entry(key.mesh.clone()).or_default().count_retrying(is_so);
        }
    }
}

fn earlier(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.saturating_sub(by).unwrap_or(Timestamp::MIN)
}
