//! When a client tries again.

use std::time::Duration;

/// What Envoy's first wait is a part of, and its longest.
const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);

/// Envoy's waits before it tries again: each a random part of a bound, which doubles from one to the next.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Backoff {
    /// How long to wait this time.
    pub(crate) fn wait(&mut self) -> Duration {
        let wait = self.0.mul_f64(fastrand::f64());
        self.0 = (self.0 * 2).min(LONGEST);
        wait
    }

    /// It has worked: the next wait is short again.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_bound_until_it_works() {
        let mut backoff = Backoff::default();
        let mut bound = FIRST;
        for _ in 0..20 {
            assert!(backoff.wait() <= bound);
            bound = (bound * 2).min(LONGEST);
        }
        assert_eq!(backoff.0, LONGEST);
        backoff.reset();
        assert!(backoff.wait() <= FIRST);
    }
}
