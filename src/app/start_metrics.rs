//! When the server was started, as a metric: counters begin anew then.

use std::sync::atomic::AtomicU64;

use jiff::Timestamp;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

pub(super) fn register(registry: &mut Registry, now: Timestamp) {
    let gauge = Gauge::<f64, AtomicU64>::default();
    gauge.set(now.as_duration().as_secs_f64());
    registry.register("start_time_seconds", "When this server was started, in Unix seconds", gauge);
}
