//! The trust store: hears the sources, publishes each mesh's bundle.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::{mpsc, watch};

use super::domains::TrustDomains;
use super::learned::LearnedStore;
use super::per_mesh::PerMesh;
use super::record::Record;
use super::state::{Answer, SourceKey, Trouble, TrustState};
use crate::model::bundle::{Bundle, TrustSet};
use crate::model::bundle_set::BundleSet;
use crate::model::policy::{Backend, BackendKind, CaSource, MeshPolicy, PolicySet};
use crate::model::roots::{RootNews, RootSink, root_issuer};
use crate::model::secrets::{KnownSecrets, SecretLookup};
use crate::runtime::clock::Clock;
use crate::runtime::file_watch::{FileWatch, Held};
use crate::runtime::publish;
use crate::runtime::regular_file;
use crate::runtime::state_dir::StateDir;
use crate::runtime::tasks::Tasks;

/// How long the resources have to be complete before what they do not list counts as gone.
const CERTAIN: SignedDuration = SignedDuration::from_secs(30);

/// What the store hears.
#[derive(Debug)]
pub struct Sources {
    /// The meshes, as they are wanted now.
    pub policies: watch::Receiver<Arc<PolicySet>>,
    /// Mesh Secrets.
    pub secrets: watch::Receiver<Arc<KnownSecrets>>,
    /// Whether `policies` is all there is, but for what it says itself may be hidden by something that is broken
    /// ([`Unserved`](crate::model::unserved::Unserved)): every place that has resources has been listed. While it is not, a mesh
    /// that is not among them may exist all the same.
    pub complete: watch::Receiver<bool>,
    /// Where roots that issuers named are kept.
    pub state_dir: StateDir,
}

/// Publishes each mesh's trust bundle. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TrustStore {
    published: watch::Receiver<Arc<TrustSet>>,
    troubles: watch::Receiver<Arc<Troubles>>,
    meshes: PerMesh<Bundle>,
    domains: TrustDomains,
    /// No more is in it than there are signings in flight, which wait for what they told to be served, and backends.
    news: mpsc::UnboundedSender<News>,
    state_dir: StateDir,
}

/// A mesh, its backend as the policy had it when it was asked, and what it has to say.
type News = (Arc<str>, Arc<Backend>, RootNews);

/// The sources that are in trouble.
pub type Troubles = BTreeMap<SourceKey, Trouble>;

impl TrustStore {
    /// Starts it.
    pub fn start(sources: Sources, clock: Clock, tasks: &Tasks) -> Self {
        let (store, worker, inbox) = Self::new(sources, clock);
        tasks.spawn_essential("trust store", worker.run(inbox));
        store
    }

    /// With what it takes to run it.
    fn new(sources: Sources, clock: Clock) -> (Self, Worker, mpsc::UnboundedReceiver<News>) {
        let (publish, published) = watch::channel(Arc::default());
        let (tell_troubles, troubles) = watch::channel(Arc::default());
        let (news, inbox) = mpsc::unbounded_channel();
        let domains = TrustDomains {
            meshes: PerMesh::default(),
            published: published.clone(),
            policies: sources.policies.clone(),
        };
        let state_dir = sources.state_dir.clone();
        let store = Self { published, troubles, meshes: PerMesh::default(), domains, news, state_dir };
        let record = Record::read(&sources.state_dir, clock.now());
        let worker = Worker {
            state: TrustState::new(record.kept()),
            record,
            learned: LearnedStore::new(&sources.state_dir),
            told: BTreeMap::new(),
            to_keep: BTreeSet::new(),
            complete_since: None,
            swept: None,
            files: FileWatch::new(),
            watched: None,
            sources,
            clock,
            publish,
            tell_troubles,
            meshes: store.meshes.clone(),
            domains: store.domains.meshes.clone(),
        };
        (store, worker, inbox)
    }

    /// All bundles, together.
    pub fn all(&self) -> watch::Receiver<Arc<TrustSet>> {
        self.published.clone()
    }

