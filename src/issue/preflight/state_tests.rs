//! What is in force while signers are tested, step by step.

use std::time::Duration;

use super::*;
use crate::issue::preflight::record::to_keep;
use crate::model::policy::{BuiltinSettings, IdentityPolicy, IssuerRef, Selector, TrustAnchors};
use crate::testing::certs::{TestCa, timestamp};

pub(super) fn backend(name: &str, issuer: &str) -> Arc<Backend> {
    let issuer = IssuerRef { name: issuer.into(), kind: "Issuer".into(), group: "cert-manager.io".into() };
    Arc::new(Backend {
        name: name.into(),
        leaf_lifetime: None,
        request_timeout: Duration::from_secs(10),
        trust_domain: "default".into(),
        kind: BackendKind::CertManager { issuer, trust: CaSource::Issuer },
    })
}

/// A mesh whose first backend is enabled; each is `name=issuer`.
pub(super) fn mesh(backends: &str) -> MeshPolicy {
    let parse = |text: &str| text.split_once('=').map(|(name, issuer)| backend(name, issuer)).unwrap();
    let backends: Vec<_> = backends.split(' ').map(parse).collect();
    MeshPolicy::classic("default".into(), backends[0].name.clone(), backends)
}

pub(super) fn with_identity(mut policy: MeshPolicy, name: &str, issuer: &str) -> MeshPolicy {
    let own = backend(&format!("of-{name}"), issuer);
    policy.identities.push(Arc::new(IdentityPolicy {
        name: name.into(),
        selector: Selector::Nobody,
        trust_domain: "default".into(),
        path: None,
        backend: own.name.clone(),
    }));
    policy.backends.push(own);
    policy
}

pub(super) struct Rig {
    pub(super) state: State,
    now: i64,
}

impl Rig {
    pub(super) fn new() -> Self {
        let mut rig = Self::beginning();
        rig.state.begin();
        rig
    }

    /// Before everything is known.
    pub(super) fn beginning() -> Self {
        Self { state: State::default(), now: 0 }
    }

    /// The server ends, and starts with these resources.
    pub(super) fn restart(&mut self, policies: Vec<MeshPolicy>, passed: &[&str]) {
        // As it is written, and read again.
        let kept = serde_json::to_vec(&to_keep(self.state.in_force(), self.state.kept())).unwrap();
        let kept = serde_json::from_slice(&kept).unwrap();
        let rules = self.state.rules.clone();
        self.state = State::new(kept, rules);
        self.want_all(policies, passed);
        self.state.begin();
    }

    pub(super) fn want(&mut self, policy: MeshPolicy) {
        self.want_remembering(policy, &[]);
    }

    pub(super) fn want_remembering(&mut self, policy: MeshPolicy, passed: &[&str]) {
        self.want_all(vec![policy], passed);
    }

    pub(super) fn want_all(&mut self, policies: Vec<MeshPolicy>, passed: &[&str]) {
        self.now += 1;
        let meshes = policies.into_iter().map(|policy| (policy.name.clone(), Arc::new(policy)));
        let set = PolicySet { meshes: meshes.collect(), ..PolicySet::default() };
        self.state.want(Arc::new(set), |test| passed.contains(&&*test.backend), timestamp(self.now));
    }

    pub(super) fn told(&mut self, backend: &str, outcome: Outcome) {
        self.now += 1;
        let test = self.state.to_test().into_keys().find(|test| *test.backend == *backend).expect("it is to be tested");
        self.state.told(&test, outcome, timestamp(self.now));
    }

    /// The backends in force with their issuers, the one that signs first.
    pub(super) fn in_force(&self) -> String {
        let Some(policy) = self.state.in_force().meshes.get("default") else { return "nothing".to_owned() };
        let enabled = policy.enabled().map(|backend| backend.name.to_string()).unwrap_or_default();
        let shown = policy.backends.iter().map(|backend| match &backend.kind {
            BackendKind::CertManager { issuer, .. } => format!("{}={}", backend.name, issuer.name),
            other => other.label().to_owned(),
        });
        format!("{enabled}: {}", shown.collect::<Vec<_>>().join(" "))
    }

    pub(super) fn to_test(&self) -> Vec<String> {
        self.state.to_test().into_keys().map(|test| test.backend.to_string()).collect()
    }

    /// Backend, outcome, whether it holds back, since when.
    pub(super) fn verdicts(&self) -> Vec<String> {
        let show = |((_, backend), verdict): ((_, Arc<str>), Verdict)| {
            let held = if verdict.holds_back { " holds back" } else { "" };
            format!("{backend} {}{held} {}", verdict.outcome.label(), verdict.since.as_second())
        };
        self.state.verdicts().into_iter().map(show).collect()
    }
}

pub(super) fn failed() -> Outcome {
    Outcome::Failed("no".into())
}

