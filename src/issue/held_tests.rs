//! Proxies that report a leaf to a server that does not have it: what is issued, and what is not.

use prometheus_client::encoding::text::encode;

use super::*;
use crate::issue::issuer::policy_digest;
use crate::issue::manager::Status;

const DAY: i64 = 86_400;

impl Rig {
    /// What `name` reports that was issued a leaf by a server with this CA and policy.
    fn leaf(&self, name: &str, from: i64, until: i64) -> HeldLeaf {
        let backend = self.policies.borrow().meshes["default"].enabled().unwrap().clone();
        let spiffe_id = format!("spiffe://default/{name}").into();
        let subject = Subject { mesh: "default".into(), proxy: name.into(), spiffe_id, identity_policy: None };
        HeldLeaf {
            not_before: timestamp(START + from),
            not_after: timestamp(START + until),
            policy_digest: policy_digest(&backend, &subject),
            anchor: self.root.certificate().short_digest().into(),
            content: "8000000000000000".into(),
        }
    }

    fn subscribe_holding(&self, name: &str, from: i64, until: i64) -> Subscription {
        self.subscribe_with(name, Some(&self.leaf(name, from, until)))
    }

    /// Lets the worker do all that is to be done now.
    async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    fn status(&self, name: &str) -> Status {
        let proxies = self.manager.snapshot().into_iter();
        proxies.filter(|(key, _)| key.instance.name() == name).map(|(_, (_, status))| status).next().unwrap()
    }

    /// The line of the metric that begins like this, without what it begins with.
    fn metric(&self, start: &str) -> Option<String> {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        text.lines().find_map(|line| line.strip_prefix(start).map(|rest| rest.trim().to_owned()))
    }
}

#[tokio::test(start_paused = true)]
async fn item_107_a_server_that_has_lost_the_key_issues_nothing_before_the_leaf_is_due() {
    let before = Rig::new(8);
    let mut web = before.subscribe("web");
    let first = next(&mut web).await;
    let due = before.status("web").next.unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;

    let mut rig = before.restarted(8);
    drop(before);
    let mut web = rig.subscribe_with("web", Some(&HeldLeaf::from(&*first)));
    rig.settle().await;
    let status = rig.status("web");
    assert_eq!(status.held_until, Some(first.usable_until()));
    assert!(status.next.unwrap().duration_since(due).abs() <= SignedDuration::from_secs(1), "not drawn anew");
    assert_eq!(rig.metric("resumed_total{mesh=\"default\"}").unwrap(), "1");
    assert_eq!(rig.metric("proxies{mesh=\"default\"}").unwrap(), "1");
    assert_eq!(rig.metric("certificate_ready_status{mesh=\"default\"}").unwrap(), "1");
    let ends = first.usable_until().as_second().to_string();
    assert_eq!(rig.metric("certificate_expiration_timestamp_seconds{mesh=\"default\"}").unwrap(), ends);
    let ca_ends = rig.root.certificate().validity().not_after.as_second().to_string();
    assert_eq!(rig.metric("signing_ca_expiration_timestamp_seconds{mesh=\"default\"}").unwrap(), ca_ends, "as before");

    let (_, at) = rig.asked().await;
    assert!((at - (due.as_second() - START)).abs() <= 1, "asked at {at}");
    let renewed = next(&mut web).await;
    assert_ne!(renewed.key.expose(), first.key.expose(), "with a new key");
    assert_eq!(rig.status("web").held_until, None);
}

