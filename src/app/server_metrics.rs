//! The server itself, as metrics: which version it is, since when, whether it is ready, and its listeners' own certificates.

use std::fmt;
use std::sync::atomic::AtomicU64;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::model::certificate::Validity;
use crate::observe::readiness::Readiness;
use crate::observe::validity;
use crate::runtime::clock::Clock;

#[derive(Debug)]
struct Server {
    readiness: watch::Receiver<bool>,
    /// By address; `None` for one that cannot be read.
    certificates: Vec<(String, watch::Receiver<Option<Validity>>)>,
    clock: Clock,
}

pub(super) fn register(
    registry: &mut Registry,
    readiness: &Readiness,
    certificates: Vec<(String, watch::Receiver<Option<Validity>>)>,
    clock: Clock,
) {
    let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("build", "The version of the program, as a label of a value that is always 1", version);
    let start = Gauge::<f64, AtomicU64>::default();
    start.set(clock.now().as_duration().as_secs_f64());
    registry.register("start_time_seconds", "When this server was started, in Unix seconds", start);
    registry.register_collector(Box::new(Server { readiness: readiness.watch(), certificates, clock }));
}

impl Collector for Server {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "1 if the server can do its work, else 0 (see /readyz).";
        let ready = encoder.encode_descriptor("ready", help, None, MetricType::Gauge)?;
        ConstGauge::new(i64::from(*self.readiness.borrow())).encode(ready)?;
        let of_listener = |(at, validity): &(String, watch::Receiver<Option<Validity>>)| {
            Some(([("listener", at.clone())], (*validity.borrow())?))
        };
        let certificates: Vec<_> = self.certificates.iter().filter_map(of_listener).collect();
        let help = "When the certificate that a listener shows to Envoys ends, in Unix seconds.";
        validity::encode(&mut encoder, "listener_certificate", help, &certificates, self.clock.now())
    }
}
