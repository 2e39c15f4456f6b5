//! The keys whose signatures are believed, read from files again and again: the last good ones stay.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use super::folder::{self, problem};
use super::key::VerifyingKey;
use crate::model::diagnostic::Problem;
use crate::runtime::file_watch::FileWatch;
use crate::runtime::regular_file;

/// Where the keys are.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// The folder of the keys that sign; the first is made if there is none.
    Folder(PathBuf),
    /// Public keys alone, in PEM: key id and file of each.
    Files(Vec<(String, PathBuf)>),
}

/// Keys by their id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Keys(BTreeMap<Arc<str>, VerifyingKey>);

/// What was found when it was looked at.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) keys: Keys,
    pub(super) problems: Vec<Problem>,
}

impl Keys {
    pub(super) fn get(&self, kid: &str) -> Option<&VerifyingKey> {
        self.0.get(kid)
    }

    /// Whether this very key is there.
    pub(super) fn has(&self, key: &VerifyingKey) -> bool {
        self.get(key.kid()) == Some(key)
    }

    pub(super) fn kids(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(AsRef::as_ref)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<VerifyingKey> for Keys {
    fn from_iter<T: IntoIterator<Item = VerifyingKey>>(keys: T) -> Self {
        Self(keys.into_iter().map(|key| (key.kid().clone(), key)).collect())
    }
}

impl KeySource {
    /// What is wrong with the keys, before any of them has been good. A folder that is not there yet is going to be made.
    pub fn problems(&self) -> Vec<Problem> {
        match self {
            Self::Folder(folder) if !folder.exists() => Vec::new(),
            _ => self.look(&Keys::default()).problems,
        }
    }

    /// Has `watch` look at the files.
    pub(super) fn watch(&self, watch: &FileWatch) {
        match self {
            Self::Folder(folder) => watch.add(folder),
            Self::Files(files) => files.iter().for_each(|(_, file)| watch.add(file)),
        }
    }

    /// Says so if others can read a key that signs.
    pub(super) fn warn_of_readers(&self) {
        if let Self::Folder(folder) = self {
            folder::warn_of_readers(folder);
        }
    }

    /// Reads the keys. One whose file is no good is the one of `last` with that id, if there is one; one whose file has
    /// gone is gone. A folder that cannot be read takes nothing away.
    pub(super) fn look(&self, last: &Keys) -> Look {
        match self {
            Self::Folder(path) => {
                let entries = match folder::read(path) {
                    Ok(entries) => entries,
                    Err(problem) => return Look { keys: last.clone(), problems: vec![problem] },
                };
                gather(entries.into_iter().map(|entry| {
                    let last = entry.kid().and_then(|kid| last.get(kid)).cloned();
                    (entry.key.map(|key| key.public().clone()), last)
                }))
            }
            Self::Files(files) => gather(files.iter().filter_map(|(kid, file)| {
                let key = match regular_file::read(file) {
                    Ok(pem) => VerifyingKey::from_pem(kid, &pem).map_err(|expected| problem(file, expected, None)),
                    // Once it was there, its end is meant; at the start it is a mistake.
                    Err(error) if error.kind() == ErrorKind::NotFound && last.get(kid).is_some() => {
                        return None;
                    }
                    Err(error) => Err(problem(file, format!("cannot be read: {error}"), None)),
                };
                Some((key, last.get(kid).cloned()))
            })),
        }
    }
}

/// Each key, or its last good one.
fn gather(found: impl Iterator<Item = (Result<VerifyingKey, Problem>, Option<VerifyingKey>)>) -> Look {
    let mut problems = Vec::new();
    let keys = found.filter_map(|(key, last)| {
        key.map_or_else(
            |problem| {
                problems.push(problem);
                last
            },
            Some,
        )
    });
    let keys = keys.collect();
    Look { keys, problems }
}
