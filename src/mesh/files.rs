//! Resource files: read at start, and watched from then on.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::compile::Source;
use crate::document;
use crate::model::diagnostic::{Location, Problem};
use crate::runtime::file_watch::{Changes, FileWatch};

/// What a file in a listed folder must be called to be read; a listed file may be called anything.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// How long until it is looked again where there is no file to watch, as it is where there are some: time alone ends CAs, and
/// what could not be written down is tried again.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The configured resource files.
#[derive(Debug)]
pub(super) struct ResourceFiles {
    paths: Vec<PathBuf>,
    changes: Changes,
}

impl ResourceFiles {
    /// Begins to watch, and reads nothing yet: so no change between the first reading and the watch is missed.
    pub(super) fn new(paths: Vec<PathBuf>) -> Self {
        let watch = FileWatch::new();
        for path in &paths {
            watch.add(path);
        }
        let changes = watch.changes();
        Self { paths, changes }
    }

    /// Reads everything. It blocks on files.
    pub(super) fn read(&self) -> Vec<Source> {
        read(&self.paths)
    }

    /// Waits until something may have changed, or until it is time to look again. Cancel safe.
    pub(super) async fn changed(&mut self) {
        if self.paths.is_empty() {
            return tokio::time::sleep(LOOK_AGAIN).await;
        }
        self.changes.next().await;
    }
}

/// Reads all files, each of them once even if it is listed twice.
fn read(paths: &[PathBuf]) -> Vec<Source> {
    let mut seen = BTreeSet::new();
    let mut sources = Vec::new();
    for path in paths {
        let listed = if path.is_dir() { files_of(path) } else { Ok(vec![path.clone()]) };
        let files = match listed {
            Ok(files) => files,
            Err(error) => {
                sources.push(unreadable(path, &error));
                continue;
            }
        };
        for file in files {
            if !seen.insert(file.canonicalize().unwrap_or_else(|_error| file.clone())) {
                continue;
            }
            match read_text(&file) {
                Ok(text) => sources.extend(parse(&file, &text)),
                // It was in its folder a moment ago, so it has just been removed; one that is listed must be there.
                Err(error) if error.kind() == io::ErrorKind::NotFound && file != *path && !is_there(&file) => {}
                Err(error) => sources.push(unreadable(&file, &error)),
            }
        }
    }
    sources
}

/// The resource files of a folder, by name. Hidden ones are left out: editors make them, and ConfigMap mounts.
fn files_of(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let wanted = path.extension().is_some_and(|extension| EXTENSIONS.iter().any(|wanted| extension == *wanted));
        if wanted && !hidden && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Whether there is something by that name, if only a link that leads nowhere at the moment.
fn is_there(file: &Path) -> bool {
    std::fs::symlink_metadata(file).is_ok()
}

/// At most a little more than is accepted, so that a huge file is refused without being in memory.
fn read_text(file: &Path) -> io::Result<Zeroizing<String>> {
    let limit = u64::try_from(document::MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    let mut text = Zeroizing::new(String::new());
    // Reading a pipe would wait for a writer, perhaps for ever.
    let metadata = std::fs::metadata(file)?;
    if !metadata.is_file() {
        return Err(io::Error::other("is not a regular file"));
    }
    // Somebody is writing it, or the disk is full; a resource is removed by removing its document or its file.
    if metadata.len() == 0 {
        return Err(io::Error::other("is empty"));
    }
    std::fs::File::open(file)?.take(limit).read_to_string(&mut text)?;
    Ok(text)
}

/// A file of which only some documents can be read is two sources: these, and the rest.
fn parse(file: &Path, text: &str) -> Vec<Source> {
    let path = Arc::new(file.to_owned());
    let (documents, errors) = document::parse_each(text);
    let at = |line| Location { file: Some(path.clone()), line, ..Location::default() };
    let problem = |error: document::SyntaxError| Problem { at: at(error.line), what: error.what, hint: None };
    let problems: Vec<Problem> = errors.into_iter().map(problem).collect();
    let unread = (!problems.is_empty()).then(|| Source { path: path.clone(), documents: Err(problems) });
    [Source { path, documents: Ok(documents) }].into_iter().chain(unread).collect()
}

fn unreadable(path: &Path, error: &io::Error) -> Source {
    let path = Arc::new(path.to_owned());
    let at = Location { file: Some(path.clone()), ..Location::default() };
    let hint = (error.kind() == io::ErrorKind::NotFound).then(|| "it is listed under resources".to_owned());
    Source { path, documents: Err(vec![Problem { at, what: format!("cannot be read: {error}"), hint }]) }
}
