//! Meshes that come and go, and what those who watch them are given.

use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::model::policy::{Backend, IssuerRef, MeshPolicy};
use crate::model::secrets::{MeshSecrets, SecretBytes};
use crate::testing::certs::{TestCa, timestamp};

struct Rig {
    store: TrustStore,
    policies: watch::Sender<Arc<PolicySet>>,
    secrets: watch::Sender<Arc<KnownSecrets>>,
    state_dir: tempfile::TempDir,
    _complete: watch::Sender<bool>,
    _tasks: Tasks,
}

/// Meshes, and where the CA of the one backend of each comes from.
fn policies(meshes: &[(&str, CaSource)]) -> Arc<PolicySet> {
    let mesh = |(name, trust): &(&str, CaSource)| {
        let issuer = IssuerRef { name: "ca".into(), kind: "Issuer".into(), group: "cert-manager.io".into() };
        let backend = Backend {
            name: "ca".into(),
            leaf_lifetime: None,
            request_timeout: Duration::from_secs(10),
            trust_domain: (*name).into(),
            kind: BackendKind::CertManager { issuer, trust: trust.clone() },
        };
        let name: Arc<str> = (*name).into();
        let backends = vec![Arc::new(backend)];
        (name.clone(), Arc::new(MeshPolicy::classic(name, "ca".into(), backends)))
    };
    Arc::new(PolicySet { meshes: meshes.iter().map(mesh).collect(), ..PolicySet::default() })
}

fn secret(mesh: &str, name: &str, ca: &TestCa) -> ((Arc<str>, Arc<str>), SecretBytes) {
    ((mesh.into(), name.into()), SecretBytes::new(ca.certificate().pem().into_bytes()))
}

fn in_files(secrets: MeshSecrets) -> Arc<KnownSecrets> {
    Arc::new(KnownSecrets { files: Arc::new(secrets), ..KnownSecrets::default() })
}

fn from_secret(name: &str) -> CaSource {
    CaSource::Secret(name.into())
}

impl Rig {
    fn start(meshes: Arc<PolicySet>, secrets: MeshSecrets) -> Self {
        let (policies, policies_rx) = watch::channel(meshes);
        let (secrets, secrets_rx) = watch::channel(in_files(secrets));
        let state_dir = tempfile::tempdir().unwrap();
        let (tasks, _) = Tasks::new();
        let (complete, complete_rx) = watch::channel(true);
        let sources = Sources {
            policies: policies_rx,
            secrets: secrets_rx,
            complete: complete_rx,
            state_dir: StateDir::new(state_dir.path()),
        };
        let store = TrustStore::start(sources, Clock::simulated(timestamp(1_800_000_000)), &tasks);
        Self { store, policies, secrets, state_dir, _complete: complete, _tasks: tasks }
    }

    /// Lets the store do all that is to be done now.
    async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    /// The trust domains that proxies of `mesh` know.
    fn domains(&self, mesh: &str) -> Vec<String> {
        let known = self.store.domains().watch(mesh);
        let known = known.borrow();
        known.iter().flat_map(|set| set.iter()).map(|(name, _)| name.to_owned()).collect()
    }
}

