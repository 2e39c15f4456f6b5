//! Tells a connection to drop what it has and come back, and knows which one can be told.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use super::meters::Meters;

/// One connection's.
#[derive(Debug, Default)]
pub(crate) struct Nudge {
    told: Notify,
    is_pending: AtomicBool,
    /// Whether all proxies on the connection have what they want.
    is_served: AtomicBool,
}

impl Nudge {
    /// Tells it to leave, whatever it has, and says whether it had not been told already. From now on it counts as one that is
    /// away, until those who are on it do.
    pub(crate) fn give(&self, meters: &Meters) -> bool {
        let is_new = !self.is_pending.swap(true, Ordering::Relaxed);
        if is_new {
            meters.left();
            self.told.notify_one();
        }
        is_new
    }

    /// The same, only if nobody on it is waiting for a secret; says whether it was told.
    pub(crate) fn give_to_served(&self, meters: &Meters) -> bool {
        // Whoever sees that the last one was heeded sees too that nobody has been served since.
        !self.is_pending.load(Ordering::Acquire) && self.is_served.load(Ordering::Relaxed) && self.give(meters)
    }

    /// Returns when the connection is told to leave.
    pub(crate) async fn given(&self) {
        self.told.notified().await;
    }

    /// Whether all proxies on the connection have what they want now.
    pub(crate) fn serves(&self, all: bool) {
        self.is_served.store(all, Ordering::Relaxed);
    }

    pub(crate) fn is_heeded(&self, meters: &Meters) {
        self.serves(false);
        self.is_pending.store(false, Ordering::Release);
        meters.back();
    }

    /// Nobody is there any more who could heed one.
    pub(crate) fn is_futile(&self, meters: &Meters) {
        if self.is_pending.swap(true, Ordering::Relaxed) {
            meters.back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::meters::{Concerns, Current};
    use crate::load::results::PhaseKind;

    fn meters() -> Meters {
        Meters::new(0, 1, 1, Current::new(1, "churn".to_owned(), PhaseKind::Churn, Concerns::Nothing, 0))
    }

    #[test]
    fn who_is_told_to_leave_is_away_until_it_is_back_or_given_up() {
        let (meters, nudge) = (meters(), Nudge::default());
        assert!(nudge.give(&meters));
        assert!(!nudge.give(&meters));
        assert_eq!(meters.away(), 1, "once, however often it is told");
        meters.left();
        nudge.is_heeded(&meters);
        assert_eq!(meters.away(), 1, "the proxy itself");
        nudge.give(&meters);
        nudge.is_futile(&meters);
        assert!(!nudge.give(&meters));
        assert_eq!(meters.away(), 1, "nobody heeds it any more");
    }

    #[test]
    fn who_waits_can_be_spared() {
        let (meters, nudge) = (meters(), Nudge::default());
        assert!(!nudge.give_to_served(&meters), "it has nothing yet");
        nudge.serves(true);
        assert!(nudge.give_to_served(&meters));
        assert!(!nudge.give_to_served(&meters), "it has been told");
        nudge.is_heeded(&meters);
        assert!(!nudge.give_to_served(&meters), "it is not back");
        nudge.serves(true);
        nudge.serves(false);
        assert!(!nudge.give_to_served(&meters) && nudge.give(&meters), "a storm spares nobody");
    }
}
