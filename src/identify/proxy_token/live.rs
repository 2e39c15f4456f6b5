//! Keys and revocations as they are now, and the one task that keeps them so.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_stream::wrappers::WatchStream;

use super::folder::{newest_or_create, problem};
use super::keys::{KeySource, Keys, Look};
use super::revocations::{Revocations, name_for};
use super::settling::Settling;
use super::{METHOD, RevocationSource};
use crate::model::diagnostic::{Location, Problem};
use crate::model::secrets::KnownSecrets;
use crate::runtime::file_watch::{Changes, FileWatch};
use crate::runtime::tasks::Tasks;
use crate::runtime::{publish, regular_file};

/// See the module.
#[derive(Debug)]
pub(super) struct Live {
    keys: watch::Receiver<Arc<Keys>>,
    revocations: watch::Receiver<Arc<Revocations>>,
    problems: watch::Receiver<Arc<Vec<Problem>>>,
}

impl Live {
    /// # Errors
    /// See [`super::ProxyTokens::start`].
    pub(super) fn start(
        source: KeySource,
        revocations: Option<RevocationSource>,
        tasks: &Tasks,
    ) -> Result<Self, Vec<Problem>> {
        if let KeySource::Folder(folder) = &source {
            newest_or_create(folder)?;
        }
        let watch = FileWatch::new();
        source.watch(&watch);
        if let Some(RevocationSource::File(file)) = &revocations {
            watch.add(file);
        }
        // Before the files are read, so that no change is missed.
        let changes = watch.changes();
        let Look { keys, mut problems } = source.look(&Keys::default());
        // In the folder, one good key is enough; what is configured by name has to be there.
        if keys.is_empty() || (!problems.is_empty() && matches!(source, KeySource::Files(_))) {
            return Err(problems);
        }
        source.warn_of_readers();
        let mut reader = Reader::of(revocations);
        let nothing_yet = reader.nothing_yet();
        let (first, more) = reader.read(&nothing_yet);
        problems.extend(more);
        problems.iter().for_each(|problem| tracing::error!(method = METHOD, "{problem}"));
        let (publish_keys, keys) = watch::channel(Arc::new(keys));
        let (publish_revocations, revocations) = watch::channel(Arc::new(first));
        let (publish_problems, problems) = watch::channel(Arc::new(problems));
        let keeper = Keeper {
            source,
            reader,
            _watch: watch,
            changes,
            keys: publish_keys,
            revocations: publish_revocations,
            problems: publish_problems,
        };
        tasks.spawn_essential("proxy token keys and revocations", keeper.run());
        Ok(Self { keys, revocations, problems })
    }

    pub(super) fn keys(&self) -> Arc<Keys> {
        self.keys.borrow().clone()
    }

    pub(super) fn revocations(&self) -> Arc<Revocations> {
        self.revocations.borrow().clone()
    }

    pub(super) fn problems(&self) -> watch::Receiver<Arc<Vec<Problem>>> {
        self.problems.clone()
    }

    /// An item whenever keys or revocations are others, from now on.
    pub(super) fn changes(&self) -> BoxStream<'static, ()> {
        let (mut keys, mut revocations) = (self.keys.clone(), self.revocations.clone());
        keys.mark_unchanged();
        revocations.mark_unchanged();
        let keys = WatchStream::from_changes(keys).map(drop);
        stream::select(keys, WatchStream::from_changes(revocations).map(drop)).boxed()
    }
}

/// Where revocations are read.
#[derive(Debug)]
enum Reader {
    Nothing,
    File {
        file: PathBuf,
        settling: Settling,
    },
    Secret {
        name: String,
        secrets: watch::Receiver<Arc<KnownSecrets>>,
        /// There can be no others.
        closed: bool,
        /// By mesh.
        settling: BTreeMap<Arc<str>, Settling>,
    },
}

impl RevocationSource {
    /// What is wrong with the revocations, before any of them has been good.
    pub fn problems(self) -> Vec<Problem> {
        let mut reader = Reader::of(Some(self));
        let nothing_yet = reader.nothing_yet();
        reader.read(&nothing_yet).1
    }
}

