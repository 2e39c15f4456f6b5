//! Numbers in names and comments are items of the conformance list.

use tonic::Code;

use super::super::testing::{AT, certificate, pair, pushes};
use super::super::{Door, Limits, Push, Verdict};
use super::*;
use crate::serve::naming::SecretKind;
use crate::serve::wire::{ErrorDetail, SECRET_TYPE};

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn request(subscribe: &[&str], unsubscribe: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: SECRET_TYPE.to_owned(),
        resource_names_subscribe: owned(subscribe),
        resource_names_unsubscribe: owned(unsubscribe),
        ..Default::default()
    }
}

fn ack(nonce: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { response_nonce: nonce.to_owned(), ..request(&[], &[]) }
}

fn nack(nonce: &str, message: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { error_detail: Some(ErrorDetail { code: 3, message: message.to_owned() }), ..ack(nonce) }
}

fn through(door: Door) -> State {
    State::new(Core::new(door, Limits::default(), 7))
}

fn state() -> State {
    through(Door::Dedicated)
}

/// A stream that wants `names`, with version `1` of each available.
fn with(names: &[&str]) -> State {
    let mut state = state();
    state.request(&request(names, &[]), AT).unwrap();
    names.iter().for_each(|name| certificate(&mut state, name, "1"));
    state
}

fn removed(state: &mut State) -> Vec<String> {
    let removal = state.next_removal(AT);
    removal.map(|removal| removal.names.iter().map(ToString::to_string).collect()).unwrap_or_default()
}

#[test]
fn items_28_29_30_and_31_the_type_on_delta() {
    let with_type = |type_url: &str| DeltaDiscoveryRequest { type_url: type_url.to_owned(), ..request(&["a"], &[]) };
    assert_eq!(state().request(&with_type(""), AT).unwrap().subscribe, ["a".into()]);
    let cluster = with_type("type.googleapis.com/envoy.config.cluster.v3.Cluster");
    assert_eq!(state().request(&cluster, AT).unwrap_err().code(), Code::InvalidArgument);
    let mut ads = through(Door::Aggregated);
    assert_eq!(ads.request(&with_type(""), AT).unwrap_err().code(), Code::InvalidArgument);
    let first = ads.request(&cluster, AT).unwrap();
    assert_eq!(first, Outcome { foreign: Some(cluster.type_url.as_str().into()), ..Outcome::default() });
    assert_eq!(ads.request(&cluster, AT).unwrap(), Outcome::default(), "told once");
    assert_eq!((ads.next_push(AT), ads.next_removal(AT)), (None, None), "never an empty answer");
    assert_eq!(ads.core.subscribed(), 0);
}

#[test]
fn item_33_removals_have_nonces_of_their_own_too() {
    let mut state = with(&["a", "b"]);
    state.request(&request(&["x"], &[]), AT).unwrap();
    state.withheld("x");
    let mut nonces = vec![state.next_removal(AT).unwrap().nonce];
    nonces.extend(std::iter::from_fn(|| state.next_push(AT)).map(|push| push.nonce));
    nonces.sort();
    nonces.dedup();
    assert_eq!((nonces.len(), nonces.iter().all(|nonce| !nonce.is_empty())), (3, true));
}

#[test]
fn items_36_and_40_verdicts_on_delta_go_to_the_response_that_they_name() {
    let mut state = with(&["a"]);
    let first = state.next_push(AT).unwrap();
    certificate(&mut state, "a", "2");
    let second = state.next_push(AT).unwrap();
    let verdict = |outcome: Outcome| outcome.verdict.map(|Verdict { version, result, .. }| (version, result));
    let rejected = state.request(&nack(&first.nonce, "no"), AT).unwrap();
    assert_eq!(verdict(rejected), Some(("1".into(), Err("no".to_owned()))));
    let accepted = state.request(&ack(&second.nonce), AT).unwrap();
    assert_eq!(verdict(accepted), Some(("2".into(), Ok(()))));
    assert_eq!((state.next_push(AT), state.next_removal(AT)), (None, None));
}

#[test]
fn items_41_and_43_a_nack_on_delta_is_not_answered_until_content_changes() {
    let mut state = with(&["a"]);
    let push = state.next_push(AT).unwrap();
    state.request(&nack(&push.nonce, "bad key"), AT).unwrap();
    certificate(&mut state, "a", "1");
    assert_eq!(state.next_push(AT), None);
    assert_eq!(state.again(), [], "nor is it sent again because of the time");
    certificate(&mut state, "a", "2");
    assert_eq!(pushes(&mut state), [pair("a", "2")]);
}

