use proptest::prelude::*;

use super::*;
use crate::issue::queue::SLOW_PER_TURN;
use crate::model::identity::Instance;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn key(name: &str) -> ProxyKey {
    key_in("default", name)
}

fn key_in(mesh: &str, name: &str) -> ProxyKey {
    ProxyKey {
        mesh: mesh.into(),
        spiffe_id: format!("spiffe://{mesh}/{name}").into(),
        identity_policy: None,
        instance: Instance::Proven(name.into()),
    }
}

fn opened(limit: usize) -> Schedule {
    let mut schedule = Schedule::new(limit);
    schedule.open(&Signer::classic("default"), true);
    schedule
}

fn sign(name: &str) -> Step {
    Step::Sign(key(name))
}

#[test]
fn what_is_wanted_is_signed_once_and_renewed_when_due() {
    let mut schedule = opened(8);
    schedule.wanted(&key("a"), None, at(0));
    schedule.wanted(&key("a"), None, at(0));
    assert_eq!(schedule.steps(at(0)), [sign("a")]);
    assert_eq!(schedule.steps(at(1)), []);
    schedule.issued(&key("a"), at(60), at(90));
    assert_eq!(schedule.wake_at(), Some(at(60)));
    assert_eq!(schedule.steps(at(59)), []);
    assert_eq!(schedule.steps(at(60)), [sign("a")]);
}

#[test]
fn unserved_proxies_overtake_renewals_and_the_first_to_end_is_renewed_first() {
    let mut schedule = opened(8);
    for (name, until) in [("late", 300), ("soon", 200), ("ended", 95)] {
        schedule.wanted(&key(name), None, at(0));
        schedule.steps(at(0));
        schedule.issued(&key(name), at(90), at(until));
    }
    schedule.in_flight_limit = 1;
    schedule.wanted(&key("new"), None, at(100));
    let mut order = Vec::new();
    for _ in 0..4 {
        let steps = schedule.steps(at(100));
        let [Step::Sign(next)] = steps.as_slice() else { panic!("one at a time: {steps:?}") };
        order.push(next.instance.name().to_owned());
        schedule.issued(next, at(1_000), at(2_000));
    }
    assert_eq!(order, ["ended", "new", "soon", "late"]);
}

#[test]
fn who_waits_for_a_turn_is_counted_by_what_it_has() {
    let mut schedule = opened(2);
    let backlog = |schedule: &Schedule| {
        let [(mesh, backlog)] = schedule.backlogs().collect::<Vec<_>>()[..] else { panic!("one mesh") };
        assert_eq!(&**mesh, "default");
        assert_counted(schedule);
        [backlog.first, backlog.renewals, backlog.in_flight, backlog.pending, backlog.retrying]
    };
    for name in ["old-1", "old-2"] {
        schedule.wanted(&key(name), None, at(0));
    }
    schedule.steps(at(0));
    assert_eq!(backlog(&schedule), [0, 0, 2, 0, 0]);
    for name in ["old-1", "old-2"] {
        schedule.issued(&key(name), at(60), at(1_000));
    }
    schedule.open(&Signer::classic("default"), false);
    for name in ["new-1", "new-2", "new-3"] {
        schedule.wanted(&key(name), None, at(60));
    }
    schedule.steps(at(60));
    assert_eq!(backlog(&schedule), [3, 2, 0, 0, 0], "they wait also for a signer that is closed");
    schedule.open(&Signer::classic("default"), true);
    assert_eq!(schedule.steps(at(61)), [sign("new-1"), sign("new-2")]);
    assert_eq!(backlog(&schedule), [1, 2, 2, 0, 0]);
    schedule.steps(at(91));
    assert_eq!(backlog(&schedule), [0, 1, 2, 2, 0], "who has given its turn back is not in flight");
    schedule.unwanted(&key("old-1"), None, at(92));
    schedule.unwanted(&key("old-2"), None, at(92));
    schedule.failed(&key("new-1"), at(93), |_, _| Duration::from_secs(5));
    assert_eq!(backlog(&schedule), [0, 1, 2, 1, 1], "who has gone keeps its place, should it come back");
    schedule.issued(&key("new-3"), at(1_000), at(2_000));
    assert_eq!(schedule.steps(at(95)), [], "but does not take its turn");
    assert_eq!(backlog(&schedule), [0, 0, 1, 1, 1]);
    schedule.unwanted(&key("new-1"), None, at(96));
    assert_eq!(backlog(&schedule), [0, 0, 1, 1, 0], "nobody waits for it");
    schedule.wanted(&key("new-1"), None, at(97));
    assert_eq!(backlog(&schedule), [0, 0, 1, 1, 1]);
    assert_eq!(schedule.steps(at(98)), [sign("new-1")]);
    assert_eq!(backlog(&schedule), [0, 0, 2, 1, 0]);
    schedule.failed(&key("new-1"), at(99), |_, _| Duration::from_secs(5));
    schedule.restart(&key("new-1"), at(200), at(100));
    assert_eq!(backlog(&schedule), [0, 0, 1, 1, 0], "it is due");
}

