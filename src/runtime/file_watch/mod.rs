//! Tells that files have changed, however they were replaced.

mod quiet;
mod spots;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use notify::event::{EventKind, ModifyKind, RenameMode};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::watch;
use tokio::time::Instant;

use self::quiet::{Quiet, meaning};
use self::spots::Spots;

/// However busy the folder is, a change is told within this time.
const AT_MOST: Duration = Duration::from_secs(1);

/// A look without any event: some file systems (NFS, some bind mounts) send none.
const SAFETY_NET: Duration = Duration::from_secs(60);

/// How often it is looked again where to watch, if that changes all the time. There is another event then.
const ROUNDS: usize = 16;

/// Watches the folders in which some files and folders are, or are going to be, because ConfigMap mounts and editors replace
/// files instead of writing into them. Of a folder that is not there yet, the nearest one above it that is there is watched
/// until it appears. It tells that *something* may have changed; whoever reads the files compares their content.
#[derive(Debug)]
pub struct FileWatch(Arc<Watching>);

#[derive(Debug)]
struct Watching {
    /// Locked while the system is told what to watch, which waits for the thread that events come on; so that thread does
    /// not take this lock.
    armed: Mutex<Armed>,
    listening: Arc<Mutex<Listening>>,
    changed: watch::Receiver<Quiet>,
}

/// What the system watches.
#[derive(Debug)]
struct Armed {
    /// `None` where there are no file events to be had.
    watcher: Option<RecommendedWatcher>,
    /// For as long as there is a watch.
    wanted: BTreeSet<PathBuf>,
    /// By how many [`Held`], and only as long as there are any.
    held: BTreeMap<PathBuf, usize>,
    folders: BTreeMap<PathBuf, Option<FolderId>>,
}

/// Device and inode: a folder of the same name may be another one.
type FolderId = (u64, u64);

/// What events are judged by.
#[derive(Debug, Default)]
struct Listening {
    spots: Spots,
    /// What has been removed or moved away, and was on the way to something: folders there are not watched any more, whatever
    /// is there by now.
    lost: BTreeSet<PathBuf>,
    /// Events have been lost, so anything may have been.
    all_lost: bool,
}

impl FileWatch {
    /// A watch that looks at nothing yet. Where the system has no file events left to give, changes are still noticed by
    /// the safety net, once a minute, and a warning is logged.
    pub fn new() -> Self {
        let (tell, changed) = watch::channel(Quiet::default());
        let listening = Arc::<Mutex<Listening>>::default();
        let watcher = notify::recommended_watcher({
            let listening = listening.clone();
            move |event: notify::Result<notify::Event>| {
                let event = event.unwrap_or_default();
                let happened = lock(&listening).hear(event.kind, &event.paths);
                if let Some(happened) = happened {
                    tell.send_modify(|quiet| quiet.hear(happened, Instant::now()));
                }
            }
        });
        let watcher = watcher
            .inspect_err(|error| tracing::warn!(%error, "no file events here; files are looked at once a minute"))
            .ok();
        let armed = Armed { watcher, wanted: BTreeSet::new(), held: BTreeMap::new(), folders: BTreeMap::new() };
        Self(Arc::new(Watching { armed: Mutex::new(armed), listening, changed }))
    }

    /// Looks at `path` too: at its name in its folder, at what is in it if it is a folder, and at where it leads if a link is
    /// on the way; whatever of that is not there yet may come.
    pub fn add(&self, path: &Path) {
        let Watching { armed, listening, .. } = &*self.0;
        let mut armed = lock(armed);
        if !armed.wanted.insert(path.to_owned()) {
            return;
        }
        let path = path.to_owned();
        for _ in 0..ROUNDS {
            let spots = Spots::of([&path]);
            lock(listening).spots.extend(spots.clone());
            if !armed.watch(&spots) {
                return;
            }
        }
    }

    /// Looks at `paths`, as [`FileWatch::add`] does, for as long as what is returned is there: what nobody reads any more is
    /// not to be watched for ever.
    pub fn hold<'p>(&self, paths: impl IntoIterator<Item = &'p Path>) -> Held {
        let paths: Vec<PathBuf> = paths.into_iter().map(Path::to_owned).collect();
        let is_news = lock(&self.0.armed).hold(&paths);
        if is_news {
            self.0.arm();
        }
        Held { watching: self.0.clone(), paths }
    }

    /// Which paths are held.
    #[cfg(test)]
    pub fn held(&self) -> Vec<PathBuf> {
        lock(&self.0.armed).held.keys().cloned().collect()
    }

    /// A handle to wait on. It has seen everything up to now: subscribe first, then read the files.
    pub fn changes(&self) -> Changes {
        let mut changed = self.0.changed.clone();
        changed.mark_unchanged();
        self.0.arm();
        Changes { watching: self.0.clone(), changed }
    }
}

