//! What another policy or another trust does to who holds a leaf, and to who waits for one.

use super::*;
use crate::model::policy::{CaSource, DataSource, IssuerRef, ProvidedCa};
use crate::model::secrets::SecretBytes;

/// One backend of cert-manager that takes its trust from there.
fn trust_from(trust: CaSource) -> Arc<PolicySet> {
    let issuer = IssuerRef { name: "ca".into(), kind: "Issuer".into(), group: "cert-manager.io".into() };
    let mut policies = policy(100);
    let mesh = Arc::make_mut(Arc::make_mut(&mut policies).meshes.get_mut("default").unwrap());
    Arc::make_mut(&mut mesh.backends[0]).kind = BackendKind::CertManager { issuer, trust };
    policies
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_while_the_trust_is_unknown() {
    let mut rig = Rig::new(8);
    rig.trust.send_replace(Arc::default());
    tokio::task::yield_now().await;
    let mut web = rig.subscribe("web");
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(rig.nothing_asked());
    rig.trust.send_replace(trusting(&[&rig.root]));
    next(&mut web).await;
}

#[tokio::test(start_paused = true)]
async fn a_leaf_of_an_untrusted_ca_is_never_published() {
    let mut rig = Rig::new(8);
    *rig.ca.signer.lock().unwrap() = Arc::new(TestCaBox(TestCa::root("Stranger")));
    let web = rig.subscribe("web");
    rig.asked().await;
    rig.asked().await;
    assert!(web.current.borrow().is_none());
    let (_, status) = rig.manager.snapshot().into_values().next().unwrap();
    assert!(status.error.unwrap().contains("proxies of the mesh would refuse the leaf"));
}

#[tokio::test(start_paused = true)]
async fn whoever_failed_for_lack_of_trust_tries_again_when_it_changes() {
    let mut rig = Rig::new(8);
    let mut old = rig.subscribe("old");
    next(&mut old).await;
    rig.asked().await;
    let other = TestCa::root("Other");
    *rig.ca.signer.lock().unwrap() = Arc::new(TestCaBox(other.clone()));
    let mut new = rig.subscribe("new");
    assert_eq!(rig.asked().await, ("new".into(), 0));
    rig.policies.send_replace(policy(10_000)); // old asks for another leaf, which is refused too
    // Right after a failure: by now the next attempt of either is minutes away, and must not be what is seen below.
    while !matches!(rig.asked().await, (name, at) if name == "old" && at > 1000) {}
    tokio::time::sleep(Duration::from_secs(1)).await;
    while !rig.nothing_asked() {}

    let changed = rig.clock.now().as_second() - START;
    rig.trust.send_replace(trusting(&[&rig.root, &other]));
    assert_eq!(rig.asked().await, ("new".into(), changed), "nothing to lose, and nothing to wait for");
    // Times are cut to seconds, and `changed` is not a whole one.
    let (name, at) = rig.asked().await;
    assert_eq!(name, "old");
    assert!((changed + 5..=changed + 6).contains(&at), "peers have time to learn of the new CA: {changed}, {at}");
    assert_eq!(next(&mut new).await.anchor, *other.certificate());
    assert_eq!(next(&mut old).await.anchor, *other.certificate());
}

#[tokio::test(start_paused = true)]
async fn a_signing_that_began_under_another_source_of_trust_begins_again() {
    let mut rig = Rig::new(8);
    rig.policies.send_replace(trust_from(CaSource::Issuer));
    rig.hold();
    let mut web = rig.subscribe("web");
    assert_eq!(rig.asked().await, ("web".into(), 0));
    let inline = |cas: &[&TestCa]| {
        let bundle = Bundle::from_certificates(cas.iter().map(|ca| ca.certificate().clone()));
        trust_from(CaSource::Inline(Arc::new(bundle.unwrap())))
    };
    rig.policies.send_replace(inline(&[&rig.root]));
    assert_eq!(rig.asked().await, ("web".into(), 0), "the issuer's word does not count any more");
    rig.policies.send_replace(inline(&[&rig.root, &TestCa::root("Other")]));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(rig.nothing_asked(), "one CA more is no reason to ask again");
    rig.release(1);
    next(&mut web).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_policy_issues_anew_after_the_trust_had_time_to_spread() {
    let mut rig = Rig::new(8);
    let mut web = rig.subscribe("web");
    next(&mut web).await;
    rig.asked().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    rig.policies.send_replace(policy(200));
    assert_eq!(rig.asked().await, ("web".into(), 15));
    let renewed = next(&mut web).await;
    assert_eq!(renewed.validity().not_after, timestamp(START + 215));
}

#[tokio::test(start_paused = true)]
async fn a_change_of_another_mesh_cuts_no_backoff_short() {
    let mut rig = Rig::new(8);
    rig.fail_with(CaError::Failed("no".into()));
    let mut web = rig.subscribe("web");
    rig.asked().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut policies = policy(100);
    let mut other = (*policies.meshes["default"]).clone();
    other.name = "other".into();
    Arc::make_mut(&mut policies).meshes.insert("other".into(), Arc::new(other));
    rig.policies.send_replace(policies);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(rig.nothing_asked());
    next(&mut web).await;
}

#[tokio::test(start_paused = true)]
async fn a_leaf_that_lost_its_trust_is_replaced_at_once() {
    let mut rig = Rig::new(8);
    let mut web = rig.subscribe("web");
    next(&mut web).await;
    rig.asked().await;
    let other = TestCa::root("Other");
    *rig.ca.signer.lock().unwrap() = Arc::new(TestCaBox(other.clone()));
    rig.trust.send_replace(trusting(&[&other]));
    assert_eq!(rig.asked().await, ("web".into(), 0));
    assert_eq!(next(&mut web).await.anchor, *other.certificate());
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_is_not_given_a_leaf_that_lost_its_trust() {
    let mut rig = Rig::new(8);
    let mut web = rig.subscribe("web");
    next(&mut web).await;
    rig.asked().await;
    drop(web);
    // The worker hears of it before the trust changes.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let other = TestCa::root("Other");
    *rig.ca.signer.lock().unwrap() = Arc::new(TestCaBox(other.clone()));
    rig.trust.send_replace(trusting(&[&other]));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut again = rig.subscribe("web");
    assert!(again.current.borrow_and_update().is_none());
    assert_eq!(next(&mut again).await.anchor, *other.certificate());
}

#[tokio::test(start_paused = true)]
async fn a_leaf_under_a_ca_that_was_just_added_waits_only_where_the_old_one_is_good() {
    for (keeps_the_old_ca, expected) in [(true, 5), (false, 0)] {
        let mut rig = Rig::new(8);
        let mut web = rig.subscribe("web");
        next(&mut web).await;
        rig.asked().await;
        let new = TestCa::root("New");
        *rig.ca.signer.lock().unwrap() = Arc::new(TestCaBox(new.clone()));
        let cas = if keeps_the_old_ca { vec![&rig.root, &new] } else { vec![&new] };
        let trust = trusting_newly(&rig, &cas, &new);
        rig.trust.send_replace(trust);
        tokio::task::yield_now().await;
        let asked = if keeps_the_old_ca {
            // Nothing is due; an operator switches to it a moment later.
            rig.policies.send_replace(policy(200));
            rig.asked().await.1 - 5
        } else {
            rig.asked().await.1
        };
        assert_eq!(asked, 0);
        assert_eq!(next(&mut web).await.anchor, *new.certificate());
        assert_eq!(rig.clock.now().as_second() - START, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_ca_that_the_user_replaces_is_trusted_first_and_signs_what_is_due() {
    let mut rig = Rig::new(8);
    let inline = || DataSource::Inline(SecretBytes::new(Vec::new()));
    let ca = ProvidedCa { certificate: inline(), private_key: inline(), allow_self_signed: true };
    let mut policies = policy(100);
    let mesh = Arc::make_mut(Arc::make_mut(&mut policies).meshes.get_mut("default").unwrap());
    Arc::make_mut(&mut mesh.backends[0]).kind = BackendKind::Provided(ca);
    rig.policies.send_replace(policies);
    let mut web = rig.subscribe("web");
    next(&mut web).await;
    rig.asked().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let new = TestCa::root("New");
    *rig.ca.signer.lock().unwrap() = Arc::new(TestCaBox(new.clone()));
    let trust = trusting_newly(&rig, &[&rig.root, &new], &new);
    rig.trust.send_replace(trust);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(rig.nothing_asked(), "what it has is good");
    rig.manager.rotate(rig.manager.snapshot().into_keys().collect());
    assert_eq!(rig.asked().await, ("web".into(), 11));
    assert_eq!(next(&mut web).await.anchor, *new.certificate());
    assert_eq!(rig.clock.now().as_second() - START, 15, "peers had time to get the CA");
}