/// What is counted as they come and go is what is there.
fn assert_counted(schedule: &Schedule) {
    for (mesh, backlog) in schedule.backlogs() {
        let count = |is: fn(&Entry) -> bool| {
            schedule.entries.iter().filter(|(key, entry)| key.mesh == *mesh && is(entry)).count()
        };
        assert_eq!(backlog.first, count(|entry| matches!(entry.phase, Phase::Ready(Turn::Unserved(_)))));
        assert_eq!(backlog.renewals, count(|entry| matches!(entry.phase, Phase::Ready(Turn::Renewal(_)))));
        assert_eq!(backlog.in_flight, count(|entry| matches!(entry.phase, Phase::Signing(Flight::Quick { .. }))));
        assert_eq!(backlog.pending, count(|entry| entry.phase == Phase::Signing(Flight::Slow)));
        assert_eq!(backlog.retrying, count(|entry| entry.is_counted));
        // One with a leaf may be counted a little later.
        let without = count(|entry| entry.leaf == Leaf::None && entry.retries_unserved(Timestamp::MIN));
        assert_eq!(count(|entry| entry.leaf == Leaf::None && entry.is_counted), without);
    }
    let counts = |entry: &Entry| entry.is_counted || !matches!(entry.phase, Phase::Waiting(_));
    let mut counted = schedule.entries.iter().filter(|(_, entry)| counts(entry));
    assert!(counted.all(|(key, _)| schedule.queues.contains_key(&key.mesh)), "{schedule:?}");
}

#[test]
fn a_mesh_that_is_stuck_holds_up_no_other() {
    let mut schedule = Schedule::new(1);
    for mesh in ["stuck", "fine"] {
        schedule.open(&Signer::classic(mesh), true);
        schedule.wanted(&key_in(mesh, "a"), None, at(0));
        schedule.wanted(&key_in(mesh, "b"), None, at(0));
    }
    assert_eq!(schedule.steps(at(0)).len(), 2);
    schedule.issued(&key_in("fine", "a"), at(60), at(90));
    assert_eq!(schedule.steps(at(1)), [Step::Sign(key_in("fine", "b"))]);
}

#[test]
fn who_left_the_queue_is_not_signed_for() {
    let mut schedule = Schedule::new(1);
    schedule.wanted(&key("a"), None, at(0));
    assert_eq!(schedule.steps(at(0)), []);
    schedule.unwanted(&key("a"), None, at(1));
    schedule.open(&Signer::classic("default"), true);
    assert_eq!(schedule.steps(at(2)), []);
    schedule.wanted(&key("a"), None, at(3));
    assert_eq!(schedule.steps(at(3)), [sign("a")]);
}

#[test]
fn a_closed_mesh_signs_nothing_until_it_opens() {
    let mut schedule = Schedule::new(1);
    schedule.wanted(&key("a"), None, at(0));
    assert_eq!(schedule.steps(at(0)), []);
    schedule.open(&Signer::classic("default"), true);
    assert_eq!(schedule.steps(at(5)), [sign("a")]);
    schedule.close_others(&HashSet::new());
    schedule.issued(&key("a"), at(60), at(90));
    assert_eq!(schedule.steps(at(60)), []);
}

