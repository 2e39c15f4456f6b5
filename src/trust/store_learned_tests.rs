//! What issuers name as their CAs: whose it is, and until when it is kept.

use super::*;
use crate::model::policy::{DataSource, ProvidedCa};
use crate::model::unserved::Unserved;

#[tokio::test(start_paused = true)]
async fn a_mesh_that_takes_the_name_of_another_is_never_given_what_its_issuers_said_of_themselves() {
    let rig = Rig::start(policies(&[("default", CaSource::Issuer)]), MeshSecrets::default());
    let asked = policies(&[("default", CaSource::Issuer)]).meshes["default"].backends[0].clone();
    let named = |ca: &TestCa| {
        let news = RootNews::Learned { root: ca.certificate().clone(), needed_until: timestamp(1_800_001_000) };
        rig.store.publish(&"default".into(), &asked, news);
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
    let mut after_a_restart = LearnedStore::new(&StateDir::new(rig.state_dir.path()));
    assert!(after_a_restart.roots(&("default".into(), "ca".into())).bundle().is_none());
    named(&TestCa::root("New"));
    rig.settle().await;
    assert_eq!(cas(&rig.store.of("default")), ["CN=New"]);
}

#[tokio::test(start_paused = true)]
async fn late_news_of_another_issuer_is_not_heard() {
    let of_issuer = |name: &str| {
        let mut all = PolicySet::clone(&policies(&[("default", CaSource::Issuer)]));
        let mut policy = MeshPolicy::clone(&all.meshes["default"]);
        let issuer = IssuerRef { name: name.into(), kind: "Issuer".into(), group: "cert-manager.io".into() };
        Arc::make_mut(&mut policy.backends[0]).kind = BackendKind::CertManager { issuer, trust: CaSource::Issuer };
        all.meshes.insert("default".into(), Arc::new(policy));
        Arc::new(all)
    };
    let rig = Rig::start(of_issuer("one"), MeshSecrets::default());
    let named = |by: &str, ca: &TestCa| {
        let asked = of_issuer(by).meshes["default"].backends[0].clone();
        let news = RootNews::Learned { root: ca.certificate().clone(), needed_until: timestamp(1_800_001_000) };
        rig.store.publish(&"default".into(), &asked, news);
    };
    named("one", &TestCa::root("One"));
    rig.settle().await;
    let trusted = rig.store.of("default");
    assert_eq!(cas(&trusted), ["CN=One"]);
    let asked = of_issuer("one").meshes["default"].backends[0].clone();
    assert!(rig.store.has_learned(&"default".into(), &asked));

    rig.policies.send_replace(of_issuer("two"));
    rig.settle().await;
    assert!(!rig.store.has_learned(&"default".into(), &of_issuer("two").meshes["default"].backends[0]));
    named("one", &TestCa::root("Late"));
    rig.settle().await;
    assert_eq!(cas(&trusted), ["CN=One"], "until the other has named its own");
    named("two", &TestCa::root("Two"));
    rig.settle().await;
    assert_eq!(cas(&trusted), ["CN=Two", "CN=One"], "which leaves still lead to");
}

#[tokio::test(start_paused = true)]
async fn what_was_learned_of_a_mesh_that_is_gone_is_removed_once_all_resources_are_known() {
    let state_dir = tempfile::tempdir().unwrap();
    let key = |mesh: &str| (Arc::from(mesh), Arc::from("ca"));
    let issuer: Arc<str> = "cert-manager.io/Issuer/ca".into();
    let mut before = LearnedStore::new(&StateDir::new(state_dir.path()));
    for mesh in ["default", "gone"] {
        before
            .roots(&key(mesh))
            .observe(TestCa::root("Root").certificate(), timestamp(1_900_000_000), &issuer)
            .unwrap();
        before.keep(&key(mesh));
    }
    let (complete, is_complete) = watch::channel(false);
    let (_secrets, secrets) = watch::channel(in_files(MeshSecrets::default()));
    let (_policies, policies) = watch::channel(policies(&[("default", CaSource::Issuer)]));
    let sources = Sources { policies, secrets, complete: is_complete, state_dir: StateDir::new(state_dir.path()) };
    let (tasks, _deaths) = Tasks::new();
    let store = TrustStore::start(sources, Clock::simulated(timestamp(1_800_000_000)), &tasks);
    let some_looks = || tokio::time::sleep(Duration::from_secs(150));
    some_looks().await;
    let kept = || {
        ["default", "gone"].map(|mesh| LearnedStore::has_kept(&StateDir::new(state_dir.path()), &key(mesh), &issuer))
    };
    assert_eq!(
        (cas(&store.of("default")), kept()),
        (vec!["CN=Root".to_owned()], [true, true]),
        "the cluster may have it"
    );
    complete.send_replace(true);
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(kept(), [true, true], "what lists it may still be under way");
    some_looks().await;
    assert_eq!(kept(), [true, false]);
}

/// Something is always wrong somewhere; what that cannot hide is gone all the same.
#[tokio::test(start_paused = true)]
async fn only_what_a_broken_resource_may_hide_is_kept_of_what_is_gone() {
    let state_dir = tempfile::tempdir().unwrap();
    let state = StateDir::new(state_dir.path());
    let issuer: Arc<str> = "cert-manager.io/Issuer/ca".into();
    let names = ["default", "gone", "broken", "in-part"];
    let key = |mesh: &str| (Arc::from(mesh), Arc::from("ca"));
    let secrets = names.map(|mesh| secret(mesh, "root", &TestCa::root(mesh)));
    // It has been served with all of them, and their issuers had named theirs.
    let before = Rig::start(policies(&names.map(|mesh| (mesh, from_secret("root")))), secrets.into_iter().collect());
    before.settle().await;
    std::fs::create_dir_all(state_dir.path().join("served")).unwrap();
    for entry in std::fs::read_dir(before.state_dir.path().join("served")).unwrap().flatten() {
        std::fs::copy(entry.path(), state_dir.path().join("served").join(entry.file_name())).unwrap();
    }
    let mut learned = LearnedStore::new(&state);
    for mesh in names {
        let root = TestCa::root("Root");
        learned.roots(&key(mesh)).observe(root.certificate(), timestamp(1_900_000_000), &issuer).unwrap();
        learned.keep(&key(mesh));
    }
    let hiding = |waiting: &[&str], in_part: &[&str], unread: bool| {
        let mut all = PolicySet::clone(&policies(&[("default", CaSource::Issuer)]));
        let set = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
        all.unserved = Unserved { waiting: set(waiting), in_part: set(in_part), ..Unserved::default() };
        all.unserved.unread = unread.then(|| "file".into());
        Arc::new(all)
    };
    let (publish, policies_rx) = watch::channel(hiding(&["broken"], &["in-part"], true));
    let (_secrets, secrets) = watch::channel(in_files(MeshSecrets::default()));
    let (_complete, complete) = watch::channel(true);
    let sources = Sources { policies: policies_rx, secrets, complete, state_dir: state.clone() };
    let (tasks, _deaths) = Tasks::new();
    let _store = TrustStore::start(sources, Clock::simulated(timestamp(1_800_000_000)), &tasks);
    let some_looks = || tokio::time::sleep(Duration::from_secs(150));
    let kept = || {
        let has_learned = |mesh: &&str| LearnedStore::has_kept(&state, &key(mesh), &issuer);
        let served = Record::read(&state, timestamp(1_800_000_000)).kept();
        names
            .into_iter()
            .filter(|mesh| {
                assert!(*mesh == "default" || has_learned(mesh) == served.contains_key(*mesh), "{mesh}");
                has_learned(mesh)
            })
            .collect::<Vec<_>>()
    };
    some_looks().await;
    assert_eq!(kept(), names, "any may be in what is not understood");
    publish.send_replace(hiding(&["broken"], &["in-part"], false));
    some_looks().await;
    assert_eq!(kept(), ["default", "broken", "in-part"]);
    publish.send_replace(hiding(&[], &["in-part"], false));
    some_looks().await;
    assert_eq!(kept(), ["default", "in-part"]);
    publish.send_replace(hiding(&[], &[], false));
    some_looks().await;
    assert_eq!(kept(), ["default"]);
}

/// A mesh of one provided CA whose leaves live for ten hours.
fn given_by_user() -> Arc<PolicySet> {
    let mut all = PolicySet::clone(&policies(&[("default", CaSource::Issuer)]));
    let mut policy = MeshPolicy::clone(&all.meshes["default"]);
    let backend = Arc::make_mut(&mut policy.backends[0]);
    backend.leaf_lifetime = Some(Duration::from_secs(10 * 3600));
    let secret = |name: &str| DataSource::Secret(name.into());
    let (certificate, private_key) = (secret("crt"), secret("key"));
    backend.kind = BackendKind::Provided(ProvidedCa { certificate, private_key, allow_self_signed: true });
    all.meshes.insert("default".into(), Arc::new(policy));
    Arc::new(all)
}

#[tokio::test(start_paused = true)]
async fn a_replaced_ca_stays_for_as_long_as_leaves_of_other_replicas_may_live() {
    let rig = Rig::start(given_by_user(), MeshSecrets::default());
    let backend = given_by_user().meshes["default"].backends[0].clone();
    // This replica has issued nothing.
    let named = |root: &TestCa| {
        let news = RootNews::Learned { root: root.certificate().clone(), needed_until: timestamp(1_800_000_000) };
        rig.store.publish(&"default".into(), &backend, news);
    };
    let hours = |hours: u64| tokio::time::sleep(Duration::from_secs(hours * 3600));
    // It may have been replaced long after it was first told of.
    named(&TestCa::root("Old"));
    hours(20).await;
    let new = TestCa::root("New");
    named(&new);
    hours(9).await;
    named(&new);
    let trusted = rig.store.of("default");
    assert_eq!(cas(&trusted), ["CN=Old", "CN=New"]);
    hours(3).await;
    assert_eq!(cas(&trusted), ["CN=New"]);

    let ends = TestCa::root_until("Ends", timestamp(1_800_000_000 + 33 * 3600));
    named(&ends);
    rig.settle().await;
    named(&new);
    hours(3).await;
    assert_eq!(cas(&trusted), ["CN=New"], "it was over before its leaves could be");
}
