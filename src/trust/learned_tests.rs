//! How long a root is trusted, and what a restart makes of it.

use super::*;
use crate::testing::certs::{TestCa, timestamp};

fn issuer() -> Arc<str> {
    "cert-manager.io/Issuer/one".into()
}

fn subjects(roots: &LearnedRoots) -> Vec<String> {
    let bundle = roots.bundle();
    bundle.iter().flat_map(Bundle::certificates).map(|ca| ca.subject().to_owned()).collect()
}

#[test]
fn an_old_root_stays_until_its_last_leaf_has_ended() {
    const HOUR: i64 = 3_600;
    let (old, new) = (TestCa::root("Old"), TestCa::root("New"));
    let mut roots = LearnedRoots::default();
    assert!(roots.bundle().is_none());
    assert!(roots.observe(old.certificate(), timestamp(100), &issuer()).unwrap());
    assert!(!roots.observe(old.certificate(), timestamp(200), &issuer()).unwrap(), "within the slack");
    assert!(roots.observe(old.certificate(), timestamp(100 + 2 * HOUR), &issuer()).unwrap());
    assert!(roots.observe(new.certificate(), timestamp(200 + 2 * HOUR), &issuer()).unwrap());
    assert_eq!(subjects(&roots), ["CN=Old", "CN=New"]);
    assert!(!roots.prune(timestamp(100 + 3 * HOUR), &issuer()));
    assert!(roots.prune(timestamp(101 + 3 * HOUR), &issuer()));
    assert_eq!(subjects(&roots), ["CN=New"]);
    assert!(!roots.prune(timestamp(1_000 * HOUR), &issuer()), "the current one stays, needed or not");
}

#[test]
fn an_issuer_that_alternates_changes_the_bundle_once() {
    let (one, other) = (TestCa::root("One"), TestCa::root("Other"));
    let mut roots = LearnedRoots::default();
    for _ in 0..3 {
        roots.observe(one.certificate(), timestamp(100), &issuer()).unwrap();
        roots.observe(other.certificate(), timestamp(100), &issuer()).unwrap();
        assert_eq!(subjects(&roots), ["CN=One", "CN=Other"]);
    }
}

#[test]
fn what_was_learned_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let key = ("default".into(), "cm".into());
    let ca = TestCa::root("Root");
    let mut store = LearnedStore::new(&StateDir::new(folder.path()));
    store.roots(&key).observe(ca.certificate(), timestamp(100), &issuer()).unwrap();
    store.keep(&key);
    assert!(LearnedStore::has_kept(&StateDir::new(folder.path()), &key, &issuer()));
    assert!(!LearnedStore::has_kept(&StateDir::new(folder.path()), &("default".into(), "other".into()), &issuer()));
    let mut again = LearnedStore::new(&StateDir::new(folder.path()));
    assert_eq!(again.roots(&key), store.roots(&key));
}

#[test]
fn a_backend_that_is_gone_is_forgotten_for_good() {
    let folder = tempfile::tempdir().unwrap();
    let keys: [SourceKey; 2] = [("default".into(), "cm".into()), ("other".into(), "cm".into())];
    let mut store = LearnedStore::new(&StateDir::new(folder.path()));
    for key in &keys {
        store.roots(key).observe(TestCa::root("Root").certificate(), timestamp(100), &issuer()).unwrap();
        store.keep(key);
    }
    store.forget(&keys[0]);
    store.forget(&("unheard of".into(), "cm".into()));
    for store in [&mut store, &mut LearnedStore::new(&StateDir::new(folder.path()))] {
        assert!(store.roots(&keys[0]).bundle().is_none());
        assert!(store.roots(&keys[1]).bundle().is_some());
    }
}

#[test]
fn a_broken_file_is_no_reason_to_stop() {
    let folder = tempfile::tempdir().unwrap();
    let key: SourceKey = ("default".into(), "cm".into());
    private_file::write(&file(&StateDir::new(folder.path()), &key), b"[{").unwrap();
    assert!(LearnedStore::new(&StateDir::new(folder.path())).roots(&key).bundle().is_none());
}

