//! Sources that come, go and fail, and what is trusted then.

use std::time::Duration;

use super::*;
use crate::model::policy::{
    BackendKind, BuiltinSettings, CaSource, IdentityPolicy, IssuerRef, MeshPolicy, Selector, TrustAnchors,
};
use crate::testing::certs::{TestCa, timestamp};

fn policies(meshes: &[(&str, &[&str])]) -> Arc<PolicySet> {
    let backend = |mesh: &Arc<str>, name: &str| {
        Arc::new(Backend {
            name: name.into(),
            leaf_lifetime: None,
            request_timeout: Duration::from_secs(10),
            trust_domain: mesh.clone(),
            kind: BackendKind::Builtin(BuiltinSettings::default()),
        })
    };
    let mesh = |(name, backends): &(&str, &[&str])| {
        let name: Arc<str> = (*name).into();
        let backends: Vec<_> = backends.iter().map(|backend_name| backend(&name, backend_name)).collect();
        let policy = MeshPolicy::classic(name.clone(), backends[0].name.clone(), backends);
        (name, Arc::new(policy))
    };
    Arc::new(PolicySet { meshes: meshes.iter().map(mesh).collect(), ..PolicySet::default() })
}

fn key(mesh: &str, backend: &str) -> SourceKey {
    (mesh.into(), backend.into())
}

fn good(ca: &TestCa) -> Answer {
    Answer::Good(Arc::new(ca.bundle()))
}

fn trusted(state: &mut TrustState, mesh: &str) -> Option<Vec<String>> {
    let set = state.bundles(timestamp(1_800_000_000));
    let bundle = set.meshes.get(mesh)?;
    Some(bundle.certificates().iter().map(|ca| ca.subject().to_owned()).collect())
}

#[test]
fn all_listed_backends_are_trusted_and_none_is_until_all_are_known() {
    let mut state = TrustState::default();
    state.set_policies(policies(&[("default", &["old", "new"]), ("other", &["x"])]));
    state.hear(&key("default", "old"), good(&TestCa::root("Old")));
    state.hear(&key("other", "x"), good(&TestCa::root("X")));
    assert_eq!(trusted(&mut state, "default"), None, "half a bundle would cut peers off");
    assert_eq!(trusted(&mut state, "other").unwrap(), ["CN=X"], "one mesh's trouble is not another's");
    state.hear(&key("default", "new"), good(&TestCa::root("New")));
    assert_eq!(trusted(&mut state, "default").unwrap(), ["CN=Old", "CN=New"]);
}

#[test]
fn a_bad_answer_keeps_the_last_good_one_and_is_told_once() {
    let mut state = TrustState::default();
    state.set_policies(policies(&[("default", &["a"])]));
    state.hear(&key("default", "a"), good(&TestCa::root("A")));
    let news = |trouble: Option<Trouble>| trouble.map(|trouble| (trouble.reason, trouble.has_last_good));
    let bad = || Answer::Bad("gone".into());
    assert_eq!(news(state.hear(&key("default", "a"), bad())), Some(("gone".into(), true)));
    assert_eq!(state.hear(&key("default", "a"), Answer::Bad("gone".into())), None);
    assert_eq!(state.hear(&key("default", "a"), Answer::Awaited("list")), None);
    assert_eq!(trusted(&mut state, "default").unwrap(), ["CN=A"]);
    let doubtful = || Answer::Doubtful(Arc::new(TestCa::root("A").bundle()), "away".into());
    assert_eq!(news(state.hear(&key("default", "a"), doubtful())), Some(("away".into(), true)));
    assert_eq!(state.hear(&key("default", "a"), doubtful()), None);
    assert!(state.troubles()[&key("default", "a")].has_last_good);
    state.hear(&key("default", "a"), good(&TestCa::root("B")));
    assert_eq!(trusted(&mut state, "default").unwrap(), ["CN=B"]);
    assert!(state.troubles().is_empty());
}

