//! Tells that files have changed, however they were replaced.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use notify::event::{EventKind, ModifyKind, RenameMode};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::watch;
use tokio::time::Instant;

/// An editor writes a file in several steps: changes are told after this much quiet.
const QUIET: Duration = Duration::from_millis(50);

/// What is moved into place, as `mv` does and a kubelet, is whole; no more is waited for than its siblings need.
const QUIET_AFTER_MOVE: Duration = Duration::from_millis(10);

/// However busy the folder is, a change is told within this time.
const AT_MOST: Duration = Duration::from_secs(1);

/// A look without any event: some file systems (NFS, some bind mounts) send none.
const SAFETY_NET: Duration = Duration::from_secs(60);

/// Watches the parent folders of some files and folders, because ConfigMap mounts and editors replace files instead of
/// writing into them. It tells that *something* may have changed; whoever reads the files compares their content.
#[derive(Debug)]
pub struct FileWatch {
    watcher: Mutex<Option<RecommendedWatcher>>,
    folders: Mutex<BTreeSet<PathBuf>>,
    changed: watch::Receiver<Seen>,
}

/// What has been seen last. Every event is another, however it compares.
#[derive(Debug, Default)]
struct Seen {
    was_move: bool,
}

impl FileWatch {
    /// A watch that looks at nothing yet. Where the system has no file events left to give, changes are still noticed by
    /// the safety net, once a minute, and a warning is logged.
    pub fn new() -> Self {
        let (tell, changed) = watch::channel(Seen::default());
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let kind = event.map_or(EventKind::Any, |event| event.kind);
            if !kind.is_access() {
                tell.send_replace(Seen { was_move: is_move_into_place(kind) });
            }
        });
        let watcher = watcher
            .inspect_err(|error| tracing::warn!(%error, "no file events here; files are looked at once a minute"))
            .ok();
        Self { watcher: Mutex::new(watcher), folders: Mutex::default(), changed }
    }

    /// Looks at `path` too: at its parent folder, at itself if it is a folder, and at where it leads if it is a link.
    pub fn add(&self, path: &Path) {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let target = path.canonicalize().ok();
        let beside_target = target.as_deref().and_then(Path::parent);
        for folder in [Some(parent), Some(path), beside_target].into_iter().flatten() {
            let Ok(folder) = folder.canonicalize() else { continue };
            if !folder.is_dir() || !lock(&self.folders).insert(folder.clone()) {
                continue;
            }
            let watched =
                lock(&self.watcher).as_mut().map(|watcher| watcher.watch(&folder, RecursiveMode::NonRecursive));
            if let Some(Err(error)) = watched {
                tracing::warn!(folder = %folder.display(), %error, "cannot watch; looking once a minute");
            }
        }
    }

    /// A handle to wait on. It has seen everything up to now: subscribe first, then read the files.
    pub fn changes(&self) -> Changes {
        let mut changed = self.changed.clone();
        changed.mark_unchanged();
        Changes(changed)
    }
}

impl Default for FileWatch {
    fn default() -> Self {
        Self::new()
    }
}

/// See [`FileWatch::changes`].
#[derive(Debug)]
pub struct Changes(watch::Receiver<Seen>);

impl Changes {
    /// Returns when it is time to look at the files again.
    pub async fn next(&mut self) {
        match tokio::time::timeout(SAFETY_NET, self.0.changed()).await {
            Err(_elapsed) => return,
            // No watcher: only the safety net is left.
            Ok(Err(_)) => return tokio::time::sleep(SAFETY_NET).await,
            Ok(Ok(())) => {}
        }
        let deadline = Instant::now() + AT_MOST;
        loop {
            let quiet = if self.0.borrow_and_update().was_move { QUIET_AFTER_MOVE } else { QUIET };
            let until = deadline.min(Instant::now() + quiet);
            let Ok(Ok(())) = tokio::time::timeout_at(until, self.0.changed()).await else { return };
        }
    }
}

fn is_move_into_place(kind: EventKind) -> bool {
    matches!(kind, EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both)))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_replaced_file_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mesh.yaml");
        std::fs::write(&file, "one").unwrap();
        let watch = FileWatch::new();
        watch.add(&file);
        let mut changes = watch.changes();
        let next = folder.path().join("next");
        std::fs::write(&next, "two").unwrap();
        std::fs::rename(&next, &file).unwrap();
        tokio::time::timeout(Duration::from_secs(10), changes.next()).await.expect("the change is told");
    }

    #[tokio::test(start_paused = true)]
    async fn a_move_is_told_sooner_than_a_file_that_is_being_written() {
        for (events, told_after) in [
            (&[true][..], QUIET_AFTER_MOVE),
            (&[false], QUIET),
            (&[true, false], QUIET),
            (&[false, true], QUIET_AFTER_MOVE),
        ] {
            let (tell, changed) = watch::channel(Seen::default());
            let mut changes = Changes(changed);
            let began = Instant::now();
            let told = async {
                changes.next().await;
                began.elapsed()
            };
            let see = async {
                for was_move in events {
                    tell.send_replace(Seen { was_move: *was_move });
                    tokio::task::yield_now().await;
                }
            };
            let (told, ()) = tokio::join!(told, see);
            assert!((told_after..told_after + Duration::from_millis(2)).contains(&told), "{events:?}: {told:?}");
        }
    }

    #[test]
    fn what_a_move_is() {
        let folder = tempfile::tempdir().unwrap();
        let (send, events) = std::sync::mpsc::channel();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let _ = send.send(event.unwrap().kind);
        })
        .unwrap();
        watcher.watch(folder.path(), RecursiveMode::NonRecursive).unwrap();
        std::fs::write(folder.path().join("next"), "two").unwrap();
        std::fs::rename(folder.path().join("next"), folder.path().join("mesh.yaml")).unwrap();
        let next = || events.recv_timeout(Duration::from_secs(10)).expect("an event");
        assert!(!is_move_into_place(next()), "it is made and written first");
        while !is_move_into_place(next()) {}
    }
}
