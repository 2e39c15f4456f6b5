//! The only place that asks what time it is.

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// Wall-clock time, which tests can stop and move together with tokio's paused clock.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    System,
    Simulated {
        start: Timestamp,
        began: Instant,
    },
    #[cfg(test)]
    Fixed(Timestamp),
}

impl Clock {
    /// The operating system's clock, asked anew each time, so that steps of the clock are noticed.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that shows `start` now and follows tokio's clock from here, paused or not.
    pub fn simulated(start: Timestamp) -> Self {
        Self(Source::Simulated { start, began: Instant::now() })
    }

    /// A clock that stands still.
    #[cfg(test)]
    pub(crate) fn fixed(at: Timestamp) -> Self {
        Self(Source::Fixed(at))
    }

    /// The time.
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => Timestamp::now(),
            #[cfg(test)]
            Source::Fixed(at) => *at,
            Source::Simulated { start, began } => {
                let elapsed = SignedDuration::try_from(began.elapsed()).unwrap_or(SignedDuration::MAX);
                start.saturating_add(elapsed).unwrap_or(Timestamp::MAX)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn simulated_time_follows_tokio() {
        let start = Timestamp::UNIX_EPOCH;
        let clock = Clock::simulated(start);
        tokio::time::advance(Duration::from_secs(90)).await;
        assert_eq!(clock.now(), start + SignedDuration::from_secs(90));
    }
}
