//! Which policies are in force, kept for the next start: a part that is held back then is held back after a restart, too, by
//! what was in force and not by nothing. They are kept as they are (see [`kept`](crate::model::kept)), so what was in force
//! goes on as if nothing had happened: its CAs stay trusted, and it signs; but for a CA whose private key was in the resource
//! itself, which is trusted and signs no more.

use std::sync::Arc;

use super::state::digest_of;
use crate::model::policy::{Backend, BackendKind, DataSource, MeshPolicy, PolicySet};
use crate::runtime::state_dir::{StateDir, StateFile};

/// To be raised whenever [`PolicySet`] is written in another way.
const FORMAT: u32 = 1;

/// The file that keeps them.
pub(super) fn file(state_dir: &StateDir) -> StateFile {
    StateFile::new(state_dir, "preflight/policies.json", "which policies are in force", FORMAT)
}

/// The policies that were in force when the server ended.
pub fn recall(state_dir: &StateDir) -> PolicySet {
    file(state_dir).recall().unwrap_or_default()
}

/// What there is to keep: what is in force, and `others` of meshes that have not been since the start.
pub(super) fn to_keep(in_force: &PolicySet, others: &PolicySet) -> PolicySet {
    let all = others.meshes.iter().chain(&in_force.meshes);
    PolicySet { meshes: all.map(|(mesh, policy)| (mesh.clone(), policy.clone())).collect(), ..PolicySet::default() }
}

/// What was in force of a mesh, where `wanted` is now: with the private keys that were not kept, as far as the wanted
/// resources have the same CAs.
pub(super) fn completed(kept: &Arc<MeshPolicy>, wanted: &MeshPolicy) -> Arc<MeshPolicy> {
    let lacks_its_key = |backend: &Backend| match &backend.kind {
        BackendKind::Provided(ca) => ca.private_key == DataSource::NotKept,
        _ => false,
    };
    if !kept.backends.iter().any(|backend| lacks_its_key(backend)) {
        return kept.clone();
    }
    let complete = |backend: &Arc<Backend>| {
        let same = wanted.backend(&backend.name).filter(|wanted| digest_of(wanted) == digest_of(backend));
        match same.filter(|_| lacks_its_key(backend)) {
            Some(same) => Arc::new(Backend { kind: same.kind.clone(), ..Backend::clone(backend) }),
            None => backend.clone(),
        }
    };
    let backends = kept.backends.iter().map(complete).collect();
    Arc::new(MeshPolicy { backends, ..MeshPolicy::clone(kept) })
}
