//! Tells that files have changed, however they were replaced.

mod folders;
mod quiet;
mod spots;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use notify::event::{EventKind, ModifyKind, RenameMode};
use tokio::sync::watch;
use tokio::time::Instant;

use self::folders::{Done, Folders};
use self::quiet::{Quiet, meaning};
use self::spots::{Spots, Trail};

/// However busy the folder is, a change is told within this time.
const AT_MOST: Duration = Duration::from_secs(1);

/// A look without any event: some file systems (NFS, some bind mounts) send none.
const SAFETY_NET: Duration = Duration::from_secs(60);

/// All paths are followed again, and all watches renewed, no more often than this, however many wait for changes: else only those
/// on whose way something has happened are.
const FOLLOW_ALL: Duration = Duration::from_secs(30);

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

/// What is watched, and for what.
#[derive(Debug)]
struct Armed {
    paths: BTreeMap<Arc<Path>, Watched>,
    folders: Folders,
    /// When all paths were last followed.
    followed_all: Instant,
}

/// A path that is watched.
#[derive(Debug, Default)]
struct Watched {
    /// For as long as there is a watch.
    for_ever: bool,
    /// By how many [`Held`].
    holders: usize,
    trail: Trail,
}

/// What events are judged by.
#[derive(Debug, Default)]
struct Listening {
    spots: Spots,
    stirred: Stirred,
}

/// What has happened on the way to something, and nobody has looked since where paths lead.
#[derive(Debug, Default)]
struct Stirred {
    names: BTreeSet<PathBuf>,
    /// Those of them that have been removed or moved away: folders there are not watched any more, whatever is there by now.
    lost: BTreeSet<PathBuf>,
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
        let armed = Armed { paths: BTreeMap::new(), folders: Folders::new(watcher), followed_all: Instant::now() };
        Self(Arc::new(Watching { armed: Mutex::new(armed), listening, changed }))
    }

    /// Looks at `path` too: at its name in its folder, at what is in it if it is a folder, and at where it leads if a link is
    /// on the way; whatever of that is not there yet may come.
    pub fn add(&self, path: &Path) {
        self.0.watch([path], |watched| watched.for_ever = true);
    }

    /// Looks at `paths`, as [`FileWatch::add`] does, for as long as what is returned is there: what nobody reads any more is
    /// not to be watched for ever.
    pub fn hold<'p>(&self, paths: impl IntoIterator<Item = &'p Path>) -> Held {
        let paths = self.0.watch(paths, |watched| watched.holders += 1);
        Held { watching: self.0.clone(), paths }
    }

    /// Which paths are held.
    #[cfg(test)]
    pub fn held(&self) -> Vec<PathBuf> {
        let armed = lock(&self.0.armed);
        armed.paths.iter().filter(|(_, watched)| watched.holders > 0).map(|(path, _)| path.to_path_buf()).collect()
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
    paths: Vec<Arc<Path>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        lock(&self.watching.armed).release(&self.paths, &self.watching.listening);
    }
}

impl Watching {
    /// Follows those of `paths` that are new, once each of them has been put down to whoever wants it.
    fn watch<'p>(&self, paths: impl IntoIterator<Item = &'p Path>, put_down: fn(&mut Watched)) -> Vec<Arc<Path>> {
        let mut armed = lock(&self.armed);
        let paths: Vec<Arc<Path>> = paths.into_iter().map(Arc::from).collect();
        let mut new = BTreeSet::new();
        for path in &paths {
            put_down(armed.paths.entry(path.clone()).or_insert_with(|| {
                new.insert(path.clone());
                Watched::default()
            }));
        }
        armed.follow(new, &self.listening);
        paths
    }

    /// Watches what there is to watch now, and nothing else. However many do so because of the same events, the paths that
    /// these are about are followed once.
    fn arm(&self) {
        let mut armed = lock(&self.armed);
        let mut paths = BTreeSet::new();
        if armed.followed_all.elapsed() >= FOLLOW_ALL {
            armed.followed_all = Instant::now();
            armed.folders.renew();
            paths.extend(armed.paths.keys().cloned());
        }
        armed.follow(paths, &self.listening);
    }
}

