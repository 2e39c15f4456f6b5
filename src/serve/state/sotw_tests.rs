//! Numbers in names and comments are items of the conformance list.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tonic::Code;

use super::super::{Limits, Push};
use super::*;
use crate::serve::naming::SecretKind;
use crate::serve::version::Version;
use crate::serve::wire::SECRET_TYPE;

/// Where it does not matter when.
const AT: Duration = Duration::ZERO;

fn request(names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        type_url: SECRET_TYPE.to_owned(),
        ..Default::default()
    }
}

fn ack(push: &Push, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest { version_info: push.version.to_string(), response_nonce: push.nonce.clone(), ..request(names) }
}

fn nack(push: &Push, names: &[&str], message: &str) -> DiscoveryRequest {
    let error_detail = Some(error(message));
    DiscoveryRequest { response_nonce: push.nonce.clone(), error_detail, ..request(names) }
}

fn error(message: &str) -> crate::serve::wire::ErrorDetail {
    crate::serve::wire::ErrorDetail { code: 3, message: message.to_owned() }
}

fn state() -> State {
    State::new(Core::new(Door::Dedicated, Limits::default(), 7))
}

fn ads() -> State {
    State::new(Core::new(Door::Aggregated, Limits::default(), 7))
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A stream that wants `names`, with version `1` of each available.
fn with(names: &[&str]) -> State {
    let mut state = state();
    state.request(&request(names), AT).unwrap();
    names.iter().for_each(|name| certificate(&mut state, name, "1"));
    state
}

fn certificate(state: &mut State, name: &str, version: &str) {
    state.available(name, SecretKind::Certificate, version.into());
}

fn pushes(state: &mut State) -> Vec<(String, String)> {
    std::iter::from_fn(|| state.next_push(AT)).map(|push| (push.name.to_string(), push.version.to_string())).collect()
}

fn pair(name: &str, version: &str) -> (String, String) {
    (name.to_owned(), version.to_owned())
}

#[test]
fn items_28_and_29_the_type() {
    let with_type = |type_url: &str| DiscoveryRequest { type_url: type_url.to_owned(), ..request(&["a"]) };
    state().request(&with_type(""), AT).unwrap();
    for wrong in ["type.googleapis.com/envoy.api.v2.auth.Secret", "type.googleapis.com/google.protobuf.Any", "x"] {
        assert_eq!(state().request(&with_type(wrong), AT).unwrap_err().code(), Code::InvalidArgument);
    }
}

#[test]
fn item_33_nonces_are_never_empty_and_never_the_same() {
    let mut state = with(&["a", "b"]);
    let nonces: Vec<_> = std::iter::from_fn(|| state.next_push(AT)).map(|push| push.nonce).collect();
    assert_eq!(nonces.len(), 2);
    assert!(nonces.iter().all(|nonce| !nonce.is_empty()) && nonces[0] != nonces[1]);
}

#[test]
fn items_34_and_35_a_first_request_is_answered_whatever_it_claims_to_have() {
    let mut state = state();
    let claims = DiscoveryRequest { version_info: "1".into(), response_nonce: "00000007-1".into(), ..request(&["a"]) };
    let outcome = state.request(&claims, AT).unwrap();
    assert_eq!((outcome.subscribe.len(), outcome.verdict), (1, None));
    certificate(&mut state, "a", "1");
    assert_eq!(pushes(&mut state), [pair("a", "1")]);
}

#[test]
fn item_36_an_ack_is_recorded_once_and_answered_with_nothing() {
    let mut state = with(&["a"]);
    let push = state.next_push(AT).unwrap();
    let outcome = state.request(&ack(&push, &["a"]), AT).unwrap();
    assert_eq!(outcome.verdict.map(|verdict| (verdict.name, verdict.result)), Some(("a".into(), Ok(()))));
    assert_eq!((outcome.subscribe, outcome.unsubscribe), (vec![], vec![]));
    assert_eq!(state.next_push(AT), None);
    assert_eq!(state.request(&ack(&push, &["a"]), AT).unwrap(), Outcome::default());
}

#[test]
fn items_37_and_38_names_grow_with_an_ack_and_before_any_response() {
    let mut state = state();
    for names in [&["a"][..], &["a", "b"], &["a", "b", "c"]] {
        assert_eq!(state.request(&request(names), AT).unwrap().subscribe.len(), 1);
    }
    certificate(&mut state, "a", "1");
    let push = state.next_push(AT).unwrap();
    let outcome = state.request(&ack(&push, &["a", "b", "c", "d"]), AT).unwrap();
    assert_eq!(outcome.subscribe, ["d".into()]);
}

#[test]
fn items_39_and_40_a_stale_nonce_keeps_its_names_and_its_own_verdict() {
    let mut state = with(&["a"]);
    let first = state.next_push(AT).unwrap();
    certificate(&mut state, "a", "2");
    let second = state.next_push(AT).unwrap();
    let outcome = state.request(&nack(&first, &["a", "b"], "no"), AT).unwrap();
    assert_eq!(outcome.subscribe, ["b".into()]);
    assert_eq!(outcome.verdict.map(|verdict| verdict.version), Some("1".into()));
    let outcome = state.request(&ack(&second, &["a", "b"]), AT).unwrap();
    assert_eq!(outcome.verdict.map(|verdict| (verdict.version, verdict.result)), Some(("2".into(), Ok(()))));
    certificate(&mut state, "a", "3");
    let third = state.next_push(AT).unwrap();
    // The nonce that another stream gave to its third response.
    let foreign = third.nonce.replace("00000007", "00000008");
    assert_ne!(foreign, third.nonce);
    let unknown = DiscoveryRequest { response_nonce: foreign, ..request(&["a", "c"]) };
    let outcome = state.request(&unknown, AT).unwrap();
    assert_eq!((outcome.subscribe, outcome.unsubscribe), (vec!["c".into()], vec!["b".into()]));
    assert_eq!(outcome.verdict, None);
}

#[test]
fn items_41_42_and_43_a_nack_is_not_answered_until_content_changes() {
    let mut state = with(&["a"]);
    let push = state.next_push(AT).unwrap();
    let outcome = state.request(&nack(&push, &["a", "b"], "bad key"), AT).unwrap();
    assert_eq!(outcome.verdict.map(|verdict| verdict.result), Some(Err("bad key".to_owned())));
    assert_eq!(outcome.subscribe, ["b".into()]);
    assert_eq!(state.next_push(AT), None);
    certificate(&mut state, "a", "1");
    assert_eq!(state.next_push(AT), None, "the same content again is no change");
    certificate(&mut state, "a", "2");
    assert_eq!(pushes(&mut state), [pair("a", "2")]);
}

#[test]
fn item_44_the_implicit_nack() {
    let mut state = with(&["a"]);
    let push = state.next_push(AT).unwrap();
    let older = DiscoveryRequest { version_info: "0".into(), ..ack(&push, &["a"]) };
    assert!(state.request(&older, AT).unwrap().verdict.unwrap().result.is_err());
}

#[test]
fn item_45_no_key_gets_out_of_a_nack() {
    let mut state = with(&["a"]);
    let push = state.next_push(AT).unwrap();
    let message = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49\n-----END PRIVATE KEY-----";
    let verdict = state.request(&nack(&push, &["a"], message), AT).unwrap().verdict.unwrap();
    assert!(!verdict.result.unwrap_err().contains("MIGH"));
}

#[test]
fn items_51_and_53_an_empty_list_is_nothing_and_not_everything() {
    let mut state = state();
    assert_eq!(state.request(&request(&[]), AT).unwrap(), Outcome::default());
    let mut state = with(&["a", "b"]);
    assert_eq!(state.request(&request(&[]), AT).unwrap().unsubscribe.len(), 2);
    certificate(&mut state, "a", "2");
    assert_eq!(state.next_push(AT), None);
}

#[test]
fn items_54_and_61_names_are_opaque() {
    let odd = ["*", "a/*", "spiffe://td/a", "xdstp://x?b=1&a=2", " ", "ключ", ""];
    let mut state = with(&odd);
    let names: Vec<_> = pushes(&mut state).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, odd);
}

