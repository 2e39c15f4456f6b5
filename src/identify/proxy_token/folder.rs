//! The folder of the keys that sign tokens: `<kid>.key` each. All of them verify; the newest signs, which is the one whose
//! file was modified last (of two at the same time, the one with the greater id), as `ls -t` shows them. To bring a new
//! key into use, make it ([`create`]); to end an old one, remove its file.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use zeroize::Zeroizing;

use super::key::SigningKey;
use crate::model::diagnostic::{Location, Problem};
use crate::runtime::{private_file, regular_file};

/// How the name of a key's file ends.
const ENDING: &str = "key";

/// The key that signs, and what is wrong with others in the folder.
#[derive(Debug)]
pub struct Newest {
    /// The newest that can be read.
    pub key: SigningKey,
    /// Files that cannot be.
    pub problems: Vec<Problem>,
}

/// A file of the folder, read.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) path: PathBuf,
    pub(super) key: Result<SigningKey, Problem>,
}

impl Entry {
    /// The id by which the file is named.
    pub(super) fn kid(&self) -> Option<&str> {
        self.path.file_stem().and_then(|name| name.to_str())
    }
}

/// Every key file in `folder`.
///
/// # Errors
/// If the folder itself cannot be read.
pub(super) fn read(folder: &Path) -> Result<Vec<Entry>, Problem> {
    let wrong = |error: std::io::Error| problem(folder, format!("cannot be read: {error}"), None);
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(wrong)? {
        let path = entry.map_err(wrong)?.path();
        if path.extension().is_some_and(|ending| ending == ENDING) {
            entries.extend(read_key(&path).map(|key| Entry { path, key }));
        }
    }
    Ok(entries)
}

/// The key in a file; `None` if that has gone meanwhile.
fn read_key(path: &Path) -> Option<Result<SigningKey, Problem>> {
    let text = match regular_file::read(path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => return Some(Err(problem(path, format!("cannot be read: {error}"), None))),
    };
    let key = SigningKey::from_pem(&text).map_err(|expected| problem(path, expected.to_owned(), None));
    Some(key.and_then(|key| {
        let name = format!("{}.{ENDING}", key.kid());
        if path.file_name().is_some_and(|found| found.to_str() == Some(&name)) {
            return Ok(key);
        }
        let what = "is not called by the key that is in it".to_owned();
        Err(problem(path, what, Some(format!("rename it to {name}"))))
    }))
}

/// Says so if others can read a key.
pub(super) fn warn_of_readers(folder: &Path) {
    let entries = read(folder).unwrap_or_default();
    for path in entries.iter().filter(|entry| entry.key.is_ok()).map(|entry| &entry.path) {
        if std::fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o077 != 0) {
            tracing::warn!(file = %path.display(), "others can read a key that signs proxy tokens: chmod 600 it, and consider it disclosed");
        }
    }
}

/// The newest key in `folder`; a new one if there is no key file at all.
///
/// # Errors
/// If there are files but no good key in any, or none can be made.
pub fn newest_or_create(folder: &Path) -> Result<Newest, Vec<Problem>> {
    let one = |problem| vec![problem];
    // Keys may be in a folder that only others can write to.
    let mut entries = if folder.exists() { read(folder).map_err(one)? } else { Vec::new() };
    if entries.is_empty() {
        let _lock = lock(folder).map_err(one)?;
        entries = read(folder).map_err(one)?;
        if entries.is_empty() {
            let key = create_in(folder).map_err(one)?;
            return Ok(Newest { key, problems: Vec::new() });
        }
    }
    let mut keys: Vec<((SystemTime, String), SigningKey)> = Vec::new();
    let mut problems = Vec::new();
    for Entry { path, key } in entries {
        match key {
            Ok(key) => keys.push(((modified(&path), key.kid().to_owned()), key)),
            Err(problem) => problems.push(problem),
        }
    }
    match keys.into_iter().max_by(|(one, _), (other, _)| one.cmp(other)) {
        Some((_, key)) => Ok(Newest { key, problems }),
        None => Err(problems),
    }
}

/// Makes a new key in `folder`, which is the newest then.
///
/// # Errors
/// What could not be written.
pub fn create(folder: &Path) -> Result<SigningKey, Problem> {
    let _lock = lock(folder)?;
    create_in(folder)
}

fn create_in(folder: &Path) -> Result<SigningKey, Problem> {
    let key = SigningKey::generate().map_err(|what| problem(folder, what, None))?;
    let path = folder.join(format!("{}.{ENDING}", key.kid()));
    private_file::write(&path, key.to_pem().as_bytes()).map_err(|error| cannot_write(&path, &error))?;
    tracing::info!(file = %path.display(), "made a new key for proxy tokens");
    Ok(key)
}

/// Two programs that start on one empty folder must not each make a key. Released when dropped.
fn lock(folder: &Path) -> Result<File, Problem> {
    let file = folder.join("lock");
    let locked = private_file::make_folder(folder).and_then(|()| File::create(&file)).and_then(|lock| {
        lock.lock()?;
        Ok(lock)
    });
    locked.map_err(|error| cannot_write(&file, &error))
}

fn modified(path: &Path) -> SystemTime {
    std::fs::metadata(path).and_then(|file| file.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Problem {
    let hint = "the state directory has to be writable; see --state-dir".to_owned();
    problem(path, format!("cannot be written: {error}"), Some(hint))
}

pub(super) fn problem(path: &Path, what: String, hint: Option<String>) -> Problem {
    Problem { at: Location { file: Some(Arc::new(path.to_owned())), ..Location::default() }, what, hint }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn set_time(folder: &Path, kid: &str, seconds: u64) {
        let file = File::options().write(true).open(folder.join(format!("{kid}.key"))).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
    }

    fn newest(folder: &Path) -> String {
        newest_or_create(folder).unwrap().key.kid().to_owned()
    }

    #[test]
    fn the_first_key_is_made_once_and_for_us_alone() {
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().join("proxy-token");
        let kid = newest(&folder);
        assert_eq!(newest(&folder), kid);
        let file = folder.join(format!("{kid}.key"));
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read(&folder).unwrap().len(), 1);
    }

    #[test]
    fn the_key_whose_file_was_modified_last_signs() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let (one, other) = (newest(folder), create(folder).unwrap().kid().to_owned());
        for (first, second, expected) in [(1, 2, &other), (2, 1, &one), (1, 1, (&one).max(&other))] {
            set_time(folder, &one, first);
            set_time(folder, &other, second);
            assert_eq!(newest(folder), *expected);
        }
    }

    #[test]
    fn files_that_are_no_good_are_told_and_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        std::fs::write(folder.join("mine.key"), "rubbish").unwrap();
        std::fs::write(folder.join("notes.txt"), "rubbish").unwrap();
        let problems = newest_or_create(folder).unwrap_err();
        assert!(problems[0].to_string().contains("mine.key: expected one private key"), "{problems:?}");
        assert_eq!(std::fs::read(folder.join("mine.key")).unwrap(), b"rubbish");

        let key = create(folder).unwrap();
        std::fs::rename(folder.join(format!("{}.key", key.kid())), folder.join("mine.key")).unwrap();
        let problems = newest_or_create(folder).unwrap_err();
        let told = problems[0].to_string();
        assert!(told.contains(&format!("rename it to {}.key", key.kid())), "{told}");

        let good = create(folder).unwrap();
        let found = newest_or_create(folder).unwrap();
        assert_eq!((found.key.kid(), found.problems.len()), (good.kid(), 1));
    }
}
