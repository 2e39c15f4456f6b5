//! How long to wait after a change before the files are looked at: the pure core.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{CreateKind, EventKind, ModifyKind, RemoveKind, RenameMode};
use tokio::time::Instant;

use super::spots::Spots;

/// An editor writes a file in several steps: one that is written in place is looked at after this much quiet.
pub(super) const QUIET: Duration = Duration::from_millis(50);

/// What is moved into place, as `mv` does and a kubelet, is whole; no more is waited for than its siblings need.
pub(super) const QUIET_AFTER_MOVE: Duration = Duration::from_millis(10);

/// What an event means for when the files are whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Happened {
    /// This is being made or written, and may be half of what it is to become.
    Begun(PathBuf),
    /// These names have been moved or removed, with whatever was being written under them. Without any, what has changed is
    /// no content.
    Settled(Vec<PathBuf>),
}

/// What an event means, if it means anything to the paths that are watched.
pub(super) fn meaning(kind: EventKind, paths: &[PathBuf], spots: &Spots) -> Option<Happened> {
    // Without a path, events have been lost, or there was an error: anything may have changed.
    if kind.is_access() || !(paths.is_empty() || paths.iter().any(|path| spots.concerns(path))) {
        return None;
    }
    let first = paths.first().map(PathBuf::as_path).unwrap_or(Path::new(""));
    Some(match kind {
        // What is awaited has been moved away: something is going to take its place.
        EventKind::Modify(ModifyKind::Name(RenameMode::From | RenameMode::Both)) if spots.awaits(first) => {
            Happened::Begun(first.to_owned())
        }
        EventKind::Modify(ModifyKind::Name(RenameMode::From | RenameMode::To | RenameMode::Both))
        | EventKind::Remove(RemoveKind::Folder | RemoveKind::Other) => Happened::Settled(paths.to_vec()),
        EventKind::Modify(ModifyKind::Metadata(_)) => Happened::Settled(Vec::new()),
        // A folder that is awaited gets what it is awaited for next.
        EventKind::Create(CreateKind::Folder) if !spots.awaits(first) => Happened::Settled(Vec::new()),
        _ => Happened::Begun(first.to_owned()),
    })
}

/// What has happened until now.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    /// When each was last written, of what has been written in the last [`QUIET`].
    writing: BTreeMap<PathBuf, Instant>,
    last: Option<Instant>,
}

impl Quiet {
    pub(super) fn hear(&mut self, happened: Happened, now: Instant) {
        self.last = Some(now);
        self.writing.retain(|_, written| now.duration_since(*written) < QUIET);
        match happened {
            Happened::Begun(path) => drop(self.writing.insert(path, now)),
            // The writes to a temporary file belong to what it becomes, which is whole.
            Happened::Settled(names) => {
                self.writing.retain(|path, _| !names.iter().any(|name| path.starts_with(name)));
            }
        }
    }

    /// When the files can be expected to be whole, if nothing more happens; `None` if nothing ever has.
    pub(super) fn whole_at(&self) -> Option<Instant> {
        let written = self.writing.values().map(|written| *written + QUIET);
        written.chain(self.last.map(|last| last + QUIET_AFTER_MOVE)).max()
    }

    /// Whether it has just been written.
    #[cfg(test)]
    pub(super) fn is_writing(&self, path: &Path) -> bool {
        self.writing.contains_key(path)
    }
}

#[cfg(test)]
#[path = "quiet_tests.rs"]
mod tests;