#[test]
fn item_59_what_is_asked_for_again_is_sent_again() {
    let mut state = with(&["a"]);
    assert_eq!(pushes(&mut state).len(), 1);
    state.request(&request(&[]), AT).unwrap();
    assert_eq!(state.request(&request(&["a"]), AT).unwrap().subscribe, ["a".into()]);
    certificate(&mut state, "a", "1");
    let push = state.next_push(AT).unwrap();
    assert!(!push.is_update);
    assert_eq!(push.version, "1".into());
}

#[test]
fn item_60_a_name_twice_is_a_name() {
    let mut state = state();
    assert_eq!(state.request(&request(&["a", "b", "a"]), AT).unwrap().subscribe, ["a".into(), "b".into()]);
    certificate(&mut state, "a", "1");
    assert_eq!(pushes(&mut state), [pair("a", "1")]);
}

#[test]
fn item_63_bounds() {
    let many: Vec<String> = (0..65).map(|number| number.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    state().request(&request(&many[..64]), AT).unwrap();
    assert_eq!(state().request(&request(&many), AT).unwrap_err().code(), Code::ResourceExhausted);
    let duplicates = vec!["a"; 100_000];
    assert_eq!(state().request(&request(&duplicates), AT).unwrap_err().code(), Code::ResourceExhausted);
    let long = "n".repeat(2049);
    assert_eq!(state().request(&request(&[&long]), AT).unwrap_err().code(), Code::ResourceExhausted);
}

#[test]
fn items_68_70_and_72_what_is_there_is_sent_and_the_rest_later() {
    let mut state = state();
    state.request(&request(&["old", "new"]), AT).unwrap();
    assert_eq!(state.next_push(AT), None);
    certificate(&mut state, "new", "1");
    assert_eq!(pushes(&mut state), [pair("new", "1")]);
    certificate(&mut state, "old", "1");
    assert_eq!(pushes(&mut state), [pair("old", "1")]);
}

#[test]
fn item_82_what_was_not_asked_for_is_not_sent() {
    let mut state = with(&["a"]);
    pushes(&mut state);
    certificate(&mut state, "b", "1");
    assert_eq!(state.next_push(AT), None);
}

#[test]
fn item_92_whom_to_trust_goes_before_what_to_show() {
    let mut state = with(&["default", "ROOTCA"]);
    state.available("ROOTCA", SecretKind::Bundle, "bundle.1".into());
    assert_eq!(pushes(&mut state), [pair("ROOTCA", "bundle.1"), pair("default", "1")]);
}

#[test]
fn item_94_only_the_newest_is_sent() {
    let mut state = with(&["a"]);
    for version in ["2", "3", "4"] {
        certificate(&mut state, "a", version);
    }
    assert_eq!(pushes(&mut state), [pair("a", "4")]);
}

#[derive(Debug, Clone)]
enum Event {
    /// Which names; which earlier push is answered, counted from the newest; whether with an error.
    Request {
        names: Vec<usize>,
        answers: Option<usize>,
        error: bool,
    },
    Change {
        name: usize,
    },
    Send,
}

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (prop::collection::vec(0..NAMES.len(), 0..7), prop::option::of(0usize..6), any::<bool>())
            .prop_map(|(names, answers, error)| Event::Request { names, answers, error }),
        (0..NAMES.len()).prop_map(|name| Event::Change { name }),
        Just(Event::Send),
    ]
}

