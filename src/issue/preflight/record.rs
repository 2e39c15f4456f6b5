//! What was in force when the server ended, as far as it takes to tell it again: a part that was held back then is held
//! back after a restart, too, and does not come into force because the server has forgotten what it is to keep.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::compose::classic;
use super::state::digest_of;
use crate::model::policy::{Backend, MeshPolicy, PolicySet};
use crate::runtime::private_file;

/// By mesh.
pub(super) type Record = BTreeMap<String, Kept>;

/// What was in force of one mesh. Nothing secret is in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// The backend that `Mesh.mtls` had enabled.
    enabled: Option<String>,
    /// Every backend, by name: the digest of its definition; with the path of the identity policy that it is of.
    backends: BTreeMap<String, String>,
}

impl Kept {
    /// What there is to know of a policy that is in force.
    fn of(policy: &MeshPolicy) -> Self {
        let unsigned = policy.identities.iter().filter(|identity| policy.backend(&identity.backend).is_none());
        let unsigned = unsigned.map(|identity| (identity.backend.to_string(), String::new()));
        let marks = policy.backends.iter().map(|backend| (backend.name.to_string(), mark(policy, backend)));
        let marks = unsigned.chain(marks);
        Self { enabled: policy.enabled_backend.as_deref().map(str::to_owned), backends: marks.collect() }
    }

    /// The part of `wanted` that was in force then. `None` if nobody signs in it: then there is nothing to keep.
    ///
    /// An identity policy that was in force as another version, which is not known any more, is in it without a backend:
    /// those that it selects are issued nothing, rather than an identity that is not meant for them.
    pub(super) fn part_of(&self, wanted: &MeshPolicy) -> Option<MeshPolicy> {
        let was_there = |backend: &&Arc<Backend>| self.backends.get(&*backend.name) == Some(&mark(wanted, backend));
        let mut backends: Vec<Arc<Backend>> = classic(wanted).filter(was_there).cloned().collect();
        let enabled = backends.iter().find(|backend| self.enabled.as_deref() == Some(&*backend.name));
        let enabled_backend = enabled.map(|backend| backend.name.clone());
        let mut identities = Vec::new();
        let mut signs = enabled_backend.is_some();
        for identity in wanted.identities.iter().filter(|identity| self.backends.contains_key(&*identity.backend)) {
            identities.push(identity.clone());
            if let Some(backend) = wanted.backend(&identity.backend).filter(was_there) {
                backends.push(backend.clone());
                signs = true;
            }
        }
        signs.then(|| MeshPolicy { enabled_backend, backends, identities, ..wanted.clone() })
    }
}

/// What tells one version of a backend's part from another.
fn mark(policy: &MeshPolicy, backend: &Backend) -> String {
    let identity = policy.identities.iter().find(|identity| identity.backend == backend.name);
    let path = identity.map(|identity| identity.path.as_ref().map(ToString::to_string).unwrap_or_default());
    [Some(digest_of(backend).to_string()), path].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// What there is to keep: of policies in force, and what there is already of meshes that have not been seen since the start.
pub(super) fn record_of(in_force: &PolicySet, others: &Record) -> Record {
    let of_policies = in_force.meshes.iter().map(|(mesh, policy)| (mesh.to_string(), Kept::of(policy)));
    others.clone().into_iter().chain(of_policies).collect()
}

/// The file that keeps it.
#[derive(Debug)]
pub(super) struct RecordFile {
    path: PathBuf,
    written: Record,
}

impl RecordFile {
    /// Reads it. What cannot be read is as if there were nothing, which is logged.
    pub(super) fn open(state_dir: &Path) -> Self {
        let path = state_dir.join("preflight").join("in-force.json");
        let read = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| error.to_string()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Record::new()),
            Err(error) => Err(error.to_string()),
        };
        let written = read.unwrap_or_else(|error| {
            tracing::warn!(file = %path.display(), error, "which policies were in force before cannot be read");
            Record::new()
        });
        Self { path, written }
    }

    /// What it says.
    pub(super) fn record(&self) -> &Record {
        &self.written
    }

    /// These are in force now; `others` are of meshes that have not been seen since the start.
    pub(super) fn keep(&mut self, in_force: &PolicySet, others: &Record) {
        let record = record_of(in_force, others);
        if record == self.written {
            return;
        }
        let written = serde_json::to_vec(&record).map_err(std::io::Error::other);
        match written.and_then(|text| private_file::write(&self.path, &text)) {
            Ok(()) => self.written = record,
            Err(error) => tracing::warn!(%error, "which policies are in force cannot be kept for the next start"),
        }
    }
}
