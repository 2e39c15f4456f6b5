//! Keeps what each mesh is served with in the state directory: a restart with the same resources ends where it began, whatever
//! has become silent meanwhile.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::memory::{Listed, Memory, Said};
use crate::model::bundle::Bundle;
use crate::runtime::private_file;

/// One file for each mesh, in `<stateDir>/served/`.
#[derive(Debug)]
pub(super) struct Record {
    folder: PathBuf,
    /// What is in them.
    written: BTreeMap<Arc<str>, Memory>,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    mesh: String,
    said: Vec<KeptSaid>,
    listed: BTreeMap<String, KeptListed>,
}

#[derive(Serialize, Deserialize)]
struct KeptSaid {
    backend: String,
    trust_domain: String,
    /// PEM.
    certificates: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
}

#[derive(Serialize, Deserialize)]
struct KeptListed {
    origin: String,
    longest_leaf_seconds: u64,
}

impl Record {
    /// Reads what is kept under `state_dir`. CAs that have ended at `now` are left out.
    pub(super) fn read(state_dir: &Path, now: Timestamp) -> Self {
        let folder = state_dir.join("served");
        let files = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut written = BTreeMap::new();
        for path in files.filter(|path| path.extension().is_some_and(|extension| extension == "json")) {
            match read(&path, now) {
                Ok((mesh, memory)) => drop(written.insert(mesh, memory)),
                Err(error) => tracing::warn!(
                    file = %path.display(), error,
                    "what a mesh was served with cannot be read; it is served when all of its trust sources have been heard"
                ),
            }
        }
        Self { folder, written }
    }

    /// What is kept, by mesh.
    pub(super) fn kept(&self) -> BTreeMap<Arc<str>, Memory> {
        self.written.clone()
    }

    /// Keeps this and nothing else. A disk that is full costs no proxy anything now: it is only logged.
    pub(super) fn keep(&mut self, memories: BTreeMap<Arc<str>, Memory>) {
        for (mesh, memory) in &memories {
            if self.written.get(mesh) == Some(memory) {
                continue;
            }
            let written = serde_json::to_vec_pretty(&to_file(mesh, memory))
                .map_err(std::io::Error::other)
                .and_then(|json| private_file::write(&self.file(mesh), &json));
            if let Err(error) = written {
                tracing::warn!(%mesh, %error, "what the mesh is served with cannot be kept for the next start");
            }
        }
        for mesh in self.written.keys().filter(|mesh| !memories.contains_key(*mesh)) {
            match std::fs::remove_file(self.file(mesh)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(%mesh, %error, "what a mesh was served with that is gone cannot be removed");
                }
                _ => {}
            }
        }
        self.written = memories;
    }

    fn file(&self, mesh: &str) -> PathBuf {
        self.folder.join(private_file::name_of(mesh) + ".json")
    }
}

fn to_file(mesh: &Arc<str>, memory: &Memory) -> Kept {
    let said = memory.said.iter().map(|Said { backend, part: (trust_domain, bundle), until }| KeptSaid {
        backend: backend.to_string(),
        trust_domain: trust_domain.to_string(),
        certificates: bundle.pem(),
        until: *until,
    });
    let listed = memory.listed.iter().map(|(name, Listed { origin, longest_leaf })| {
        (name.to_string(), KeptListed { origin: origin.to_string(), longest_leaf_seconds: longest_leaf.as_secs() })
    });
    Kept { mesh: mesh.to_string(), said: said.collect(), listed: listed.collect() }
}

fn read(path: &Path, now: Timestamp) -> Result<(Arc<str>, Memory), String> {
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    let Kept { mesh, said, listed } = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    // What has ended altogether is not needed.
    let said = said.into_iter().filter_map(|KeptSaid { backend, trust_domain, certificates, until }| {
        let bundle = Bundle::from_pem(certificates.as_bytes(), now).ok()?.bundle;
        Some(Said { backend: backend.into(), part: (trust_domain.into(), Arc::new(bundle)), until })
    });
    let listed = listed.into_iter().map(|(name, KeptListed { origin, longest_leaf_seconds })| {
        (name.into(), Listed { origin: origin.into(), longest_leaf: Duration::from_secs(longest_leaf_seconds) })
    });
    Ok((mesh.into(), Memory { said: said.collect(), listed: listed.collect() }))
}