#[test]
fn a_backend_that_is_no_longer_listed_is_no_longer_trusted() {
    let mut state = TrustState::default();
    state.set_policies(policies(&[("default", &["old", "new"])]));
    for (backend, ca) in [("old", "Old"), ("new", "New")] {
        state.hear(&key("default", backend), good(&TestCa::root(ca)));
    }
    state.set_policies(policies(&[("default", &["new"])]));
    assert_eq!(trusted(&mut state, "default").unwrap(), ["CN=New"]);
    assert_eq!(state.hear(&key("nowhere", "x"), good(&TestCa::root("X"))), None);
}

#[test]
fn a_backend_that_has_not_said_its_ca_takes_nothing_away() {
    let mut state = TrustState::default();
    state.set_policies(policies(&[("default", &["old"])]));
    state.hear(&key("default", "old"), good(&TestCa::root("Old")));
    assert_eq!(trusted(&mut state, "default").unwrap(), ["CN=Old"]);
    state.set_policies(policies(&[("default", &["new", "old"])]));
    state.hear(&key("default", "new"), Answer::Bad("no such Secret".into()));
    assert_eq!(trusted(&mut state, "default").unwrap(), ["CN=Old"]);
    let known = state.bundles(timestamp(1_800_000_000)).known;
    assert_eq!(known.into_iter().collect::<Vec<_>>(), [key("default", "old")]);
    // Also if the one that was there is replaced by it.
    state.set_policies(policies(&[("default", &["new"])]));
    assert_eq!(trusted(&mut state, "default").unwrap(), ["CN=Old"]);
    state.hear(&key("default", "new"), good(&TestCa::root("New")));
    assert_eq!(trusted(&mut state, "default").unwrap(), ["CN=New"]);
}

#[test]
fn a_mesh_that_is_deleted_leaves_nothing_to_one_of_its_name() {
    let mut state = TrustState::default();
    state.set_policies(policies(&[("default", &["ca"]), ("other", &["x"])]));
    state.hear(&key("default", "ca"), good(&TestCa::root("Old")));
    assert_eq!(trusted(&mut state, "default").unwrap(), ["CN=Old"]);
    assert_eq!(state.set_policies(policies(&[("other", &["x"])])), [key("default", "ca")]);
    assert_eq!(trusted(&mut state, "default"), None);
    assert!(state.set_policies(policies(&[("default", &["ca"])])).contains(&key("other", "x")));
    state.hear(&key("default", "ca"), Answer::Bad("not there".into()));
    assert_eq!(trusted(&mut state, "default"), None);
    assert!(!state.troubles()[&key("default", "ca")].has_last_good);
    state.hear(&key("default", "ca"), good(&TestCa::root("New")));
    let set = state.bundles(timestamp(1_800_000_000));
    assert_eq!(set.added["default"], [], "it was not served before");
}

#[test]
fn what_comes_into_a_bundle_that_is_served_is_noted_with_its_time() {
    let mut state = TrustState::default();
    state.set_policies(policies(&[("default", &["old", "new"])]));
    let (old, new) = (TestCa::root("Old"), TestCa::root("New"));
    state.hear(&key("default", "old"), good(&old));
    state.hear(&key("default", "new"), good(&old));
    let added = |state: &mut TrustState, at| state.bundles(timestamp(at)).added["default"].clone();
    assert_eq!(added(&mut state, 1), [], "the first bundle is new to nobody: there was none");
    state.hear(&key("default", "new"), good(&new));
    assert_eq!(added(&mut state, 2), [(new.certificate().clone(), timestamp(2))]);
    assert_eq!(added(&mut state, 3), [(new.certificate().clone(), timestamp(2))]);
    state.hear(&key("default", "new"), good(&old));
    assert_eq!(added(&mut state, 4), []);
}

/// A policy of mesh `mesh` that has, beside its builtin backend `ca`, an identity policy with a trust domain and a backend of
/// its own, and these `MeshTrust` resources.
fn federated(mesh: &str, identity_domain: &str, trusts: &[(&str, &TestCa)]) -> (Arc<str>, Arc<MeshPolicy>) {
    let classic = policies(&[(mesh, &["ca", "of-identity"])]);
    let mut policy = MeshPolicy::clone(&classic.meshes[mesh]);
    Arc::make_mut(&mut policy.backends[1]).trust_domain = identity_domain.into();
    policy.identities = vec![Arc::new(IdentityPolicy {
        name: "ahead".into(),
        selector: Selector::Nobody,
        trust_domain: identity_domain.into(),
        path: None,
        backend: "of-identity".into(),
    })];
    policy.trusts = trusts
        .iter()
        .map(|(domain, ca)| {
            Arc::new(TrustAnchors {
                name: (*domain).into(),
                trust_domain: (*domain).into(),
                bundle: Arc::new(ca.bundle()),
            })
        })
        .collect();
    (mesh.into(), Arc::new(policy))
}

