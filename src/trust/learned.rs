//! Roots that issuers named themselves (`status.ca`), and how long each stays trusted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::bundle::Bundle;
use crate::model::certificate::Certificate;
use crate::runtime::private_file;

use super::state::SourceKey;

/// The roots of one backend. The newest is always trusted, an older one for as long as a leaf that was issued under it may
/// be in use: an issuer that rotates its CA cuts nobody off.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LearnedRoots {
    /// Oldest first; the last one is the issuer's CA now.
    roots: Vec<(Certificate, Timestamp)>,
}

impl LearnedRoots {
    /// The issuer named `root` with a leaf that ends at `needed_until`. Says whether anything changed worth keeping.
    pub fn observe(&mut self, root: &Certificate, needed_until: Timestamp) -> bool {
        match self.roots.iter().position(|(known, _)| known == root) {
            Some(index) => {
                let is_newest = index + 1 == self.roots.len();
                let (root, until) = self.roots.remove(index);
                let longer = needed_until > until;
                self.roots.push((root, until.max(needed_until)));
                longer || !is_newest
            }
            None => {
                self.roots.push((root.clone(), needed_until));
                true
            }
        }
    }

    /// Drops what nobody needs at `now`. Says whether anything was dropped.
    pub fn prune(&mut self, now: Timestamp) -> bool {
        let newest = self.roots.len().saturating_sub(1);
        let before = self.roots.len();
        let mut index = 0;
        self.roots.retain(|(_, until)| {
            let keep = index == newest || *until >= now;
            index += 1;
            keep
        });
        self.roots.len() != before
    }

    /// All that are trusted, the newest first; `None` if none was named yet.
    pub fn bundle(&self) -> Option<Bundle> {
        Bundle::from_certificates(self.roots.iter().rev().map(|(root, _)| root.clone())).ok()
    }
}

/// The learned roots of all backends, kept in the state directory so that a restart neither forgets an older root that
/// leaves still need nor has to ask the issuer before it can serve.
#[derive(Debug)]
pub struct LearnedStore {
    folder: PathBuf,
    backends: BTreeMap<SourceKey, LearnedRoots>,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    certificate: String,
    needed_until: Timestamp,
}

impl LearnedStore {
    /// Keeps its files under `state_dir`.
    pub fn new(state_dir: &Path) -> Self {
        Self { folder: state_dir.join("trust"), backends: BTreeMap::new() }
    }

    /// What is known of a backend; read from its file the first time.
    pub fn roots(&mut self, key: &SourceKey) -> &mut LearnedRoots {
        let path = file(&self.folder, key);
        self.backends.entry(key.clone()).or_insert_with(|| {
            read(&path).unwrap_or_else(|error| {
                tracing::warn!(file = %path.display(), error, "the roots learned before cannot be read; asking the issuer");
                LearnedRoots::default()
            })
        })
    }

    /// Writes a backend's file. A disk that is full costs a restart some time, and no proxy anything: it is only logged.
    pub fn keep(&mut self, key: &SourceKey) {
        let path = file(&self.folder, key);
        let kept: Vec<Kept> = self
            .roots(key)
            .roots
            .iter()
            .map(|(root, until)| Kept { certificate: root.pem(), needed_until: *until })
            .collect();
        let written = serde_json::to_vec_pretty(&kept)
            .map_err(std::io::Error::other)
            .and_then(|json| private_file::write(&path, &json));
        if let Err(error) = written {
            tracing::warn!(%error, "the issuer's roots cannot be kept for the next start");
        }
    }
}

fn file(folder: &Path, (mesh, backend): &(Arc<str>, Arc<str>)) -> PathBuf {
    folder.join(private_file::name_of(mesh)).join(private_file::name_of(backend) + ".json")
}

fn read(path: &Path) -> Result<LearnedRoots, String> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(LearnedRoots::default()),
        Err(error) => return Err(error.to_string()),
    };
    let kept: Vec<Kept> = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    let roots = kept.into_iter().map(|kept| {
        let certificates =
            Certificate::many_from_pem(kept.certificate.as_bytes()).map_err(|error| error.to_string())?;
        let root = certificates.into_iter().next().filter(Certificate::is_ca).ok_or("not a CA")?;
        Ok((root, kept.needed_until))
    });
    Ok(LearnedRoots { roots: roots.collect::<Result<_, String>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::certs::{TestCa, timestamp};

    fn subjects(roots: &LearnedRoots) -> Vec<String> {
        let bundle = roots.bundle();
        bundle.iter().flat_map(Bundle::certificates).map(|ca| ca.subject().to_owned()).collect()
    }

    #[test]
    fn an_old_root_stays_until_its_last_leaf_has_ended() {
        let (old, new) = (TestCa::root("Old"), TestCa::root("New"));
        let mut roots = LearnedRoots::default();
        assert!(roots.bundle().is_none());
        assert!(roots.observe(old.certificate(), timestamp(100)));
        assert!(!roots.observe(old.certificate(), timestamp(50)), "nothing new");
        assert!(roots.observe(new.certificate(), timestamp(200)));
        assert_eq!(subjects(&roots), ["CN=New", "CN=Old"]);
        assert!(!roots.prune(timestamp(100)));
        assert!(roots.prune(timestamp(101)));
        assert_eq!(subjects(&roots), ["CN=New"]);
        assert!(!roots.prune(timestamp(10_000)), "the newest stays, needed or not");
    }

    #[test]
    fn what_was_learned_survives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let key = ("default".into(), "cm".into());
        let ca = TestCa::root("Root");
        let mut store = LearnedStore::new(folder.path());
        store.roots(&key).observe(ca.certificate(), timestamp(100));
        store.keep(&key);
        let mut again = LearnedStore::new(folder.path());
        assert_eq!(again.roots(&key), store.roots(&key));
    }

    #[test]
    fn a_broken_file_is_no_reason_to_stop() {
        let folder = tempfile::tempdir().unwrap();
        let key: SourceKey = ("default".into(), "cm".into());
        private_file::write(&file(&folder.path().join("trust"), &key), b"[{").unwrap();
        assert!(LearnedStore::new(folder.path()).roots(&key).bundle().is_none());
    }
}
