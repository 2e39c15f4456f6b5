//! Keeps what each mesh is served with in the state directory: a restart with the same resources ends where it began, whatever
//! has become silent meanwhile.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::memory::{Listed, Memory, Said};
use crate::model::bundle::{Bundle, BundleError};
use crate::runtime::private_file;
use crate::runtime::state_dir::StateDir;

/// One file for each mesh, in `<stateDir>/served/`.
#[derive(Debug)]
pub(super) struct Record {
    state_dir: StateDir,
    /// What is in them, for certain.
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
    pub(super) fn read(state_dir: &StateDir, now: Timestamp) -> Self {
        let files = std::fs::read_dir(state_dir.path().join("served"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
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
        Self { state_dir: state_dir.clone(), written }
    }

    /// What is kept, by mesh.
    pub(super) fn kept(&self) -> BTreeMap<Arc<str>, Memory> {
        self.written.clone()
    }

    /// Keeps this and nothing else. What cannot be written is tried again the next time.
    pub(super) fn keep(&mut self, memories: BTreeMap<Arc<str>, Memory>) {
        let gone: Vec<Arc<str>> = self.written.keys().filter(|mesh| !memories.contains_key(*mesh)).cloned().collect();
        for mesh in gone {
            if self.state_dir.remove(&self.file(&mesh), &format!("what mesh {mesh}, which is gone, was served with")) {
                self.written.remove(&mesh);
            }
        }
        for (mesh, memory) in memories {
            if self.written.get(&mesh) == Some(&memory) {
                continue;
            }
            // Nothing in it can fail to be written as JSON.
            let json = serde_json::to_vec_pretty(&to_file(&mesh, &memory)).unwrap_or_default();
            if self.state_dir.write(&self.file(&mesh), &format!("what mesh {mesh} is served with"), &json) {
                self.written.insert(mesh, memory);
            }
        }
    }

    fn file(&self, mesh: &str) -> PathBuf {
        self.state_dir.path().join("served").join(private_file::name_of(mesh) + ".json")
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
        match Bundle::from_pem(certificates.as_bytes(), now) {
            Ok(parsed) => {
                let part = (trust_domain.into(), Arc::new(parsed.bundle));
                Some(Ok(Said { backend: backend.into(), part, until }))
            }
            Err(BundleError::Expired { .. }) => None,
            Err(error) => Some(Err(error.to_string())),
        }
    });
    let listed = listed.into_iter().map(|(name, KeptListed { origin, longest_leaf_seconds })| {
        (name.into(), Listed { origin: origin.into(), longest_leaf: Duration::from_secs(longest_leaf_seconds) })
    });
    Ok((mesh.into(), Memory { said: said.collect::<Result<_, _>>()?, listed: listed.collect() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::certs::{TestCa, timestamp};

    #[test]
    fn what_could_not_be_written_is_written_when_it_is_published_again() {
        let folder = tempfile::tempdir().unwrap();
        let in_the_way = folder.path().join("served");
        std::fs::write(&in_the_way, "").unwrap();
        let state_dir = StateDir::new(folder.path());
        let now = timestamp(1_800_000_000);
        let part = ("default".into(), Arc::new(TestCa::root("CA").bundle()));
        let said = vec![Said { backend: "ca".into(), part, until: None }];
        let memories = BTreeMap::from([("default".into(), Memory { said, listed: BTreeMap::new() })]);
        let mut record = Record::read(&state_dir, now);
        record.keep(memories.clone());
        assert_eq!(state_dir.troubles().borrow().len(), 1);
        std::fs::remove_file(&in_the_way).unwrap();
        record.keep(memories.clone());
        assert_eq!(state_dir.troubles().borrow().len(), 0);
        assert_eq!(Record::read(&state_dir, now).kept(), memories);
        record.keep(BTreeMap::new());
        assert_eq!(Record::read(&state_dir, now).kept(), BTreeMap::new());
    }
}
