//! The trust bundles of all trust domains, for proxies that talk to other meshes.

use std::sync::Arc;

use spiffe::TrustDomain;
use tokio::sync::watch;

use crate::model::bundle::TrustSet;
use crate::model::bundle_set::BundleSet;
use crate::model::policy::PolicySet;

/// What there is of trust domains. Each mesh is one, under its own name.
#[derive(Debug, Clone)]
pub struct TrustDomains {
    known: watch::Receiver<Option<Arc<BundleSet>>>,
    policies: watch::Receiver<Arc<PolicySet>>,
}

/// The end of [`TrustDomains`] that the trust store holds.
#[derive(Debug)]
pub(super) struct PublishDomains(watch::Sender<Option<Arc<BundleSet>>>);

impl TrustDomains {
    pub(super) fn new(policies: watch::Receiver<Arc<PolicySet>>) -> (Self, PublishDomains) {
        let (publish, known) = watch::channel(None);
        (Self { known, policies }, PublishDomains(publish))
    }

    /// All bundles that are known, `None` if none is. It changes only when one of them does, and not with what else a
    /// [`TrustSet`] says.
    pub fn watch(&self) -> watch::Receiver<Option<Arc<BundleSet>>> {
        self.known.clone()
    }

    /// Whether there is such a trust domain, its bundle known or not.
    pub fn contains(&self, name: &str) -> bool {
        is_trust_domain(name) && self.policies.borrow().meshes.contains_key(name)
    }
}

impl PublishDomains {
    pub(super) fn publish(&self, trust: &TrustSet) {
        let domains = trust.meshes.iter().filter(|(mesh, _)| is_trust_domain(mesh));
        let known = BundleSet::new(domains.map(|(mesh, bundle)| (mesh.clone(), bundle.clone())).collect());
        self.0.send_if_modified(|current| {
            let changed = current.as_deref() != known.as_ref();
            if changed {
                *current = known.map(Arc::new);
            }
            changed
        });
    }
}

/// A mesh may have a name that is no trust domain's; then it has no proxies, and nobody is told of its CAs.
fn is_trust_domain(name: &str) -> bool {
    !name.contains(':') && TrustDomain::new(name).is_ok_and(|domain| domain.as_str() == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::policy::MeshPolicy;
    use crate::testing::certs::{TestCa, timestamp};

    fn policies(meshes: &[&str]) -> Arc<PolicySet> {
        let policy = |name: &&str| {
            let policy = MeshPolicy::classic((*name).into(), "ca".into(), Vec::new());
            ((*name).into(), Arc::new(policy))
        };
        Arc::new(PolicySet { meshes: meshes.iter().map(policy).collect() })
    }

    fn trust(meshes: &[(&str, &TestCa)]) -> TrustSet {
        let meshes: BTreeMap<_, _> = meshes.iter().map(|(mesh, ca)| ((*mesh).into(), Arc::new(ca.bundle()))).collect();
        TrustSet { meshes, ..TrustSet::default() }
    }

    #[test]
    fn only_a_change_of_a_bundle_is_one() {
        let (_policies, current) = watch::channel(policies(&["default", "other"]));
        let (domains, publish) = TrustDomains::new(current);
        let mut known = domains.watch();
        publish.publish(&TrustSet::default());
        assert!(!known.has_changed().unwrap(), "still nothing");
        let (one, two) = (TestCa::root("One"), TestCa::root("Two"));
        publish.publish(&trust(&[("default", &one), ("other", &two), ("Odd_One", &two)]));
        assert!(known.has_changed().unwrap());
        let names: Vec<String> =
            known.borrow_and_update().iter().flat_map(|set| set.iter()).map(|(name, _)| name.to_owned()).collect();
        assert_eq!(names, ["default", "other"], "what is no trust domain is left out");

        let mut later = trust(&[("default", &one), ("other", &two)]);
        later.known.insert(("default".into(), "ca".into()));
        later.added.insert("default".into(), vec![(one.certificate().clone(), timestamp(1))]);
        publish.publish(&later);
        assert!(!known.has_changed().unwrap());
        publish.publish(&trust(&[("default", &two), ("other", &two)]));
        assert!(known.has_changed().unwrap());
    }

    #[test]
    fn a_mesh_without_a_bundle_is_a_trust_domain_all_the_same() {
        let (change, current) = watch::channel(policies(&["default", "Odd_One"]));
        let (domains, _publish) = TrustDomains::new(current);
        assert!(domains.contains("default"));
        assert!(!domains.contains("other") && !domains.contains("Odd_One") && !domains.contains(""));
        change.send_replace(policies(&["other"]));
        assert!(!domains.contains("default") && domains.contains("other"));
    }
}
