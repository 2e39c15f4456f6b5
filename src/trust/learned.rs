//! Roots that issuers named themselves (`status.ca`), and how long each stays trusted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::model::bundle::Bundle;
use crate::model::certificate::Certificate;
use crate::runtime::private_file;

use super::state::SourceKey;

/// How much longer a root is kept than is known to be needed: so often at most is its file written.
const SLACK: SignedDuration = SignedDuration::from_hours(1);

/// The roots of one backend. The one named last is always trusted, an older one for as long as a leaf that was issued under
/// it may be in use: an issuer that rotates its CA cuts nobody off.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LearnedRoots {
    /// In the order in which they were first named: an issuer that answers now with one and now with another changes nothing.
    roots: Vec<(Certificate, Timestamp)>,
    /// Which of them was named last.
    current: usize,
}

impl LearnedRoots {
    /// The issuer named `root` with a leaf that ends at `needed_until`. Says whether anything changed worth keeping.
    pub fn observe(&mut self, root: &Certificate, needed_until: Timestamp) -> bool {
        let kept_until = needed_until.saturating_add(SLACK).unwrap_or(Timestamp::MAX);
        let index = match self.roots.iter().position(|(known, _)| known == root) {
            Some(index) if self.roots[index].1 >= needed_until => index,
            Some(index) => {
                self.roots[index].1 = kept_until;
                self.current = index;
                return true;
            }
            None => {
                self.roots.push((root.clone(), kept_until));
                self.current = self.roots.len() - 1;
                return true;
            }
        };
        std::mem::replace(&mut self.current, index) != index
    }

    /// Drops what nobody needs at `now`. Says whether anything was dropped.
    pub fn prune(&mut self, now: Timestamp) -> bool {
        let Some((current, _)) = self.roots.get(self.current).cloned() else { return false };
        let before = self.roots.len();
        self.roots.retain(|(root, until)| *root == current || *until >= now);
        self.current = self.roots.iter().position(|(root, _)| *root == current).unwrap_or_default();
        self.roots.len() != before
    }

    /// All that are trusted; `None` if none was named yet.
    pub fn bundle(&self) -> Option<Bundle> {
        Bundle::from_certificates(self.roots.iter().map(|(root, _)| root.clone())).ok()
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
    current: bool,
}

impl LearnedStore {
    /// Keeps its files under `state_dir`.
    pub fn new(state_dir: &Path) -> Self {
        Self { folder: state_dir.join("trust"), backends: BTreeMap::new() }
    }

    /// Whether a root of the backend is kept under `state_dir`.
    pub fn has_kept(state_dir: &Path, key: &SourceKey) -> bool {
        read(&file(&state_dir.join("trust"), key)).is_ok_and(|roots| !roots.roots.is_empty())
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

    /// Forgets what a backend's issuer named, for good: the backend is gone, and one that takes its name may have another.
    pub fn forget(&mut self, key: &SourceKey) {
        self.backends.remove(key);
        let path = file(&self.folder, key);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(file = %path.display(), %error, "the roots learned for a backend that is gone cannot be removed");
            }
            _ => {}
        }
    }

    /// Writes a backend's file. A disk that is full costs a restart some time, and no proxy anything: it is only logged.
    pub fn keep(&mut self, key: &SourceKey) {
        let path = file(&self.folder, key);
        let LearnedRoots { roots, current } = self.roots(key);
        let kept = |(index, (root, until)): (usize, &(Certificate, Timestamp))| Kept {
            certificate: root.pem(),
            needed_until: *until,
            current: index == *current,
        };
        let kept: Vec<Kept> = roots.iter().enumerate().map(kept).collect();
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
    let current = kept.iter().position(|kept| kept.current).unwrap_or_default();
    let roots = kept.into_iter().map(|kept| {
        let certificates =
            Certificate::many_from_pem(kept.certificate.as_bytes()).map_err(|error| error.to_string())?;
        let root = certificates.into_iter().next().filter(Certificate::is_ca).ok_or("not a CA")?;
        Ok((root, kept.needed_until))
    });
    Ok(LearnedRoots { roots: roots.collect::<Result<_, String>>()?, current })
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
        const HOUR: i64 = 3_600;
        let (old, new) = (TestCa::root("Old"), TestCa::root("New"));
        let mut roots = LearnedRoots::default();
        assert!(roots.bundle().is_none());
        assert!(roots.observe(old.certificate(), timestamp(100)));
        assert!(!roots.observe(old.certificate(), timestamp(200)), "within the slack");
        assert!(roots.observe(old.certificate(), timestamp(100 + 2 * HOUR)));
        assert!(roots.observe(new.certificate(), timestamp(200 + 2 * HOUR)));
        assert_eq!(subjects(&roots), ["CN=Old", "CN=New"]);
        assert!(!roots.prune(timestamp(100 + 3 * HOUR)));
        assert!(roots.prune(timestamp(101 + 3 * HOUR)));
        assert_eq!(subjects(&roots), ["CN=New"]);
        assert!(!roots.prune(timestamp(1_000 * HOUR)), "the current one stays, needed or not");
    }

    #[test]
    fn an_issuer_that_alternates_changes_the_bundle_once() {
        let (one, other) = (TestCa::root("One"), TestCa::root("Other"));
        let mut roots = LearnedRoots::default();
        for _ in 0..3 {
            roots.observe(one.certificate(), timestamp(100));
            roots.observe(other.certificate(), timestamp(100));
            assert_eq!(subjects(&roots), ["CN=One", "CN=Other"]);
        }
    }

    #[test]
    fn what_was_learned_survives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let key = ("default".into(), "cm".into());
        let ca = TestCa::root("Root");
        let mut store = LearnedStore::new(folder.path());
        store.roots(&key).observe(ca.certificate(), timestamp(100));
        store.keep(&key);
        assert!(LearnedStore::has_kept(folder.path(), &key));
        assert!(!LearnedStore::has_kept(folder.path(), &("default".into(), "other".into())));
        let mut again = LearnedStore::new(folder.path());
        assert_eq!(again.roots(&key), store.roots(&key));
    }

    #[test]
    fn a_backend_that_is_gone_is_forgotten_for_good() {
        let folder = tempfile::tempdir().unwrap();
        let keys: [SourceKey; 2] = [("default".into(), "cm".into()), ("other".into(), "cm".into())];
        let mut store = LearnedStore::new(folder.path());
        for key in &keys {
            store.roots(key).observe(TestCa::root("Root").certificate(), timestamp(100));
            store.keep(key);
        }
        store.forget(&keys[0]);
        store.forget(&("unheard of".into(), "cm".into()));
        for store in [&mut store, &mut LearnedStore::new(folder.path())] {
            assert!(store.roots(&keys[0]).bundle().is_none());
            assert!(store.roots(&keys[1]).bundle().is_some());
        }
    }

    #[test]
    fn a_broken_file_is_no_reason_to_stop() {
        let folder = tempfile::tempdir().unwrap();
        let key: SourceKey = ("default".into(), "cm".into());
        private_file::write(&file(&folder.path().join("trust"), &key), b"[{").unwrap();
        assert!(LearnedStore::new(folder.path()).roots(&key).bundle().is_none());
    }
}
