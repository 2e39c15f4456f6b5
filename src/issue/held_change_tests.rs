//! Proxies that report a leaf which is no longer what they are to have, or newer than what the server has.

use super::*;

impl Rig {
    /// The same of another policy.
    fn outdated(&self, name: &str, from: i64, until: i64) -> HeldLeaf {
        HeldLeaf { policy_digest: "0123456789abcdef".into(), ..self.leaf(name, from, until) }
    }

    fn rotate(&self, name: &str) {
        let keys = self.manager.snapshot().into_keys();
        self.manager.rotate(keys.filter(|key| key.instance.name() == name).collect());
    }

    fn seconds(&self) -> i64 {
        self.clock.now().as_second() - START
    }
}

#[tokio::test(start_paused = true)]
async fn item_92_a_leaf_of_another_policy_is_replaced_when_peers_had_time_to_come_back() {
    let mut rig = Rig::new(8);
    let mut web = rig.subscribe_with("web", Some(&rig.outdated("web", 0, 1_000)));
    let _due = rig.subscribe_with("due", Some(&rig.outdated("due", -30, 30)));
    let mut bare = rig.subscribe("bare");
    assert_eq!(rig.asked().await, ("bare".into(), 0), "who has none does not wait");
    next(&mut bare).await;
    assert_eq!(rig.status("web").held_until, Some(timestamp(START + 1_000)));
    assert_eq!(rig.metric("resumed_total"), None);
    assert_eq!(rig.asked().await, ("due".into(), 10), "no later than it is due");
    // A stream that breaks now and then does not put it off.
    tokio::time::sleep(Duration::from_secs(10)).await;
    drop(web);
    tokio::time::sleep(Duration::from_secs(10)).await;
    web = rig.subscribe_with("web", Some(&rig.outdated("web", 0, 1_000)));
    let (name, at) = rig.asked().await;
    assert_eq!((&*name, at), ("web", 50));
    next(&mut web).await;
}

#[tokio::test(start_paused = true)]
async fn item_92_nor_is_it_replaced_sooner_because_the_policy_comes_after_the_report() {
    let mut rig = Rig::new(8);
    let held = rig.outdated("web", 0, 1_000);
    let policies = rig.policies.send_replace(Arc::default());
    rig.settle().await;
    let _web = rig.subscribe_with("web", Some(&held));
    tokio::time::sleep(Duration::from_secs(5)).await;
    rig.policies.send_replace(policies);
    assert_eq!(rig.asked().await, ("web".into(), 55));
}

#[tokio::test(start_paused = true)]
async fn an_operator_renews_leaves_that_are_not_judged_yet() {
    let mut rig = Rig::new(8);
    let held = rig.leaf("web", -10, 90);
    let trust = rig.trust.send_replace(Arc::default());
    rig.settle().await;
    let mut web = rig.subscribe_with("web", Some(&held));
    rig.settle().await;
    rig.rotate("web");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(rig.nothing_asked());
    rig.trust.send_replace(trust);
    assert_eq!(rig.asked().await, ("web".into(), 5));
    next(&mut web).await;
}

#[tokio::test(start_paused = true)]
async fn a_held_leaf_that_lost_its_trust_while_a_signing_was_in_flight_is_replaced_when_that_fails() {
    let mut rig = Rig::new(8);
    rig.hold();
    let _web = rig.subscribe_holding("web", -10, 9_000);
    let bare = rig.subscribe("web");
    assert_eq!(rig.asked().await, ("web".into(), 0));
    drop(bare);
    let other = TestCa::root("Other");
    *rig.ca.signer.lock().unwrap() = Arc::new(TestCaBox(other.clone()));
    rig.trust.send_replace(trusting(&[&other]));
    rig.settle().await;
    rig.fail_with(CaError::Failed("no".into()));
    rig.release(2);
    let (_, at) = rig.asked().await;
    assert!((2..=6).contains(&at), "after the usual backoff: {at}");
}

