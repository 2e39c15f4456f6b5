//! Gauges about what is held for the proxies right now, computed when they are scraped: one series for each mesh, however
//! many proxies it has. One that has none has its series, too: that all are gone is a number, and not silence.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use dashmap::mapref::multiple::RefMulti;
use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use super::manager::{Manager, Slot, Slots};
use super::signing_cas::{Known, SigningCa, SigningCas};
use crate::model::certificate::Validity;
use crate::model::identity::ProxyKey;
use crate::model::policy::PolicySet;
use crate::runtime::clock::Clock;

impl Manager {
    /// Registers the gauges about what is held, which are there for each mesh of `policies`.
    pub fn register(&self, registry: &mut Registry, policies: watch::Receiver<Arc<PolicySet>>, clock: Clock) {
        let held = Held { slots: self.slots.clone(), signing_cas: self.signing_cas.clone(), policies, clock };
        registry.register_collector(Box::new(held));
        registry.register_collector(Box::new(self.progress.clone()));
    }

    /// By mesh, of the CA certificates that certificates in use lead through the one that ends first.
    pub fn signing_cas(&self) -> BTreeMap<Arc<str>, SigningCa> {
        let known = self.signing_cas.known();
        let mut first: BTreeMap<Arc<str>, Option<SigningCa>> = BTreeMap::new();
        for slot in in_use(&self.slots) {
            let mesh = &slot.key().mesh;
            known.compare(first.entry(mesh.clone()).or_default(), mesh, &slot);
        }
        first.into_iter().filter_map(|(mesh, ca)| Some((mesh, ca?))).collect()
    }
}

struct Held {
    slots: Slots,
    signing_cas: SigningCas,
    policies: watch::Receiver<Arc<PolicySet>>,
    clock: Clock,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held")
    }
}

/// Of the subscribed proxies of one mesh.
#[derive(Debug, Default, PartialEq)]
struct MeshGauges {
    connected: i64,
    unserved: i64,
    failing: i64,
    /// The end of the leaf that ends first.
    earliest: Option<Timestamp>,
    /// The least part that is left of a leaf's life.
    remaining: Option<f64>,
    /// The CA certificate that ends first of those that leaves lead through, their anchors included.
    signing_ca: Option<SigningCa>,
}

impl MeshGauges {
    fn add(&mut self, mesh: &str, slot: &Slot, known: &Known, now: Timestamp) {
        self.connected += 1;
        known.compare(&mut self.signing_ca, mesh, slot);
        self.failing += i64::from(slot.status.error.is_some());
        let current = slot.current.borrow();
        let held = slot.status.held_until.zip(slot.held.as_ref());
        let life = match current.as_deref() {
            Some(svid) => Some(svid.life()),
            None => held.map(|(not_after, leaf)| Validity { not_before: leaf.not_before, not_after }),
        };
        self.unserved += i64::from(life.is_none_or(|life| life.not_after < now));
        if let Some(life) = life {
            self.earliest = Some(self.earliest.map_or(life.not_after, |earliest| earliest.min(life.not_after)));
            let remaining = life.remaining(now);
            self.remaining = Some(self.remaining.map_or(remaining, |least| least.min(remaining)));
        }
    }
}

/// Those that somebody is subscribed to.
fn in_use(slots: &Slots) -> impl Iterator<Item = RefMulti<'_, ProxyKey, Slot>> {
    slots.iter().filter(|slot| slot.current.receiver_count() > 0)
}

fn by_mesh(slots: &Slots, policies: &PolicySet, known: &Known, now: Timestamp) -> BTreeMap<Arc<str>, MeshGauges> {
    let mut meshes: BTreeMap<Arc<str>, MeshGauges> =
        policies.meshes.keys().map(|mesh| (mesh.clone(), MeshGauges::default())).collect();
    for slot in in_use(slots) {
        let mesh = &slot.key().mesh;
        meshes.entry(mesh.clone()).or_default().add(mesh, &slot, known, now);
    }
    meshes
}