impl Armed {
    /// Looks where `paths` lead, and those on whose way something has happened, and watches that. What appears between looking
    /// and watching is found by the next round: after the last one, whatever changes is an event.
    fn follow(&mut self, mut paths: BTreeSet<Arc<Path>>, listening: &Mutex<Listening>) {
        if !self.folders.can_watch() {
            return;
        }
        for _ in 0..ROUNDS {
            let lost = {
                let Listening { spots, stirred } = &mut *lock(listening);
                let Stirred { names, lost } = std::mem::take(stirred);
                paths.extend(names.iter().flat_map(|name| spots.led_by(name)).cloned());
                lost
            };
            if paths.is_empty() || !self.follow_once(&paths, &lost, listening) {
                return;
            }
        }
    }

    /// Says whether another round is needed.
    fn follow_once(
        &mut self,
        paths: &BTreeSet<Arc<Path>>,
        lost: &BTreeSet<PathBuf>,
        listening: &Mutex<Listening>,
    ) -> bool {
        let (mut is_news, mut folders) = (false, BTreeSet::new());
        for path in paths {
            let Some(watched) = self.paths.get_mut(path) else { continue };
            let trail = Trail::of(path);
            let before = std::mem::replace(&mut watched.trail, trail);
            // Events are judged by it before there are any.
            lock(listening).spots.change(path, &before, &watched.trail);
            is_news |= before != watched.trail;
            folders.extend(self.folders.change(&before, &watched.trail).into_iter().map(Path::to_owned));
        }
        let Done { is_news: are_new, renamed } = self.folders.look(folders, lost);
        is_news |= are_new || !renamed.is_empty();
        let stirred = &mut lock(listening).stirred;
        renamed.into_iter().for_each(|folder| stirred.lose(folder));
        is_news
    }

    /// Watches no longer what nobody wants any more.
    fn release(&mut self, paths: &[Arc<Path>], listening: &Mutex<Listening>) {
        let mut folders = BTreeSet::new();
        for path in paths {
            let Some(watched) = self.paths.get_mut(path) else { continue };
            watched.holders -= 1;
            if watched.for_ever || watched.holders > 0 {
                continue;
            }
            let nowhere = Trail::default();
            lock(listening).spots.change(path, &watched.trail, &nowhere);
            folders.extend(self.folders.change(&watched.trail, &nowhere).into_iter().map(Path::to_owned));
            self.paths.remove(path);
        }
        // Those that others need are not looked at again for this.
        self.folders.forget_unneeded(&folders);
    }
}

impl Listening {
    fn hear(&mut self, kind: EventKind, paths: &[PathBuf]) -> Option<quiet::Happened> {
        let Self { spots, stirred } = self;
        let may_be_lost = matches!(
            kind,
            EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From | RenameMode::Both))
        );
        // What a file holds leads nowhere.
        let may_lead_elsewhere = !matches!(kind, EventKind::Access(_) | EventKind::Modify(ModifyKind::Data(_)));
        for path in paths.iter().filter(|path| may_lead_elsewhere && spots.awaits(path)) {
            if may_be_lost {
                stirred.lose(path.clone());
            } else {
                stirred.names.insert(path.clone());
            }
        }
        if paths.is_empty() {
            // Events have been lost, so anything may have been.
            stirred.lose(PathBuf::from("/"));
        }
        meaning(kind, paths, spots)
    }
}

impl Stirred {
    fn lose(&mut self, name: PathBuf) {
        self.names.insert(name.clone());
        self.lost.insert(name);
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
            let whole_at = self.changed.borrow_and_update().whole_at();
            // Before the files are read, and before anybody can stop waiting: what happens from now on is told.
            self.watching.arm();
            if Instant::now() >= deadline {
                // Also if there is news already: it is told next.
                return;
            }
            let until = whole_at.map_or(deadline, |whole_at| whole_at.min(deadline));
            let Ok(Ok(())) = tokio::time::timeout_at(until, self.changed.changed()).await else { return };
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;

#[cfg(test)]
mod cost_tests;
