//! The trust bundles of several trust domains together. An empty set cannot be made, for the same reason as with
//! [`Bundle`]: Envoy takes a SPIFFE validator without a trust domain for an order to refuse everybody, and a validation
//! context without any validator for one to believe everybody.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;

use super::bundle::Bundle;

/// One bundle for each of some trust domains; at least one.
#[derive(Clone, PartialEq, Eq)]
pub struct BundleSet {
    /// By the trust domain's bare name (`prod`, not `spiffe://prod`), and so sorted and without duplicates.
    domains: BTreeMap<Arc<str>, Arc<Bundle>>,
    /// In full.
    digest: Arc<str>,
    union: Arc<Bundle>,
}

impl BundleSet {
    /// The set of these; `None` if there are none.
    pub fn new(domains: BTreeMap<Arc<str>, Arc<Bundle>>) -> Option<Self> {
        let mut bundles = domains.values();
        let union = match (bundles.next()?, bundles.len()) {
            (only, 0) => only.clone(),
            (first, _) => Arc::new(Bundle::union_of_all(first, bundles.map(AsRef::as_ref))),
        };
        Some(Self { digest: digest_of(&domains), union, domains })
    }

    /// The set of one.
    pub fn of_one(trust_domain: Arc<str>, bundle: Arc<Bundle>) -> Self {
        let domains = BTreeMap::from([(trust_domain, bundle.clone())]);
        Self { digest: digest_of(&domains), union: bundle, domains }
    }

    /// The bundle of a trust domain, if it is one of them.
    pub fn get(&self, trust_domain: &str) -> Option<&Arc<Bundle>> {
        self.domains.get(trust_domain)
    }

    /// Each trust domain's bare name and its bundle, in the order of the names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Bundle)> {
        self.domains.iter().map(|(domain, bundle)| (domain.as_ref(), bundle.as_ref()))
    }

    /// The CAs of all of them, for who cannot tell trust domains apart.
    pub fn union(&self) -> &Bundle {
        &self.union
    }

    /// The first 16 digits of [`BundleSet::full_digest`], for people and versions.
    pub fn digest(&self) -> &str {
        &self.digest[..16]
    }

    /// SHA-256 of names and contents, in hex; never that of a plain bundle.
    pub fn full_digest(&self) -> &Arc<str> {
        &self.digest
    }
}

impl fmt::Debug for BundleSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(&self.domains).finish()
    }
}

/// In hex. Neither a trust domain's name nor a bundle's digest has a line end in it.
fn digest_of(domains: &BTreeMap<Arc<str>, Arc<Bundle>>) -> Arc<str> {
    let mut context = digest::Context::new(&digest::SHA256);
    for (domain, bundle) in domains {
        for part in [domain.as_ref(), " ", bundle.full_digest(), "\n"] {
            context.update(part.as_bytes());
        }
    }
    hex::encode(context.finish()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::certs::TestCa;

    fn bundle(names: &[&str]) -> Arc<Bundle> {
        Arc::new(Bundle::from_certificates(names.iter().map(|name| TestCa::root(name).certificate().clone())).unwrap())
    }

    #[test]
    fn item_67_there_is_no_empty_set() {
        assert_eq!(BundleSet::new(BTreeMap::new()), None);
    }

    #[test]
    fn the_digest_is_of_names_and_contents() {
        let (one, two) = (bundle(&["One"]), bundle(&["Two"]));
        let set = |domains: &[(&str, &Arc<Bundle>)]| {
            BundleSet::new(domains.iter().map(|(name, bundle)| ((*name).into(), (*bundle).clone())).collect()).unwrap()
        };
        let both = set(&[("a", &one), ("b", &two)]);
        assert_eq!(both.digest(), set(&[("b", &two), ("a", &one)]).digest(), "sorted");
        for other in [set(&[("a", &two), ("b", &one)]), set(&[("a", &one)]), set(&[("c", &one), ("b", &two)])] {
            assert_ne!(both.digest(), other.digest());
        }
        let single = BundleSet::of_one("a".into(), one.clone());
        assert_eq!(single, set(&[("a", &one)]));
        assert_ne!(single.digest(), one.digest());
        assert_eq!(single.union(), &*one);
    }

    #[test]
    fn the_union_has_every_ca_once() {
        let (shared, own) = (TestCa::root("Shared"), TestCa::root("Own"));
        let of = |cas: &[&TestCa]| {
            Arc::new(Bundle::from_certificates(cas.iter().map(|ca| ca.certificate().clone())).unwrap())
        };
        let set = BundleSet::new(BTreeMap::from([("a".into(), of(&[&own, &shared])), ("b".into(), of(&[&shared]))]));
        assert_eq!(set.unwrap().union(), &*of(&[&own, &shared]));
    }
}
