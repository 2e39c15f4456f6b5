//! The objects of one kind as they were listed last, kept in the state directory: a server that starts while the API server
//! is away knows what it is to serve. Without that, it would take a MeshIdentity that it cannot see for none, and give
//! proxies other identities than they had.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kube::api::DynamicObject;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::object::{Object, ObjectKind};
use super::objects::{ByName, Listing, same_objects};
use super::without_keys;
use crate::runtime::state_dir::StateDir;

/// The file of one kind. Private keys in objects are not copied into it (see [`without_keys`]).
#[derive(Debug)]
pub(super) struct Memory {
    state_dir: StateDir,
    /// The same in words.
    what: String,
    path: PathBuf,
    /// What was in the file at the start.
    recalled: Option<ByName>,
    /// What is in the file, for certain.
    written: Option<ByName>,
    /// What is to be in it, and could not be written.
    unwritten: Option<ByName>,
}

impl Memory {
    /// Reads what is there; what cannot be read is as if there were nothing, and is logged.
    pub(super) fn open(kind: ObjectKind, state_dir: &StateDir) -> Self {
        let path = state_dir.path().join("objects").join(format!("{}.json", kind.plural()));
        let recalled = match read(kind, &path) {
            Ok(recalled) => Some(recalled),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "objects that were listed before cannot be read");
                None
            }
        };
        let what = format!("what the cluster has listed of {}", kind.plural());
        // What an older version has written, with keys in it, is not left there.
        let written = recalled.as_ref().filter(|(objects, text)| text_of(objects) == *text);
        let written = written.map(|(objects, _)| objects.clone());
        let recalled = recalled.map(|(objects, _)| objects);
        Self { state_dir: state_dir.clone(), what, path, recalled, written, unwritten: None }
    }

    /// What was listed last; `None` if nothing ever was.
    pub(super) fn recalled(&self) -> Option<&ByName> {
        self.recalled.as_ref()
    }

    /// Keeps what the cluster has said, if it has.
    pub(super) fn keep(&mut self, listing: &Listing) {
        let objects = match listing {
            Listing::Listed(objects) => objects.clone(),
            // That there are none is to be known at the next start as well.
            Listing::NotInstalled => ByName::new(),
            Listing::Unknown | Listing::Forbidden | Listing::Remembered(_) => return,
        };
        let is_there = self.written.as_ref().is_some_and(|written| same_objects(written, &objects));
        self.unwritten = (!is_there).then_some(objects);
        self.write();
    }

    /// Whether something could not be written, and is to be tried again.
    pub(super) fn is_behind(&self) -> bool {
        self.unwritten.is_some()
    }

    /// Writes what has not been written yet.
    pub(super) fn write(&mut self) {
        let Some(objects) = self.unwritten.take() else { return };
        if self.state_dir.write(&self.path, &self.what, &text_of(&objects)) {
            self.written = Some(objects);
        } else {
            (self.written, self.unwritten) = (None, Some(objects));
        }
    }
}

fn read(kind: ObjectKind, path: &Path) -> io::Result<(ByName, Zeroizing<Vec<u8>>)> {
    let text = Zeroizing::new(std::fs::read(path)?);
    let objects: Vec<DynamicObject> = serde_json::from_slice(&text)?;
    let objects = objects.into_iter().filter_map(|object| Object::new(kind, Ok(object)));
    Ok((objects.map(|object| (object.at.name.clone(), Arc::new(object))).collect(), text))
}

/// What is compiled of each object, and which it is. One that could not be understood at all is left out.
fn text_of(objects: &ByName) -> Zeroizing<Vec<u8>> {
    let shown = objects.values().filter_map(|object| {
        let mut document = Value::from(object.source.documents.as_ref().ok()?.first()?);
        let metadata = document.get_mut("metadata")?.as_object_mut()?;
        metadata.insert("uid".to_owned(), json!(object.uid));
        metadata.insert("generation".to_owned(), json!(object.generation));
        without_keys::strip(&mut document);
        Some(document)
    });
    // What was read as JSON can be written as such.
    Zeroizing::new(serde_json::to_vec(&shown.collect::<Vec<_>>()).unwrap_or_default())
}
