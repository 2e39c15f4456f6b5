use std::time::Duration;

use super::*;
use crate::identify::proxy_token::settling::SETTLED;
use crate::model::secrets::{MeshSecret, MeshSecrets, SecretBytes};

const NAME: &str = "token-revocations-<mesh>";

/// A Secret of mesh `of`, called after mesh `named`.
fn key(of: &str, named: &str) -> (Arc<str>, Arc<str>) {
    (of.into(), name_for(NAME, named).into())
}

fn secrets(all: &[(&str, &[u8])]) -> Arc<MeshSecrets> {
    let secret = |(mesh, content): &(&str, &[u8])| (key(mesh, mesh), SecretBytes::new(content.to_vec()));
    Arc::new(all.iter().map(secret).collect())
}

fn listed(all: &[(&str, &[u8])]) -> ClusterSecrets {
    ClusterSecrets::Listed(secrets(all))
}

fn nothing_yet() -> Revocations {
    Revocations::of_no_mesh_yet()
}

/// What follows when the Secrets are and stay these.
fn after_secrets(before: &Revocations, known: &KnownSecrets) -> (Revocations, Vec<(Arc<str>, String)>) {
    let (mut settling, now) = (BTreeMap::new(), Instant::now());
    let (next, _) = before.after_secrets(NAME, known, &mut settling, now);
    next.after_secrets(NAME, known, &mut settling, now + SETTLED)
}

fn in_files(all: &[(&str, &[u8])]) -> KnownSecrets {
    KnownSecrets { files: secrets(all), cluster: ClusterSecrets::NoCluster }
}

#[test]
fn ids_are_between_commas_and_white_space() {
    let text = "# those of March\na1,b2\tc3\r\n  d4 # e5\n,,\u{a0}f6\n#g7";
    let ids = parse(text.as_bytes()).unwrap();
    assert_eq!(ids.iter().map(AsRef::as_ref).collect::<Vec<&str>>(), ["a1", "b2", "c3", "d4", "f6"]);
    assert!(parse(b"").unwrap().is_empty());
    for bad in [&b"a\nb\xff"[..], b"a\nb\0c", "a\n\u{feff}b".as_bytes(), "x".repeat(254).as_bytes()] {
        assert!(parse(bad).is_err(), "{bad:?}");
    }
    assert!(parse(b"a\nb\0c").unwrap_err().starts_with("line 2"));
}

#[test]
fn a_file_that_is_no_good_at_the_start_revokes_everything_and_later_nothing() {
    let (mut settling, now) = (Settling::default(), Instant::now());
    let mut after = |last: &Revocations, content| last.after_file(content, &mut settling, now);
    let (first, problem) = after(&Revocations::Never, Err("no such file".to_owned()));
    assert!(problem.is_some());
    assert!(first.contain("default", "a").unwrap_err().ends_with("not known: no such file"));
    let (empty, _) = after(&first, Ok(Vec::new()));
    assert!(empty.contain("default", "a").unwrap_err().contains("it is empty"));
    let (good, problem) = after(&empty, Ok(b"a".to_vec()));
    assert_eq!(problem, None);
    assert_eq!((good.contain("default", "a"), good.contain("prod", "b")), (Ok(true), Ok(false)));
    for bad in [Err("no such file".to_owned()), Ok(vec![0xff]), Ok(Vec::new())] {
        let (kept, problem) = after(&good, bad);
        assert!(problem.is_some());
        assert_eq!(kept, good);
    }
}

#[test]
fn half_a_file_lets_nobody_in_whom_the_other_half_revokes() {
    let (mut settling, start) = (Settling::default(), Instant::now());
    let mut last = Revocations::Never;
    let mut revoked = |content: &str, seconds: u64| {
        let (now, problem) = last.after_file(Ok(content.into()), &mut settling, start + Duration::from_secs(seconds));
        assert_eq!(problem, None);
        last = now;
        ["a", "b", "c"].map(|id| last.contain("default", id).unwrap())
    };
    assert_eq!(revoked("a b", 0), [true, true, false]);
    assert_eq!(revoked("c", 1), [true, true, true]);
    assert_eq!(revoked("c a b", 2), [true, true, true]);
    assert_eq!(revoked("# nobody", 3), [true, true, true]);
    assert_eq!(revoked("# nobody", 7), [true, true, true]);
    assert_eq!(revoked("# nobody", 8), [false, false, false]);
}