#[test]
fn what_another_issuer_named_is_dropped() {
    let (one, other): (Arc<str>, Arc<str>) = (issuer(), "cert-manager.io/Issuer/other".into());
    let mut roots = LearnedRoots::default();
    roots.observe(TestCa::root("One").certificate(), timestamp(100), &one).unwrap();
    let shared = TestCa::root("Shared");
    roots.observe(shared.certificate(), timestamp(100), &one).unwrap();
    assert!(!roots.has_one_of(&other));
    assert!(roots.observe(shared.certificate(), timestamp(100), &other).unwrap(), "the same root in another's name");
    assert!(roots.prune(timestamp(1), &other));
    assert_eq!(subjects(&roots), ["CN=Shared"]);
    assert!(roots.has_one_of(&other) && !roots.has_one_of(&one));
    assert!(roots.prune(timestamp(1), &one));
    assert!(roots.bundle().is_none());
}

/// It may be right, and leaves may need it; but it is confirmed or it ends.
#[test]
fn a_root_of_which_nobody_wrote_down_who_named_it_ends_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let key: SourceKey = ("default".into(), "cm".into());
    let ca = TestCa::root("Root");
    let kept =
        serde_json::json!([{"certificate": ca.certificate().pem(), "needed_until": timestamp(100), "current": true}]);
    private_file::write(&file(&StateDir::new(folder.path()), &key), kept.to_string().as_bytes()).unwrap();
    assert!(!LearnedStore::has_kept(&StateDir::new(folder.path()), &key, &issuer()), "the issuer is asked at once");
    let mut store = LearnedStore::new(&StateDir::new(folder.path()));
    let roots = store.roots(&key);
    assert!(!roots.prune(timestamp(100), &issuer()));
    assert_eq!(subjects(roots), ["CN=Root"]);
    let mut confirmed = roots.clone();
    assert!(roots.prune(timestamp(101), &issuer()));
    assert!(roots.bundle().is_none());
    assert!(confirmed.observe(ca.certificate(), timestamp(50), &issuer()).unwrap());
    assert!(!confirmed.prune(timestamp(101), &issuer()));
}

#[test]
fn files_of_backends_that_nobody_lists_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let keys: [SourceKey; 2] = [("default".into(), "cm".into()), ("gone".into(), "cm".into())];
    let mut store = LearnedStore::new(&StateDir::new(folder.path()));
    for key in &keys {
        store.roots(key).observe(TestCa::root("Root").certificate(), timestamp(100), &issuer()).unwrap();
        store.keep(key);
    }
    LearnedStore::new(&StateDir::new(folder.path())).forget_others(keys[..1].iter(), &BTreeSet::new());
    let kept = keys.each_ref().map(|key| LearnedStore::has_kept(&StateDir::new(folder.path()), key, &issuer()));
    assert_eq!(kept, [true, false]);
    LearnedStore::new(&StateDir::new(folder.path().join("nowhere"))).forget_others(keys.iter(), &BTreeSet::new());
}

/// What is refused is the one that is new: leaves lead to the others.
#[test]
fn no_root_that_is_in_use_makes_room_for_another() {
    let folder = tempfile::tempdir().unwrap();
    let key = ("default".into(), "cm".into());
    let ca = |number: usize| TestCa::root(&format!("Root {number}"));
    let mut store = LearnedStore::new(&StateDir::new(folder.path()));
    for number in 0..MAX_ROOTS {
        let until = timestamp(100 + i64::try_from(number).unwrap());
        assert_eq!(store.roots(&key).observe(ca(number).certificate(), until, &issuer()), Ok(true));
    }
    let full = store.roots(&key).clone();
    let refused = store.roots(&key).observe(ca(MAX_ROOTS).certificate(), timestamp(100), &issuer());
    assert!(refused.unwrap_err().to_string().contains("CN=Root 256 is not trusted"));
    assert_eq!(*store.roots(&key), full);
    store.keep(&key);
    let mut again = LearnedStore::new(&StateDir::new(folder.path()));
    assert_eq!(subjects(again.roots(&key)).len(), MAX_ROOTS);
    // Those whose last leaf has ended make room.
    again.roots(&key).prune(timestamp(101 + 3_600), &issuer());
    assert_eq!(again.roots(&key).observe(ca(MAX_ROOTS).certificate(), timestamp(5_000), &issuer()), Ok(true));
}
