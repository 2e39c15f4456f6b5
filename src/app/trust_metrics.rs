//! When the trusted CAs end, as metrics: of each trust domain that a mesh's own resources speak of, its own and foreign ones, the
//! one that ends first.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::model::bundle::TrustSet;
use crate::model::certificate::Validity;
use crate::model::policy::PolicySet;
use crate::observe::validity;
use crate::runtime::clock::Clock;

#[derive(Debug)]
struct Trusted {
    bundles: watch::Receiver<Arc<TrustSet>>,
    policies: watch::Receiver<Arc<PolicySet>>,
    clock: Clock,
}

pub(super) fn register(
    registry: &mut Registry,
    bundles: watch::Receiver<Arc<TrustSet>>,
    policies: watch::Receiver<Arc<PolicySet>>,
    clock: Clock,
) {
    registry.register_collector(Box::new(Trusted { bundles, policies, clock }));
}

impl Trusted {
    /// The first to end, by mesh and trust domain.
    fn first_to_end(&self) -> Vec<([(&'static str, String); 2], Validity)> {
        let (bundles, policies) = (self.bundles.borrow().clone(), self.policies.borrow().clone());
        let mut first = Vec::new();
        for (mesh, policy) in &policies.meshes {
            for (domain, bundle) in bundles.told_by(policy) {
                let ends = bundle.certificates().iter().map(|ca| ca.validity()).min_by_key(|ca| ca.not_after);
                let labels = [("mesh", mesh.to_string()), ("trust_domain", domain.to_string())];
                first.extend(ends.map(|ends| (labels, ends)));
            }
        }
        first
    }
}

impl Collector for Trusted {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "When the first of the CAs ends that the mesh trusts for a trust domain, in Unix seconds.";
        validity::encode(&mut encoder, "trusted_ca", help, &self.first_to_end(), self.clock.now())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::bundle::Bundle;
    use crate::model::bundle_set::BundleSet;
    use crate::model::policy::{MeshPolicy, TrustAnchors};
    use crate::testing::certs::{TestCa, timestamp};

    const NOW: i64 = 1_800_000_000;
    const DAY: i64 = 86_400;

    fn bundle(days: &[i64]) -> Arc<Bundle> {
        let ends = |days: &i64| TestCa::root_until("CA", timestamp(NOW + days * DAY)).certificate().clone();
        Arc::new(Bundle::from_certificates(days.iter().map(ends)).unwrap())
    }

    fn trusts(domain: &str, bundle: &Arc<Bundle>) -> Arc<TrustAnchors> {
        Arc::new(TrustAnchors { name: domain.into(), trust_domain: domain.into(), bundle: bundle.clone() })
    }

    fn shown(set: TrustSet, policies: Vec<MeshPolicy>) -> String {
        let mut registry = Registry::default();
        let (_publish, bundles) = watch::channel(Arc::new(set));
        let meshes = policies.into_iter().map(|policy| (policy.name.clone(), Arc::new(policy))).collect();
        let (_in_force, policies) = watch::channel(Arc::new(PolicySet { meshes, ..PolicySet::default() }));
        register(&mut registry, bundles, policies, Clock::fixed(timestamp(NOW)));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    fn ends(mesh: &str, domain: &str, days: i64) -> String {
        let end = NOW + days * DAY;
        format!("trusted_ca_expiration_timestamp_seconds{{mesh=\"{mesh}\",trust_domain=\"{domain}\"}} {end}\n")
    }

    #[test]
    fn the_ca_that_ends_first_is_shown() {
        let own = bundle(&[100, 20, 300]);
        let first = own.certificates()[1].validity();
        let set = TrustSet { meshes: [("default".into(), own)].into(), ..TrustSet::default() };
        let text = shown(set, vec![MeshPolicy::classic("default".into(), "ca".into(), Vec::new())]);
        let left = first.remaining(timestamp(NOW));
        let part = format!("trusted_ca_remaining_ratio{{mesh=\"default\",trust_domain=\"default\"}} {left}\n");
        assert!(text.contains(&ends("default", "default", 20)) && text.contains(&part), "{text}");
    }

    #[test]
    fn foreign_ones_are_shown_where_they_are_told_and_other_meshes_own_ones_once() {
        let [ours, others, partner] = [bundle(&[100]), bundle(&[200]), bundle(&[7, 9])];
        let mut meshes = ["default", "other"].map(|mesh| MeshPolicy::classic(mesh.into(), "ca".into(), Vec::new()));
        meshes[0].trusts.push(trusts("partner.example", &partner));
        let everyones = BTreeMap::from([("default".into(), ours.clone()), ("other".into(), others.clone())]);
        let mut with_partner = everyones.clone();
        with_partner.insert("partner.example".into(), partner);
        let set = TrustSet {
            meshes: [("default".into(), ours), ("other".into(), others)].into(),
            domains: [("default".into(), with_partner), ("other".into(), everyones)]
                .map(|(mesh, domains): (Arc<str>, _)| (mesh, Arc::new(BundleSet::new(domains).unwrap())))
                .into(),
            ..TrustSet::default()
        };
        let text = shown(set, meshes.into());
        let expected = [("default", "default", 100), ("default", "partner.example", 7), ("other", "other", 200)];
        for (mesh, domain, days) in expected {
            assert!(text.contains(&ends(mesh, domain, days)), "{text}");
        }
        let series = text.lines().filter(|line| line.starts_with("trusted_ca_expiration_timestamp_seconds{")).count();
        assert_eq!(series, expected.len(), "{text}");
    }
}