#[test]
fn each_mesh_has_a_secret_of_its_own_name_and_one_that_is_another_mesh_s_is_told() {
    let known = |all: [(&str, &str, &[u8]); 2]| {
        let secret = |(of, named, content): (&str, &str, &[u8])| (key(of, named), SecretBytes::new(content.to_vec()));
        let all: MeshSecrets = all.into_iter().map(secret).collect();
        KnownSecrets { cluster: ClusterSecrets::Listed(Arc::new(all)), ..KnownSecrets::default() }
    };
    let both = known([("default", "default", b"a"), ("prod", "prod", b"b")]);
    let (good, problems) = after_secrets(&nothing_yet(), &both);
    assert_eq!(problems, []);
    for (mesh, revoked, other) in [("default", "a", "b"), ("prod", "b", "a")] {
        assert_eq!((good.contain(mesh, revoked), good.contain(mesh, other)), (Ok(true), Ok(false)));
    }
    // Without its label, a Secret is of mesh default: the list for prod must not silently be none.
    let stray = known([("default", "default", b"a"), ("default", "prod", b"b")]);
    let (first, problems) = after_secrets(&nothing_yet(), &stray);
    let told = "it is of mesh \"default\" by its label kuma.io/mesh, which must be prod";
    assert_eq!(problems, [("prod".into(), told.to_owned())]);
    assert!(first.contain("prod", "b").unwrap_err().ends_with(told));
    assert_eq!((first.contain("default", "a"), first.contain("default", "b")), (Ok(true), Ok(false)));
    assert_eq!(after_secrets(&good, &stray).0.contain("prod", "b"), Ok(true), "the last good one stays");
}

#[test]
fn a_secret_that_cannot_be_read_is_not_one_that_is_absent() {
    let known = |secret: MeshSecret| {
        let all = [(key("default", "default"), secret)].into_iter().collect();
        KnownSecrets { files: Arc::default(), cluster: ClusterSecrets::Listed(Arc::new(all)) }
    };
    let unreadable = |last: Option<&[u8]>| MeshSecret::Unreadable {
        why: "its data has no key `value`".into(),
        last: last.map(|last| SecretBytes::new(last.to_vec())),
    };
    // At the start nothing is known of who is revoked.
    let (first, problems) = after_secrets(&nothing_yet(), &known(unreadable(None)));
    assert!(first.contain("default", "a").unwrap_err().ends_with("its data has no key `value`"));
    assert_eq!((problems.len(), first.contain("prod", "a")), (1, Ok(false)));
    let still = after_secrets(&first, &known(unreadable(None))).0;
    assert!(still.contain("default", "a").is_err(), "nothing has been read of it yet");
    // Later it is what it was, if that was only its absence.
    let (good, _) = after_secrets(&still, &known(MeshSecret::Good(SecretBytes::new(b"a".to_vec()))));
    let (kept, problems) = after_secrets(&good, &known(unreadable(Some(b"a"))));
    assert_eq!((kept.contain("default", "a"), problems.len()), (Ok(true), 1));
    let (none, _) = after_secrets(&kept, &KnownSecrets { cluster: listed(&[]), ..KnownSecrets::default() });
    let (kept, problems) = after_secrets(&none, &known(unreadable(None)));
    assert_eq!((kept.contain("default", "a"), problems.len()), (Ok(false), 1));
}

#[test]
fn a_secret_is_of_its_mesh_and_nothing_is_assumed_before_all_are_listed() {
    let pending = KnownSecrets { files: secrets(&[("prod", b"a")]), cluster: ClusterSecrets::Pending };
    let (first, _) = after_secrets(&nothing_yet(), &pending);
    assert_eq!(first.contain("prod", "a"), Ok(true));
    assert!(first.contain("default", "a").unwrap_err().contains("not been listed"));

    let listed = |all| KnownSecrets { files: Arc::default(), cluster: listed(all) };
    let (second, problems) = after_secrets(&first, &listed(&[("default", b"a b")]));
    assert_eq!(problems, []);
    assert_eq!((second.contain("default", "a"), second.contain("prod", "a")), (Ok(true), Ok(false)));
    // Another name is another Secret.
    let (mut settling, known) = (BTreeMap::new(), listed(&[("default", b"a")]));
    let (other, _) = first.after_secrets("other-<mesh>", &known, &mut settling, Instant::now());
    assert_eq!(other.contain("default", "a"), Ok(false));

    let (third, problems) = after_secrets(&second, &listed(&[("default", b"\xff"), ("prod", b"\xff")]));
    assert_eq!(problems.iter().map(|(mesh, _)| mesh.as_ref()).collect::<Vec<_>>(), ["default", "prod"]);
    assert_eq!(third.contain("default", "b"), Ok(true));
    // It had none before, and so has revoked nobody yet.
    assert_eq!(third.contain("prod", "b"), Ok(false));
    // Whoever deletes it says that nothing is revoked.
    assert_eq!(after_secrets(&third, &listed(&[])).0.contain("default", "a"), Ok(false));
    let alone = KnownSecrets { files: Arc::default(), cluster: ClusterSecrets::NoCluster };
    assert_eq!(after_secrets(&nothing_yet(), &alone).0.contain("default", "a"), Ok(false));
}

