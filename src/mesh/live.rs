//! All resources, of files and of the cluster: compiled together, and anew whenever one of them changes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::cluster::{ClusterObjects, Listing, ObjectKind};
use super::compile::{Compiled, Source, compile};
use super::files::ResourceFiles;
use super::known_good::{KnownGood, KnownGoodFile};
use super::{Context, ReadFile};
use crate::document;
use crate::runtime::clock::Clock;
use crate::runtime::state_dir::StateDir;

/// The file in the state directory that says that the embedded default is served.
const SERVED_FILE: &str = "embedded-default";

/// How long the cluster has to list the kinds that are remembered, before what there is without them is known to be good: it
/// comes into force after as long. Streams are refused meanwhile, and no longer.
pub const LISTED_WITHIN: Duration = Duration::from_secs(10);

/// What is served if no resources are configured at all.
const EMBEDDED_DEFAULT: &str =
    "{type: Mesh, name: default, mtls: {enabledBackend: builtin, backends: [{name: builtin, type: builtin}]}}";

/// What decides whether resources are right, apart from the time; see [`Context`].
#[derive(Debug, Clone)]
pub struct Settings {
    /// Files and folders; folders are not searched deeper. With none at all, and no cluster that has meshes, there is the
    /// embedded default: the mesh `default` with a builtin CA; but see [`LiveResources::with_meshes_of_the_cluster`].
    pub paths: Vec<PathBuf>,
    /// See [`Context::kubernetes_available`].
    pub kubernetes_available: bool,
    /// See [`Context::system_namespace`].
    pub system_namespace: String,
    /// See [`Context::zone`].
    pub zone: String,
    /// See [`Context::read_file`].
    pub read_file: Option<ReadFile>,
    /// Where it is kept, in a cluster, that the embedded default is served: a restart does not take it away. `None` keeps
    /// nothing.
    pub state_dir: Option<StateDir>,
}

/// The kinds that the cluster has not listed yet, and that are all that it has not.
#[derive(Debug)]
struct Remembered {
    kinds: Vec<ObjectKind>,
    /// The end of the time that the cluster has to list another of them; `None` if it has passed.
    listed_until: Option<Instant>,
}

/// The resources of files and of the cluster.
#[derive(Debug)]
pub struct LiveResources {
    settings: Settings,
    clock: Clock,
    files: ResourceFiles,
    cluster: Option<watch::Receiver<Arc<ClusterObjects>>>,
    /// The objects that were compiled last.
    objects: Arc<ClusterObjects>,
    embedded_default: EmbeddedDefault,
    /// What was good when everything was known; until then, when the server ended.
    known: KnownGood,
    /// Whether everything has been listed once.
    has_begun: bool,
    /// Until then, if something is known of each kind.
    remembered: Option<Remembered>,
    /// Where that is kept for the next start.
    memory: Option<KnownGoodFile>,
}

impl LiveResources {
    /// The resources of files alone.
    pub fn of_files(settings: Settings, clock: Clock) -> Self {
        Self::new(settings, None, clock)
    }

    /// Begins to watch, and reads nothing yet.
    pub fn new(settings: Settings, cluster: Option<watch::Receiver<Arc<ClusterObjects>>>, clock: Clock) -> Self {
        let files = ResourceFiles::new(settings.paths.clone());
        let embedded_default = match (settings.paths.is_empty(), &cluster) {
            (false, _) => EmbeddedDefault::Off,
            (true, Some(_)) if served_file(&settings).is_some_and(|file| file.exists()) => EmbeddedDefault::On,
            (true, Some(_)) => EmbeddedDefault::Undecided { is_for_clusters: true },
            (true, None) => EmbeddedDefault::On,
        };
        let (objects, known) = (Arc::default(), KnownGood::default());
        let (has_begun, remembered, memory) = (false, None, None);
        Self { settings, clock, files, cluster, objects, embedded_default, known, has_begun, remembered, memory }
    }

    /// Meshes are to be objects of the cluster: one that does not know the kind gets nothing in their place, as each replica
    /// would make a CA of its own. A server that has served the embedded default there before goes on.
    #[must_use]
    pub fn with_meshes_of_the_cluster(mut self) -> Self {
        self.embedded_default = match (self.embedded_default, &self.cluster) {
            (EmbeddedDefault::Undecided { .. }, _) => EmbeddedDefault::Undecided { is_for_clusters: false },
            (EmbeddedDefault::On, None) => EmbeddedDefault::Off,
            (before, _) => before,
        };
        self
    }

    /// What was good when the server ended counts as if it had not, and what is good is kept for the next start.
    pub fn remembering(mut self, state_dir: &StateDir) -> Self {
        let memory = self.memory.insert(KnownGoodFile::in_folder(state_dir));
        self.known = memory.recall();
        self
    }

