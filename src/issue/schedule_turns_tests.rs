//! Whose turn it is, and who gives it back.

use super::*;

#[test]
fn requests_that_nobody_decides_give_their_turns_back() {
    let mut schedule = opened(2);
    for name in ["stuck-1", "stuck-2", "next"] {
        schedule.wanted(&key(name), None, at(0));
    }
    assert_eq!(schedule.steps(at(0)).len(), 2);
    assert_eq!(schedule.steps(at(29)), []);
    assert_eq!(schedule.steps(at(30)).len(), 1, "the third gets a turn");
    for name in ["next", "stuck-1", "stuck-2"] {
        schedule.issued(&key(name), at(1_000), at(2_000));
    }
    assert_eq!(schedule.steps(at(1_000)).len(), 2, "all turns are free again, and no more than there were");
}

#[test]
fn they_do_so_in_time_when_the_clock_is_set_back() {
    let mut schedule = opened(2);
    for name in ["answered", "stuck-1", "stuck-2", "next"] {
        schedule.wanted(&key(name), None, at(10_000));
    }
    assert_eq!(schedule.steps(at(10_000)).len(), 2);
    schedule.issued(&key("answered"), at(90_000), at(100_000));
    assert_eq!(schedule.steps(at(10_010)).len(), 1);
    assert_eq!(schedule.steps(at(10_010 - 3_600)), [], "an hour back");
    assert_eq!(schedule.steps(at(10_039 - 3_600)), []);
    assert_eq!(schedule.steps(at(10_040 - 3_600)).len(), 1, "30 s after the answer");
}

#[test]
fn who_waits_for_one_signer_is_not_held_back_by_another() {
    let signer = |name: &str| Signer { identity_policy: Some(name.into()), ..Signer::classic("default") };
    let of = |policy: &str, name: &str| ProxyKey { identity_policy: Some(policy.into()), ..key(name) };
    let mut schedule = Schedule::new(1);
    for (policy, name) in [("closed", "first"), ("open", "second"), ("open", "third")] {
        schedule.wanted(&of(policy, name), None, at(0));
    }
    schedule.open(&signer("open"), true);
    assert_eq!(schedule.steps(at(0)), [Step::Sign(of("open", "second"))], "a closed one is passed over");
    schedule.open(&signer("closed"), true);
    assert_eq!(schedule.steps(at(1)), [], "the turns are the mesh's");
    assert!(schedule.is_open(&signer("closed")) && !schedule.is_open(&Signer::classic("default")));
    schedule.close_others(&HashSet::from([signer("open")]));
    schedule.issued(&of("open", "second"), at(100), at(150));
    assert_eq!(schedule.steps(at(2)), [Step::Sign(of("open", "third"))]);
}

#[test]
fn what_one_signer_sits_on_is_its_own_bound() {
    let of = |policy: &str, name: String| ProxyKey { identity_policy: Some(policy.into()), ..key(&name) };
    let mut schedule = Schedule::new(1);
    for policy in ["slow", "quick"] {
        schedule.open(&Signer { identity_policy: Some(policy.into()), ..Signer::classic("default") }, true);
    }
    let mut now = 0;
    for number in 0..=SLOW_PER_TURN {
        schedule.wanted(&of("slow", format!("slow-{number}")), None, at(now));
        schedule.steps(at(now));
        now += 31;
        schedule.steps(at(now));
    }
    schedule.wanted(&of("quick", "web".into()), None, at(now));
    assert_eq!(schedule.steps(at(now)), [Step::Sign(of("quick", "web".into()))]);
}

/// A CA that takes longer than 30 s for each, as others ask it too, but answers one after the other.
#[test]
fn a_ca_that_is_slow_and_answers_in_order_has_as_many_requests_as_it_may() {
    let mut schedule = opened(8);
    for number in 0..100 {
        schedule.wanted(&key(&format!("{number:02}")), None, at(0));
    }
    let (mut asked, mut answered) = (Vec::new(), 0);
    for second in 0..400 {
        // Each waits for 40 s; now and then two of them change places.
        if second > 0 && second % 5 == 0 {
            asked.swap(answered, answered + usize::from(answered % 5 == 3));
            schedule.issued(&asked[answered], at(100_000), at(200_000));
            answered += 1;
        }
        for step in schedule.steps(at(second)) {
            let Step::Sign(key) = step else { panic!("{step:?}") };
            asked.push(key);
        }
        let (_, backlog) = schedule.backlogs().next().unwrap();
        assert_eq!((backlog.in_flight, backlog.pending, asked.len() - answered), (8, 0, 8), "after {second} s");
    }
    assert_eq!(answered, 79);
}