#[test]
fn a_signer_that_fails_never_replaces_a_good_one() {
    let mut rig = Rig::new();
    rig.want(mesh("a=one"));
    assert_eq!((rig.in_force(), rig.to_test()), ("a: a=one".into(), vec!["a".into()]), "there was nothing to keep");
    rig.told("a", Outcome::Passed);
    assert_eq!(rig.verdicts(), ["a passed 2"]);

    // Another one is listed, which is nothing to be tested; then it is to sign.
    rig.want(mesh("a=one b=two"));
    assert_eq!((rig.in_force(), rig.to_test().len()), ("a: a=one b=two".into(), 0));
    rig.want(mesh("b=two"));
    assert_eq!(rig.in_force(), "a: a=one b=two");
    assert_eq!(rig.verdicts(), ["b pending holds back 4"]);
    rig.told("b", failed());
    rig.told("b", failed());
    assert_eq!(rig.in_force(), "a: a=one b=two");
    assert_eq!(rig.verdicts(), ["b failed holds back 5"]);
    rig.told("b", Outcome::Passed);
    assert_eq!((rig.in_force(), rig.to_test().len()), ("b: b=two".into(), 0));
    assert_eq!(rig.verdicts(), ["b passed 7"]);
}

#[test]
fn an_edit_that_is_taken_back_leaves_nothing_to_test() {
    let mut rig = Rig::new();
    rig.want(mesh("a=one"));
    rig.told("a", Outcome::Passed);
    rig.want(mesh("a=other"));
    assert_eq!(rig.in_force(), "a: a=one", "the same name, another CA");
    rig.told("a", failed());
    rig.want(mesh("a=one"));
    assert_eq!((rig.in_force(), rig.to_test().len()), ("a: a=one".into(), 0));
    assert_eq!(rig.verdicts(), ["a passed 2"]);
    // And once more: what failed then may be good now.
    rig.want(mesh("a=other"));
    assert_eq!(rig.verdicts(), ["a pending holds back 6"]);
}

#[test]
fn what_is_not_a_signer_is_never_held_back() {
    let mut rig = Rig::new();
    let ca = TestCa::root("Partner");
    let trust = TrustAnchors { name: "t".into(), trust_domain: "partner".into(), bundle: Arc::new(ca.bundle()) };
    let trusting = |mut policy: MeshPolicy| {
        policy.trusts.push(Arc::new(trust.clone()));
        policy
    };
    rig.want(trusting(mesh("a=one x=gone")));
    rig.told("a", Outcome::Passed);
    let mut longer = mesh("a=one");
    Arc::make_mut(&mut longer.backends[0]).leaf_lifetime = Some(Duration::from_secs(60));
    rig.want(trusting(longer.clone()));
    assert_eq!(rig.state.in_force().meshes["default"].backends, longer.backends);
    // Trust that is taken back does not wait for a signer.
    rig.want(mesh("b=two"));
    assert_eq!(rig.in_force(), "a: a=one");
    assert_eq!(rig.state.in_force().meshes["default"].trusts.len(), 0);
    // Nor does the end of the mesh, and one that takes its name has nothing to keep.
    rig.state.want(Arc::default(), |_| false, timestamp(9));
    assert_eq!(rig.state.in_force().meshes.len(), 0);
    rig.want(mesh("b=two"));
    assert_eq!(rig.in_force(), "b: b=two");
}

#[test]
fn a_ca_that_is_taken_off_the_list_does_not_wait_for_the_signer() {
    let mut rig = Rig::new();
    rig.want(mesh("a=one old=x b=two"));
    rig.told("a", Outcome::Passed);
    rig.want(mesh("b=two old=x a=one"));
    rig.told("b", failed());
    assert_eq!(rig.in_force(), "a: a=one old=x b=two");
    // What is said of one that signs for nobody counts at once.
    rig.want(mesh("b=two old=shorter a=one more=m"));
    assert_eq!(rig.in_force(), "a: a=one old=shorter b=two more=m");
    rig.want(mesh("b=two a=one"));
    assert_eq!(rig.in_force(), "a: a=one b=two");
    rig.restart(vec![mesh("b=two a=one")], &["a"]);
    assert_eq!(rig.in_force(), "a: a=one b=two");
    let unlisted = |rig: &Rig| rig.state.verdicts().into_values().find_map(|verdict| verdict.unlisted);
    assert_eq!(unlisted(&rig), None);
    // The one that signs stays, and that is told.
    rig.want(mesh("b=two"));
    assert_eq!((rig.in_force(), unlisted(&rig)), ("a: a=one b=two".into(), Some("a".into())));
    rig.told("b", Outcome::Passed);
    assert_eq!((rig.in_force(), unlisted(&rig)), ("b: b=two".into(), None));
}

#[test]
fn a_ca_that_is_taken_off_the_list_goes_also_where_old_and_new_have_no_place_beside_each_other() {
    let mut rig = Rig::new();
    rig.want(mesh("a=one old=x"));
    rig.told("a", Outcome::Passed);
    // One of an identity policy that takes the name of the one that signs.
    let mut clash = mesh("b=two");
    clash.backends.push(backend("a", "other"));
    clash.identities.push(Arc::new(IdentityPolicy {
        name: "web".into(),
        selector: Selector::Nobody,
        trust_domain: "default".into(),
        path: None,
        backend: "a".into(),
    }));
    rig.want(clash);
    rig.told("a", Outcome::Passed);
    assert_eq!(rig.in_force(), "a: a=one");
}