    /// Reads and compiles everything; what is broken is replaced by what was good the last time. It blocks on files.
    ///
    /// Before each kind of object has been listed, what is good is known to be so for this once: kinds are listed in any
    /// order, and which one comes first must not decide who holds a trust domain. So each of these views begins with what
    /// was known before, when the server ended, and nothing of it is kept. Unless the cluster leaves it at that: what is
    /// listed together with what is remembered is in force then, and is kept as if it were all.
    pub fn load(&mut self) -> Compiled {
        if let Some(cluster) = &mut self.cluster {
            self.objects = cluster.borrow_and_update().clone();
            let before = self.embedded_default;
            self.embedded_default = before.after(self.objects.of(ObjectKind::Mesh));
            if self.embedded_default != before {
                self.embedded_default.keep(&self.settings);
            }
        }
        let mut files = self.files.read();
        if self.embedded_default == EmbeddedDefault::On {
            let path = Arc::new("embedded default".into());
            files.push(Source { path, documents: document::parse(EMBEDDED_DEFAULT).map_err(|_errors| Vec::new()) });
        }
        let context = Context {
            kubernetes_available: self.settings.kubernetes_available,
            system_namespace: self.settings.system_namespace.clone(),
            zone: self.settings.zone.clone(),
            read_file: self.settings.read_file,
            now: self.clock.now(),
        };
        if self.cluster.is_some() {
            files.extend(unseen(&self.objects));
        }
        let is_to_be_kept = self.is_to_be_kept();
        let objects = self.objects.iter().map(|object| &object.source);
        let sources = files.iter().chain(objects);
        if !is_to_be_kept {
            return compile(sources, &context, &mut self.known.clone());
        }
        let compiled = compile(sources, &context, &mut self.known);
        self.known.begin();
        if let Some(memory) = &mut self.memory {
            memory.keep(&self.known);
        }
        compiled
    }

    /// Whether what is good now is known to be good from now on.
    fn is_to_be_kept(&mut self) -> bool {
        self.has_begun |= self.cluster.is_none() || self.objects.is_complete();
        if self.has_begun || !self.objects.is_known() {
            self.remembered = None;
            return self.has_begun;
        }
        let (kinds, now) = (self.objects.remembered(), Instant::now());
        let before = self.remembered.take().filter(|before| before.kinds == kinds);
        let listed_until = before.map_or(Some(now + LISTED_WITHIN), |before| before.listed_until);
        let listed_until = listed_until.filter(|until| now < *until);
        self.remembered = Some(Remembered { kinds, listed_until });
        listed_until.is_none()
    }

    /// What there is in place of meshes, if the cluster has none; as [`LiveResources::load`] found it the last time.
    pub fn without_meshes(&self) -> Option<WithoutMeshes> {
        let is_known = !matches!(self.objects.of(ObjectKind::Mesh), Listing::Unknown | Listing::Forbidden);
        match self.embedded_default {
            EmbeddedDefault::On if self.cluster.is_some() && is_known => Some(WithoutMeshes::EmbeddedDefault),
            EmbeddedDefault::Withheld => Some(WithoutMeshes::Nothing),
            _ => None,
        }
    }

    /// The objects that [`LiveResources::load`] took in the last time.
    pub fn objects(&self) -> &Arc<ClusterObjects> {
        &self.objects
    }

    /// Waits until it is time to load again: files may have changed, or objects have, or kinds that are remembered have not
    /// been listed in time. An object's status is no change.
    pub async fn changed(&mut self) {
        let Some(cluster) = &mut self.cluster else { return self.files.changed().await };
        let listed_until = self.remembered.as_ref().and_then(|remembered| remembered.listed_until);
        let is_left_at_that = async {
            match listed_until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let objects = async {
            // The watches live as long as the program.
            while cluster.changed().await.is_ok() {
                if !cluster.borrow_and_update().says_the_same(&self.objects) {
                    return;
                }
            }
            std::future::pending().await
        };
        // Whichever it is, everything is read.
        tokio::select! {
            () = self.files.changed() => {}
            () = objects => {}
            () = is_left_at_that => {}
        }
    }
}

/// The kinds whose objects cannot be seen: like a folder that cannot be read, any of those may be there that were.
fn unseen(objects: &ClusterObjects) -> impl Iterator<Item = Source> {
    let is_unseen = |kind: &ObjectKind| matches!(objects.of(*kind), Listing::Unknown | Listing::Forbidden);
    let kinds = ObjectKind::ALL.into_iter().filter(is_unseen);
    kinds.map(|kind| Source { path: Arc::new(kind.path()), documents: Err(Vec::new()) })
}

/// What there is in place of meshes where no files are named and the cluster has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WithoutMeshes {
    /// The embedded default, whose CA is this server's alone.
    EmbeddedDefault,
    /// Nothing: the cluster does not even know the kind, and meshes are to be its objects.
    Nothing,
}

/// Whether the embedded default is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EmbeddedDefault {
    /// It is not known whether the cluster has meshes.
    Undecided {
        /// Whether it is for a cluster, too, that does not know the kind.
        is_for_clusters: bool,
    },
    /// It would be, were it for clusters.
    Withheld,
    On,
    Off,
}

impl EmbeddedDefault {
    /// It stays on when the definition of Mesh is installed, until there is a first Mesh; and is not for a cluster that
    /// had the definition from the start.
    fn after(self, meshes: &Listing) -> Self {
        match (self, meshes) {
            (Self::Undecided { is_for_clusters: true }, Listing::NotInstalled) => Self::On,
            (Self::Undecided { is_for_clusters: false }, Listing::NotInstalled) => Self::Withheld,
            (Self::Undecided { .. } | Self::Withheld, Listing::Listed(_)) => Self::Off,
            (Self::On, Listing::Listed(meshes) | Listing::Remembered(meshes)) if !meshes.is_empty() => Self::Off,
            (before, _) => before,
        }
    }

    /// Keeps it for the next start.
    fn keep(self, settings: &Settings) {
        let (Some(state_dir), Some(file)) = (&settings.state_dir, served_file(settings)) else { return };
        let what = "that the embedded default is served";
        match self {
            Self::On => state_dir.write(&file, what, b""),
            Self::Undecided { .. } | Self::Withheld | Self::Off => state_dir.remove(&file, what),
        };
    }
}

fn served_file(settings: &Settings) -> Option<PathBuf> {
    Some(settings.state_dir.as_ref()?.path().join(SERVED_FILE))
}

#[cfg(test)]
#[path = "live_tests.rs"]
mod tests;