/// Requests that an approver sits on take no turns from those that the CA answers, whenever they began.
#[test]
fn who_is_overtaken_gives_its_turn_back() {
    let mut schedule = opened(3);
    for name in ["stuck-1", "stuck-2", "quick-00"] {
        schedule.wanted(&key(name), None, at(0));
    }
    let quick = |number: i64| key(&format!("quick-{number:02}"));
    schedule.steps(at(0));
    for second in 1..60 {
        schedule.wanted(&quick(second), None, at(second));
        schedule.issued(&quick(second - 1), at(100_000), at(200_000));
        assert_eq!(schedule.steps(at(second)), [Step::Sign(quick(second))]);
        let (_, backlog) = schedule.backlogs().next().unwrap();
        let expected = if second < 30 { (3, 0) } else { (1, 2) };
        assert_eq!((backlog.in_flight, backlog.pending), expected, "after {second} s");
    }
}

/// All turns are taken by requests that nobody decides, while the last that began before them are still answered.
#[test]
fn a_ca_that_falls_silent_is_asked_for_others() {
    let mut schedule = opened(2);
    for name in ["a", "b", "c-stuck", "d-stuck", "e-next"] {
        schedule.wanted(&key(name), None, at(0));
    }
    assert_eq!(schedule.steps(at(0)), [sign("a"), sign("b")]);
    schedule.issued(&key("a"), at(100_000), at(200_000));
    assert_eq!(schedule.steps(at(10)).len(), 1);
    schedule.issued(&key("b"), at(100_000), at(200_000));
    assert_eq!(schedule.steps(at(25)).len(), 1);
    // The first of them has waited for 30 s before that, but the CA has answered meanwhile.
    let later: Vec<i64> = (26..100).filter(|second| !schedule.steps(at(*second)).is_empty()).collect();
    assert_eq!(later, [55], "30 s after it has answered last");
}

/// A turn is the mesh's: what one CA takes its time for is not kept from the others.
#[test]
fn who_waits_for_another_signer_gets_the_turns_of_a_slow_one() {
    let signer = |name: &str| Signer { identity_policy: Some(name.into()), ..Signer::classic("default") };
    let of = |policy: &str, name: &str| ProxyKey { identity_policy: Some(policy.into()), ..key(name) };
    let mut schedule = Schedule::new(2);
    for policy in ["slow", "other"] {
        schedule.open(&signer(policy), true);
    }
    for name in ["a", "b", "c"] {
        schedule.wanted(&of("slow", name), None, at(0));
    }
    schedule.steps(at(0));
    schedule.issued(&of("slow", "a"), at(100_000), at(200_000));
    assert_eq!(schedule.steps(at(20)), [Step::Sign(of("slow", "c"))]);
    assert_eq!(schedule.steps(at(30)), [], "it answers one after the other");
    schedule.wanted(&of("other", "web"), None, at(31));
    assert_eq!(schedule.steps(at(31)), []);
    assert_eq!(schedule.steps(at(40)), [Step::Sign(of("other", "web"))]);
}