#[test]
fn item_45_no_key_gets_out_of_a_nack_of_anything() {
    let mut state = with(&["a"]);
    let push = state.next_push(AT).unwrap();
    state.request(&request(&["x"], &[]), AT).unwrap();
    state.withheld("x");
    let removal = state.next_removal(AT).unwrap();
    let message = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49\n-----END PRIVATE KEY-----";
    let reason = state.request(&nack(&push.nonce, message), AT).unwrap().verdict.unwrap().result.unwrap_err();
    let complaint = state.request(&nack(&removal.nonce, message), AT).unwrap().complaint.unwrap();
    assert!(!reason.contains("MIGH") && !complaint.contains("MIGH"));
    assert_eq!((state.next_push(AT), state.next_removal(AT)), (None, None));
}

#[test]
fn items_51_54_and_58_nothing_is_a_wildcard() {
    let mut state = state();
    assert_eq!(state.request(&request(&[], &[]), AT).unwrap(), Outcome::default());
    certificate(&mut state, "a", "1");
    assert_eq!(state.next_push(AT), None);
    assert_eq!(state.request(&request(&["*"], &[]), AT).unwrap().subscribe, ["*".into()]);
    state.withheld("*");
    certificate(&mut state, "a", "1");
    assert_eq!(state.next_push(AT), None);
    assert_eq!(removed(&mut state), ["*"]);
    assert_eq!(state.request(&request(&[], &["*"]), AT).unwrap().unsubscribe, ["*".into()]);
}

#[test]
fn items_55_and_86_every_subscription_is_answered_also_one_that_there_is() {
    let mut state = with(&["a", "b"]);
    assert_eq!(pushes(&mut state).len(), 2);
    let outcome = state.request(&request(&["a"], &[]), AT).unwrap();
    assert_eq!((outcome.subscribe, outcome.again), (vec![], vec!["a".into()]));
    assert_eq!(state.next_push(AT), None, "what there is of it is to be said once more");
    certificate(&mut state, "a", "1");
    certificate(&mut state, "b", "1");
    assert_eq!(pushes(&mut state), [pair("a", "1")]);
}

#[test]
fn items_43_and_55_who_asks_again_for_what_it_has_rejected_is_answered() {
    let mut state = with(&["a"]);
    let push = state.next_push(AT).unwrap();
    state.request(&request(&["a"], &[]), AT).unwrap();
    // This crosses with the new subscription, which it is not the answer to.
    state.request(&nack(&push.nonce, "no"), AT).unwrap();
    certificate(&mut state, "a", "1");
    assert_eq!(pushes(&mut state), [pair("a", "1")]);
}

#[test]
fn item_56_unsubscribing_is_not_answered_subscribed_or_not() {
    let mut state = with(&["a"]);
    assert_eq!(state.request(&request(&[], &["b", "", "*"]), AT).unwrap(), Outcome::default());
    assert_eq!(state.request(&request(&[], &["a", "a"]), AT).unwrap().unsubscribe, ["a".into()]);
    certificate(&mut state, "a", "2");
    assert_eq!((state.next_push(AT), state.next_removal(AT)), (None, None));
}

#[test]
fn items_42_and_57_names_ride_on_any_message() {
    let mut state = with(&["a"]);
    let push = state.next_push(AT).unwrap();
    let rides = |on: DeltaDiscoveryRequest, name: &str, ends: &str| DeltaDiscoveryRequest {
        resource_names_subscribe: owned(&[name]),
        resource_names_unsubscribe: owned(&[ends]),
        ..on
    };
    let rejecting = state.request(&rides(nack(&push.nonce, "no"), "b", "a"), AT).unwrap();
    assert_eq!((rejecting.subscribe, rejecting.unsubscribe), (vec!["b".into()], vec!["a".into()]));
    assert!(rejecting.verdict.is_some());
    for stale in [push.nonce.as_str(), "00000001-1", "nonsense", "00000007-99"] {
        let outcome = state.request(&rides(ack(stale), "c", "c"), AT).unwrap();
        assert_eq!((outcome.subscribe.len() + outcome.again.len(), outcome.verdict), (1, None), "{stale}");
    }
}

#[test]
fn items_59_and_86_what_is_dropped_and_asked_for_again_is_sent_again() {
    let mut state = with(&["a"]);
    assert_eq!(pushes(&mut state).len(), 1);
    state.request(&request(&[], &["a"]), AT).unwrap();
    assert_eq!(state.request(&request(&["a"], &[]), AT).unwrap().subscribe, ["a".into()]);
    certificate(&mut state, "a", "1");
    assert_eq!(pushes(&mut state), [pair("a", "1")]);
    certificate(&mut state, "a", "1");
    assert_eq!(state.next_push(AT), None);
}

