//! A mesh's policy while one of its new signers is not known to be good: everything that was changed but that. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::policy::{Backend, MeshPolicy};

/// The backends that sign for somebody: the enabled one, and those of identity policies.
pub(super) fn signers(policy: &MeshPolicy) -> BTreeMap<Arc<str>, Arc<Backend>> {
    let of_identities = policy.identities.iter().filter_map(|identity| policy.backend(&identity.backend));
    policy.enabled().into_iter().chain(of_identities).map(|backend| (backend.name.clone(), backend.clone())).collect()
}

/// The policy to have in force where `old` is and `wanted` should be, and the names of the signers that `wanted` is held back
/// for.
///
/// `Mesh.mtls` is one part, its backends being trusted together, and each identity policy is one. A part whose signer is not
/// good stays as it is in `old`, or stays away if it is new; the others come into force. So do `MeshTrust` resources: to take
/// a CA back must not have to wait.
pub(super) fn compose(
    old: &Arc<MeshPolicy>,
    wanted: &Arc<MeshPolicy>,
    is_good: impl Fn(&Backend) -> bool,
) -> (Arc<MeshPolicy>, BTreeSet<Arc<str>>) {
    let signers = signers(wanted);
    let held: BTreeSet<Arc<str>> =
        signers.into_iter().filter(|(_, backend)| !is_good(backend)).map(|(name, _)| name).collect();
    if held.is_empty() {
        return (wanted.clone(), held);
    }
    let is_held = |name: &Arc<str>| held.contains(name);
    let of_mtls = if wanted.enabled_backend.as_ref().is_some_and(is_held) { old } else { wanted };
    let mut backends: Vec<Arc<Backend>> = classic(of_mtls).cloned().collect();
    let mut identities = Vec::new();
    for identity in &wanted.identities {
        let (from, identity) = if is_held(&identity.backend) {
            match old.identities.iter().find(|before| before.name == identity.name) {
                Some(before) => (old, before),
                None => continue,
            }
        } else {
            (wanted, identity)
        };
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
    let (trusts, skip_validation) = (wanted.trusts.clone(), wanted.skip_validation);
    let policy = if is_clear && !backends.is_empty() {
        let (name, enabled_backend) = (wanted.name.clone(), of_mtls.enabled_backend.clone());
        MeshPolicy { name, enabled_backend, backends, identities, trusts, skip_validation }
    } else {
        // The old and the new have no place beside each other.
        MeshPolicy { trusts, skip_validation, ..MeshPolicy::clone(old) }
    };
    // Who watches it for changes sees none where there is none.
    (if policy == **old { old.clone() } else { Arc::new(policy) }, held)
}

/// The backends of `Mesh.mtls`.
fn classic(policy: &MeshPolicy) -> impl Iterator<Item = &Arc<Backend>> {
    policy.backends.iter().filter(|backend| {
        let is_enabled = policy.enabled_backend.as_ref() == Some(&backend.name);
        is_enabled || !policy.identities.iter().any(|identity| identity.backend == backend.name)
    })
}