/// Whoever waits for a signer that has as many pending requests as it may have is not helped by a turn.
#[test]
fn who_waits_for_a_signer_that_is_full_takes_no_turn_from_another() {
    let of =
        |policy: &str, number: usize| ProxyKey { identity_policy: Some(policy.into()), ..key(&format!("{number:02}")) };
    let (limit, mut now) = (2, 0);
    let full = limit * SLOW_PER_TURN;
    let mut schedule = Schedule::new(limit);
    for policy in ["full", "slow"] {
        schedule.open(&Signer { identity_policy: Some(policy.into()), ..Signer::classic("default") }, true);
    }
    for number in 0..=full {
        schedule.wanted(&of("full", number), None, at(now));
    }
    for _ in 0..full / limit {
        assert_eq!(schedule.steps(at(now)).len(), limit);
        now += 30;
    }
    assert_eq!(schedule.steps(at(now)), [], "one waits, and all are pending that may be");

    for number in 0..4 {
        schedule.wanted(&of("slow", number), None, at(now));
    }
    schedule.steps(at(now));
    schedule.issued(&of("slow", 0), at(100_000), at(200_000));
    assert_eq!(schedule.steps(at(now + 20)), [Step::Sign(of("slow", 2))]);
    assert_eq!(schedule.steps(at(now + 30)), [], "it answers one after the other");
    let (_, backlog) = schedule.backlogs().next().unwrap();
    assert_eq!((backlog.in_flight, backlog.pending), (limit, full));
    schedule.issued(&of("full", 0), at(100_000), at(200_000));
    assert_eq!(schedule.steps(at(now + 40)), [Step::Sign(of("full", full))], "it is not full any more");
}

#[test]
fn a_mesh_that_is_gone_is_forgotten_with_its_last_proxy() {
    let meshes = |schedule: &Schedule| schedule.backlogs().map(|(mesh, _)| mesh.to_string()).collect::<Vec<_>>();
    let gone = |name: &str| key_in("gone", name);
    let mut schedule = opened(2);
    schedule.open(&Signer::classic("gone"), true);
    for name in ["served", "fails", "pending"] {
        schedule.wanted(&gone(name), None, at(0));
        schedule.steps(at(0));
        match name {
            "served" => schedule.issued(&gone(name), at(1_000), at(2_000)),
            "fails" => {
                schedule.failed(&gone(name), at(0), |_, _| Duration::from_secs(20_000));
            }
            _ => {}
        }
    }
    schedule.wanted(&gone("waits"), None, at(10_000));
    schedule.close_others(&HashSet::from([Signer::classic("default")]));
    for name in ["served", "fails", "pending", "waits"] {
        schedule.steps(at(10_000));
        assert_eq!(meshes(&schedule).len(), 2, "before {name}");
        schedule.unwanted(&gone(name), None, at(10_000));
    }
    schedule.steps(at(10_599));
    assert_eq!(meshes(&schedule).len(), 2, "they may come back");
    schedule.steps(at(10_600));
    assert_eq!(meshes(&schedule), ["default"], "where the signer is");
    schedule.wanted(&gone("served"), None, at(10_700));
    schedule.steps(at(10_700));
    schedule.open(&Signer::classic("gone"), true);
    assert_eq!(schedule.steps(at(10_701)), [Step::Sign(gone("served"))], "a mesh of that name comes again");
}

#[test]
fn a_renewal_whose_leaf_ends_while_it_waits_goes_before_those_that_have_one() {
    for is_held in [false, true] {
        let mut schedule = opened(2);
        for (name, until) in [("ends", 100), ("stuck-1", 400), ("stuck-2", 400), ("good", 300)] {
            if is_held {
                schedule.wanted(&key(name), held::good(1, 90, until), at(0));
            } else {
                schedule.wanted(&key(name), None, at(0));
                schedule.steps(at(0));
                schedule.issued(&key(name), at(90), at(until));
            }
        }
        // Two have taken the turns before.
        for name in ["stuck-1", "stuck-2"] {
            schedule.restart(&key(name), at(80), at(80));
        }
        assert_eq!(schedule.steps(at(80)).len(), 2);
        schedule.wanted(&key("new"), None, at(95));
        assert_eq!(schedule.steps(at(99)), []);
        assert_eq!(schedule.wake_at(), Some(at(100)));
        assert_eq!(schedule.steps(at(100)), []);
        let (_, backlog) = schedule.backlogs().next().unwrap();
        assert_eq!((backlog.first, backlog.renewals), (2, 1));
        assert_counted(&schedule);
        let order: Vec<Step> = (0..3)
            .flat_map(|number| {
                let done = [key("stuck-1"), key("stuck-2"), key("new")];
                schedule.issued(&done[number], at(100_000), at(200_000));
                schedule.steps(at(101))
            })
            .collect();
        assert_eq!(order, [sign("new"), sign("ends"), sign("good")], "held: {is_held}");
    }
}
