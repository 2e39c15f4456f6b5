//! Roots that issuers named themselves (`status.ca`), and how long each stays trusted.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::model::bundle::Bundle;
use crate::model::certificate::Certificate;
use crate::runtime::private_file;
use crate::runtime::state_dir::StateDir;

use super::state::SourceKey;

/// How much longer a root is kept than is known to be needed: so often at most is its file written.
const SLACK: SignedDuration = SignedDuration::from_hours(1);

/// The most roots that one backend may have in use at a time: an issuer that makes a new one for each leaf is a mistake.
const MAX_ROOTS: usize = 256;

/// A root that an issuer named is not trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the issuer names ever new CAs: {MAX_ROOTS} of them are in use by leaves that have not ended, and {refused} is not trusted \
     beside them; give the CA to trust in conf.caCert, or see why the issuer changes it"
)]
pub struct TooMany {
    refused: String,
}

/// The roots of one backend. The one named last is always trusted, an older one for as long as a leaf that was issued under
/// it may be in use: an issuer that rotates its CA cuts nobody off. Each is the word of one issuer
/// ([`crate::model::roots::root_issuer`]), and worth nothing when the backend names another.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LearnedRoots {
    /// In the order in which they were first named: an issuer that answers now with one and now with another changes nothing.
    roots: Vec<Root>,
    /// Which of them was named last.
    current: usize,
}

#[derive(Debug, Clone, PartialEq)]
struct Root {
    certificate: Certificate,
    needed_until: Timestamp,
    /// Who named it; `None` if it was kept by a version of this program that did not write it down.
    issuer: Option<Arc<str>>,
}

impl LearnedRoots {
    /// `issuer` named `root` with a leaf that ends at `needed_until`. Says whether anything changed worth keeping.
    ///
    /// # Errors
    /// [`TooMany`]: all that there is room for are in use, and none of those is given up for another one.
    pub fn observe(&mut self, root: &Certificate, needed_until: Timestamp, issuer: &Arc<str>) -> Result<bool, TooMany> {
        let kept_until = needed_until.saturating_add(SLACK).unwrap_or(Timestamp::MAX);
        let Some(index) = self.roots.iter().position(|known| known.certificate == *root) else {
            if self.roots.len() >= MAX_ROOTS {
                return Err(TooMany { refused: root.subject().to_owned() });
            }
            let issuer = Some(issuer.clone());
            self.roots.push(Root { certificate: root.clone(), needed_until: kept_until, issuer });
            self.current = self.roots.len() - 1;
            return Ok(true);
        };
        let known = &mut self.roots[index];
        let mut changed = known.issuer.replace(issuer.clone()).as_ref() != Some(issuer);
        if known.needed_until < needed_until {
            known.needed_until = kept_until;
            changed = true;
        }
        Ok(std::mem::replace(&mut self.current, index) != index || changed)
    }

    /// `by` is about to be named instead of the root that was named last, maybe: other servers have had leaves issued under
    /// that one until now, which end at `until` at the latest. Says whether anything changed worth keeping.
    pub fn keep_replaced(&mut self, by: &Certificate, until: Timestamp) -> bool {
        let Some(replaced) = self.roots.get_mut(self.current).filter(|current| current.certificate != *by) else {
            return false;
        };
        let until = until.min(replaced.certificate.validity().not_after);
        let changed = replaced.needed_until < until;
        if changed {
            replaced.needed_until = until.saturating_add(SLACK).unwrap_or(Timestamp::MAX);
        }
        changed
    }

    /// Drops what nobody needs at `now`, and what was named by another issuer than `issuer`. Says whether anything was
    /// dropped.
    pub fn prune(&mut self, now: Timestamp, issuer: &Arc<str>) -> bool {
        let current = self.roots.get(self.current).map(|root| root.certificate.clone());
        let before = self.roots.len();
        self.roots.retain(|root| match &root.issuer {
            Some(named_by) => {
                named_by == issuer && (root.needed_until >= now || current.as_ref() == Some(&root.certificate))
            }
            None => root.needed_until >= now,
        });
        let still = self.roots.iter().position(|root| current.as_ref() == Some(&root.certificate));
        self.current = still.unwrap_or(self.roots.len().saturating_sub(1));
        self.roots.len() != before
    }

    fn has_one_of(&self, issuer: &Arc<str>) -> bool {
        self.roots.iter().any(|root| root.issuer.as_ref() == Some(issuer))
    }