/// The trust domains that proxies of `mesh` know, with the CAs of each.
fn known_to(set: &TrustSet, mesh: &str) -> Vec<String> {
    let domains = set.domains.get(mesh).map(|domains| {
        let of =
            |bundle: &Bundle| bundle.certificates().iter().map(|ca| ca.subject()[3..].to_owned()).collect::<Vec<_>>();
        domains.iter().map(|(domain, bundle)| format!("{domain}: {}", of(bundle).join(" "))).collect()
    });
    domains.unwrap_or_default()
}

#[test]
fn each_trust_domain_has_the_cas_of_its_own_sources_and_the_mesh_those_of_all_its_own() {
    let mut state = TrustState::default();
    let (more, foreign) = (TestCa::root("More"), TestCa::root("Foreign"));
    let east = |trusts: &[(&str, &TestCa)]| {
        let west = policies(&[("west", &["ca"])]).meshes["west"].clone();
        Arc::new(PolicySet {
            meshes: [federated("east", "prod.example", trusts), ("west".into(), west)].into(),
            ..PolicySet::default()
        })
    };
    state.set_policies(east(&[("east", &more), ("partner.example", &foreign), ("west", &foreign)]));
    state.hear(&key("east", "ca"), good(&TestCa::root("Classic")));
    state.hear(&key("west", "ca"), good(&TestCa::root("West")));
    let set = state.bundles(timestamp(1));
    assert_eq!(set.meshes.keys().map(|mesh| &**mesh).collect::<Vec<_>>(), ["west"], "one backend is not heard yet");
    assert_eq!(set.domains["east"].get("east"), None, "half of it would cut peers off");

    state.hear(&key("east", "of-identity"), good(&TestCa::root("Ahead")));
    let set = state.bundles(timestamp(2));
    assert_eq!(
        known_to(&set, "east"),
        ["east: Classic More", "partner.example: Foreign", "prod.example: Ahead", "west: West Foreign"]
    );
    assert_eq!(
        known_to(&set, "west"),
        ["east: Classic More", "prod.example: Ahead", "west: West"],
        "what one mesh says of others is for itself"
    );
    assert_eq!(trusted(&mut state, "east").unwrap(), ["CN=Classic", "CN=Ahead", "CN=More"], "and no foreign CA");
    let of_east = set.domains["east"].get("prod.example").cloned();
    assert_eq!(set.of("east", "prod.example").cloned(), of_east);

    state.set_policies(east(&[]));
    let set = state.bundles(timestamp(3));
    assert_eq!(known_to(&set, "east"), ["east: Classic", "prod.example: Ahead", "west: West"]);
    assert!(Arc::ptr_eq(&set.domains["east"], &set.domains["west"]), "equal content is one");
    assert_eq!(trusted(&mut state, "east").unwrap(), ["CN=Classic", "CN=Ahead"]);
}

#[test]
fn a_ca_that_comes_into_another_domain_is_new_there() {
    let mut state = TrustState::default();
    let (shared, other) = (TestCa::root("Shared"), TestCa::root("Other"));
    let policies =
        || Arc::new(PolicySet { meshes: [federated("east", "prod.example", &[])].into(), ..PolicySet::default() });
    state.set_policies(policies());
    state.hear(&key("east", "ca"), good(&shared));
    state.hear(&key("east", "of-identity"), good(&other));
    assert_eq!(state.bundles(timestamp(1)).added["east"], []);
    state.hear(&key("east", "of-identity"), good(&shared));
    let set = state.bundles(timestamp(2));
    assert_eq!(set.added["east"], [(shared.certificate().clone(), timestamp(2))]);
    assert_eq!(set.meshes["east"].certificates().len(), 1);
}

