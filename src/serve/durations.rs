//! A histogram that no stream waits for.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// Upper bounds of the buckets in seconds: 100 µs to 26 s, and all the rest.
const BOUNDS: [f64; 11] = [1e-4, 4e-4, 1.6e-3, 6.4e-3, 25.6e-3, 0.1024, 0.4096, 1.6384, 6.5536, 26.2144, f64::INFINITY];

/// Durations in buckets, as Prometheus has them in a classic histogram; clones share their values. Each push and each ACK of each
/// stream is told here. So nothing but counters is added to, where prometheus-client's `Histogram` has one lock for all.
#[derive(Debug, Clone, Default)]
pub(super) struct Durations(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Not cumulative, as an encoder wants them.
    buckets: [AtomicU64; BOUNDS.len()],
    /// Of all together: enough for 584 years of waiting.
    nanoseconds: AtomicU64,
}

impl Durations {
    pub(super) fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = BOUNDS.partition_point(|bound| *bound < seconds);
        if let Some(count) = self.0.buckets.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.0.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let mut buckets = [(0.0, 0); BOUNDS.len()];
        for ((bucket, bound), count) in buckets.iter_mut().zip(BOUNDS).zip(&self.0.buckets) {
            *bucket = (bound, count.load(Ordering::Relaxed));
        }
        // Of what the buckets say: a scraper may count on the last one being all.
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = Duration::from_nanos(self.0.nanoseconds.load(Ordering::Relaxed)).as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn it_reads_as_the_librarys_histogram_does() {
        let durations = Durations::default();
        let theirs = Histogram::new(exponential_buckets(1e-4, 4.0, 10));
        // Below all, on a bound, between bounds, and above all.
        for micros in [0, 100, 101, 1_600, 500_000, 26_000_000, 3_600_000_000] {
            durations.observe(Duration::from_micros(micros));
            theirs.observe(Duration::from_micros(micros).as_secs_f64());
        }
        let text = |metric: Box<dyn FnOnce(&mut Registry)>| {
            let (mut registry, mut text) = (Registry::default(), String::new());
            metric(&mut registry);
            encode(&mut text, &registry).unwrap();
            text
        };
        let ours = text(Box::new(|registry| registry.register("d", "D", durations)));
        let theirs = text(Box::new(|registry| registry.register("d", "D", theirs)));
        let values = |text: &str| -> Vec<(String, f64)> {
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            lines
                .filter_map(|line| line.rsplit_once(' '))
                .map(|(name, n)| (name.to_owned(), n.parse().unwrap()))
                .collect()
        };
        let (ours, theirs) = (values(&ours), values(&theirs));
        assert_eq!(ours.len(), 2 + BOUNDS.len());
        for ((name, ours), (their_name, theirs)) in ours.iter().zip(&theirs) {
            assert_eq!(bound(name), bound(their_name), "{name} {their_name}");
            assert!((ours - theirs).abs() < 1e-6, "{name}: {ours} {theirs}");
        }
    }

    /// Of a bucket's name: how it is rounded is all that may differ.
    fn bound(name: &str) -> String {
        let Some((name, le)) = name.split_once("le=\"") else { return name.to_owned() };
        let le: f64 = le.trim_end_matches("\"}").parse().unwrap();
        format!("{name}{le:.6}")
    }
}