impl Reader {
    fn of(source: Option<RevocationSource>) -> Self {
        match source {
            None => Self::Nothing,
            Some(RevocationSource::File(file)) => Self::File { file, settling: Settling::default() },
            Some(RevocationSource::Secret { name, secrets }) => {
                Self::Secret { name, secrets, closed: false, settling: BTreeMap::new() }
            }
        }
    }

    /// What is known before anything was read.
    fn nothing_yet(&self) -> Revocations {
        match self {
            Self::Nothing | Self::File { .. } => Revocations::Never,
            Self::Secret { .. } => Revocations::of_no_mesh_yet(),
        }
    }

    fn read(&mut self, last: &Revocations) -> (Revocations, Vec<Problem>) {
        match self {
            Self::Nothing => (Revocations::Never, Vec::new()),
            Self::File { file, settling } => {
                let content = regular_file::read(file).map_err(|error| format!("{}: {error}", file.display()));
                let (now, wrong) = last.after_file(content, settling, Instant::now());
                let hint =
                    "until it is mended, what it said last holds; if it said nothing yet, no proxy token is accepted";
                let told = |what: String| problem(file, format!("revocations: {what}"), Some(hint.to_owned()));
                (now, wrong.map(told).into_iter().collect())
            }
            Self::Secret { name, secrets, settling, .. } => {
                let (now, wrong) = last.after_secrets(name, &secrets.borrow_and_update(), settling, Instant::now());
                let told = |(mesh, what): (Arc<str>, String)| {
                    let resource = Some(format!("Secret {} of mesh {mesh}", name_for(name, &mesh)));
                    Problem {
                        at: Location { resource, ..Location::default() },
                        what: format!("revocations: {what}"),
                        hint: Some(
                            "until it is mended, what it said last holds; if it said nothing yet, no proxy token of that \
                             mesh is accepted"
                                .to_owned(),
                        ),
                    }
                };
                (now, wrong.into_iter().map(told).collect())
            }
        }
    }

    /// Waits until there is something else to read, or reason to read again, whether or not a file has changed.
    async fn changed(&mut self) {
        match self {
            Self::Nothing => std::future::pending().await,
            Self::File { settling, .. } => at(settling.look_again_at()).await,
            Self::Secret { secrets, closed, settling, .. } => {
                let look_again_at = settling.values().filter_map(Settling::look_again_at).min();
                tokio::select! {
                    () = at(look_again_at) => return,
                    changed = secrets.changed(), if !*closed => *closed = changed.is_err(),
                }
                if *closed {
                    at(look_again_at).await;
                }
            }
        }
    }
}

/// Returns then; never, if there is no such time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

#[derive(Debug)]
struct Keeper {
    source: KeySource,
    reader: Reader,
    /// Tells `changes`.
    _watch: FileWatch,
    changes: Changes,
    keys: watch::Sender<Arc<Keys>>,
    revocations: watch::Sender<Arc<Revocations>>,
    problems: watch::Sender<Arc<Vec<Problem>>>,
}

impl Keeper {
    async fn run(mut self) {
        loop {
            tokio::select! {
                () = self.changes.next() => {}
                () = self.reader.changed() => {}
            }
            self.look();
        }
    }

    fn look(&mut self) {
        let (keys, revocations) = (self.keys.borrow().clone(), self.revocations.borrow().clone());
        let Look { keys, mut problems } = self.source.look(&keys);
        let (revocations, more) = self.reader.read(&revocations);
        problems.extend(more);
        if publish::if_changed(&self.keys, keys) {
            let keys = self.keys.borrow().kids().collect::<Vec<_>>().join(", ");
            self.source.warn_of_readers();
            tracing::info!(keys, "the keys of proxy tokens have changed; streams of tokens whose key has gone end");
        }
        if publish::if_changed(&self.revocations, revocations) {
            tracing::info!("the revocations of proxy tokens have changed");
        }
        let last = self.problems.borrow().clone();
        for problem in problems.iter().filter(|problem| !last.contains(problem)) {
            tracing::error!(method = METHOD, "{problem}; the last good ones stay");
        }
        publish::if_changed(&self.problems, problems);
    }
}