impl Collector for Held {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let now = self.clock.now();
        let policies = self.policies.borrow().clone();
        let meshes = by_mesh(&self.slots, &policies, &self.signing_cas.known(), now);
        let of = |value: fn(&MeshGauges) -> Option<i64>| {
            meshes.iter().filter_map(move |(mesh, gauges)| Some((&**mesh, value(gauges)?)))
        };
        let part = |value: &dyn Fn(&MeshGauges) -> Option<f64>| {
            let parts = meshes.iter().filter_map(|(mesh, gauges)| Some((&**mesh, value(gauges)?)));
            parts.collect::<Vec<_>>()
        };
        gauges(
            &mut encoder,
            "proxies",
            "Proxies that are subscribed to a certificate.",
            of(|gauges| Some(gauges.connected)),
        )?;
        gauges(
            &mut encoder,
            "proxies_unserved",
            "Subscribed proxies that have no certificate which is valid now.",
            of(|gauges| Some(gauges.unserved)),
        )?;
        gauges(
            &mut encoder,
            "proxies_failing",
            "Subscribed proxies whose last attempt to get a certificate failed, with or without one that is still valid.",
            of(|gauges| Some(gauges.failing)),
        )?;
        gauges(
            &mut encoder,
            "certificate_expiration_timestamp_seconds",
            "When the first of the certificates in use ends, in Unix seconds.",
            of(|gauges| gauges.earliest.map(Timestamp::as_second)),
        )?;
        gauges(
            &mut encoder,
            "certificate_remaining_ratio",
            "The least part that is left of the life of a certificate in use, from 1 when it is issued to 0 when it ends.",
            part(&|gauges| gauges.remaining),
        )?;
        gauges(
            &mut encoder,
            "certificate_ready_status",
            "1 if every subscribed proxy of the mesh has a certificate that is valid now, else 0.",
            of(|gauges| Some(i64::from(gauges.unserved == 0))),
        )?;
        gauges(
            &mut encoder,
            "signing_ca_expiration_timestamp_seconds",
            "When the first of the CA certificates ends that certificates in use lead through, in Unix seconds.",
            of(|gauges| gauges.signing_ca.as_ref().map(|ca| ca.validity.not_after.as_second())),
        )?;
        gauges(
            &mut encoder,
            "signing_ca_remaining_ratio",
            "The part that is left of that CA certificate's life, from 1 to 0.",
            part(&|gauges| gauges.signing_ca.as_ref().map(|ca| ca.validity.remaining(now))),
        )
    }
}

