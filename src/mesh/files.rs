//! Resource files: read at start, watched from then on, and published when what they say has changed.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;
use zeroize::Zeroizing;

use super::compile::{Compiled, KnownGood, Source, compile};
use super::{Context, Resources};
use crate::document;
use crate::model::diagnostic::{Location, Problem};
use crate::runtime::clock::Clock;
use crate::runtime::file_watch::{Changes, FileWatch};

/// What a file in a listed folder must be called to be read; a listed file may be called anything.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// What decides whether resources are right, apart from the time; see [`Context`].
#[derive(Debug, Clone)]
pub struct Settings {
    /// Files and folders; folders are not searched deeper. None at all means [`Resources::embedded_default`].
    pub paths: Vec<PathBuf>,
    /// See [`Context::kubernetes_available`].
    pub kubernetes_available: bool,
    /// See [`Context::system_namespace`].
    pub system_namespace: String,
    /// See [`Context::zone`].
    pub zone: String,
}

/// The configured resource files. [`ResourceFiles::load`] at start, then [`ResourceFiles::run`].
#[derive(Debug)]
pub struct ResourceFiles {
    settings: Settings,
    clock: Clock,
    watch: FileWatch,
    changes: Changes,
    known: KnownGood,
}

impl ResourceFiles {
    /// Begins to watch, and reads nothing yet: so no change between the first reading and the watch is missed.
    pub fn new(settings: Settings, clock: Clock) -> Self {
        let watch = FileWatch::new();
        for path in &settings.paths {
            watch.add(path);
        }
        let changes = watch.changes();
        Self { settings, clock, watch, changes, known: KnownGood::default() }
    }

    /// Reads and compiles everything; what is broken is replaced by what was good the last time. It blocks on files.
    pub fn load(&mut self) -> Compiled {
        if self.settings.paths.is_empty() {
            return Compiled { resources: Resources::embedded_default(), ..Compiled::default() };
        }
        // A path that was not there at first may be a folder by now.
        for path in &self.settings.paths {
            self.watch.add(path);
        }
        let context = Context {
            kubernetes_available: self.settings.kubernetes_available,
            system_namespace: self.settings.system_namespace.clone(),
            zone: self.settings.zone.clone(),
            now: self.clock.now(),
        };
        compile(&read(&self.settings.paths), &context, &mut self.known)
    }

    /// Publishes resources and problems whenever they change, for ever. What the channels hold already is taken as the
    /// result of [`ResourceFiles::load`]. New problems are logged once, as is the end of the last one.
    pub async fn run(mut self, resources: watch::Sender<Arc<Resources>>, problems: watch::Sender<Arc<Vec<Problem>>>) {
        if self.settings.paths.is_empty() {
            return std::future::pending().await;
        }
        loop {
            self.changes.next().await;
            // Files may be on a slow or dead network file system.
            let loaded = tokio::task::spawn_blocking(move || {
                let compiled = self.load();
                (self, compiled)
            });
            let Ok((files, compiled)) = loaded.await else { return };
            self = files;
            publish(compiled, &resources, &problems);
        }
    }
}

