//! A token bucket: so many a second, and a second's worth at once.

use std::time::Duration;

use tokio::time::Instant;

/// See the module. Time is passed in.
#[derive(Debug)]
pub(super) struct Bucket {
    per_second: f64,
    left: f64,
    filled: Instant,
}

impl Bucket {
    /// A full one. `per_second` is at least 1.
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        let per_second = f64::from(per_second.max(1));
        Self { per_second, left: per_second, filled: now }
    }

    /// Takes one out, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let since: Duration = now.saturating_duration_since(self.filled);
        self.filled = self.filled.max(now);
        self.left = (self.left + since.as_secs_f64() * self.per_second).min(self.per_second);
        let there = self.left >= 1.0;
        if there {
            self.left -= 1.0;
        }
        there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn item_97_a_second_of_them_at_once_and_then_as_they_come() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut bucket = Bucket::new(10, start);
        let mut taken = |now, tries: usize| (0..tries).filter(|_| bucket.take(now)).count();
        assert_eq!(taken(at(0), 100), 10);
        assert_eq!(taken(at(50), 5), 0);
        assert_eq!(taken(at(100), 5), 1);
        assert_eq!(taken(at(600), 100), 5);
        // Nothing is saved up, and a clock that stands still gives nothing.
        assert_eq!(taken(at(60_000), 100), 10);
        assert_eq!(taken(at(60_000), 100), 0);
    }

    #[test]
    fn item_97_a_storm_of_ten_thousand_is_let_in_at_the_rate_and_nobody_starves() {
        let start = Instant::now();
        let mut bucket = Bucket::new(500, start);
        let mut waiting = 10_000_usize;
        let mut seconds = 0;
        while waiting > 0 {
            // Everybody tries again within each second, in turn.
            for step in 0..100_u64 {
                let now = start + Duration::from_secs(seconds) + Duration::from_millis(step * 10);
                let share = waiting.div_ceil(100);
                waiting -= (0..share.min(waiting)).filter(|_| bucket.take(now)).count();
            }
            seconds += 1;
        }
        assert!((18..=21).contains(&seconds), "{seconds} s");
    }
}
