//! Which kinds of objects the API server does not list at the moment: told by the watches, shown where operators look.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};

use super::clock::Clock;

/// Shorter than that is no news: an API server that is restarted, a connection that broke.
const GRACE: SignedDuration = SignedDuration::from_secs(10);

/// Why the objects of a kind are not known to be the ones that there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unlisted {
    /// Since when.
    pub since: Timestamp,
    /// What the API server says; or that it says nothing.
    pub why: String,
}

/// See the module. Clones are the same one.
#[derive(Debug, Clone)]
pub struct WatchBoard {
    clock: Clock,
    /// By what is watched; `None` for what is listed.
    watches: Arc<Mutex<BTreeMap<&'static str, Option<Unlisted>>>>,
}

impl WatchBoard {
    /// Nothing is watched yet.
    pub fn new(clock: Clock) -> Self {
        Self { clock, watches: Arc::default() }
    }

    /// What has not been listed for longer than a few seconds.
    pub fn unlisted(&self) -> Vec<(&'static str, Unlisted)> {
        let now = self.clock.now();
        let is_overdue = |unlisted: &Unlisted| now.duration_since(unlisted.since) >= GRACE;
        let shown =
            |(what, state): (&&'static str, &Option<Unlisted>)| Some((*what, state.clone().filter(is_overdue)?));
        self.watches().iter().filter_map(shown).collect()
    }

    /// For how many whole seconds each has not been listed; 0 for what is.
    pub fn seconds(&self) -> Vec<(&'static str, i64)> {
        let now = self.clock.now();
        let seconds = |unlisted: &Unlisted| now.duration_since(unlisted.since).as_secs().max(0);
        self.watches().iter().map(|(what, state)| (*what, state.as_ref().map_or(0, seconds))).collect()
    }

    /// `what` begins to be watched.
    pub(super) fn enter(&self, what: &'static str) -> Entry {
        let entry = Entry { board: self.clone(), what };
        entry.fails("the API server has not answered yet");
        entry
    }

    fn watches(&self) -> MutexGuard<'_, BTreeMap<&'static str, Option<Unlisted>>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A watch's place on the board, for as long as it is watched.
#[derive(Debug)]
pub(super) struct Entry {
    board: WatchBoard,
    what: &'static str,
}

impl Entry {
    /// It is known what there is.
    pub(super) fn is_listed(&self) {
        self.board.watches().insert(self.what, None);
    }

    /// It is not, from now on if it was before.
    pub(super) fn fails(&self, why: &str) {
        let now = self.board.clock.now();
        let mut watches = self.board.watches();
        let unlisted = watches.entry(self.what).or_default().get_or_insert(Unlisted { since: now, why: String::new() });
        why.clone_into(&mut unlisted.why);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.board.watches().remove(self.what);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_not_listed_is_told_after_a_few_seconds_and_since_when() {
        let board = WatchBoard::new(Clock::simulated(Timestamp::UNIX_EPOCH));
        let seconds = |seconds: u64| tokio::time::advance(Duration::from_secs(seconds));
        let entry = board.enter("meshes");
        seconds(9).await;
        assert_eq!((board.unlisted(), board.seconds()), (vec![], vec![("meshes", 9)]));
        entry.fails("meshes is forbidden (403)");
        seconds(1).await;
        let why = "meshes is forbidden (403)".to_owned();
        assert_eq!(board.unlisted(), [("meshes", Unlisted { since: Timestamp::UNIX_EPOCH, why })]);
        entry.is_listed();
        assert_eq!((board.unlisted(), board.seconds()), (vec![], vec![("meshes", 0)]));
        entry.fails("away");
        seconds(10).await;
        assert_eq!(board.unlisted()[0].1.since, Timestamp::UNIX_EPOCH + SignedDuration::from_secs(10));
        drop(entry);
        assert_eq!((board.unlisted(), board.seconds()), (vec![], vec![]));
    }
}