proptest! {
    #[test]
    fn any_interleaving_converges_and_sends_nothing_needless(events in prop::collection::vec(event(), 0..120)) {
        let limits = Limits { names: NAMES.len(), ..Limits::default() };
        let mut state = State::new(Core::new(Door::Dedicated, limits, 1));
        // What the world has, what the client wants, and what it has been sent for what it wants.
        let mut newest: BTreeMap<&str, u32> = BTreeMap::new();
        let mut wanted: BTreeSet<&str> = BTreeSet::new();
        let mut has: BTreeMap<String, Version> = BTreeMap::new();
        let mut pushed: Vec<Push> = Vec::new();
        let mut nonces: BTreeSet<String> = BTreeSet::new();
        let version = |number: &u32| Version::from(number.to_string().as_str());

        let drain = std::iter::repeat_n(Event::Send, NAMES.len());
        for event in events.into_iter().chain(drain) {
            match event {
                Event::Request { names, answers, error: is_nack } => {
                    let names: Vec<&str> = names.into_iter().map(|name| NAMES[name]).collect();
                    let mut request = request(&names);
                    let answered = answers.and_then(|back| pushed.iter().rev().nth(back));
                    if let Some(push) = answered {
                        request = if is_nack { nack(push, &names, "no") } else { ack(push, &names) };
                    }
                    let outcome = state.request(&request, AT).unwrap();
                    if let Some(verdict) = outcome.verdict {
                        let push = answered.expect("a verdict only where one was given");
                        prop_assert_eq!((&verdict.name, &verdict.version), (&push.name, &push.version));
                        prop_assert_eq!(verdict.result.is_err(), is_nack);
                    }
                    let now: BTreeSet<&str> = names.into_iter().collect();
                    let gone: BTreeSet<&str> = outcome.unsubscribe.iter().map(|name| &**name).collect();
                    prop_assert_eq!(gone, wanted.difference(&now).copied().collect());
                    let new: BTreeSet<&str> = outcome.subscribe.iter().map(|name| &**name).collect();
                    prop_assert_eq!(&new, &now.difference(&wanted).copied().collect());
                    has.retain(|name, _| now.contains(name.as_str()));
                    for name in now.difference(&wanted) {
                        if let Some(number) = newest.get(name) {
                            state.available(name, SecretKind::Certificate, version(number));
                        }
                    }
                    wanted = now;
                }
                Event::Change { name } => {
                    let number = newest.entry(NAMES[name]).or_default();
                    *number += 1;
                    state.available(NAMES[name], SecretKind::Certificate, version(number));
                }
                Event::Send => {
                    let Some(push) = state.next_push(AT) else { continue };
                    prop_assert!(wanted.contains(&*push.name), "unrequested: {push:?}");
                    prop_assert_eq!(Some(push.version.clone()), newest.get(&*push.name).map(version));
                    let had = has.insert(push.name.to_string(), push.version.clone());
                    prop_assert_ne!(had.as_ref(), Some(&push.version), "sent again without a change");
                    prop_assert_eq!(had.is_some(), push.is_update);
                    prop_assert!(nonces.insert(push.nonce.clone()), "a nonce twice");
                    pushed.push(push);
                }
            }
            prop_assert!(state.core.nonces.awaited() <= limits.names);
        }
        for name in wanted {
            prop_assert_eq!(has.get(name).cloned(), newest.get(name).map(version), "{} has not converged", name);
        }
    }
}