impl Default for FileWatch {
    fn default() -> Self {
        Self::new()
    }
}

/// See [`FileWatch::hold`].
#[derive(Debug)]
pub struct Held {
    watching: Arc<Watching>,
    paths: Vec<PathBuf>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let is_news = lock(&self.watching.armed).release(&self.paths);
        if is_news {
            self.watching.arm();
        }
    }
}

impl Watching {
    /// Watches what there is to watch now, and nothing else. What appears between looking and watching is found by the
    /// next round: after the last one, whatever changes is an event.
    fn arm(&self) {
        let mut armed = lock(&self.armed);
        for _ in 0..ROUNDS {
            let spots = Spots::of(armed.wanted.iter().chain(armed.held.keys()));
            let before = std::mem::replace(
                &mut *lock(&self.listening),
                Listening { spots: spots.clone(), ..Listening::default() },
            );
            let needed = spots.folders();
            armed.forget(|folder| before.has_lost(folder) || !needed.contains(folder));
            if !armed.watch(&spots) {
                return;
            }
        }
    }
}

impl Armed {
    /// Says whether there is one among them that nobody held.
    fn hold(&mut self, paths: &[PathBuf]) -> bool {
        let before = self.held.len();
        for path in paths {
            *self.held.entry(path.clone()).or_default() += 1;
        }
        self.held.len() > before
    }

    /// Says whether there is one among them that nobody holds any more.
    fn release(&mut self, paths: &[PathBuf]) -> bool {
        let before = self.held.len();
        for path in paths {
            if let Some(holders) = self.held.get_mut(path) {
                *holders -= 1;
            }
        }
        self.held.retain(|_, holders| *holders > 0);
        self.held.len() < before
    }

    /// Forgets the folders that are `gone`, and those whose name another one has by now.
    fn forget(&mut self, gone: impl Fn(&Path) -> bool) {
        let Self { watcher, folders, .. } = self;
        folders.retain(|folder, id| {
            let stays = !gone(folder) && id_of(folder) == *id;
            if let Some(watcher) = watcher.as_mut().filter(|_| !stays) {
                // It may have ended by itself.
                let _ = watcher.unwatch(folder);
            }
            stays
        });
    }

    /// Watches those folders that are not watched yet. Says whether there were any.
    fn watch(&mut self, spots: &Spots) -> bool {
        let Self { watcher: Some(watcher), folders, .. } = self else { return false };
        let mut is_news = false;
        for folder in spots.folders() {
            if folders.contains_key(folder) {
                continue;
            }
            is_news = true;
            folders.insert(folder.to_owned(), id_of(folder));
            if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive)
                && folder.is_dir()
            {
                tracing::warn!(folder = %folder.display(), %error, "cannot watch; looking once a minute");
            }
        }
        is_news
    }
}

impl Listening {
    fn hear(&mut self, kind: EventKind, paths: &[PathBuf]) -> Option<quiet::Happened> {
        let may_be_lost = matches!(
            kind,
            EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From | RenameMode::Both))
        );
        if may_be_lost {
            self.lost.extend(paths.iter().filter(|path| self.spots.awaits(path)).cloned());
        }
        self.all_lost |= paths.is_empty();
        meaning(kind, paths, &self.spots)
    }

    fn has_lost(&self, folder: &Path) -> bool {
        self.all_lost || self.lost.iter().any(|lost| folder.starts_with(lost))
    }
}

/// See [`FileWatch::changes`].
#[derive(Debug)]
pub struct Changes {
    watching: Arc<Watching>,
    changed: watch::Receiver<Quiet>,
}

impl Changes {
    /// Returns when it is time to look at the files again. Cancel safe, if the files are looked at then.
    pub async fn next(&mut self) {
        match tokio::time::timeout(SAFETY_NET, self.changed.changed()).await {
            Err(_elapsed) => return self.watching.arm(),
            // No watcher: only the safety net is left.
            Ok(Err(_)) => return tokio::time::sleep(SAFETY_NET).await,
            Ok(Ok(())) => {}
        }
        let deadline = Instant::now() + AT_MOST;
        loop {
            // Before the files are read, and before anybody can stop waiting: what happens from now on is told.
            self.watching.arm();
            let whole_at = self.changed.borrow_and_update().whole_at();
            let until = whole_at.map_or(deadline, |whole_at| whole_at.min(deadline));
            let Ok(Ok(())) = tokio::time::timeout_at(until, self.changed.changed()).await else { return };
        }
    }
}

fn id_of(folder: &Path) -> Option<FolderId> {
    std::fs::metadata(folder).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
