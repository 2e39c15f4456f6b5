//! A token bucket: so many at once, and so many a second after that.

use std::time::Duration;

use tokio::time::Instant;

/// See the module. Time is passed in.
#[derive(Debug)]
pub(super) struct Bucket {
    per_second: f64,
    size: f64,
    left: f64,
    filled: Instant,
}

impl Bucket {
    /// A full one that holds a second's worth. `per_second` is at least 1.
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        Self::of_size(per_second, per_second, now)
    }

    /// A full one that holds `size`. Both are at least 1.
    pub(super) fn of_size(size: u32, per_second: u32, now: Instant) -> Self {
        let (size, per_second) = (f64::from(size.max(1)), f64::from(per_second.max(1)));
        Self { per_second, size, left: size, filled: now }
    }

    /// One that gives one out in each `period`.
    pub(super) fn one_in(period: Duration, now: Instant) -> Self {
        Self { per_second: period.as_secs_f64().max(1e-9).recip(), size: 1.0, left: 1.0, filled: now }
    }

    /// Takes one out, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let there = self.wait(now).is_zero();
        if there {
            self.left -= 1.0;
        }
        there
    }

    /// How long it is until there is one in it; zero if there is one.
    pub(super) fn wait(&mut self, now: Instant) -> Duration {
        let since = now.saturating_duration_since(self.filled);
        self.filled = self.filled.max(now);
        self.left = (self.left + since.as_secs_f64() * self.per_second).min(self.size);
        if self.left >= 1.0 {
            return Duration::ZERO;
        }
        // Rounded up, so that who waits that long finds one.
        Duration::from_secs_f64((1.0 - self.left) / self.per_second) + Duration::from_nanos(1)
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
    fn item_63_who_waits_as_long_as_it_says_finds_one() {
        let mut now = Instant::now();
        let mut bucket = Bucket::of_size(3, 50, now);
        assert_eq!((0..10).filter(|_| bucket.take(now)).count(), 3);
        for _ in 0..100 {
            let wait = bucket.wait(now);
            assert!(!wait.is_zero() && wait <= Duration::from_millis(21), "{wait:?}");
            now += wait + Duration::from_micros(1);
            assert!(bucket.wait(now).is_zero());
            assert!(bucket.take(now) && !bucket.take(now));
        }
        let mut seldom = Bucket::one_in(Duration::from_secs(60), now);
        assert!(seldom.take(now) && !seldom.take(now + Duration::from_secs(59)));
        assert!(seldom.take(now + Duration::from_secs(61)));
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