#[test]
fn a_failure_is_tried_again_and_the_leaf_in_use_counts_on() {
    let mut schedule = opened(1);
    schedule.wanted(&key("a"), None, at(0));
    schedule.steps(at(0));
    assert_eq!(
        schedule.failed(&key("a"), at(0), |_, left| {
            assert_eq!(left, None);
            Duration::from_secs(5)
        }),
        Some(at(5))
    );
    assert_eq!(schedule.steps(at(5)), [sign("a")]);
    schedule.issued(&key("a"), at(60), at(90));
    schedule.steps(at(60));
    let next = schedule.failed(&key("a"), at(70), |failures, left| {
        assert_eq!((failures, left), (1, Some(Duration::from_secs(20))));
        Duration::from_secs(3)
    });
    assert_eq!(next, Some(at(73)));
}

#[test]
fn an_abandoned_proxy_is_remembered_for_a_while() {
    let mut schedule = opened(1);
    schedule.wanted(&key("a"), None, at(0));
    schedule.steps(at(0));
    schedule.issued(&key("a"), at(60), at(90));
    schedule.unwanted(&key("a"), None, at(10));
    assert_eq!(schedule.steps(at(60)), [], "nobody wants the renewal");
    schedule.wanted(&key("a"), None, at(100));
    assert_eq!(schedule.steps(at(100)), [sign("a")], "what was put off is made up for");
    schedule.issued(&key("a"), at(10_000), at(20_000));
    schedule.unwanted(&key("a"), None, at(200));
    assert_eq!(schedule.steps(at(799)), []);
    assert_eq!(schedule.steps(at(800)), [Step::Forget(key("a"))]);
    assert_eq!(schedule.wake_at(), None);
}

#[test]
fn a_request_in_flight_survives_a_reconnect_and_is_given_up_after_a_while() {
    let mut schedule = opened(1);
    schedule.wanted(&key("a"), None, at(0));
    schedule.steps(at(0));
    schedule.unwanted(&key("a"), None, at(1));
    schedule.wanted(&key("a"), None, at(2));
    assert_eq!(schedule.steps(at(1_000)), []);
    schedule.unwanted(&key("a"), None, at(1_000));
    assert_eq!(schedule.steps(at(1_600)), [Step::Forget(key("a"))]);
    schedule.wanted(&key("b"), None, at(1_600));
    assert_eq!(schedule.steps(at(1_600)), [sign("b")], "its place is free again");
    schedule.issued(&key("a"), at(1), at(2)); // an answer that comes too late changes nothing
    assert_eq!(schedule.steps(at(1_601)), []);
}

#[test]
fn a_change_of_policy_restarts_what_is_in_flight_and_brings_renewals_forward() {
    let mut schedule = opened(8);
    for name in ["has-leaf", "in-flight", "in-backoff"] {
        schedule.wanted(&key(name), None, at(0));
    }
    schedule.steps(at(0));
    schedule.issued(&key("has-leaf"), at(1_000), at(2_000));
    schedule.failed(&key("in-backoff"), at(0), |_, _| Duration::from_secs(300));
    let restarted: Vec<_> =
        ["has-leaf", "in-flight", "in-backoff"].map(|name| schedule.restart(&key(name), at(15), at(10))).to_vec();
    assert_eq!(restarted, [false, true, false]);
    assert_eq!(schedule.steps(at(10)), [sign("in-backoff"), sign("in-flight")]);
    assert_eq!(schedule.steps(at(15)), [sign("has-leaf")]);
}

#[test]
fn backoff_is_not_lengthened_by_a_clock_that_is_set_back() {
    let mut schedule = opened(8);
    for name in ["has-leaf", "in-backoff"] {
        schedule.wanted(&key(name), None, at(10_000));
    }
    schedule.steps(at(10_000));
    schedule.issued(&key("has-leaf"), at(11_000), at(12_000));
    schedule.failed(&key("in-backoff"), at(10_000), |_, _| Duration::from_secs(5));
    assert_eq!(schedule.steps(at(10_000 - 3_600)), []);
    assert_eq!(schedule.steps(at(10_004 - 3_600)), []);
    assert_eq!(schedule.steps(at(10_005 - 3_600)), [sign("in-backoff")]);
    schedule.issued(&key("in-backoff"), at(20_000), at(30_000));
    assert_eq!(schedule.steps(at(11_000)), [sign("has-leaf")], "what is due at a time is due at that time");
}

