//! Meshes that come and go, and what those who watch them are given.

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
    Arc::new(PolicySet { meshes: meshes.iter().map(mesh).collect() })
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
        let sources = Sources { policies: policies_rx, secrets: secrets_rx, state_dir: state_dir.path().to_owned() };
        let store = TrustStore::start(sources, Clock::simulated(timestamp(1_800_000_000)), &tasks);
        Self { store, policies, secrets, state_dir, _tasks: tasks }
    }

    /// Lets the store do all that is to be done now.
    async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    fn domains(&self) -> Vec<String> {
        let known = self.store.domains().watch();
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
    assert_eq!(rig.domains(), ["other"]);

    // Its Secret is not there yet.
    rig.policies.send_replace(policies(&[("default", from_secret("new")), other()]));
    rig.settle().await;
    assert_eq!(cas(&rig.store.of("default")), [""; 0]);
    assert!(!stays.has_changed().unwrap());
    assert_eq!(rig.domains(), ["other"]);
    assert!(!rig.store.all().borrow().meshes.contains_key("default"));

    let secrets = secrets.into_iter().chain([secret("default", "new", &new)]);
    rig.secrets.send_replace(in_files(secrets.collect()));
    rig.settle().await;
    assert_eq!((cas(&stays), cas(&rig.store.of("default"))), (vec!["CN=New".to_owned()], vec!["CN=New".to_owned()]));
    assert_eq!(rig.domains(), ["default", "other"]);
}

#[tokio::test(start_paused = true)]
async fn nor_what_its_issuers_said_of_themselves() {
    let rig = Rig::start(policies(&[("default", CaSource::Issuer)]), MeshSecrets::default());
    let named = |ca: &TestCa| {
        let news = RootNews::Learned { root: ca.certificate().clone(), needed_until: timestamp(1_800_001_000) };
        rig.store.publish(&"default".into(), &"ca".into(), news);
    };
    named(&TestCa::root("Old"));
    rig.settle().await;
    assert_eq!(cas(&rig.store.of("default")), ["CN=Old"]);
    rig.policies.send_replace(Arc::default());
    rig.settle().await;
    named(&TestCa::root("Late")); // An answer that was under way.
    rig.settle().await;
    rig.policies.send_replace(policies(&[("default", CaSource::Issuer)]));
    rig.settle().await;
    assert_eq!(cas(&rig.store.of("default")), [""; 0]);
    let mut after_a_restart = LearnedStore::new(rig.state_dir.path());
    assert!(after_a_restart.roots(&("default".into(), "ca".into())).bundle().is_none());
    named(&TestCa::root("New"));
    rig.settle().await;
    assert_eq!(cas(&rig.store.of("default")), ["CN=New"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_of_a_mesh_that_is_gone_and_that_nobody_watches() {
    let secrets = MeshSecrets::from_iter([secret("default", "root", &TestCa::root("Root"))]);
    let rig = Rig::start(policies(&[("default", from_secret("root"))]), secrets);
    let watched = rig.store.of("nowhere");
    drop(rig.store.of("elsewhere"));
    rig.settle().await;
    let kept = || {
        let mut names: Vec<_> = rig.store.meshes.iter().map(|mesh| mesh.key().to_string()).collect();
        names.sort();
        names
    };
    assert_eq!(kept(), ["default", "nowhere"]);
    drop(watched);
    rig.policies.send_replace(Arc::default());
    rig.settle().await;
    assert_eq!(kept(), [""; 0]);
}
