//! The state directory: what the server keeps for its next start. It has to outlive the program, and what cannot be written
//! there costs nobody anything until then; so it is told where operators look, and tried again.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::private_file;

/// What could not be kept, by file: a sentence each.
pub type Troubles = BTreeMap<PathBuf, String>;

/// See the module. Clones are the same one.
#[derive(Debug, Clone)]
pub struct StateDir {
    path: Arc<Path>,
    troubles: Arc<watch::Sender<Arc<Troubles>>>,
}

impl StateDir {
    /// The one at `path`, which is made when something is first kept in it.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().into(), troubles: Arc::new(watch::Sender::new(Arc::default())) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What could not be kept when it was last tried.
    pub fn troubles(&self) -> watch::Receiver<Arc<Troubles>> {
        self.troubles.subscribe()
    }

    /// Replaces a file in it, which holds `what`. Says whether that was done; if not, the next write of this file has to
    /// be tried, whatever it is to hold.
    pub fn write(&self, file: &Path, what: &str, content: &[u8]) -> bool {
        self.told_to_keep(file, what, private_file::write(file, content))
    }

    /// Removes a file in it, which held `what`, if it is there. Says whether it is gone.
    pub fn remove(&self, file: &Path, what: &str) -> bool {
        let done = std::fs::remove_file(file).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        });
        self.tell(file, done, || format!("{what} cannot be removed ({})", file.display()))
    }

    fn told_to_keep(&self, file: &Path, what: &str, done: io::Result<()>) -> bool {
        self.tell(file, done, || format!("{what} cannot be kept for the next start"))
    }

    fn tell(&self, file: &Path, done: io::Result<()>, what: impl Fn() -> String) -> bool {
        let trouble = done.err().map(|error| format!("{}: {error}", what()));
        let is_done = trouble.is_none();
        self.troubles.send_if_modified(|troubles| {
            if troubles.get(file) == trouble.as_ref() {
                return false;
            }
            let troubles = Arc::make_mut(troubles);
            match trouble {
                Some(trouble) => {
                    tracing::warn!("{trouble}");
                    troubles.insert(file.to_owned(), trouble);
                }
                None => drop(troubles.remove(file)),
            }
            true
        });
        is_done
    }
}

/// A value that is kept in the state directory, as JSON. A program that writes it in another format finds nothing.
#[derive(Debug)]
pub struct StateFile {
    folder: StateDir,
    path: PathBuf,
    what: &'static str,
    format: u32,
    /// The digest of what is in the file.
    written: Option<Vec<u8>>,
}

#[derive(Serialize, Deserialize)]
struct Formatted<T> {
    format: u32,
    kept: T,
}

/// What every format has.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

impl StateFile {
    /// `what` is in the file at `path`, which is relative to `folder`, in this version of its format.
    pub fn new(folder: &StateDir, path: impl AsRef<Path>, what: &'static str, format: u32) -> Self {
        Self { path: folder.path().join(path), folder: folder.clone(), what, format, written: None }
    }

    /// What was kept last; `None` if nothing ever was. What cannot be read is as if there were nothing, and is logged.
    pub fn recall<T: DeserializeOwned>(&mut self) -> Option<T> {
        let unreadable = |error: &dyn std::fmt::Display| {
            let (file, what) = (self.path.display(), self.what);
            tracing::warn!(%file, %error, "{what} cannot be read: the server starts as if there were nothing of it");
        };
        let text = match std::fs::read(&self.path).map(Zeroizing::new) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                unreadable(&error);
                return None;
            }
        };
        let format = serde_json::from_slice::<Format>(&text).map(|found| found.format);
        let kept = match format {
            Ok(format) if format != self.format => Err(format!("it is of format {format}, not {}", self.format)),
            _ => serde_json::from_slice::<Formatted<T>>(&text).map_err(|error| error.to_string()),
        };
        match kept {
            Ok(Formatted { kept, .. }) => {
                self.written = Some(digest_of(&text));
                Some(kept)
            }
            Err(error) => {
                unreadable(&error);
                None
            }
        }
    }

    /// Keeps this, unless it is there already. Says whether it is there now.
    pub fn keep<T: Serialize>(&mut self, kept: &T) -> bool {
        let text = match serde_json::to_vec(&Formatted { format: self.format, kept }) {
            Ok(text) => Zeroizing::new(text),
            Err(error) => {
                return self.folder.told_to_keep(&self.path, self.what, Err(error.into()));
            }
        };
        let digest = digest_of(&text);
        if self.written.as_ref() != Some(&digest) {
            self.written = self.folder.write(&self.path, self.what, &text).then_some(digest);
        }
        self.written.is_some()
    }
}

fn digest_of(text: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, text).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(folder: &StateDir, format: u32) -> StateFile {
        StateFile::new(folder, "some/file.json", "what it is", format)
    }

    #[test]
    fn what_is_kept_comes_back_in_the_same_format_only() {
        let folder = tempfile::tempdir().unwrap();
        let folder = StateDir::new(folder.path());
        assert_eq!(file(&folder, 1).recall::<u32>(), None);
        file(&folder, 1).keep(&7);
        assert_eq!(file(&folder, 1).recall::<u32>(), Some(7));
        assert_eq!(file(&folder, 1).recall::<String>(), None);
        assert_eq!(file(&folder, 2).recall::<u32>(), None);
    }

    #[test]
    fn what_could_not_be_written_is_told_and_written_later_though_it_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let in_the_way = folder.path().join("some");
        std::fs::write(&in_the_way, "").unwrap();
        let folder = StateDir::new(folder.path());
        let (mut file, mut troubles) = (file(&folder, 1), folder.troubles());
        file.keep(&7);
        let told: Vec<String> = troubles.borrow_and_update().values().cloned().collect();
        assert!(told.len() == 1 && told[0].starts_with("what it is cannot be kept for the next start: "), "{told:?}");
        file.keep(&7);
        assert!(!troubles.has_changed().unwrap(), "it is told once");
        std::fs::remove_file(&in_the_way).unwrap();
        file.keep(&7);
        assert_eq!((troubles.borrow().len(), file.recall::<u32>()), (0, Some(7)));
    }
}