    /// All that are trusted, however many they are; `None` if none was named yet.
    pub fn bundle(&self) -> Option<Bundle> {
        let each = self.roots.iter().filter_map(|root| Bundle::from_certificates([root.certificate.clone()]).ok());
        Bundle::union(&each.collect::<Vec<_>>())
    }
}

/// The learned roots of all backends, kept in the state directory so that a restart neither forgets an older root that
/// leaves still need nor has to ask the issuer before it can serve.
#[derive(Debug)]
pub struct LearnedStore {
    state_dir: StateDir,
    backends: BTreeMap<SourceKey, LearnedRoots>,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    certificate: String,
    needed_until: Timestamp,
    current: bool,
    #[serde(default)]
    issuer: Option<String>,
}

impl LearnedStore {
    /// Keeps its files under `state_dir`.
    pub fn new(state_dir: &StateDir) -> Self {
        Self { state_dir: state_dir.clone(), backends: BTreeMap::new() }
    }

    /// Whether a root of the backend that `issuer` named is kept under `state_dir`.
    pub fn has_kept(state_dir: &StateDir, key: &SourceKey, issuer: &Arc<str>) -> bool {
        read(&file(state_dir, key)).is_ok_and(|roots| roots.has_one_of(issuer))
    }

    /// What is known of a backend; read from its file the first time.
    pub fn roots(&mut self, key: &SourceKey) -> &mut LearnedRoots {
        let path = file(&self.state_dir, key);
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
        let (mesh, backend) = key;
        let what = format!("which CA the issuer of backend {backend} of mesh {mesh}, which is gone, has named");
        self.state_dir.remove(&file(&self.state_dir, key), &what);
    }

    /// Removes the files of all backends but those that are `listed`, and those of `incomplete` meshes, which may have more:
    /// what was deleted while no server ran must not lend its CA to one that takes its name later.
    pub fn forget_others<'k>(&self, listed: impl Iterator<Item = &'k SourceKey>, incomplete: &BTreeSet<Arc<str>>) {
        let listed: BTreeSet<PathBuf> = listed.map(|key| file(&self.state_dir, key)).collect();
        let incomplete: BTreeSet<PathBuf> = incomplete.iter().map(|mesh| folder(&self.state_dir, mesh)).collect();
        for path in files_below(&self.state_dir.path().join("trust")) {
            if path.parent().is_some_and(|folder| incomplete.contains(folder)) || listed.contains(&path) {
                continue;
            }
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            if self.state_dir.remove(&path, "which CA the issuer of a backend that is gone has named") {
                tracing::info!(file = %path.display(), "the roots of a backend that is gone are forgotten");
            }
        }
    }

    /// Writes a backend's file. Says whether that was done; a disk that is full costs a restart some time, and no proxy
    /// anything.
    pub fn keep(&mut self, key: &SourceKey) -> bool {
        let path = file(&self.state_dir, key);
        let LearnedRoots { roots, current } = self.roots(key);
        let kept = |(index, root): (usize, &Root)| Kept {
            certificate: root.certificate.pem(),
            needed_until: root.needed_until,
            current: index == *current,
            issuer: root.issuer.as_deref().map(str::to_owned),
        };
        let kept: Vec<Kept> = roots.iter().enumerate().map(kept).collect();
        // Nothing in it can fail to be written as JSON.
        let json = serde_json::to_vec_pretty(&kept).unwrap_or_default();
        let (mesh, backend) = key;
        self.state_dir.write(
            &path,
            &format!("which CA the issuer of backend {backend} of mesh {mesh} has named"),
            &json,
        )
    }
}

fn file(state_dir: &StateDir, (mesh, backend): &(Arc<str>, Arc<str>)) -> PathBuf {
    folder(state_dir, mesh).join(private_file::name_of(backend) + ".json")
}

/// Where the files of a mesh's backends are.
fn folder(state_dir: &StateDir, mesh: &str) -> PathBuf {
    state_dir.path().join("trust").join(private_file::name_of(mesh))
}

/// The files in the folders of `folder`: one folder for each mesh.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries(folder).flat_map(|mesh| entries(&mesh).collect::<Vec<_>>()).collect()
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
        Ok(Root { certificate: root, needed_until: kept.needed_until, issuer: kept.issuer.map(Into::into) })
    });
    Ok(LearnedRoots { roots: roots.collect::<Result<_, String>>()?, current })
}

#[cfg(test)]
#[path = "learned_tests.rs"]
mod tests;
