//! When the trusted CAs end, as metrics: of each mesh the one that ends first.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::model::bundle::{Bundle, TrustSet};
use crate::runtime::clock::Clock;

#[derive(Debug)]
struct Trusted {
    bundles: watch::Receiver<Arc<TrustSet>>,
    clock: Clock,
}

pub(super) fn register(registry: &mut Registry, bundles: watch::Receiver<Arc<TrustSet>>, clock: Clock) {
    registry.register_collector(Box::new(Trusted { bundles, clock }));
}

impl Collector for Trusted {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (now, bundles) = (self.clock.now(), self.bundles.borrow().clone());
        let first = |(mesh, bundle): (&Arc<str>, &Arc<Bundle>)| {
            let cas = bundle.certificates().iter().map(|ca| ca.validity());
            Some((mesh.clone(), cas.min_by_key(|ca| ca.not_after)?))
        };
        let first: Vec<_> = bundles.meshes.iter().filter_map(first).collect();
        let help = "When the first of the CAs that the mesh trusts ends, in Unix seconds.";
        let mut family =
            encoder.encode_descriptor("trusted_ca_expiration_timestamp_seconds", help, None, MetricType::Gauge)?;
        for (mesh, ca) in &first {
            ConstGauge::new(ca.not_after.as_second()).encode(family.encode_family(&[("mesh", &**mesh)])?)?;
        }
        let help = "The part that is left of that CA's life, from 1 to 0.";
        let mut family = encoder.encode_descriptor("trusted_ca_remaining_ratio", help, None, MetricType::Gauge)?;
        for (mesh, ca) in &first {
            ConstGauge::new(ca.remaining(now)).encode(family.encode_family(&[("mesh", &**mesh)])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::certs::{TestCa, timestamp};

    const DAY: i64 = 86_400;

    #[test]
    fn the_ca_that_ends_first_is_shown() {
        let now = 1_800_000_000;
        let ends = |days: i64| TestCa::root_until("CA", timestamp(now + days * DAY)).certificate().clone();
        let bundle = Bundle::from_certificates([ends(100), ends(20), ends(300)]).unwrap();
        let first = bundle.certificates()[1].validity();
        let set = TrustSet { meshes: [("default".into(), Arc::new(bundle))].into(), ..TrustSet::default() };
        let mut registry = Registry::default();
        let (_publish, bundles) = watch::channel(Arc::new(set));
        register(&mut registry, bundles, Clock::fixed(timestamp(now)));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let end = format!("trusted_ca_expiration_timestamp_seconds{{mesh=\"default\"}} {}\n", now + 20 * DAY);
        let part = format!("trusted_ca_remaining_ratio{{mesh=\"default\"}} {}\n", first.remaining(timestamp(now)));
        assert!(text.contains(&end) && text.contains(&part), "{text}");
    }
}
