//! A mesh whose enabled backend and whose identity policy's backend have nothing to do with each other.

use super::*;
use crate::model::bundle_set::BundleSet;
use crate::model::policy::{IdentityPolicy, Selector};

/// The policy `vip` beside the enabled backend: its own backend, and its own trust domain.
fn with_vip(lifetime: u64, kind: BackendKind) -> Arc<PolicySet> {
    let mut policies = policy(100);
    let mesh = Arc::make_mut(Arc::make_mut(&mut policies).meshes.get_mut("default").unwrap());
    mesh.backends.push(Arc::new(Backend {
        name: "MeshIdentity/vip".into(),
        leaf_lifetime: Some(Duration::from_secs(lifetime)),
        trust_domain: "vip".into(),
        kind,
        ..(*mesh.backends[0]).clone()
    }));
    mesh.identities.push(Arc::new(IdentityPolicy {
        name: "vip".into(),
        selector: Selector::Nobody,
        trust_domain: "vip".into(),
        path: None,
        backend: "MeshIdentity/vip".into(),
    }));
    policies
}

fn builtin() -> BackendKind {
    BackendKind::Builtin(BuiltinSettings::default())
}

/// The trust of both domains; `known` are the backends that have said their CA.
fn trusting_domains(default: &TestCa, vip: &TestCa, known: &[&str]) -> Arc<TrustSet> {
    let mut set = trusting(&[default, vip]);
    let trust = Arc::make_mut(&mut set);
    let domains = [("default", default), ("vip", vip)].map(|(name, ca)| (name.into(), Arc::new(ca.bundle())));
    let domains = BundleSet::new(domains.into()).unwrap();
    trust.domains = BTreeMap::from([("default".into(), Arc::new(domains))]);
    trust.known = known.iter().map(|backend| ("default".into(), (*backend).into())).collect();
    set
}

const BOTH: &[&str] = &["ca", "MeshIdentity/vip"];

impl Rig {
    fn subscribe_vip(&self, name: &str) -> Subscription {
        let spiffe_id = format!("spiffe://vip/{name}").parse().unwrap();
        let identity = Identity { spiffe_id, identity_policy: Some("vip".into()), ..identity(name) };
        self.manager.subscribe(&identity, None)
    }
}

/// A mesh whose classic mTLS is off: whom no identity policy selects is there, and waits for nobody.
#[tokio::test(start_paused = true)]
async fn nobody_signs_for_whom_no_policy_selects() {
    let mut rig = Rig::new(8);
    let mut policies = with_vip(100, builtin());
    Arc::make_mut(Arc::make_mut(&mut policies).meshes.get_mut("default").unwrap()).enabled_backend = None;
    rig.policies.send_replace(policies);
    rig.trust.send_replace(trusting_domains(&rig.root, &rig.root, BOTH));
    let (web, mut vip) = (rig.subscribe("web"), rig.subscribe_vip("vip"));
    next(&mut vip).await;
    assert_eq!(rig.asked().await.0, "vip");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(rig.nothing_asked() && web.current.borrow().is_none());
    let (_, status) = rig.manager.snapshot().into_iter().find(|(key, _)| key.instance.name() == "web").unwrap();
    assert_eq!((status.1.next, status.1.error), (None, None), "nothing is tried in vain");
}

