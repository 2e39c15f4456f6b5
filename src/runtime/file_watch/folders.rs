//! The folders that the system watches.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use super::spots::{Trail, below, count_look};

/// Device and inode: a folder of the same name may be another one.
type FolderId = (u64, u64);

/// See the module.
#[derive(Debug)]
pub(super) struct Folders {
    /// `None` where there are no file events to be had.
    watcher: Option<RecommendedWatcher>,
    /// By how many trails.
    needed: BTreeMap<PathBuf, usize>,
    watched: BTreeMap<PathBuf, Option<FolderId>>,
    /// Under which name each was last watched.
    names: BTreeMap<FolderId, PathBuf>,
}

/// What there was to do.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// A folder is watched that was not.
    pub(super) is_news: bool,
    /// These are watched under a name that they do not have any more, and are needed under another. They were left as they
    /// are: the system watches a folder once, whatever its name, so the old one has to be forgotten first.
    pub(super) renamed: Vec<PathBuf>,
}

impl Folders {
    pub(super) fn new(watcher: Option<RecommendedWatcher>) -> Self {
        Self { watcher, needed: BTreeMap::new(), watched: BTreeMap::new(), names: BTreeMap::new() }
    }

    /// Whether there are file events to be had.
    pub(super) fn can_watch(&self) -> bool {
        self.watcher.is_some()
    }

    /// A trail is `now` what it was not `before`. Returns the folders for which that makes a difference, or may make one.
    pub(super) fn change<'t>(&mut self, before: &'t Trail, now: &'t Trail) -> BTreeSet<&'t Path> {
        let (before, mut folders) = (before.folders(), now.folders());
        for folder in &folders {
            *self.needed.entry((*folder).to_owned()).or_default() += 1;
        }
        for folder in &before {
            let Some(trails) = self.needed.get_mut(*folder) else { continue };
            *trails -= 1;
            if *trails == 0 {
                self.needed.remove(*folder);
            }
        }
        folders.extend(before);
        folders
    }

    /// Sees to it that of these `folders` those are watched that are needed, under the name that they have now, and no others.
    /// What is at or below `lost` was removed or moved away: it is not watched any more, whatever is there by now.
    pub(super) fn look(&mut self, mut folders: BTreeSet<PathBuf>, lost: &BTreeSet<PathBuf>) -> Done {
        let lost: BTreeSet<PathBuf> =
            lost.iter().flat_map(|lost| below(&self.watched, lost)).map(|(folder, _)| folder.clone()).collect();
        folders.extend(lost.iter().cloned());
        // First: a folder may be there under another name by now.
        for folder in &folders {
            let Some(id) = self.watched.get(folder) else { continue };
            if lost.contains(folder) || !self.needed.contains_key(folder) || id_of(folder) != *id {
                self.forget(folder);
            }
        }
        let mut done = Done::default();
        for folder in folders {
            if !self.needed.contains_key(&folder) || self.watched.contains_key(&folder) {
                continue;
            }
            let id = id_of(&folder);
            match id.and_then(|id| self.names.get(&id)) {
                Some(name) if id_of(name) != id => done.renamed.push(name.clone()),
                _ => {
                    self.watch(folder, id);
                    done.is_news = true;
                }
            }
        }
        done
    }

    /// Watches those of these `folders` no longer that are not needed. Looks at nothing.
    pub(super) fn forget_unneeded(&mut self, folders: &BTreeSet<PathBuf>) {
        for folder in folders {
            if !self.needed.contains_key(folder) && self.watched.contains_key(folder) {
                self.forget(folder);
            }
        }
    }

    /// Has the system watch all of them anew. A watch that has ended without a word lives again: its file system was unmounted, or
    /// its folder is watched by another name too, that is not needed any more. So does one that could not be had at first.
    /// Those that live stay as they are.
    pub(super) fn renew(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        for folder in self.watched.keys() {
            // It was warned of at first.
            let _ = watcher.watch(folder, RecursiveMode::NonRecursive);
        }
    }

    /// As the system does with a file system that is unmounted: it tells nobody.
    #[cfg(test)]
    pub(super) fn end_watches(&mut self) {
        let watcher = self.watcher.as_mut().unwrap();
        self.watched.keys().for_each(|folder| watcher.unwatch(folder).unwrap());
    }

    fn forget(&mut self, folder: &Path) {
        if let Some(Some(id)) = self.watched.remove(folder)
            && self.names.get(&id).is_some_and(|name| name == folder)
        {
            self.names.remove(&id);
        }
        if let Some(watcher) = &mut self.watcher {
            // It may have ended by itself.
            let _ = watcher.unwatch(folder);
        }
    }

    fn watch(&mut self, folder: PathBuf, id: Option<FolderId>) {
        if let Some(watcher) = &mut self.watcher
            && let Err(error) = watcher.watch(&folder, RecursiveMode::NonRecursive)
            && folder.is_dir()
        {
            tracing::warn!(folder = %folder.display(), %error, "cannot watch; looking once a minute");
        }
        self.names.extend(id.map(|id| (id, folder.clone())));
        self.watched.insert(folder, id);
    }

    /// Which are watched.
    #[cfg(test)]
    pub(super) fn watched(&self) -> impl Iterator<Item = &PathBuf> {
        self.watched.keys()
    }
}

fn id_of(folder: &Path) -> Option<FolderId> {
    count_look();
    std::fs::metadata(folder).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}