#[test]
fn the_word_of_a_mesh_trust_is_not_kept_with_the_last_complete_bundle() {
    let mut state = TrustState::default();
    let (more, classic) = (TestCa::root("More"), TestCa::root("Classic"));
    let policies = |identity_domain: &str, trusts: &[(&str, &TestCa)]| {
        Arc::new(PolicySet { meshes: [federated("east", identity_domain, trusts)].into(), ..PolicySet::default() })
    };
    state.set_policies(policies("prod.example", &[("east", &more)]));
    state.hear(&key("east", "ca"), good(&classic));
    state.hear(&key("east", "of-identity"), good(&TestCa::root("Ahead")));
    assert_eq!(trusted(&mut state, "east").unwrap(), ["CN=Classic", "CN=Ahead", "CN=More"]);
    // The trust domain is no longer the mesh's, and nothing of it is kept.
    state.set_policies(policies("east", &[]));
    assert_eq!(known_to(&state.bundles(timestamp(2)), "east"), ["east: Classic Ahead"]);
}

#[test]
fn another_issuer_behind_the_same_name_has_said_nothing() {
    let with_issuer = |name: &str| {
        let mut policy = MeshPolicy::clone(&policies(&[("default", &["cm"])]).meshes["default"]);
        let issuer = IssuerRef { name: name.into(), kind: "Issuer".into(), group: "cert-manager.io".into() };
        Arc::make_mut(&mut policy.backends[0]).kind = BackendKind::CertManager { issuer, trust: CaSource::Issuer };
        Arc::new(PolicySet { meshes: [("default".into(), Arc::new(policy))].into(), ..PolicySet::default() })
    };
    let mut state = TrustState::default();
    state.set_policies(with_issuer("one"));
    state.hear(&key("default", "cm"), good(&TestCa::root("One")));
    assert_eq!(trusted(&mut state, "default").unwrap(), ["CN=One"]);
    assert_eq!(state.set_policies(with_issuer("one")), []);
    assert_eq!(state.set_policies(with_issuer("two")), [key("default", "cm")]);
    let set = state.bundles(timestamp(1_800_000_000));
    assert!(set.known.is_empty(), "it does not sign");
    assert_eq!(trusted(&mut state, "default").unwrap(), ["CN=One"], "until the other has said its CA");
    let two = TestCa::root("Two");
    state.hear(&key("default", "cm"), good(&two));
    assert_eq!(trusted(&mut state, "default").unwrap(), ["CN=Two", "CN=One"], "leaves lead to it");
    let of = |state: &mut TrustState, at: i64| {
        let set = state.bundles(timestamp(1_800_000_000 + at));
        let names = set.meshes["default"].certificates().iter().map(|ca| ca.subject().to_owned());
        (names.collect::<Vec<_>>(), set.added["default"].clone())
    };
    let (_, added) = of(&mut state, 1);
    assert_eq!(added, [(two.certificate().clone(), timestamp(1_800_000_000))], "peers are given time to have it");
    const DAY: i64 = 24 * 3_600;
    assert_eq!(of(&mut state, 89 * DAY).0, ["CN=Two", "CN=One"]);
    assert_eq!(of(&mut state, 91 * DAY).0, ["CN=Two"], "which cert-manager's leaves do not live");
}

#[test]
fn a_mesh_with_very_many_cas_has_all_of_them() {
    let mut state = TrustState::default();
    state.set_policies(policies(&[("default", &["a", "b"])]));
    let many = |of: &str| {
        let cas = (0..150).map(|number| TestCa::root(&format!("{of}{number}")).certificate().clone());
        Answer::Good(Arc::new(Bundle::from_certificates(cas).unwrap()))
    };
    state.hear(&key("default", "a"), many("A"));
    state.hear(&key("default", "b"), many("B"));
    assert_eq!(trusted(&mut state, "default").unwrap().len(), 300);
    let set = state.bundles(timestamp(1_800_000_000));
    assert_eq!(set.of("default", "default").unwrap().certificates().len(), 300);
}
