//! How many problems the resources have at the moment, as a metric.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::model::diagnostic::Problem;

#[derive(Debug)]
struct Problems(watch::Receiver<Arc<Vec<Problem>>>);

pub(super) fn register(registry: &mut Registry, problems: watch::Receiver<Arc<Vec<Problem>>>) {
    registry.register_collector(Box::new(Problems(problems)));
}

impl Collector for Problems {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let count = i64::try_from(self.0.borrow().len()).unwrap_or(i64::MAX);
        let help = "Problems with resources at the moment; each keeps the last good version in force (see /readyz)";
        let encoder = encoder.encode_descriptor("resource_problems", help, None, MetricType::Gauge)?;
        ConstGauge::new(count).encode(encoder)
    }
}
