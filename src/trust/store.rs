//! The trust store: hears the sources, publishes each mesh's bundle.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use dashmap::DashMap;
use tokio::sync::{mpsc, watch};

use super::domains::{PublishDomains, TrustDomains};
use super::learned::LearnedStore;
use super::state::{Answer, SourceKey, Trouble, TrustState};
use crate::model::bundle::{Bundle, TrustSet};
use crate::model::policy::{BackendKind, CaSource, PolicySet};
use crate::model::roots::{RootNews, RootSink};
use crate::model::secrets::{KnownSecrets, SecretLookup};
use crate::runtime::clock::Clock;
use crate::runtime::file_watch::FileWatch;
use crate::runtime::tasks::Tasks;

/// What the store hears.
#[derive(Debug)]
pub struct Sources {
    /// The meshes, as they are wanted now.
    pub policies: watch::Receiver<Arc<PolicySet>>,
    /// Mesh Secrets.
    pub secrets: watch::Receiver<Arc<KnownSecrets>>,
    /// Where roots that issuers named are kept.
    pub state_dir: PathBuf,
}

/// Publishes each mesh's trust bundle. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TrustStore {
    published: watch::Receiver<Arc<TrustSet>>,
    troubles: watch::Receiver<Arc<Troubles>>,
    meshes: MeshBundles,
    domains: TrustDomains,
    /// No more is in it than there are signings in flight, which wait for what they told to be served, and backends.
    news: mpsc::UnboundedSender<(SourceKey, RootNews)>,
    state_dir: Arc<std::path::Path>,
}

/// Each mesh's bundle, for those who watch one mesh: what is published of it now, and `None` for one that is not there.
type MeshBundles = Arc<DashMap<Arc<str>, watch::Sender<Option<Arc<Bundle>>>>>;

/// The sources that are in trouble.
pub type Troubles = BTreeMap<SourceKey, Trouble>;

impl TrustStore {
    /// Starts it.
    pub fn start(sources: Sources, clock: Clock, tasks: &Tasks) -> Self {
        let (publish, published) = watch::channel(Arc::default());
        let (tell_troubles, troubles) = watch::channel(Arc::default());
        let (news, inbox) = mpsc::unbounded_channel();
        let (domains, publish_domains) = TrustDomains::new(sources.policies.clone());
        let state_dir = sources.state_dir.as_path().into();
        let store = Self { published, troubles, meshes: Arc::default(), domains, news, state_dir };
        let worker = Worker {
            state: TrustState::default(),
            learned: LearnedStore::new(&sources.state_dir),
            told: BTreeMap::new(),
            to_keep: BTreeSet::new(),
            files: FileWatch::new(),
            sources,
            clock,
            publish,
            tell_troubles,
            meshes: store.meshes.clone(),
            publish_domains,
        };
        tasks.spawn_essential("trust store", worker.run(inbox));
        store
    }

    /// All bundles, together.
    pub fn all(&self) -> watch::Receiver<Arc<TrustSet>> {
        self.published.clone()
    }

    /// One mesh's bundle; changes of other meshes do not wake it.
    pub fn of(&self, mesh: &str) -> watch::Receiver<Option<Arc<Bundle>>> {
        if let Some(sender) = self.meshes.get(mesh) {
            return sender.subscribe();
        }
        // Published between these lines, the bundle is in the entry's initial value or sent to the entry.
        let entry = self.meshes.entry(mesh.into());
        entry.or_insert_with(|| watch::channel(self.published.borrow().meshes.get(mesh).cloned()).0).subscribe()
    }

    /// Every trust domain's bundle.
    pub fn domains(&self) -> &TrustDomains {
        &self.domains
    }

    /// The sources that are in trouble now.
    pub fn troubles(&self) -> watch::Receiver<Arc<Troubles>> {
        self.troubles.clone()
    }
}

impl RootSink for TrustStore {
    fn publish(&self, mesh: &Arc<str>, backend: &Arc<str>, news: RootNews) {
        // The worker is gone only when the program is.
        let _ = self.news.send(((mesh.clone(), backend.clone()), news));
    }

    fn has_learned(&self, mesh: &Arc<str>, backend: &Arc<str>) -> bool {
        LearnedStore::has_kept(&self.state_dir, &(mesh.clone(), backend.clone()))
    }
}