    /// One mesh's bundle; changes of other meshes do not wake it.
    pub fn of(&self, mesh: &str) -> watch::Receiver<Option<Arc<Bundle>>> {
        self.meshes.of(mesh, || self.published.borrow().meshes.get(mesh).cloned())
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
    fn publish(&self, mesh: &Arc<str>, backend: &Arc<Backend>, news: RootNews) {
        // The worker is gone only when the program is.
        let _ = self.news.send((mesh.clone(), backend.clone(), news));
    }

    fn has_learned(&self, mesh: &Arc<str>, backend: &Backend) -> bool {
        let key = (mesh.clone(), backend.name.clone());
        root_issuer(&backend.kind).is_some_and(|issuer| LearnedStore::has_kept(&self.state_dir, &key, &issuer))
    }
}

struct Worker {
    state: TrustState,
    record: Record,
    learned: LearnedStore,
    /// What backends last said of their own CA, and which kind of backend each was.
    told: BTreeMap<SourceKey, (BackendKind, Answer)>,
    /// Whose learned roots have changed.
    to_keep: BTreeSet<SourceKey>,
    /// Since when the policies have been all there is.
    complete_since: Option<Timestamp>,
    /// What no backend needs any more has been removed from the state directory, but for that of these meshes.
    swept: Option<BTreeSet<Arc<str>>>,
    files: FileWatch,
    /// The files that the meshes name.
    watched: Option<Held>,
    sources: Sources,
    clock: Clock,
    publish: watch::Sender<Arc<TrustSet>>,
    tell_troubles: watch::Sender<Arc<Troubles>>,
    meshes: PerMesh<Bundle>,
    domains: PerMesh<BundleSet>,
}

impl Worker {
    async fn run(mut self, mut news: mpsc::UnboundedReceiver<News>) {
        let mut changes = self.files.changes();
        loop {
            self.look();
            let again = self.state.look_again_at().map(|at| at.duration_since(self.clock.now()));
            let again = again.map(|wait| wait.max(SignedDuration::ZERO).unsigned_abs());
            let go_on = tokio::select! {
                changed = self.sources.policies.changed() => changed.is_ok(),
                changed = self.sources.secrets.changed() => changed.is_ok(),
                changed = self.sources.complete.changed(), if self.swept.is_none() => changed.is_ok(),
                // Also once a minute, which is when roots that nobody needs any more are dropped.
                () = changes.next() => true,
                () = tokio::time::sleep(again.unwrap_or_default()), if again.is_some() => true,
                told = news.recv() => match told {
                    Some((mesh, backend, told)) => { self.hear(mesh, &backend, told); true }
                    None => false,
                },
            };
            if !go_on {
                return;
            }
            while let Ok((mesh, backend, told)) = news.try_recv() {
                self.hear(mesh, &backend, told);
            }
            // Once for all that was heard: a file is written, and flushed.
            let Self { to_keep, learned, .. } = &mut self;
            to_keep.retain(|key| !learned.keep(key));
        }
    }

    /// A backend speaks of its own CA. A signing may outlive its mesh, and the policy that it was begun under: what it says
    /// then is not for the next of that name.
    fn hear(&mut self, mesh: Arc<str>, backend: &Backend, news: RootNews) {
        let policy = self.sources.policies.borrow().meshes.get(&mesh).cloned();
        let listed = policy.as_ref().and_then(|policy| policy.backend(&backend.name));
        if listed.is_none_or(|listed| listed.kind != backend.kind) {
            return;
        }
        let key = (mesh, backend.name.clone());
        let answer = match news {
            RootNews::Own(root) => match Bundle::from_certificates([root]) {
                Ok(bundle) => Answer::Good(Arc::new(bundle)),
                Err(error) => Answer::Bad(error.to_string()),
            },
            RootNews::Learned { root, needed_until } => {
                let Some(issuer) = root_issuer(&backend.kind) else { return };
                // Another replica may have issued under the root before until a moment ago.
                let others_until = self.clock.now().saturating_add(backend.longest_leaf()).unwrap_or(Timestamp::MAX);
                let roots = self.learned.roots(&key);
                let has_replaced = roots.keep_replaced(&root, others_until);
                let observed = roots.observe(&root, needed_until, &issuer);
                if has_replaced || observed == Ok(true) {
                    self.to_keep.insert(key.clone());
                }
                match observed {
                    Err(too_many) => Answer::Bad(too_many.to_string()),
                    Ok(_) => {
                        // What is learned is asked of `learned` each time, since it ends with time.
                        self.told.remove(&key);
                        return;
                    }
                }
            }
            RootNews::Missing(reason) => Answer::Bad(reason),
        };
        self.told.insert(key, (backend.kind.clone(), answer));
    }