#[path = "schedule_held_tests.rs"]
mod held;
#[path = "schedule_turns_tests.rs"]
mod turns;

#[derive(Debug, Clone)]
enum Event {
    Wanted(u8),
    Unwanted(u8),
    Issued(u8),
    Failed(u8),
    Restart(u8),
    Open(bool),
    Pass(u16),
}

fn event() -> impl Strategy<Value = Event> {
    let who = 0..6_u8;
    prop_oneof![
        who.clone().prop_map(Event::Wanted),
        who.clone().prop_map(Event::Unwanted),
        who.clone().prop_map(Event::Issued),
        who.clone().prop_map(Event::Failed),
        who.prop_map(Event::Restart),
        any::<bool>().prop_map(Event::Open),
        (0..700_u16).prop_map(Event::Pass),
    ]
}

proptest! {
    /// Whatever happens in whatever order: the limit holds, nobody is signed for twice at a time, who has no usable leaf goes
    /// before who has, and once the mesh is open and all signings land, everyone who is wanted has a leaf.
    #[test]
    fn invariants(events in proptest::collection::vec(event(), 0..200)) {
        const LIMIT: usize = 2;
        let mut schedule = opened(LIMIT);
        let (mut now, mut flying, mut wanted) = (0_i64, BTreeSet::new(), HashMap::<ProxyKey, usize>::new());
        let mut served = BTreeSet::new();
        let settle = |schedule: &mut Schedule, now, flying: &mut BTreeSet<ProxyKey>, served: &mut BTreeSet<ProxyKey>| {
            let (mut is_renewed, has_leaf) = (false, |entry: &Entry| entry.leaf.usable_until() > Some(at(now)));
            for step in schedule.steps(at(now)) {
                match step {
                    Step::Sign(key) => {
                        is_renewed |= has_leaf(&schedule.entries[&key]);
                        assert!(flying.insert(key), "signed for twice");
                    }
                    Step::Forget(key) => { flying.remove(&key); served.remove(&key); }
                }
            }
            let mut ready = schedule.entries.values().filter(|entry| matches!(entry.phase, Phase::Ready(_)));
            assert!(!is_renewed || ready.all(has_leaf), "who has no usable leaf goes first: {schedule:?}");
            assert_counted(schedule);
            // With nobody slow, the limit is the limit; with everybody slow, it is bounded still.
            assert!(flying.len() <= LIMIT * (1 + SLOW_PER_TURN));
        };
        for event in events {
            match event {
                Event::Wanted(who) => {
                    let key = key(&who.to_string());
                    *wanted.entry(key.clone()).or_default() += 1;
                    schedule.wanted(&key, None, at(now));
                }
                Event::Unwanted(who) => {
                    let key = key(&who.to_string());
                    if let Some(count) = wanted.get_mut(&key).filter(|count| **count > 0) {
                        *count -= 1;
                        schedule.unwanted(&key, None, at(now));
                    }
                }
                Event::Issued(who) => {
                    let key = key(&who.to_string());
                    if flying.remove(&key) {
                        schedule.issued(&key, at(now + 60), at(now + 90));
                        served.insert(key);
                    }
                }
                Event::Failed(who) => {
                    let key = key(&who.to_string());
                    if flying.remove(&key) {
                        schedule.failed(&key, at(now), |_, _| Duration::from_secs(5));
                    }
                }
                Event::Restart(who) => {
                    let key = key(&who.to_string());
                    prop_assert_eq!(schedule.restart(&key, at(now + 5), at(now)), flying.remove(&key));
                }
                Event::Open(open) => schedule.open(&Signer::classic("default"), open),
                Event::Pass(seconds) => now += i64::from(seconds),
            }
            settle(&mut schedule, now, &mut flying, &mut served);
        }
        schedule.open(&Signer::classic("default"), true);
        for _ in 0..20 {
            settle(&mut schedule, now, &mut flying, &mut served);
            for key in std::mem::take(&mut flying) {
                schedule.issued(&key, at(now + 10_000), at(now + 20_000));
                served.insert(key);
            }
            now += 5;
        }
        for (key, count) in wanted {
            prop_assert!(count == 0 || served.contains(&key), "{key} is wanted and has nothing");
        }
    }
}