fn cas(bundle: &watch::Receiver<Option<Arc<Bundle>>>) -> Vec<String> {
    let bundle = bundle.borrow();
    bundle.iter().flat_map(|bundle| bundle.certificates()).map(|ca| ca.subject().to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_mesh_that_takes_the_name_of_another_is_never_given_its_cas() {
    let (old, new) = (TestCa::root("Old"), TestCa::root("New"));
    let other = || ("other", from_secret("x"));
    let secrets = [secret("default", "old", &old), secret("other", "x", &TestCa::root("X"))];
    let rig =
        Rig::start(policies(&[("default", from_secret("old")), other()]), MeshSecrets::from_iter(secrets.clone()));
    let mut stays = rig.store.of("default");
    rig.settle().await;
    assert_eq!((cas(&stays), cas(&rig.store.of("default"))), (vec!["CN=Old".to_owned()], vec!["CN=Old".to_owned()]));

    rig.policies.send_replace(policies(&[other()]));
    rig.settle().await;
    stays.mark_unchanged();
    assert_eq!(cas(&stays), [""; 0], "a feed takes this for silence: a proxy keeps what it was sent");
    assert_eq!(cas(&rig.store.of("default")), [""; 0]);
    assert_eq!(rig.domains("other"), ["other"]);

    // Its Secret is not there yet.
    rig.policies.send_replace(policies(&[("default", from_secret("new")), other()]));
    rig.settle().await;
    assert_eq!(cas(&rig.store.of("default")), [""; 0]);
    assert!(!stays.has_changed().unwrap());
    assert_eq!(rig.domains("other"), ["other"]);
    assert!(!rig.store.all().borrow().meshes.contains_key("default"));

    let secrets = secrets.into_iter().chain([secret("default", "new", &new)]);
    rig.secrets.send_replace(in_files(secrets.collect()));
    rig.settle().await;
    assert_eq!((cas(&stays), cas(&rig.store.of("default"))), (vec!["CN=New".to_owned()], vec!["CN=New".to_owned()]));
    assert_eq!(rig.domains("other"), ["default", "other"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_of_a_mesh_that_is_gone_and_that_nobody_watches() {
    let secrets = MeshSecrets::from_iter([secret("default", "root", &TestCa::root("Root"))]);
    let rig = Rig::start(policies(&[("default", from_secret("root"))]), secrets);
    let watched = rig.store.of("nowhere");
    drop(rig.store.of("elsewhere"));
    rig.settle().await;
    let kept = || rig.store.meshes.names();
    assert_eq!(kept(), ["default", "nowhere"]);
    drop(watched);
    rig.policies.send_replace(Arc::default());
    rig.settle().await;
    assert_eq!(kept(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_mesh_is_served_after_a_restart_with_what_it_was_served_with_before() {
    let secrets = [secret("default", "root", &TestCa::root("Root")), secret("gone", "root", &TestCa::root("Gone"))];
    let both = policies(&[("default", from_secret("root")), ("gone", from_secret("root"))]);
    let rig = Rig::start(both.clone(), MeshSecrets::from_iter(secrets));
    rig.settle().await;
    assert_eq!(cas(&rig.store.of("default")), ["CN=Root"]);

    // Its Secret cannot be read.
    let started = |meshes: Arc<PolicySet>, now: i64| {
        let (policies, policies_rx) = watch::channel(meshes);
        let (secrets, secrets_rx) = watch::channel(in_files(MeshSecrets::default()));
        let (complete, complete_rx) = watch::channel(true);
        let state_dir = StateDir::new(rig.state_dir.path());
        let sources = Sources { policies: policies_rx, secrets: secrets_rx, complete: complete_rx, state_dir };
        let (tasks, deaths) = Tasks::new();
        let store = TrustStore::start(sources, Clock::simulated(timestamp(now)), &tasks);
        (store, (policies, secrets, complete, tasks, deaths))
    };
    let (store, _open) = started(policies(&[("default", from_secret("root"))]), 1_800_000_000);
    tokio::time::sleep(Duration::from_secs(150)).await;
    assert_eq!(cas(&store.of("default")), ["CN=Root"]);
    assert!(!store.all().borrow().known.contains(&("default".into(), "ca".into())));

    let (store, _open) = started(both, 1_800_000_000);
    rig.settle().await;
    assert_eq!((cas(&store.of("default")), cas(&store.of("gone"))), (vec!["CN=Root".to_owned()], vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_bad_keeps_a_mesh_that_starts_waiting_for_some_seconds_only() {
    let mut all = PolicySet::clone(&policies(&[("default", from_secret("root"))]));
    let mut policy = MeshPolicy::clone(&all.meshes["default"]);
    let mut bad = Backend::clone(&policy.backends[0]);
    bad.name = "bad".into();
    let BackendKind::CertManager { trust, .. } = &mut bad.kind else { unreachable!() };
    *trust = from_secret("none");
    policy.backends.push(Arc::new(bad));
    all.meshes.insert("default".into(), Arc::new(policy));
    let secrets = MeshSecrets::from_iter([secret("default", "root", &TestCa::root("Root"))]);
    let rig = Rig::start(Arc::new(all), secrets);
    let mut trusted = rig.store.of("default");
    rig.settle().await;
    assert_eq!(cas(&trusted), [""; 0]);
    let began = tokio::time::Instant::now();
    trusted.wait_for(Option::is_some).await.unwrap();
    assert!(began.elapsed() <= Duration::from_secs(11), "{:?}", began.elapsed());
    assert_eq!(cas(&trusted), ["CN=Root"]);
}

/// As it does when a Mesh is read that lists it, or when the day comes.
#[tokio::test(start_paused = true)]
async fn a_ca_in_a_resource_that_has_ended_is_a_bad_source_and_no_more() {
    let over = TestCa::root_until("Over", timestamp(1_800_000_000 - 1)).bundle();
    let mut policy = MeshPolicy::clone(&policies(&[("default", from_secret("root"))]).meshes["default"]);
    let mut listed = Backend::clone(&policy.backends[0]);
    listed.name = "over".into();
    let BackendKind::CertManager { trust, .. } = &mut listed.kind else { unreachable!() };
    *trust = CaSource::Inline(Arc::new(over));
    policy.backends.push(Arc::new(listed));
    let all = PolicySet { meshes: [("default".into(), Arc::new(policy))].into(), ..PolicySet::default() };
    let rig = Rig::start(Arc::new(all), MeshSecrets::from_iter([secret("default", "root", &TestCa::root("Root"))]));
    rig.settle().await;
    let troubles = rig.store.troubles().borrow().clone();
    let trouble = &troubles[&("default".into(), "over".into())];
    assert!(trouble.reason.contains("CN=Over expired at"), "{trouble:?}");
    tokio::time::sleep(Duration::from_secs(70)).await;
    assert_eq!(cas(&rig.store.of("default")), ["CN=Root"]);
}

#[tokio::test]
async fn a_file_is_trusted_as_soon_as_it_is_there_though_its_folder_is_made_later() {
    let (folder, ca) = (tempfile::tempdir().unwrap(), TestCa::root("Mounted"));
    let file = folder.path().join("mounted/later/ca.pem");
    let rig = Rig::start(policies(&[("default", CaSource::File(file.clone()))]), MeshSecrets::default());
    let (mut bundle, mut troubles) = (rig.store.of("default"), rig.store.troubles());
    troubles.wait_for(|troubles| !troubles.is_empty()).await.unwrap();
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, ca.certificate().pem()).unwrap();
    // Before anything else has the store look again, 10 s after it has heard of the mesh.
    let told = bundle.wait_for(Option::is_some);
    drop(tokio::time::timeout(Duration::from_secs(8), told).await.expect("it is noticed").unwrap());
    assert_eq!(cas(&bundle), ["CN=Mounted"]);
}

/// A file may be named by several meshes.
#[tokio::test]
async fn a_file_is_watched_for_as_long_as_a_mesh_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let from = |name: &str| CaSource::File(at(name));
    let (policies_tx, policies_rx) = watch::channel(Arc::default());
    let (_secrets, secrets) = watch::channel(in_files(MeshSecrets::default()));
    let (_complete, complete) = watch::channel(true);
    let state_dir = StateDir::new(folder.path());
    let sources = Sources { policies: policies_rx, secrets, complete, state_dir };
    let (_store, mut worker, _inbox) = TrustStore::new(sources, Clock::simulated(timestamp(1_800_000_000)));
    let mut watched_with = |meshes: &[(&str, CaSource)]| {
        policies_tx.send_replace(policies(meshes));
        worker.look();
        worker.files.held()
    };
    assert_eq!(watched_with(&[("one", from("a.pem")), ("two", from("b.pem"))]), [at("a.pem"), at("b.pem")]);
    assert_eq!(watched_with(&[("one", from("b.pem")), ("two", from("b.pem"))]), [at("b.pem")]);
    assert_eq!(watched_with(&[("two", from("b.pem"))]), [at("b.pem")]);
    assert_eq!(watched_with(&[("two", from_secret("x"))]), [""; 0].map(PathBuf::from));
}

#[path = "store_learned_tests.rs"]
mod learned;
