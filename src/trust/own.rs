//! Which CAs belong to which trust domain: a mesh's own domains, those of the other meshes, and those that a mesh's
//! `MeshTrust` resources bring in from elsewhere. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use spiffe::TrustDomain;

use crate::model::bundle::Bundle;
use crate::model::bundle_set::BundleSet;
use crate::model::policy::MeshPolicy;

/// The CAs that a source gives for a trust domain.
pub(super) type Part = (Arc<str>, Arc<Bundle>);

/// What a mesh's own trust domains trust.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Own {
    /// All of it together.
    pub(super) plain: Arc<Bundle>,
    /// By trust domain.
    pub(super) domains: BTreeMap<Arc<str>, Arc<Bundle>>,
}

impl Own {
    /// Adds up what backends have said, and the `MeshTrust` resources for one of the mesh's own domains. What belongs to
    /// another trust domain is left out: a plain bundle knows no domains, and would have a foreign CA vouch for our own
    /// names. `None` if no backend has said anything.
    pub(super) fn new(policy: &MeshPolicy, of_backends: &[Part]) -> Option<Self> {
        let own = policy.own_trust_domains();
        let anchors = policy.trusts.iter().map(|trust| (trust.trust_domain.clone(), trust.bundle.clone()));
        let of_backends: Vec<Part> = of_backends.iter().filter(|(domain, _)| own.contains(domain)).cloned().collect();
        if of_backends.is_empty() {
            return None;
        }
        let parts: Vec<Part> =
            of_backends.into_iter().chain(anchors.filter(|(domain, _)| own.contains(domain))).collect();
        let plain = Arc::new(Bundle::union(parts.iter().map(|(_, bundle)| bundle.as_ref()))?);
        let names: BTreeSet<&Arc<str>> = parts.iter().map(|(domain, _)| domain).collect();
        let domains = if names.len() == 1 {
            names.into_iter().map(|domain| (domain.clone(), plain.clone())).collect()
        } else {
            let of =
                |domain| Bundle::union(parts.iter().filter(|(of, _)| of == domain).map(|(_, bundle)| bundle.as_ref()));
            names.into_iter().filter_map(|domain| Some((domain.clone(), Arc::new(of(domain)?)))).collect()
        };
        Some(Self { plain, domains })
    }
}

/// What each mesh's proxies may know of all trust domains: every mesh's own, and what the mesh's own `MeshTrust` resources
/// say of foreign ones. These count for this mesh alone: whoever may write them for one mesh must not change what the
/// proxies of another believe.
pub(super) fn known_to_each<'p>(
    policies: impl Iterator<Item = &'p Arc<MeshPolicy>>,
    own: &BTreeMap<Arc<str>, Own>,
) -> BTreeMap<Arc<str>, Arc<BundleSet>> {
    let all = own.values().flat_map(|own| &own.domains).filter(|(domain, _)| is_trust_domain(domain));
    let everyones: BTreeMap<Arc<str>, Arc<Bundle>> =
        all.map(|(domain, bundle)| (domain.clone(), bundle.clone())).collect();
    // One set for all meshes that add nothing to it: their proxies share its encoding, and its digest is made once.
    let shared = BundleSet::new(everyones.clone()).map(Arc::new);
    let known = policies.filter_map(|policy| {
        let ours = policy.own_trust_domains();
        let is_foreign = |domain: &Arc<str>| !ours.contains(domain) && is_trust_domain(domain);
        let mut foreign = policy.trusts.iter().filter(|trust| is_foreign(&trust.trust_domain)).peekable();
        if foreign.peek().is_none() {
            return Some((policy.name.clone(), shared.clone()?));
        }
        let mut domains = everyones.clone();
        for trust in foreign {
            let before = domains.get(&trust.trust_domain);
            let both = Bundle::union(before.into_iter().chain([&trust.bundle]).map(AsRef::as_ref));
            domains.extend(both.map(|both| (trust.trust_domain.clone(), Arc::new(both))));
        }
        Some((policy.name.clone(), Arc::new(BundleSet::new(domains)?)))
    });
    known.collect()
}

/// A mesh may have a name that is no trust domain's; then it has no proxies, and nobody is told of its CAs.
pub(super) fn is_trust_domain(name: &str) -> bool {
    !name.contains(':') && TrustDomain::new(name).is_ok_and(|domain| domain.as_str() == name)
}