#[test]
fn an_identity_policy_waits_for_its_own_signer_alone() {
    let mut rig = Rig::new();
    rig.want(mesh("a=one"));
    rig.told("a", Outcome::Passed);
    rig.want(with_identity(mesh("a=one"), "web", "two"));
    assert_eq!(rig.in_force(), "a: a=one");
    assert_eq!(rig.verdicts(), ["a passed 2", "of-web pending holds back 3"]);
    // Meanwhile the mesh moves on.
    rig.want(with_identity(mesh("b=other a=one"), "web", "two"));
    rig.told("of-web", failed());
    rig.told("b", Outcome::Passed);
    assert_eq!(rig.in_force(), "b: b=other a=one");
    rig.told("of-web", Outcome::Passed);
    assert_eq!(rig.in_force(), "b: b=other a=one of-web=two");
    // Changed, it stays what it was; the mesh's own signer as well.
    rig.want(with_identity(mesh("c=more"), "web", "three"));
    assert_eq!(rig.in_force(), "b: b=other of-web=two");
    rig.told("c", Outcome::Passed);
    assert_eq!(rig.in_force(), "c: c=more of-web=two");
    assert_eq!(rig.state.in_force().meshes["default"].identities.len(), 1);
}

#[test]
fn without_validation_nothing_is_tested() {
    let mut rig = Rig::new();
    let skipping = |policy: MeshPolicy| MeshPolicy { skip_validation: true, ..policy };
    rig.want(skipping(mesh("a=one")));
    rig.want(skipping(mesh("b=two")));
    assert_eq!((rig.in_force(), rig.to_test().len()), ("b: b=two".into(), 0));
    assert_eq!(rig.verdicts(), ["b skipped 2"]);
    rig.want(mesh("c=three"));
    assert_eq!(rig.in_force(), "b: b=two");
    rig.want(skipping(mesh("c=three")));
    assert_eq!(rig.in_force(), "c: c=three");
    rig.want(mesh("c=three"));
    assert_eq!((rig.in_force(), rig.to_test()), ("c: c=three".into(), vec!["c".into()]));
}

#[test]
fn what_has_passed_before_the_start_is_not_tested_because_the_server_starts() {
    let mut rig = Rig::new();
    rig.want_remembering(mesh("a=one"), &["a", "b"]);
    assert_eq!((rig.verdicts(), rig.to_test().len()), (vec!["a passed 1".to_owned()], 0));
    // Resources come one after the other.
    rig.want_remembering(with_identity(mesh("a=one"), "web", "two"), &["a", "of-web"]);
    assert_eq!((rig.in_force(), rig.to_test().len()), ("a: a=one of-web=two".into(), 0));
    // What comes back later is tested again.
    rig.want_remembering(mesh("b=two"), &["a"]);
    rig.told("b", Outcome::Passed);
    rig.want_remembering(mesh("b=two"), &["a"]);
    rig.want_remembering(mesh("b=three"), &["a", "b"]);
    assert_eq!(rig.to_test(), ["b"]);
}

#[test]
fn the_digest_is_of_what_makes_the_ca() {
    let of = |kind: BackendKind| digest_of(&Backend { kind, ..Backend::clone(&backend("a", "one")) });
    let issuer = |kind: &str| IssuerRef { name: "one".into(), kind: kind.into(), group: "cert-manager.io".into() };
    let (one, other) = (TestCa::root("One"), TestCa::root("Other"));
    let trust = |ca: &TestCa| CaSource::Inline(Arc::new(ca.bundle()));
    let provided = |certificate: &str, key: &str| {
        let inline = |text: &str| DataSource::Inline(crate::model::secrets::SecretBytes::new(text.as_bytes().to_vec()));
        let (certificate, private_key) = (inline(certificate), inline(key));
        of(BackendKind::Provided(crate::model::policy::ProvidedCa {
            certificate,
            private_key,
            allow_self_signed: true,
        }))
    };
    let with = |kind: &str, trust: CaSource| of(BackendKind::CertManager { issuer: issuer(kind), trust });
    let digests = [
        with("Issuer", CaSource::Issuer),
        with("ClusterIssuer", CaSource::Issuer),
        with("Issuer", trust(&one)),
        with("Issuer", trust(&other)),
        with("Issuer", CaSource::Secret("x".into())),
        with("Issuer", CaSource::File("x".into())),
        of(BackendKind::Builtin(BuiltinSettings::default())),
        provided("one", "key"),
        provided("other", "key"),
    ];
    assert_eq!(digests.iter().collect::<BTreeSet<_>>().len(), digests.len());
    assert_eq!(provided("one", "key"), provided("one", "another key"), "a key is in no digest");
}