    /// Asks every source, and publishes what has changed.
    fn look(&mut self) {
        let policies = self.sources.policies.borrow_and_update().clone();
        self.sources.secrets.borrow_and_update();
        for gone in self.state.set_policies(policies.clone()) {
            self.learned.forget(&gone);
            self.to_keep.remove(&gone);
        }
        // What is no longer listed, or is another backend now, has said nothing.
        self.told.retain(|(mesh, backend), (kind, _)| {
            let listed = policies.meshes.get(mesh).and_then(|policy| policy.backend(backend));
            listed.is_some_and(|listed| listed.kind == *kind)
        });
        self.sweep(&policies);
        // Before they are read, so that no change is missed; what no mesh names any more is let go of then.
        self.watched = Some(self.files.hold(files_of(&policies)));
        for (mesh, policy) in &policies.meshes {
            for backend in &policy.backends {
                let key = (mesh.clone(), backend.name.clone());
                let answer = match &backend.kind {
                    BackendKind::Builtin(_) => self.own(&key),
                    BackendKind::CertManager { trust: CaSource::Issuer, .. } | BackendKind::Provided(_) => {
                        self.named_by_issuer(&key, &backend.kind)
                    }
                    BackendKind::CertManager { trust: CaSource::Inline(bundle), .. } => self.inline(bundle),
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
        // First, as these take up what is remembered.
        self.publish_bundles();
        publish::if_changed(&self.tell_troubles, self.state.troubles());
    }

    /// Removes what is kept of backends that no policy lists, once it is certain that none does. (What tells that the
    /// resources are complete, and they themselves, come by different ways; and there is no hurry.) Of a mesh that may have more
    /// than can be read of it nothing is removed; what is broken elsewhere is no reason to keep anything.
    fn sweep(&mut self, policies: &PolicySet) {
        let now = self.clock.now();
        self.complete_since =
            if *self.sources.complete.borrow_and_update() { self.complete_since.or(Some(now)) } else { None };
        let certain = self.complete_since.is_some_and(|since| now.duration_since(since) >= CERTAIN);
        let Some(incomplete) = policies.unserved.incomplete().filter(|_| certain) else { return };
        if self.swept.as_ref() == Some(&incomplete) {
            return;
        }
        let of = |(mesh, policy): (&Arc<str>, &Arc<MeshPolicy>)| {
            let names = policy.backends.iter().filter(|backend| backend.kind.takes_trust_from_issuer());
            names.map(|backend| (mesh.clone(), backend.name.clone())).collect::<Vec<_>>()
        };
        let listed: Vec<SourceKey> = policies.meshes.iter().flat_map(of).collect();
        self.learned.forget_others(listed.iter(), &incomplete);
        self.state.forget_others(&incomplete);
        self.swept = Some(incomplete);
    }

    fn told(&self, key: &SourceKey) -> Option<&Answer> {
        self.told.get(key).map(|(_, answer)| answer)
    }

    fn own(&self, key: &SourceKey) -> Answer {
        self.told(key).cloned().unwrap_or(Answer::Awaited("the CA is being loaded"))
    }

    fn named_by_issuer(&mut self, key: &SourceKey, kind: &BackendKind) -> Answer {
        let now = self.clock.now();
        if let Some(issuer) = root_issuer(kind)
            && self.learned.roots(key).prune(now, &issuer)
        {
            self.to_keep.insert(key.clone());
        }
        match (self.learned.roots(key).bundle(), self.told(key).cloned()) {
            // The issuer does not answer at the moment, but what it said before holds.
            (Some(bundle), Some(Answer::Bad(trouble))) => Answer::Doubtful(Arc::new(bundle), trouble),
            (Some(bundle), _) => Answer::Good(Arc::new(bundle)),
            (None, Some(trouble)) => trouble,
            (None, None) => Answer::Awaited("the issuer has not named its CA yet (status.ca of a first request)"),
        }
    }

    /// It was checked with its resource, but time goes by.
    fn inline(&self, bundle: &Arc<Bundle>) -> Answer {
        match bundle.valid_at(self.clock.now()) {
            Ok(()) => Answer::Good(bundle.clone()),
            Err(error) => Answer::Bad(format!("the caCert in the resource: {error}")),
        }
    }

    fn file(&self, path: &Path) -> Answer {
        match regular_file::read(path) {
            Ok(pem) => self.parse(&pem, &format!("file {}", path.display())),
            Err(error) => Answer::Bad(format!("file {}: {error}", path.display())),
        }
    }

    fn secret(&self, mesh: &Arc<str>, name: &Arc<str>) -> Answer {
        let source = format!("mesh Secret {name:?}");
        match self.sources.secrets.borrow().find(mesh, name) {
            SecretLookup::Found(value) => self.parse(value.expose(), &source),
            SecretLookup::Unreadable(why) => Answer::Bad(format!("{source} cannot be read: {why}")),
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
        self.record.keep(self.state.to_keep());
        if !publish::if_changed(&self.publish, bundles) {
            return;
        }
        let bundles = self.publish.borrow().clone();
        for (mesh, bundle) in self.meshes.publish(&bundles.meshes) {
            let cas: Vec<&str> = bundle.certificates().iter().map(|ca| ca.subject()).collect();
            tracing::info!(%mesh, digest = bundle.digest(), ?cas, "the trust bundle is");
        }
        self.domains.publish(&bundles.domains);
    }
}

/// The files in which the CAs of these meshes are.
fn files_of(policies: &PolicySet) -> impl Iterator<Item = &Path> {
    let backends = policies.meshes.values().flat_map(|policy| &policy.backends);
    backends.filter_map(|backend| match &backend.kind {
        BackendKind::CertManager { trust: CaSource::File(path), .. } => Some(path.as_path()),
        _ => None,
    })
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
