//! A mesh's policy while one of its parts may not come into force: everything that was changed but that. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::policy::{Backend, MeshPolicy};

/// Which version of a part is in force. In the order in which they are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Take {
    /// The wanted one.
    New,
    /// The one that was in force before, if there was one.
    Old,
    /// Neither.
    Nothing,
}

/// The backends that sign for somebody: the enabled one, and those of identity policies.
pub(super) fn signers(policy: &MeshPolicy) -> BTreeMap<Arc<str>, Arc<Backend>> {
    let of_identities = policy.identities.iter().filter_map(|identity| policy.backend(&identity.backend));
    policy.enabled().into_iter().chain(of_identities).map(|backend| (backend.name.clone(), backend.clone())).collect()
}

/// The policy to have in force where `old` is and `wanted` should be; `None` if nothing is left of it.
///
/// `Mesh.mtls` is one part, its backends being trusted together, and each identity policy is one; a part is known by the
/// signer that `wanted` has for it, and `take` says which version of it is in force. `MeshTrust` resources are always the
/// wanted ones: to take a CA back must not have to wait.
pub(super) fn compose(
    old: Option<&Arc<MeshPolicy>>,
    wanted: &Arc<MeshPolicy>,
    take: impl Fn(&Arc<str>) -> Take,
) -> Option<Arc<MeshPolicy>> {
    if signers(wanted).keys().all(|signer| take(signer) == Take::New) {
        return Some(wanted.clone());
    }
    let version = |part: &Arc<str>| match take(part) {
        Take::New => Some(wanted),
        Take::Old => old,
        Take::Nothing => None,
    };
    let of_mtls = wanted.enabled_backend.as_ref().map_or(Some(wanted), version);
    let mut backends: Vec<Arc<Backend>> = of_mtls.into_iter().flat_map(|policy| classic(policy)).cloned().collect();
    let mut identities = Vec::new();
    for identity in &wanted.identities {
        let Some(from) = version(&identity.backend) else { continue };
        let Some(identity) = from.identities.iter().find(|found| found.name == identity.name) else { continue };
        identities.push(identity.clone());
        backends.extend(from.backend(&identity.backend).cloned());
    }
    let mut names = BTreeMap::new();
    let mut is_clear = true;
    backends.retain(|backend| match names.get(&backend.name) {
        None => names.insert(backend.name.clone(), backend.clone()).is_none(),
        Some(other) => {
            is_clear &= other == backend;
            false
        }
    });
    if backends.is_empty() && old.is_none() {
        return None;
    }
    let (trusts, skip_validation) = (wanted.trusts.clone(), wanted.skip_validation);
    let policy = match old {
        // The old and the new have no place beside each other.
        Some(old) if !is_clear || backends.is_empty() => {
            MeshPolicy { trusts, skip_validation, ..MeshPolicy::clone(old) }
        }
        _ => {
            let enabled_backend = of_mtls.and_then(|policy| policy.enabled_backend.clone());
            let name = wanted.name.clone();
            MeshPolicy { name, enabled_backend, backends, identities, trusts, skip_validation }
        }
    };
    // Who watches it for changes sees none where there is none.
    Some(old.filter(|old| ***old == policy).cloned().unwrap_or_else(|| Arc::new(policy)))
}

/// The backends of `Mesh.mtls`.
fn classic(policy: &MeshPolicy) -> impl Iterator<Item = &Arc<Backend>> {
    policy.backends.iter().filter(|backend| {
        let is_enabled = policy.enabled_backend.as_ref() == Some(&backend.name);
        is_enabled || !policy.identities.iter().any(|identity| identity.backend == backend.name)
    })
}