struct Worker {
    state: TrustState,
    learned: LearnedStore,
    /// What backends last said of their own CA.
    told: BTreeMap<SourceKey, Answer>,
    /// Whose learned roots have changed.
    to_keep: BTreeSet<SourceKey>,
    files: FileWatch,
    sources: Sources,
    clock: Clock,
    publish: watch::Sender<Arc<TrustSet>>,
    tell_troubles: watch::Sender<Arc<Troubles>>,
    meshes: MeshBundles,
    publish_domains: PublishDomains,
}

impl Worker {
    async fn run(mut self, mut news: mpsc::UnboundedReceiver<(SourceKey, RootNews)>) {
        let mut changes = self.files.changes();
        loop {
            self.look();
            let go_on = tokio::select! {
                changed = self.sources.policies.changed() => changed.is_ok(),
                changed = self.sources.secrets.changed() => changed.is_ok(),
                // Also once a minute, which is when roots that nobody needs any more are dropped.
                () = changes.next() => true,
                told = news.recv() => match told {
                    Some((key, told)) => { self.hear(key, told); true }
                    None => false,
                },
            };
            if !go_on {
                return;
            }
            while let Ok((key, told)) = news.try_recv() {
                self.hear(key, told);
            }
            // Once for all that was heard: a file is written, and flushed.
            for key in std::mem::take(&mut self.to_keep) {
                self.learned.keep(&key);
            }
        }
    }

    /// A backend speaks of its own CA. A signing may outlive its mesh: what it says then is not for the next of that name.
    fn hear(&mut self, key: SourceKey, news: RootNews) {
        let (mesh, backend) = &key;
        let policy = self.sources.policies.borrow().meshes.get(mesh).cloned();
        if !policy.is_some_and(|policy| policy.backends.iter().any(|listed| listed.name == *backend)) {
            return;
        }
        let answer = match news {
            RootNews::Own(root) => match Bundle::from_certificates([root]) {
                Ok(bundle) => Answer::Good(Arc::new(bundle)),
                Err(error) => Answer::Bad(error.to_string()),
            },
            RootNews::Learned { root, needed_until } => {
                if self.learned.roots(&key).observe(&root, needed_until) {
                    self.to_keep.insert(key.clone());
                }
                // What is learned is asked of `learned` each time, since it ends with time.
                self.told.remove(&key);
                return;
            }
            RootNews::Missing(reason) => Answer::Bad(reason),
        };
        self.told.insert(key, answer);
    }

    /// Asks every source, and publishes what has changed.
    fn look(&mut self) {
        let policies = self.sources.policies.borrow_and_update().clone();
        self.sources.secrets.borrow_and_update();
        for gone in self.state.set_policies(policies.clone()) {
            self.learned.forget(&gone);
            self.to_keep.remove(&gone);
        }
        // What is no longer listed, or is another kind of backend now, has said nothing.
        self.told.retain(|(mesh, backend), answer| {
            let listed =
                policies.meshes.get(mesh).and_then(|policy| policy.backends.iter().find(|b| b.name == *backend));
            listed.is_some_and(|backend| {
                matches!(backend.kind, BackendKind::Builtin(_)) || matches!(answer, Answer::Bad(_))
            })
        });
        for (mesh, policy) in &policies.meshes {
            for backend in &policy.backends {
                let key = (mesh.clone(), backend.name.clone());
                let answer = match &backend.kind {
                    BackendKind::Builtin(_) => self.own(&key),
                    BackendKind::CertManager { trust: CaSource::Issuer, .. } | BackendKind::Provided(_) => {
                        self.named_by_issuer(&key)
                    }
                    BackendKind::CertManager { trust: CaSource::Inline(bundle), .. } => Answer::Good(bundle.clone()),
                    BackendKind::CertManager { trust: CaSource::File(path), .. } => self.file(path),
                    BackendKind::CertManager { trust: CaSource::Secret(name), .. } => self.secret(mesh, name),
                    BackendKind::NotInProgram(name) => {
                        Answer::Bad(format!("the CA of a backend of type {name} is not known to this program"))
                    }
                };
                if let Some(Trouble { reason, has_last_good }) = self.state.hear(&key, answer) {
                    tracing::warn!(%mesh, backend = %backend.name, reason, keeps_last_good = has_last_good, "a trust source cannot be used");
                }
            }
        }
        let troubles = self.state.troubles();
        self.tell_troubles.send_if_modified(|told| {
            let changed = **told != troubles;
            *told = Arc::new(troubles);
            changed
        });
        self.publish_bundles();
    }

