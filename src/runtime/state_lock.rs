//! One server at a time for a state directory. Two would each write what they hold to be good, sign with one CA and one set of
//! keys, and after the next start nobody could say whose word counts.
//!
//! The lock is the kernel's, on a file that stays where it is: it is given back with the process, however that ends, so there
//! is nothing to clear away after a crash. It binds servers alone: commands that read the directory, or add a key to it, need none.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The file that is locked, in the state directory. There is nothing in it.
const FILE: &str = "lock";

/// A state directory is this server's for as long as this lives.
#[derive(Debug)]
pub struct StateLock {
    /// `None` where there is no locking.
    _file: Option<File>,
}

/// Another server has the state directory.
#[derive(Debug, thiserror::Error)]
#[error(
    "the state directory {} is in use: another envoy-sds holds its lock ({}). End that one, or give this one a directory of its \
     own (--state-dir, or stateDir)",
    .folder.display(),
    .file.display()
)]
pub struct InUse {
    folder: PathBuf,
    file: PathBuf,
}

impl StateLock {
    /// Takes the directory's lock. One that cannot be locked, as it is not there, may not be written to, or is on a file system
    /// without locks, is used all the same: that keeps no server from its proxies, and is warned of.
    ///
    /// # Errors
    /// [`InUse`], at once: nobody knows how long the other one is going to run.
    pub fn take(folder: &Path) -> Result<Self, InUse> {
        let file = folder.join(FILE);
        let locked = open(&file).map_err(TryLockError::Error).and_then(|open| {
            open.try_lock()?;
            Ok(open)
        });
        match locked {
            Ok(open) => Ok(Self { _file: Some(open) }),
            Err(TryLockError::WouldBlock) => Err(InUse { folder: folder.to_owned(), file }),
            Err(TryLockError::Error(error)) => {
                let file = file.display();
                tracing::warn!(%file, %error, "the state directory cannot be locked: see to it that no other server uses it");
                Ok(Self { _file: None })
            }
        }
    }
}

/// Makes the file, for us alone, if it is not there; network file systems lock only what may be written to.
fn open(file: &Path) -> io::Result<File> {
    let made = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(file);
    made.or_else(|error| File::open(file).map_err(|_error| error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_has_one_server_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = StateLock::take(folder.path()).unwrap();
        let file = folder.path().join("lock");
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let told = StateLock::take(folder.path()).unwrap_err().to_string();
        for part in [folder.path().to_str().unwrap(), file.to_str().unwrap(), "--state-dir"] {
            assert!(told.contains(part), "{told}");
        }
        drop(first);
        StateLock::take(folder.path()).unwrap();
    }

    #[test]
    fn one_that_may_only_be_read_is_locked_as_well() {
        let folder = tempfile::tempdir().unwrap();
        // What cannot be opened for writing by anybody, root included.
        std::fs::create_dir(folder.path().join("lock")).unwrap();
        let _first = StateLock::take(folder.path()).unwrap();
        assert!(StateLock::take(folder.path()).is_err());
    }

    #[test]
    fn what_cannot_be_locked_keeps_no_server_from_starting() {
        let folder = tempfile::tempdir().unwrap();
        let in_the_way = folder.path().join("file");
        std::fs::write(&in_the_way, "").unwrap();
        for path in [in_the_way, folder.path().join("not-there")] {
            let _first = StateLock::take(&path).unwrap();
            StateLock::take(&path).unwrap();
        }
    }
}