/// Files are written in several steps, and an object may be deleted only to be made anew.
#[test]
fn a_secret_that_loses_ids_or_is_gone_lets_nobody_in_until_that_has_stayed_so() {
    let (mut settling, start) = (BTreeMap::new(), Instant::now());
    let mut last = nothing_yet();
    let mut revoked = |known: &KnownSecrets, seconds: u64| {
        let now = start + Duration::from_secs(seconds);
        last = last.after_secrets(NAME, known, &mut settling, now).0;
        let waits = settling.values().filter_map(Settling::look_again_at).min();
        (["a", "b"].map(|id| last.contain("default", id).unwrap()), waits.map(|at| (at - start).as_secs()))
    };
    assert_eq!(revoked(&in_files(&[("default", b"a b")]), 0), ([true, true], None));
    assert_eq!(revoked(&in_files(&[("default", b"a")]), 10), ([true, true], Some(15)));
    assert_eq!(revoked(&in_files(&[]), 12), ([true, true], Some(17)));
    assert_eq!(revoked(&in_files(&[("default", b"a b")]), 13), ([true, true], None));
    assert_eq!(revoked(&in_files(&[]), 20), ([true, true], Some(25)));
    assert_eq!(revoked(&in_files(&[]), 25), ([false, false], None));
}

#[test]
fn a_secret_that_has_never_been_read_is_waited_for_a_while_when_it_is_gone() {
    let (mut settling, start) = (BTreeMap::new(), Instant::now());
    let mut all = MeshSecrets::default();
    all.cannot_read("default".into(), name_for(NAME, "default").into(), "it is broken in mesh.yaml:3".into());
    let broken = KnownSecrets { files: Arc::new(all), ..KnownSecrets::default() };
    let (first, problems) = nothing_yet().after_secrets(NAME, &broken, &mut settling, start);
    assert_eq!(problems, [("default".into(), "it is broken in mesh.yaml:3".to_owned())]);
    assert!(first.contain("default", "a").unwrap_err().ends_with("it is broken in mesh.yaml:3"));
    let (gone, _) = first.after_secrets(NAME, &in_files(&[]), &mut settling, start);
    assert!(gone.contain("default", "a").is_err());
    let (gone, _) = gone.after_secrets(NAME, &in_files(&[]), &mut settling, start + SETTLED);
    assert_eq!(gone.contain("default", "a"), Ok(false));
}

/// At the start a file that cannot be understood may have the list; later it has nothing that it had not before.
#[test]
fn what_may_be_in_a_file_that_cannot_be_understood_is_not_absent() {
    let known = |is_broken: bool| {
        let mut all = MeshSecrets::default();
        if is_broken {
            all.may_lack_some("it may be in mesh.yaml, which cannot be understood".into());
        }
        KnownSecrets { files: Arc::new(all), ..KnownSecrets::default() }
    };
    let (first, _) = after_secrets(&nothing_yet(), &known(true));
    assert!(first.contain("default", "a").unwrap_err().contains("mesh.yaml"));
    let (mended, _) = after_secrets(&first, &known(false));
    assert_eq!(mended.contain("default", "a"), Ok(false));
    assert_eq!(after_secrets(&mended, &known(true)).0.contain("default", "a"), Ok(false));
}

/// Files do not say less by becoming worse: what was broken, and cannot even be told from nothing any more, is not gone.
#[test]
fn a_secret_that_was_broken_is_not_gone_while_a_file_cannot_be_understood() {
    let (mut settling, start) = (BTreeMap::new(), Instant::now());
    let mut all = MeshSecrets::default();
    all.cannot_read("default".into(), name_for(NAME, "default").into(), "it is broken in mesh.yaml:3".into());
    let broken = KnownSecrets { files: Arc::new(all), ..KnownSecrets::default() };
    let (first, _) = nothing_yet().after_secrets(NAME, &broken, &mut settling, start);
    let mut all = MeshSecrets::default();
    all.may_lack_some("it may be in mesh.yaml, which cannot be understood".into());
    let worse = KnownSecrets { files: Arc::new(all), ..KnownSecrets::default() };
    let mut last = first;
    for seconds in [1, 8, 60] {
        let (next, problems) = last.after_secrets(NAME, &worse, &mut settling, start + Duration::from_secs(seconds));
        assert!(next.contain("default", "a").is_err(), "{seconds}");
        assert!(problems.iter().any(|(mesh, what)| &**mesh == "default" && what.contains("mesh.yaml")), "{problems:?}");
        last = next;
    }
}
