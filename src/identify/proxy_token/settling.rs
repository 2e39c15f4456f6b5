//! When a list is believed that has lost ids, or is gone. Half of what somebody is about to write is a good list too, and must
//! not let in whom the other half revokes; nor must a Secret that is deleted only to be made anew. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

/// How long such a list has to stay as it is. Whoever writes a file in several steps takes no longer between two of them.
pub(super) const SETTLED: Duration = Duration::from_secs(5);

/// Ids of tokens.
pub(super) type Ids = BTreeSet<Box<str>>;

/// The list that is not believed yet, if the last one that was read is not.
#[derive(Debug, Default)]
pub(super) struct Settling(Option<Waiting>);

#[derive(Debug)]
struct Waiting {
    ids: Ids,
    since: Instant,
}

impl Settling {
    /// What counts after `last` when `read` was read: what it has gained does at once, what it has lost only once it has
    /// been without that for a while.
    pub(super) fn believe(&mut self, last: &Ids, read: Ids, now: Instant) -> Ids {
        if read.is_superset(last) {
            self.forget();
            return read;
        }
        let all = last.union(&read).cloned().collect();
        if self.has_stayed(&read, now) { read } else { all }
    }

    /// Whether these have been read for long enough, and nothing else in between.
    pub(super) fn has_stayed(&mut self, read: &Ids, now: Instant) -> bool {
        let waited = self.0.take().filter(|waiting| waiting.ids == *read).map(|waiting| waiting.since);
        let since = waited.unwrap_or(now);
        let settled = now.saturating_duration_since(since) >= SETTLED;
        if !settled {
            self.0 = Some(Waiting { ids: read.clone(), since });
        }
        settled
    }

    /// There is no list that could be read.
    pub(super) fn forget(&mut self) {
        self.0 = None;
    }

    /// When to read again, though nothing may have changed by then.
    pub(super) fn look_again_at(&self) -> Option<Instant> {
        self.0.as_ref().map(|waiting| waiting.since + SETTLED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[&str]) -> Ids {
        ids.iter().map(|id| (*id).into()).collect()
    }

    #[test]
    fn what_is_gained_counts_at_once_and_what_is_lost_when_it_stays_away() {
        let (mut settling, start) = (Settling::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(settling.believe(&ids(&["a"]), ids(&["a", "b", "c"]), at(0)), ids(&["a", "b", "c"]));
        assert_eq!(settling.look_again_at(), None);
        // Half of it, with half an id.
        let all = settling.believe(&ids(&["a", "b", "c"]), ids(&["a", "x"]), at(10));
        assert_eq!((&all, settling.look_again_at()), (&ids(&["a", "b", "c", "x"]), Some(at(15))));
        // A bit more of it begins anew; the same again does not.
        let all = settling.believe(&all, ids(&["a", "b"]), at(14));
        let all = settling.believe(&all, ids(&["a", "b"]), at(18));
        assert_eq!((&all, settling.look_again_at()), (&ids(&["a", "b", "c", "x"]), Some(at(19))));
        assert_eq!(settling.believe(&all, ids(&["a", "b"]), at(19)), ids(&["a", "b"]));
        assert_eq!(settling.look_again_at(), None);
        // What could not be read in between has not been unchanged.
        settling.believe(&ids(&["a"]), ids(&[]), at(30));
        settling.forget();
        assert_eq!(settling.believe(&ids(&["a"]), ids(&[]), at(36)), ids(&["a"]));
    }
}