fn gauges<'a, N: EncodeGaugeValue>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (&'a str, N)>,
) -> fmt::Result {
    let mut encoder = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (mesh, value) in values {
        ConstGauge::new(value).encode(encoder.encode_family(&[("mesh", mesh)])?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::issue::manager::Status;
    use crate::issue::verify::tests::svid_with;
    use crate::model::held::HeldLeaf;
    use crate::model::identity::Instance;
    use crate::model::policy::{Backend, BackendKind, BuiltinSettings, MeshPolicy};
    use crate::testing::certs::timestamp;

    const NOW: i64 = 1_800_000_000;
    const HOUR: i64 = 3600;

    fn slot(number: usize, slot: Slot, slots: &Slots) -> impl Sized {
        let receiver = slot.current.subscribe();
        let key = ProxyKey {
            mesh: "default".into(),
            spiffe_id: "spiffe://default/web".into(),
            identity_policy: None,
            instance: Instance::Proven(format!("web-{number}").into()),
        };
        slots.insert(key, slot);
        receiver
    }

    fn with_leaf(from: i64, until: i64, ca_ends: i64) -> Slot {
        let at = |offset| timestamp(NOW + offset);
        let slot = Slot::default();
        slot.current.send_replace(Some(Arc::new(svid_with((at(from), at(until)), at(ca_ends)))));
        slot
    }

    fn gauges_of(slots: &Slots) -> MeshGauges {
        by_mesh(slots, &PolicySet::default(), &Known::default(), timestamp(NOW)).remove("default").unwrap()
    }

    #[test]
    fn the_leaf_with_the_least_left_of_its_life_is_not_the_one_that_ends_first() {
        let slots = Slots::default();
        // An hour with half of it left, and ten with a fifth.
        let _hour = slot(0, with_leaf(-HOUR / 2, HOUR / 2, 100 * HOUR), &slots);
        let _ten = slot(1, with_leaf(-8 * HOUR, 2 * HOUR, 200 * HOUR), &slots);
        let gauges = gauges_of(&slots);
        assert_eq!(gauges.earliest, Some(timestamp(NOW + HOUR / 2)));
        assert_eq!(gauges.remaining, Some(0.2));
        assert_eq!(gauges.signing_ca.unwrap().validity.not_after, timestamp(NOW + 100 * HOUR));
        assert_eq!((gauges.connected, gauges.unserved, gauges.failing), (2, 0, 0));
    }

    #[test]
    fn what_the_ca_dates_back_is_no_part_of_the_life() {
        let slots = Slots::default();
        let mut svid = svid_with((timestamp(NOW - HOUR), timestamp(NOW + HOUR)), timestamp(NOW + 10 * HOUR));
        svid.received = timestamp(NOW);
        let dated_back = Slot::default();
        dated_back.current.send_replace(Some(Arc::new(svid)));
        let _receiver = slot(0, dated_back, &slots);
        assert_eq!(gauges_of(&slots).remaining, Some(1.0));
    }

    #[test]
    fn a_leaf_that_is_reported_counts_and_who_has_none_is_unserved() {
        let slots = Slots::default();
        let status = Status { held_until: Some(timestamp(NOW + HOUR)), ..Status::default() };
        let reported = svid_with((timestamp(NOW - HOUR), timestamp(NOW + HOUR)), timestamp(NOW + HOUR));
        let held = Slot { status, held: Some(HeldLeaf::from(&reported)), ..Slot::default() };
        let _held = slot(0, held, &slots);
        let status = Status { error: Some("the CA is away".to_owned()), ..Status::default() };
        let _none = slot(1, Slot { status, ..Slot::default() }, &slots);
        let _over = slot(2, with_leaf(-2 * HOUR, -HOUR, HOUR), &slots);
        drop(slot(3, with_leaf(-HOUR, -1, HOUR), &slots));
        let gauges = gauges_of(&slots);
        assert_eq!((gauges.connected, gauges.unserved, gauges.failing), (3, 2, 1), "and nobody wants the last one's");
        assert_eq!((gauges.earliest, gauges.remaining), (Some(timestamp(NOW - HOUR)), Some(0.0)));
    }

    /// An alert that goes by a number does not hear of one that is gone.
    #[test]
    fn a_mesh_that_all_proxies_have_left_has_none_and_keeps_its_series() {
        let ca = Backend {
            name: "ca".into(),
            leaf_lifetime: None,
            request_timeout: Duration::from_secs(10),
            trust_domain: "default".into(),
            kind: BackendKind::Builtin(BuiltinSettings::default()),
        };
        let policy = MeshPolicy::classic("default".into(), "ca".into(), vec![Arc::new(ca)]);
        let meshes = [("default".into(), Arc::new(policy))].into();
        let policies = PolicySet { meshes, ..PolicySet::default() };
        let slots = Slots::default();
        drop(slot(0, with_leaf(-HOUR, HOUR, HOUR), &slots));
        let gauges = by_mesh(&slots, &policies, &Known::default(), timestamp(NOW));
        assert_eq!(gauges.into_iter().collect::<Vec<_>>(), [("default".into(), MeshGauges::default())]);
    }
}
