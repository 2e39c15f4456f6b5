//! Distributions of times.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::results::Latency;

/// The longest that is told apart, in microseconds: an hour. What took longer is counted as that.
const LONGEST: u64 = 3_600_000_000;

/// Three significant figures.
const FIGURES: u8 = 3;

/// Points of a curve for each halving of what is left up to 1.
const POINTS: u32 = 4;

/// Times, from a microsecond on.
pub(crate) struct Timed(Option<Histogram<u64>>);

impl Default for Timed {
    fn default() -> Self {
        // The bounds are sound, so there is always one.
        Self(Histogram::new_with_bounds(1, LONGEST, FIGURES).ok())
    }
}

impl Timed {
    pub(crate) fn record(&mut self, took: Duration) {
        if let Some(times) = &mut self.0 {
            times.saturating_record(u64::try_from(took.as_micros()).unwrap_or(LONGEST).max(1));
        }
    }

    pub(crate) fn summary(&self) -> Latency {
        let Some(times) = self.0.as_ref().filter(|times| !times.is_empty()) else { return Latency::default() };
        let ms = |microseconds: u64| microseconds as f64 / 1000.0;
        let at = |quantile| ms(times.value_at_quantile(quantile));
        let point = |step: hdrhistogram::iterators::IterationValue<u64>| {
            (step.quantile_iterated_to(), ms(step.value_iterated_to()))
        };
        Latency {
            count: times.len(),
            min_ms: ms(times.min()),
            mean_ms: times.mean() / 1000.0,
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: ms(times.max()),
            curve: times.iter_quantiles(POINTS).map(point).collect(),
        }
    }
}

impl fmt::Debug for Timed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Timed").field(&self.0.as_ref().map(Histogram::len)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_in_milliseconds() {
        let mut timed = Timed::default();
        assert_eq!(timed.summary(), Latency::default());
        (1..=1000).for_each(|ms| timed.record(Duration::from_millis(ms)));
        timed.record(Duration::from_secs(100_000));
        let told = timed.summary();
        assert_eq!((told.count, told.min_ms), (1001, 1.0));
        for (found, expected) in [(told.p50_ms, 500.0), (told.p90_ms, 900.0), (told.p99_ms, 990.0)] {
            assert!((found - expected).abs() < expected * 0.005, "{found} is not {expected}");
        }
        assert!((told.max_ms - 3_600_000.0).abs() < 3_600_000.0 * 0.002, "{}", told.max_ms);
        assert!(told.curve.is_sorted() && told.curve.len() > 20 && told.curve.len() < 200, "{:?}", told.curve);
        assert_eq!(told.curve.last().map(|point| point.0), Some(1.0));
    }
}