fn publish(compiled: Compiled, resources: &watch::Sender<Arc<Resources>>, problems: &watch::Sender<Arc<Vec<Problem>>>) {
    let changed = resources.send_if_modified(|current| {
        let changed = **current != compiled.resources;
        if changed {
            *current = Arc::new(compiled.resources);
        }
        changed
    });
    if changed {
        tracing::info!(meshes = resources.borrow().policies.meshes.len(), "resources have changed");
        for notice in &compiled.notices {
            tracing::info!("{notice}");
        }
    }
    let before = problems.borrow().clone();
    for problem in compiled.problems.iter().filter(|problem| !before.contains(problem)) {
        tracing::warn!("{problem}; the last good version stays in force");
    }
    if compiled.problems.is_empty() && !before.is_empty() {
        tracing::info!("resource files have recovered: nothing is wrong with them any more");
    }
    problems.send_if_modified(|current| {
        let changed = **current != compiled.problems;
        if changed {
            *current = Arc::new(compiled.problems);
        }
        changed
    });
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
                Ok(text) => sources.push(parse(&file, &text)),
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

fn parse(file: &Path, text: &str) -> Source {
    let path = Arc::new(file.to_owned());
    let documents = document::parse(text).map_err(|errors| {
        let at = |line| Location { file: Some(path.clone()), line, ..Location::default() };
        errors.into_iter().map(|error| Problem { at: at(error.line), what: error.what, hint: None }).collect()
    });
    Source { path, documents }
}

fn unreadable(path: &Path, error: &io::Error) -> Source {
    let path = Arc::new(path.to_owned());
    let at = Location { file: Some(path.clone()), ..Location::default() };
    let hint = (error.kind() == io::ErrorKind::NotFound).then(|| "it is listed under resources".to_owned());
    Source { path, documents: Err(vec![Problem { at, what: format!("cannot be read: {error}"), hint }]) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::runtime::tasks::Tasks;

    const GOOD: &str = "type: Mesh\nname: NAME\nmtls: {enabledBackend: b, backends: [{name: b, type: builtin}]}\n";
    const BROKEN: &str = "type: Mesh\nname: NAME\nmtls: {enabledBackend: c, backends: [{name: b, type: builtin}]}\n";

    fn settings(paths: &[&Path]) -> Settings {
        let paths = paths.iter().map(|path| path.to_path_buf()).collect();
        Settings {
            paths,
            kubernetes_available: false,
            system_namespace: "kong-mesh-system".to_owned(),
            zone: String::new(),
        }
    }

    fn write(folder: &Path, file: &str, text: &str, mesh: &str) {
        let next = folder.join(".next");
        std::fs::write(&next, text.replace("NAME", mesh)).unwrap();
        std::fs::rename(next, folder.join(file)).unwrap();
    }

    fn meshes(resources: &Resources) -> String {
        resources.policies.meshes.keys().map(|name| &**name).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn without_paths_it_is_the_embedded_default() {
        let mut files = ResourceFiles::new(settings(&[]), Clock::system());
        let compiled = files.load();
        assert!(compiled.problems.is_empty());
        let policy = &compiled.resources.policies.meshes["default"];
        assert_eq!(policy.enabled().map(|backend| backend.kind.label()), Some("builtin"));
    }

    #[test]
    fn folders_are_read_and_everything_else_in_them_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        for (file, mesh) in [("a.yaml", "a"), ("b.yml", "b"), ("c.json", "c"), ("d.txt", "d"), (".e.yaml", "e")] {
            write(folder.path(), file, GOOD, mesh);
        }
        std::fs::create_dir(folder.path().join("f.yaml")).unwrap();
        let listed_twice = folder.path().join("a.yaml");
        let mut files = ResourceFiles::new(settings(&[folder.path(), &listed_twice]), Clock::system());
        let compiled = files.load();
        assert_eq!((meshes(&compiled.resources).as_str(), compiled.problems), ("a b c", vec![]));
    }

    #[test]
    fn the_last_good_stays_in_force() {
        let folder = tempfile::tempdir().unwrap();
        let listed = tempfile::tempdir().unwrap();
        let listed_file = listed.path().join("listed.yaml");
        write(folder.path(), "a.yaml", GOOD, "a");
        write(folder.path(), "b.yaml", GOOD, "b");
        write(listed.path(), "listed.yaml", GOOD, "listed");
        let mut files = ResourceFiles::new(settings(&[folder.path(), &listed_file]), Clock::system());
        let mut step = |expected: &str, problem: &str| {
            let compiled = files.load();
            assert_eq!(meshes(&compiled.resources), expected);
            let problems = compiled.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
            assert!(problems.contains(problem) && problem.is_empty() == problems.is_empty(), "{problems}");
        };
        step("a b listed", "");
        write(folder.path(), "a.yaml", BROKEN, "a");
        step("a b listed", "not the name of one of the backends");
        write(folder.path(), "a.yaml", "a: [", "");
        step("a b listed", "not valid YAML");
        write(folder.path(), "a.yaml", GOOD, "other");
        step("b listed other", "");
        std::fs::remove_file(folder.path().join("b.yaml")).unwrap();
        step("listed other", "");
        std::fs::remove_file(&listed_file).unwrap();
        step("listed other", "cannot be read");
        write(listed.path(), "listed.yaml", GOOD, "listed");
        step("listed other", "");
    }

    #[tokio::test]
    async fn changes_are_published() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "a.yaml", GOOD, "a");
        let mut files = ResourceFiles::new(settings(&[folder.path()]), Clock::system());
        let (resources, mut resources_seen) = watch::channel(Arc::new(files.load().resources));
        let (problems, mut problems_seen) = watch::channel(Arc::default());
        let (tasks, _deaths) = Tasks::new();
        tasks.spawn(files.run(resources, problems));
        let patience = Duration::from_secs(20);

        write(folder.path(), "a.yaml", BROKEN, "a");
        tokio::time::timeout(patience, problems_seen.wait_for(|problems| problems.len() == 1)).await.unwrap().unwrap();
        assert!(!resources_seen.has_changed().unwrap(), "the last good one stays, and nobody is woken");

        write(folder.path(), "a.yaml", GOOD, "b");
        let changed = resources_seen.wait_for(|resources| meshes(resources) == "b");
        tokio::time::timeout(patience, changed).await.unwrap().unwrap();
        tokio::time::timeout(patience, problems_seen.wait_for(|problems| problems.is_empty())).await.unwrap().unwrap();
    }
}
