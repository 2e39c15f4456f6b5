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
use crate::runtime::state_dir::StateDir;

/// The file of one kind. An object may have a key in it, so others may not read it.
#[derive(Debug)]
pub(super) struct Memory {
    state_dir: StateDir,
    /// The same in words.
    what: String,
    path: PathBuf,
    /// What is in the file, for certain.
    written: Option<ByName>,
}

impl Memory {
    /// Reads what is there; what cannot be read is as if there were nothing, and is logged.
    pub(super) fn open(kind: ObjectKind, state_dir: &StateDir) -> Self {
        let path = state_dir.path().join("objects").join(format!("{}.json", kind.plural()));
        let written = match read(kind, &path) {
            Ok(objects) => Some(objects),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "objects that were listed before cannot be read");
                None
            }
        };
        let what = format!("what the cluster has listed of {}", kind.plural());
        Self { state_dir: state_dir.clone(), what, path, written }
    }

    /// What was listed last; `None` if nothing ever was.
    pub(super) fn recalled(&self) -> Option<&ByName> {
        self.written.as_ref()
    }

    /// Keeps what the cluster has said, if it has. What cannot be written is tried again the next time.
    pub(super) fn keep(&mut self, listing: &Listing) {
        let none = ByName::new();
        match listing {
            Listing::Listed(_) | Listing::NotInstalled => {
                // That there are none is to be known at the next start as well.
                let objects = if let Listing::Listed(objects) = listing { objects } else { &none };
                if self.written.as_ref().is_some_and(|written| same_objects(written, objects)) {
                    return;
                }
                if self.state_dir.write(&self.path, &self.what, &text_of(objects)) {
                    self.written = Some(objects.clone());
                }
            }
            Listing::Unknown | Listing::Forbidden | Listing::Remembered(_) => {}
        }
    }
}

fn read(kind: ObjectKind, path: &Path) -> io::Result<ByName> {
    let text = Zeroizing::new(std::fs::read(path)?);
    let objects: Vec<DynamicObject> = serde_json::from_slice(&text)?;
    let objects = objects.into_iter().filter_map(|object| Object::new(kind, Ok(object)));
    Ok(objects.map(|object| (object.at.name.clone(), Arc::new(object))).collect())
}

/// What is compiled of each object, and which it is. One that could not be understood at all is left out.
fn text_of(objects: &ByName) -> Zeroizing<Vec<u8>> {
    let shown = objects.values().filter_map(|object| {
        let mut document = Value::from(object.source.documents.as_ref().ok()?.first()?);
        let metadata = document.get_mut("metadata")?.as_object_mut()?;
        metadata.insert("uid".to_owned(), json!(object.uid));
        metadata.insert("generation".to_owned(), json!(object.generation));
        Some(document)
    });
    // What was read as JSON can be written as such.
    Zeroizing::new(serde_json::to_vec(&shown.collect::<Vec<_>>()).unwrap_or_default())
}