#[test]
fn a_name_that_is_dropped_and_wanted_in_one_message_begins_anew() {
    let mut state = with(&["a"]);
    assert_eq!(pushes(&mut state).len(), 1);
    let outcome = state.request(&request(&["a"], &["a"]), AT).unwrap();
    assert_eq!((outcome.unsubscribe, outcome.subscribe), (vec!["a".into()], vec!["a".into()]));
    certificate(&mut state, "a", "1");
    assert_eq!(pushes(&mut state), [pair("a", "1")]);
}

#[test]
fn items_60_and_61_names_on_delta_are_opaque_and_count_once() {
    let odd = ["a/*", "spiffe://td/a", "xdstp://x?b=1&a=2", " ", "ключ", "", "", " "];
    let mut state = with(&odd);
    let names: Vec<_> = pushes(&mut state).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, odd[..6]);
    state.request(&request(&["x", "x"], &[]), AT).unwrap();
    state.withheld("x");
    assert_eq!(removed(&mut state), ["x"]);
}

#[test]
fn item_63_bounds_on_delta_hold_over_all_messages_and_for_withheld_names() {
    let mut state = state();
    let bound = Limits::default().names;
    for number in 0..bound {
        let name = number.to_string();
        state.request(&request(&[&name], &[]), AT).unwrap();
        state.withheld(&name);
        assert_eq!(removed(&mut state), [name]);
    }
    state.request(&request(&["7"], &[]), AT).unwrap();
    state.request(&request(&["another"], &["3"]), AT).unwrap();
    assert_eq!((state.core.subscribed(), removed(&mut state).len()), (bound, 0));

    let refused = |subscribe: &[&str], unsubscribe: &[&str]| {
        through(Door::Dedicated).request(&request(subscribe, unsubscribe), AT).unwrap_err().code()
    };
    assert_eq!(refused(&vec!["a"; 100_000], &[]), Code::ResourceExhausted);
    assert_eq!(refused(&[], &vec!["a"; 100_000]), Code::ResourceExhausted);
    assert_eq!(refused(&["n".repeat(2049).as_str()], &[]), Code::ResourceExhausted);
}

#[test]
fn item_63_on_delta_there_is_nothing_under_the_names_beyond_the_bound_and_the_stream_lives() {
    let bound = Limits::default().names;
    let names = |from: usize, to: usize| (from..to).map(|number| number.to_string()).collect::<Vec<_>>();
    let mut state = state();
    let all = DeltaDiscoveryRequest { resource_names_subscribe: names(0, bound + 2), ..request(&[], &[]) };
    let outcome = state.request(&all, AT).unwrap();
    assert_eq!((outcome.subscribe.len(), outcome.refused), (bound, 2));
    assert_eq!(removed(&mut state), names(bound, bound + 2));
    // What there is nothing of makes room, the oldest first, and for nothing else.
    for name in ["3", "5"] {
        state.withheld(name);
    }
    assert_eq!(removed(&mut state), ["3", "5"]);
    let outcome = state.request(&request(&["new", "newer", "newest"], &[]), AT).unwrap();
    assert_eq!(outcome.unsubscribe, ["3".into(), "5".into()]);
    assert_eq!((outcome.subscribe.len(), outcome.refused), (2, 1));
    assert_eq!(removed(&mut state), ["newest"]);
    certificate(&mut state, "new", "1");
    assert_eq!(pushes(&mut state), [pair("new", "1")]);
    assert_eq!(state.core.subscribed(), bound);
    // A name that has become known is not displaced.
    state.withheld("7");
    assert_eq!(removed(&mut state), ["7"]);
    certificate(&mut state, "7", "1");
    assert_eq!(state.request(&request(&["late"], &[]), AT).unwrap().refused, 1);
}

#[test]
fn items_68_69_and_72_pending_is_silence_and_no_removal() {
    let mut state = state();
    state.request(&request(&["pending", "there"], &[]), AT).unwrap();
    certificate(&mut state, "there", "1");
    assert_eq!(state.next_removal(AT), None);
    assert_eq!(pushes(&mut state), [pair("there", "1")]);
    state.gone("pending");
    assert_eq!((state.next_push(AT), state.next_removal(AT)), (None, None));
    certificate(&mut state, "pending", "1");
    assert_eq!(pushes(&mut state), [pair("pending", "1")]);
}

#[test]
fn item_71_one_removal_for_each_subscription_of_an_unknown_name_and_a_push_if_it_becomes_known() {
    let mut state = state();
    let mut subscribe = |names: &[&str], unsubscribe: &[&str]| {
        let outcome = state.request(&request(names, unsubscribe), AT).unwrap();
        outcome.subscribe.iter().chain(&outcome.again).for_each(|name| state.withheld(name));
        (removed(&mut state), removed(&mut state))
    };
    assert_eq!(subscribe(&["x", "y"], &[]), (owned(&["x", "y"]), vec![]), "they share one response");
    assert_eq!(subscribe(&["x"], &[]), (owned(&["x"]), vec![]), "subscribed once more");
    assert_eq!(subscribe(&[], &["x"]), (vec![], vec![]), "unsubscribed");
    assert_eq!(subscribe(&["x"], &[]), (owned(&["x"]), vec![]), "and subscribed once more");
    certificate(&mut state, "y", "1");
    assert_eq!(pushes(&mut state), [pair("y", "1")]);
    assert_eq!(state.next_removal(AT), None);
}