#[tokio::test(start_paused = true)]
async fn items_34_and_89_a_newer_leaf_of_another_replica_is_not_replaced_by_the_one_in_memory() {
    let mut rig = Rig::new(8);
    let mut web = rig.subscribe("web");
    next(&mut web).await;
    rig.asked().await;
    drop(web);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let web = rig.subscribe_with("web", Some(&rig.leaf("web", 30, 130)));
    assert!(web.shows_changes_only);
    rig.settle().await;
    assert!(web.current.borrow().is_none(), "maybe its key is known to others");
    assert_eq!(rig.status("web").held_until, Some(timestamp(START + 130)));
    assert_eq!(rig.asked().await, ("web".into(), 30 + 66));
}

#[tokio::test(start_paused = true)]
async fn what_is_in_memory_is_sent_to_who_reports_a_newer_leaf_that_is_no_good() {
    let mut rig = Rig::new(8);
    let mut web = rig.subscribe("web");
    let issued = next(&mut web).await;
    rig.asked().await;
    drop(web);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let foreign = HeldLeaf { anchor: "0000000000000000".into(), ..rig.leaf("web", 5, 105) };
    for held in [foreign, rig.outdated("web", 5, 105), rig.leaf("web", 500, 600)] {
        let mut web = rig.subscribe_with("web", Some(&held));
        assert!(web.shows_changes_only && !web.current.has_changed().unwrap());
        assert!(Arc::ptr_eq(&next(&mut web).await, &issued), "{held:?}");
    }
    assert!(rig.nothing_asked());
}

#[tokio::test(start_paused = true)]
async fn a_lying_client_that_says_its_leaf_is_newer_takes_none_from_the_others_and_has_few_issued() {
    let mut rig = Rig::new(8);
    let mut honest = rig.subscribe("web");
    next(&mut honest).await;
    assert_eq!(rig.asked().await, ("web".into(), 0));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut liar = rig.subscribe_with("web", Some(&rig.leaf("web", 1, 1_000)));
    assert_eq!(rig.asked().await, ("web".into(), 2), "the honest one may need it");
    let renewed = next(&mut liar).await;
    assert!(Arc::ptr_eq(&next(&mut honest).await, &renewed));
    for _ in 0..50 {
        let now = rig.seconds();
        let mut again = rig.subscribe_with("web", Some(&rig.leaf("web", now + 50, now + 1_000)));
        next(&mut again).await;
    }
    assert!(rig.nothing_asked(), "once in a while is enough");
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_not_shown_any_more_when_those_who_are_left_hold_good_leaves() {
    let mut rig = Rig::new(8);
    let _web = rig.subscribe_holding("web", -10, 9_000);
    for leaves_before_it_fails in [false, true] {
        rig.fail_with(CaError::Failed("no".into()));
        let bare = rig.subscribe("web");
        if leaves_before_it_fails {
            rig.hold();
        }
        rig.asked().await;
        if leaves_before_it_fails {
            drop(bare);
            rig.release(1);
            rig.settle().await;
        } else {
            rig.settle().await;
            assert!(rig.status("web").error.is_some());
            drop(bare);
            rig.settle().await;
        }
        let status = rig.status("web");
        assert_eq!(status.error, None);
        assert!(status.next.unwrap() > timestamp(START + 5_000), "{status:?}");
        // Until the backoff is over, which whoever comes next would have to wait for.
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_at_the_moment_at_which_it_is_forgotten_costs_nothing() {
    // Whether the worker hears of the subscriber first, or of something else and looks whom to forget, is chance.
    for _ in 0..16 {
        let mut rig = Rig::new(8);
        rig.policies.send_replace(policy(100_000));
        let mut web = rig.subscribe("web");
        let issued = next(&mut web).await;
        rig.asked().await;
        drop(web);
        rig.settle().await;
        let mut passing = std::pin::pin!(tokio::time::advance(Duration::from_secs(600)));
        // The time has passed, and nobody has had a turn yet.
        assert!(futures::poll!(&mut passing).is_pending());
        let again = rig.subscribe("web");
        rig.trust.send_modify(|_| {});
        passing.await;
        rig.settle().await;
        assert!(Arc::ptr_eq(again.current.borrow().as_ref().unwrap(), &issued));
        assert!(rig.nothing_asked());
        drop(again);
        tokio::time::sleep(Duration::from_secs(601)).await;
        assert!(rig.manager.snapshot().is_empty());
    }
}