#[tokio::test(start_paused = true)]
async fn one_signer_that_cannot_be_used_holds_no_other_back() {
    for (unusable, served, waits) in [("ca", "vip", "web"), ("MeshIdentity/vip", "web", "vip")] {
        let mut rig = Rig::new(1);
        rig.authorities.unusable.lock().unwrap().push(unusable);
        let mut policies = with_vip(100, builtin());
        // The backend that was there from the start is made anew.
        let mesh = Arc::make_mut(Arc::make_mut(&mut policies).meshes.get_mut("default").unwrap());
        Arc::make_mut(&mut mesh.backends[0]).leaf_lifetime = Some(Duration::from_secs(200));
        rig.policies.send_replace(policies);
        rig.trust.send_replace(trusting_domains(&rig.root, &rig.root, BOTH));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let _waits = if waits == "web" { rig.subscribe("web") } else { rig.subscribe_vip("vip") };
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut served_one = if served == "web" { rig.subscribe("web") } else { rig.subscribe_vip("vip") };
        assert_eq!(rig.asked().await.0, served);
        next(&mut served_one).await;
        rig.authorities.unusable.lock().unwrap().clear();
        let (name, at) = rig.asked().await;
        assert_eq!((&*name, at <= 20), (waits, true), "it is tried again: asked at {at}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_signer_whose_ca_is_not_known_holds_no_other_back() {
    for (known, served, waits) in [("MeshIdentity/vip", "vip", "web"), ("ca", "web", "vip")] {
        let mut rig = Rig::new(8);
        rig.policies.send_replace(with_vip(100, builtin()));
        rig.trust.send_replace(trusting_domains(&rig.root, &rig.root, &[known]));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (_web, _vip) = (rig.subscribe("web"), rig.subscribe_vip("vip"));
        assert_eq!(rig.asked().await.0, served);
        tokio::time::sleep(Duration::from_secs(50)).await;
        assert!(rig.nothing_asked());
        rig.trust.send_replace(trusting_domains(&rig.root, &rig.root, BOTH));
        assert_eq!(rig.asked().await.0, waits);
    }
}

#[tokio::test(start_paused = true)]
async fn another_provider_issues_anew_in_place_for_those_it_signs_for() {
    let mut rig = Rig::new(8);
    rig.policies.send_replace(with_vip(1_000, builtin()));
    rig.trust.send_replace(trusting_domains(&rig.root, &rig.root, BOTH));
    let (mut web, mut vip) = (rig.subscribe("web"), rig.subscribe_vip("vip"));
    next(&mut web).await;
    let first = next(&mut vip).await;
    rig.asked().await;
    rig.asked().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    rig.policies.send_replace(with_vip(2_000, builtin()));
    assert_eq!(rig.asked().await, ("vip".into(), 15));
    let second = next(&mut vip).await;
    assert_ne!(first.policy_digest, second.policy_digest);
    assert!(rig.nothing_asked(), "and nobody else");
}

#[tokio::test(start_paused = true)]
async fn a_leaf_has_to_lead_to_a_ca_of_its_own_trust_domain() {
    let mut rig = Rig::new(8);
    let other = TestCa::root("Other");
    rig.policies.send_replace(with_vip(1_000, builtin()));
    // The CA that signs is one of the mesh, but not of the trust domain.
    rig.trust.send_replace(trusting_domains(&rig.root, &other, BOTH));
    let (mut web, vip) = (rig.subscribe("web"), rig.subscribe_vip("vip"));
    next(&mut web).await;
    while rig.asked().await.0 != "vip" {}
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(vip.current.borrow().is_none());
    let mut statuses = rig.manager.snapshot().into_iter();
    let (_, (_, status)) = statuses.find(|(key, _)| key.identity_policy.is_some()).unwrap();
    assert!(status.error.unwrap().contains("the mesh trusts \"CN=Other\""));
}

#[tokio::test(start_paused = true)]
async fn a_change_of_one_trust_domain_is_none_of_the_other() {
    let mut rig = Rig::new(8);
    rig.policies.send_replace(with_vip(100, builtin()));
    rig.trust.send_replace(trusting_domains(&rig.root, &rig.root, BOTH));
    let (mut web, mut vip) = (rig.subscribe("web"), rig.subscribe_vip("vip"));
    next(&mut web).await;
    next(&mut vip).await;
    rig.asked().await;
    rig.asked().await;
    let other = TestCa::root("Other");
    *rig.ca.signer.lock().unwrap() = Arc::new(TestCaBox(other.clone()));
    rig.trust.send_replace(trusting_domains(&rig.root, &other, BOTH));
    assert_eq!(rig.asked().await, ("vip".into(), 0), "its leaf is refused");
    assert_eq!(next(&mut vip).await.anchor, *other.certificate());
    assert!(rig.nothing_asked());
}

#[tokio::test(start_paused = true)]
async fn no_id_of_another_trust_domain_is_ever_signed() {
    let mut rig = Rig::new(8);
    rig.policies.send_replace(with_vip(100, builtin()));
    rig.trust.send_replace(trusting_domains(&rig.root, &rig.root, BOTH));
    let mine = Identity { identity_policy: Some("vip".into()), ..identity("web") };
    let subscription = rig.manager.subscribe(&mine, None);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(rig.nothing_asked() && subscription.current.borrow().is_none());
    let (_, status) = rig.manager.snapshot().into_values().next().unwrap();
    assert!(status.error.unwrap().contains("is not in trust domain \"vip\""));
}

#[tokio::test(start_paused = true)]
async fn what_was_reported_before_the_signer_opened_is_judged_by_its_own_policy() {
    let mut rig = Rig::new(8);
    rig.policies.send_replace(with_vip(1_000, builtin()));
    rig.trust.send_replace(trusting_domains(&rig.root, &rig.root, BOTH));
    let mut vip = rig.subscribe_vip("vip");
    let held = HeldLeaf::from(&*next(&mut vip).await);
    rig.asked().await;
    let mut again = rig.restarted(8);
    let policies = with_vip(1_000, builtin());
    again.policies.send_replace(policies.clone());
    again.trust.send_replace(trusting_domains(&rig.root, &rig.root, &["ca"]));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let spiffe_id = "spiffe://vip/vip".parse().unwrap();
    let identity = Identity { spiffe_id, identity_policy: Some("vip".into()), ..identity("vip") };
    let _vip = again.manager.subscribe(&identity, Some(&held));
    tokio::time::sleep(Duration::from_secs(1)).await;
    again.trust.send_replace(trusting_domains(&rig.root, &rig.root, BOTH));
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert!(again.nothing_asked(), "it holds what it would be issued");
    let (_, status) = again.manager.snapshot().into_values().next().unwrap();
    assert_eq!(status.held_until, Some(held.not_after));
}