#[test]
fn item_71_who_has_lost_interest_is_not_told() {
    let mut state = state();
    state.request(&request(&["x"], &[]), AT).unwrap();
    state.withheld("x");
    state.request(&request(&[], &["x"]), AT).unwrap();
    assert_eq!(state.next_removal(AT), None);
}

#[test]
fn item_74_a_removal_takes_nothing_back() {
    let mut state = with(&["a"]);
    assert_eq!(pushes(&mut state).len(), 1);
    state.gone("a");
    assert_eq!((state.next_removal(AT), state.next_push(AT)), (None, None), "what was sent is not called back");
}

#[test]
fn item_76_a_name_is_not_removed_and_sent() {
    let mut state = state();
    state.request(&request(&["a", "x"], &[]), AT).unwrap();
    state.withheld("a");
    state.withheld("x");
    certificate(&mut state, "a", "1");
    assert_eq!(removed(&mut state), ["x"]);
    assert_eq!(pushes(&mut state), [pair("a", "1")]);
    state.withheld("a");
    assert_eq!(state.next_removal(AT), None, "there is one");
}

#[test]
fn items_78_92_and_94_one_secret_at_a_time_trust_first_and_only_the_newest() {
    let mut state = with(&["default", "ROOTCA"]);
    certificate(&mut state, "default", "2");
    state.available("ROOTCA", SecretKind::Bundle, "bundle.1".into());
    let push = state.next_push(AT).unwrap();
    let expected = Push {
        name: "ROOTCA".into(),
        kind: SecretKind::Bundle,
        version: "bundle.1".into(),
        nonce: push.nonce.clone(),
        is_update: false,
    };
    assert_eq!(push, expected);
    assert_eq!(pushes(&mut state), [pair("default", "2")]);
}

#[test]
fn items_82_and_90_names_that_are_only_reported_are_not_subscribed() {
    let mut state = state();
    let reports = ["a", "b"].map(|name| (name.to_owned(), "1".to_owned()));
    let first = DeltaDiscoveryRequest { initial_resource_versions: reports.into(), ..request(&["a"], &[]) };
    assert_eq!(state.request(&first, AT).unwrap().subscribe, ["a".into()]);
    certificate(&mut state, "a", "1");
    certificate(&mut state, "b", "1");
    assert_eq!(pushes(&mut state), [pair("a", "1")]);
}

#[test]
fn item_89_a_client_that_reports_our_version_is_sent_it() {
    for door in [Door::Dedicated, Door::Aggregated] {
        let mut state = through(door);
        let reports = [("a".to_owned(), "1".to_owned())].into();
        let first = DeltaDiscoveryRequest { initial_resource_versions: reports, ..request(&["a"], &[]) };
        state.request(&first, AT).unwrap();
        certificate(&mut state, "a", "1");
        assert_eq!(pushes(&mut state), [pair("a", "1")]);
    }
}

#[test]
fn item_107_what_a_client_reports_on_delta_is_heard_in_the_first_request_of_a_dedicated_stream() {
    let reports = |names: &[&str]| {
        let versions = ["a", "b"].map(|name| (name.to_owned(), format!("version of {name}")));
        DeltaDiscoveryRequest { initial_resource_versions: versions.into(), ..request(names, &[]) }
    };
    let mut state = state();
    let outcome = state.request(&reports(&["a", "c"]), AT).unwrap();
    assert_eq!(outcome.reported, [("a".into(), "version of a".to_owned())]);
    assert_eq!(state.request(&reports(&["b"]), AT).unwrap().reported, [], "a later request");
    assert_eq!(through(Door::Aggregated).request(&reports(&["a"]), AT).unwrap().reported, [], "ADS");
}

#[test]
fn item_88_everything_again_on_delta() {
    let mut state = with(&["a"]);
    state.request(&request(&["x", "pending"], &[]), AT).unwrap();
    state.withheld("x");
    assert_eq!(removed(&mut state), ["x"]);
    assert_eq!(pushes(&mut state).len(), 1);
    assert_eq!(state.again(), ["a".into()]);
    certificate(&mut state, "a", "1");
    assert_eq!(pushes(&mut state), [pair("a", "1")]);
    assert_eq!((state.next_push(AT), state.next_removal(AT)), (None, None));
}