    fn own(&self, key: &SourceKey) -> Answer {
        self.told.get(key).cloned().unwrap_or(Answer::Awaited("the CA is being loaded"))
    }

    fn named_by_issuer(&mut self, key: &SourceKey) -> Answer {
        let now = self.clock.now();
        if self.learned.roots(key).prune(now) {
            self.learned.keep(key);
        }
        match (self.learned.roots(key).bundle(), self.told.get(key)) {
            // The issuer does not answer at the moment, but what it said before holds.
            (Some(bundle), Some(Answer::Bad(trouble))) => Answer::Doubtful(Arc::new(bundle), trouble.clone()),
            (Some(bundle), _) => Answer::Good(Arc::new(bundle)),
            (None, Some(trouble)) => trouble.clone(),
            (None, None) => Answer::Awaited("the issuer has not named its CA yet (status.ca of a first request)"),
        }
    }

    fn file(&self, path: &std::path::Path) -> Answer {
        self.files.add(path);
        match read_regular(path) {
            Ok(pem) => self.parse(&pem, &format!("file {}", path.display())),
            Err(error) => Answer::Bad(format!("file {}: {error}", path.display())),
        }
    }

    fn secret(&self, mesh: &Arc<str>, name: &Arc<str>) -> Answer {
        let source = format!("mesh Secret {name:?}");
        match self.sources.secrets.borrow().find(mesh, name) {
            SecretLookup::Found(value) => self.parse(value.expose(), &source),
            SecretLookup::Pending => Answer::Awaited("the mesh Secrets of the cluster are not listed yet"),
            SecretLookup::NotInFiles => Answer::Bad(format!("{source} is in no resource file of mesh {mesh:?}")),
            SecretLookup::Absent => Answer::Bad(format!(
                "{source} is neither in a resource file nor in the cluster: it has to be of type \
                 system.kuma.io/secret, in the system namespace, with label kuma.io/mesh: {mesh}"
            )),
        }
    }

    fn parse(&self, pem: &[u8], source: &str) -> Answer {
        match Bundle::from_pem(pem, self.clock.now()) {
            Ok(parsed) => Answer::Good(Arc::new(parsed.bundle)),
            Err(error) => Answer::Bad(format!("{source}: {error}")),
        }
    }

    fn publish_bundles(&mut self) {
        let bundles = self.state.bundles(self.clock.now());
        let changed = self.publish.send_if_modified(|published| {
            let changed = **published != bundles;
            if changed {
                *published = Arc::new(bundles.clone());
            }
            changed
        });
        if !changed {
            return;
        }
        for (mesh, bundle) in &bundles.meshes {
            let sender = self.meshes.entry(mesh.clone()).or_insert_with(|| watch::channel(None).0);
            let changed = sender.send_if_modified(|current| {
                let changed = current.as_deref() != Some(bundle);
                if changed {
                    *current = Some(bundle.clone());
                }
                changed
            });
            if changed {
                let cas: Vec<&str> = bundle.certificates().iter().map(|ca| ca.subject()).collect();
                tracing::info!(%mesh, digest = bundle.digest(), ?cas, "the trust bundle is");
            }
        }
        // Who watches a mesh that is gone keeps what it was given; whoever asks for a mesh of that name later must not be given
        // the CAs of this one.
        self.meshes.retain(|mesh, sender| {
            let is_there = bundles.meshes.contains_key(mesh);
            if !is_there {
                sender.send_if_modified(|current| current.take().is_some());
            }
            is_there || sender.receiver_count() > 0
        });
        self.publish_domains.publish(&bundles);
    }
}

/// Reads a file, but not a pipe: that would wait for a writer.
fn read_regular(path: &std::path::Path) -> std::io::Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("is not a regular file"));
    }
    std::fs::read(path)
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
