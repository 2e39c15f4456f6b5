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
/// signer that `wanted` has for it, and `take` says which version of it is in force. Only who signs waits: `MeshTrust`
/// resources, and backends that are listed to be trusted and sign for nobody, are always the wanted ones. To take a CA back
/// must not have to wait.
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
    let take_mtls = wanted.enabled_backend.as_ref().map_or(Take::New, &take);
    let of_mtls = wanted.enabled_backend.as_ref().map_or(Some(wanted), version);
    let mut backends: Vec<Arc<Backend>> = match (take_mtls, old) {
        (Take::Old, Some(old)) => classic_while_held_back(old, wanted),
        _ => of_mtls.into_iter().flat_map(|policy| classic(policy)).cloned().collect(),
    };
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
            let backends = still_listed(old.backends.iter(), old, wanted).collect();
            MeshPolicy { backends, trusts, skip_validation, ..MeshPolicy::clone(old) }
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

/// The backends of `Mesh.mtls` while the one that `wanted` enables is held back: the one that was enabled goes on signing,
/// also if `wanted` does not list it any more. All others are as `wanted` lists them.
fn classic_while_held_back(old: &MeshPolicy, wanted: &MeshPolicy) -> Vec<Arc<Backend>> {
    let mut backends: Vec<_> = still_listed(classic(old), old, wanted).collect();
    // Where mTLS was off there is nobody who could trust one yet.
    if old.enabled_backend.is_some() {
        let signing = signers(wanted);
        let new = classic(wanted).filter(|new| !signing.contains_key(&new.name) && old.backend(&new.name).is_none());
        backends.extend(new.cloned());
    }
    backends
}

/// What stays of `backends` of `old` while a signer that is `wanted` is held back: those that sign, and those that are still
/// listed, as they are listed now; but one that is to sign stays what it was.
fn still_listed<'p>(
    backends: impl Iterator<Item = &'p Arc<Backend>>,
    old: &MeshPolicy,
    wanted: &MeshPolicy,
) -> impl Iterator<Item = Arc<Backend>> {
    let (sign, are_to_sign) = (signers(old), signers(wanted));
    backends.filter_map(move |backend| {
        if sign.contains_key(&backend.name) {
            return Some(backend.clone());
        }
        let listed = wanted.backend(&backend.name)?;
        Some(if are_to_sign.contains_key(&backend.name) { backend.clone() } else { listed.clone() })
    })
}