#[tokio::test(start_paused = true)]
async fn items_34_and_89_what_is_in_memory_is_offered_whatever_is_reported() {
    let mut rig = Rig::new(8);
    let mut web = rig.subscribe("web");
    let issued = next(&mut web).await;
    drop(web);
    for held in [HeldLeaf::from(&*issued), rig.leaf("web", -10, 90)] {
        let again = rig.subscribe_with("web", Some(&held));
        assert!(Arc::ptr_eq(again.current.borrow().as_ref().unwrap(), &issued));
    }
    rig.settle().await;
    assert_eq!(rig.asked().await, ("web".into(), 0));
    assert!(rig.nothing_asked());
    assert_eq!(rig.status("web").held_until, None);
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_a_version_has_a_leaf_issued_for_all_of_them() {
    let mut rig = Rig::new(8);
    let mut silent = rig.subscribe_holding("web", -10, 90);
    rig.settle().await;
    assert!(rig.nothing_asked());
    let mut bare = rig.subscribe("web");
    assert_eq!(rig.asked().await, ("web".into(), 0));
    let leaf = next(&mut bare).await;
    assert!(Arc::ptr_eq(&leaf, &next(&mut silent).await));
    assert!(rig.nothing_asked(), "one for both");
}

#[tokio::test(start_paused = true)]
async fn of_several_reports_the_earliest_renewal_counts_as_long_as_its_stream_is_there() {
    let mut rig = Rig::new(8);
    let _late = rig.subscribe_holding("web", 0, 90);
    let early = rig.subscribe_holding("web", -50, 50);
    let earliest = rig.subscribe_holding("web", -60, 40);
    rig.settle().await;
    let until = |rig: &Rig| rig.status("web").held_until.unwrap().as_second() - START;
    let due = |rig: &Rig| rig.status("web").next.unwrap().as_second() - START;
    assert_eq!((until(&rig), due(&rig)), (40, 6));
    drop(earliest);
    rig.settle().await;
    assert_eq!((until(&rig), due(&rig)), (50, 16));
    drop(early);
    rig.settle().await;
    assert_eq!((until(&rig), due(&rig)), (90, 60));
    assert_eq!(rig.asked().await, ("web".into(), 60));
}

#[tokio::test(start_paused = true)]
async fn what_is_reported_before_policy_and_trust_are_known_is_judged_when_they_are() {
    let mut rig = Rig::new(8);
    let held = rig.leaf("web", -10, 90);
    let (policies, trust) = (rig.policies.borrow().clone(), rig.trust.borrow().clone());
    rig.policies.send_replace(Arc::default());
    rig.trust.send_replace(Arc::default());
    rig.settle().await;
    let _web = rig.subscribe_with("web", Some(&held));
    let foreign = HeldLeaf { anchor: "0000000000000000".into(), ..held.clone() };
    let mut other = rig.subscribe_with("other", Some(&foreign));
    let mut gone = rig.subscribe_with("web", Some(&foreign));
    let _ = gone.current.borrow_and_update();
    drop(gone);
    rig.policies.send_replace(policies);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(rig.nothing_asked());
    assert_eq!(rig.status("web").held_until, None, "not judged yet");
    rig.trust.send_replace(trust);
    assert_eq!(rig.asked().await, ("other".into(), 5), "what peers refuse is not stood by");
    next(&mut other).await;
    assert!(rig.nothing_asked());
    assert_eq!(rig.status("web").held_until, Some(held.not_after));
    assert_eq!(rig.metric("resumed_total{mesh=\"default\"}").unwrap(), "1");
}

#[tokio::test(start_paused = true)]
async fn a_held_leaf_of_a_policy_that_has_changed_is_replaced_after_the_trust_had_time_to_spread() {
    let mut rig = Rig::new(8);
    let mut web = rig.subscribe_holding("web", -10, 90);
    tokio::time::sleep(Duration::from_secs(10)).await;
    rig.policies.send_replace(policy(200));
    assert_eq!(rig.asked().await, ("web".into(), 15));
    assert_eq!(next(&mut web).await.validity().not_after, timestamp(START + 215));
}

#[tokio::test(start_paused = true)]
async fn a_held_leaf_that_lost_its_trust_is_replaced_at_once() {
    let mut rig = Rig::new(8);
    let mut web = rig.subscribe_holding("web", -10, 90);
    rig.settle().await;
    let other = TestCa::root("Other");
    *rig.ca.signer.lock().unwrap() = Arc::new(TestCaBox(other.clone()));
    rig.trust.send_replace(trusting(&[&rig.root, &other]));
    rig.settle().await;
    assert!(rig.nothing_asked(), "one CA more takes nothing from it");
    rig.trust.send_replace(trusting(&[&other]));
    assert_eq!(rig.asked().await, ("web".into(), 0));
    assert_eq!(next(&mut web).await.anchor, *other.certificate());
}

#[tokio::test(start_paused = true)]
async fn the_successor_of_a_held_leaf_waits_for_peers_to_learn_of_its_ca() {
    let mut rig = Rig::new(8);
    let mut web = rig.subscribe_holding("web", -10, 90);
    rig.settle().await;
    let new = TestCa::root("New");
    *rig.ca.signer.lock().unwrap() = Arc::new(TestCaBox(new.clone()));
    let trust = trusting_newly(&rig, &[&rig.root, &new], &new);
    rig.trust.send_replace(trust);
    let key = rig.manager.snapshot().into_keys().next().unwrap();
    rig.manager.rotate(vec![key]);
    assert_eq!(rig.asked().await.1, 0);
    assert_eq!(next(&mut web).await.anchor, *new.certificate());
    assert_eq!(rig.clock.now().as_second() - START, 5);
}

#[tokio::test(start_paused = true)]
async fn a_failed_renewal_of_a_held_leaf_is_tried_again_before_it_ends() {
    let mut rig = Rig::new(8);
    for _ in 0..3 {
        rig.fail_with(CaError::Failed("no".into()));
    }
    let mut web = rig.subscribe_holding("web", -92, 8);
    let mut at = Vec::new();
    for _ in 0..4 {
        at.push(rig.asked().await.1);
    }
    assert_eq!(at[0], 0, "it was due before the server started");
    next(&mut web).await;
    assert!(rig.clock.now() < timestamp(START + 8), "hurried by what was left: {at:?}");
    let errors = rig.metric("certificate_renewal_errors_total{mesh=\"default\",backend=\"ca\"}");
    assert_eq!(errors.unwrap(), "3");
}

#[tokio::test(start_paused = true)]
async fn an_operator_renews_a_held_leaf_before_it_is_due() {
    let mut rig = Rig::new(8);
    let mut web = rig.subscribe_holding("web", -10, 90);
    rig.settle().await;
    let key = rig.manager.snapshot().into_keys().next().unwrap();
    rig.manager.rotate(vec![key]);
    // Whoever else comes with a good one does not undo that.
    let _other = rig.subscribe_holding("web", -10, 90);
    assert_eq!(rig.asked().await, ("web".into(), 0));
    next(&mut web).await;
}

#[tokio::test(start_paused = true)]
async fn items_97_and_104_thousands_come_back_and_only_those_that_need_a_leaf_cost_one() {
    let mut rig = Rig::new(4);
    rig.hold();
    let name = |number: usize| format!("proxy-{number}");
    let holding: Vec<_> = (0..2_000).map(|number| rig.subscribe_holding(&name(number), -10, 90)).collect();
    let bare: Vec<_> = (2_000..4_000).map(|number| rig.subscribe(&name(number))).collect();
    rig.settle().await;
    let asked = std::iter::from_fn(|| rig.asked.try_recv().ok()).count();
    assert_eq!(asked, 4, "as many as may be in flight");
    assert_eq!(rig.metric("resumed_total{mesh=\"default\"}").unwrap(), "2000");
    assert_eq!(rig.metric("proxies{mesh=\"default\"}").unwrap(), "4000");
    drop((holding, bare));
}

#[tokio::test(start_paused = true)]
async fn a_lying_client_is_issued_a_leaf_at_once_where_the_lie_is_not_believed() {
    let other = TestCa::root("Root").certificate().short_digest();
    let lies: [fn(&mut HeldLeaf); 3] = [
        |leaf| leaf.not_after = timestamp(START + 100 * 365 * DAY),
        |leaf| (leaf.not_before, leaf.not_after) = (timestamp(START + DAY), timestamp(START + 2 * DAY)),
        |leaf| leaf.not_after = timestamp(START - 1),
    ];
    let foreign = |leaf: &mut HeldLeaf| leaf.anchor = other.as_str().into();
    for lie in lies.iter().map(|lie| lie as &dyn Fn(&mut HeldLeaf)).chain([&foreign as &dyn Fn(&mut HeldLeaf)]) {
        let mut rig = Rig::new(8);
        let mut held = rig.leaf("liar", -10, 90);
        lie(&mut held);
        let mut liar = rig.subscribe_with("liar", Some(&held));
        assert_eq!(rig.asked().await, ("liar".into(), 0), "{held:?}");
        next(&mut liar).await;
        assert_eq!(rig.metric("resumed_total"), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lying_client_that_is_believed_is_the_only_one_to_go_without() {
    let mut rig = Rig::new(8);
    // As long as can be believed: its CA would date back and round up to that.
    let mut liar = rig.subscribe_holding("liar", 0, DAY + 200);
    let mut neighbour = rig.subscribe("neighbour");
    assert_eq!(rig.asked().await, ("neighbour".into(), 0));
    next(&mut neighbour).await;
    assert!(rig.nothing_asked());
    let mut honest = rig.subscribe("liar");
    assert_eq!(rig.asked().await, ("liar".into(), 0), "an honest stream of the same proxy is served at once");
    next(&mut honest).await;
    let leaf = next(&mut liar).await;
    assert_eq!(leaf.validity().not_after, timestamp(START + 100), "nothing of the lie is in it");
    let renewal = rig.status("liar").next.unwrap();
    assert!(renewal < timestamp(START + 75), "and it is not renewed by the lie: {renewal}");
}

#[tokio::test(start_paused = true)]
async fn a_lying_client_that_leaves_leaves_nothing_behind() {
    let mut rig = Rig::new(8);
    let (early, late) = (rig.subscribe_holding("web", 0, DAY), rig.subscribe_holding("web", 0, 2 * DAY));
    rig.settle().await;
    drop((early, late));
    rig.settle().await;
    assert_eq!(rig.status("web").held_until, None);
    let mut honest = rig.subscribe("web");
    assert_eq!(rig.asked().await, ("web".into(), 0));
    next(&mut honest).await;
    drop(honest);
    tokio::time::sleep(Duration::from_secs(601)).await;
    assert!(rig.manager.snapshot().is_empty());
}

#[path = "held_change_tests.rs"]
mod change;
