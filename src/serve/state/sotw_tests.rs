//! Numbers in names and comments are items of the conformance list.

use tonic::Code;

use super::super::testing::{AT, certificate, pair, pushes};
use super::super::{Limits, Push};
use super::*;
use crate::serve::naming::SecretKind;
use crate::serve::wire::SECRET_TYPE;

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

#[test]
fn items_28_and_29_the_type() {
    let with_type = |type_url: &str| DiscoveryRequest { type_url: type_url.to_owned(), ..request(&["a"]) };
    let mut untyped = state();
    assert_eq!(untyped.request(&with_type(""), AT).unwrap().subscribe, ["a".into()]);
    certificate(&mut untyped, "a", "1");
    assert_eq!(pushes(&mut untyped), [pair("a", "1")]);
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
fn items_51_52_and_53_an_empty_list_is_nothing_and_not_everything() {
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
    let bound = Limits::default().names;
    let many: Vec<String> = (0..=bound).map(|number| number.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    state().request(&request(&many[..bound]), AT).unwrap();
    let refused = state().request(&request(&many), AT).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("limits.namesPerStream"), "{refused}");
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

#[test]
fn items_30_and_31_foreign_types_on_ads_are_ignored_and_no_type_is_an_error() {
    let with_type = |type_url: &str| DiscoveryRequest { type_url: type_url.to_owned(), ..request(&["a"]) };
    assert_eq!(ads().request(&with_type(""), AT).unwrap_err().code(), Code::InvalidArgument);
    let mut state = ads();
    state.request(&request(&["a"]), AT).unwrap();
    certificate(&mut state, "a", "1");
    let push = state.next_push(AT).unwrap();
    let cluster = DiscoveryRequest { response_nonce: push.nonce.clone(), ..with_type("cluster") };
    let first = state.request(&cluster, AT).unwrap();
    assert_eq!(first, Outcome { foreign: Some("cluster".into()), ..Outcome::default() });
    assert_eq!(state.request(&cluster, AT).unwrap(), Outcome::default(), "told once");
    assert_eq!(state.next_push(AT), None, "never an empty answer");
    assert!(state.request(&ack(&push, &["a"]), AT).unwrap().verdict.is_some(), "nor is the nonce taken for ours");
}

#[test]
fn item_87_a_repeated_ack_on_ads_is_answered_with_everything_as_it_is_now() {
    let mut state = ads();
    state.request(&request(&["a", "b"]), AT).unwrap();
    certificate(&mut state, "a", "1");
    certificate(&mut state, "b", "1");
    let (first, second) = (state.next_push(AT).unwrap(), state.next_push(AT).unwrap());
    let names = ["a", "b"];
    for push in [&first, &second] {
        state.request(&ack(push, &names), AT).unwrap();
        assert_eq!(state.owed(AT), Owed::Nothing, "an ACK is no repetition");
    }
    assert!(state.request(&ack(&first, &names), AT).unwrap().is_stale, "only of the last one is it");
    let with_error = nack(&second, &names, "no");
    state.request(&with_error, AT).unwrap();
    assert_eq!(state.owed(AT), Owed::Nothing);
    let fewer = state.request(&ack(&second, &["a"]), AT).unwrap();
    assert!(!fewer.is_stale);
    assert_eq!(state.owed(AT), Owed::Nothing, "a change of names with the nonce of the last response");
    state.request(&ack(&second, &names), AT).unwrap();
    assert_eq!(state.owed(AT), Owed::Nothing);

    state.request(&ack(&second, &names), AT).unwrap();
    assert_eq!(state.owed(AT), Owed::Now(vec!["a".into()]), "b is new and pending");
    assert_eq!(state.owed(AT), Owed::Nothing, "once");
    assert_eq!(state.next_push(AT), None, "what there is of it is to be said once more");
    certificate(&mut state, "a", "1");
    certificate(&mut state, "b", "1");
    let again = state.next_push(AT).unwrap();
    assert_eq!((&*again.name, again.is_update), ("a", false));
    assert_eq!(pushes(&mut state), [pair("b", "1")]);

    let mut dedicated = with(&["a"]);
    let push = dedicated.next_push(AT).unwrap();
    dedicated.request(&ack(&push, &["a"]), AT).unwrap();
    assert_eq!(dedicated.request(&ack(&push, &["a"]), AT).unwrap(), Outcome::default(), "there it has no cause");
    assert_eq!(dedicated.owed(AT), Owed::Nothing);
}

#[test]
fn item_87_repeated_requests_are_answered_at_a_bounded_rate() {
    let mut state = ads();
    state.request(&request(&["a"]), AT).unwrap();
    certificate(&mut state, "a", "1");
    let push = state.next_push(AT).unwrap();
    state.request(&ack(&push, &["a"]), AT).unwrap();
    let mut answered = |at: u64| {
        state.request(&ack(&push, &["a"]), seconds(at)).unwrap();
        matches!(state.owed(seconds(at)), Owed::Now(_))
    };
    assert_eq!((0..1000).filter(|_| answered(100)).count(), 8);
    assert_eq!((0..1000).filter(|_| answered(102)).count(), 0);
    assert_eq!((0..1000).filter(|_| answered(103)).count(), 1);
    assert_eq!((0..1000).filter(|_| answered(3600)).count(), 8);
    assert_eq!((0..1000).filter(|_| answered(50)).count(), 0, "time does not run back");
}

#[test]
fn item_87_a_repetition_too_many_is_answered_later_and_several_of_them_once() {
    let mut state = ads();
    state.request(&request(&["a"]), AT).unwrap();
    certificate(&mut state, "a", "1");
    let push = state.next_push(AT).unwrap();
    state.request(&ack(&push, &["a"]), AT).unwrap();
    for _ in 0..8 {
        state.request(&ack(&push, &["a"]), seconds(100)).unwrap();
        assert!(matches!(state.owed(seconds(100)), Owed::Now(_)));
    }
    for _ in 0..5 {
        state.request(&ack(&push, &["a"]), seconds(101)).unwrap();
        assert_eq!(state.owed(seconds(101)), Owed::Later(seconds(2)));
    }
    assert_eq!(state.owed(seconds(102)), Owed::Later(seconds(1)));
    assert_eq!(state.owed(seconds(103)), Owed::Now(vec!["a".into()]));
    assert_eq!(state.owed(seconds(200)), Owed::Nothing, "one answer serves them all");
}

#[test]
fn items_43_86_and_88_everything_again_but_what_was_rejected() {
    let mut state = ads();
    state.request(&request(&["a", "b", "pending"]), AT).unwrap();
    certificate(&mut state, "a", "1");
    certificate(&mut state, "b", "1");
    let (first, second) = (state.next_push(AT).unwrap(), state.next_push(AT).unwrap());
    let names = ["a", "b", "pending"];
    state.request(&nack(&first, &names, "no"), AT).unwrap();
    assert_eq!(state.again(), ["b".into()]);
    // The rejection comes when the other one is about to be sent again.
    state.request(&nack(&second, &names, "no"), AT).unwrap();
    certificate(&mut state, "b", "1");
    assert_eq!(state.next_push(AT), None);
    certificate(&mut state, "b", "2");
    assert_eq!(pushes(&mut state), [pair("b", "2")]);
    assert_eq!(state.again(), ["b".into()]);
}

#[test]
fn item_107_what_a_client_reports_is_heard_in_the_first_request_of_a_dedicated_stream_for_one_name() {
    let reports = |names: &[&str]| DiscoveryRequest { version_info: "v".into(), ..request(names) };
    let mut one = state();
    let outcome = one.request(&reports(&["a"]), AT).unwrap();
    assert_eq!((outcome.reported("a"), outcome.reported("b")), (Some("v"), None));
    assert_eq!(one.request(&reports(&["b"]), AT).unwrap().reported, [], "a later request");
    assert_eq!(ads().request(&reports(&["a"]), AT).unwrap().reported, [], "ADS");
    let mut several = state();
    assert_eq!(several.request(&reports(&["a", "b"]), AT).unwrap().reported, [], "of which of them?");
    assert_eq!(several.request(&reports(&["c"]), AT).unwrap().reported, []);
}

#[test]
fn item_106_how_long_an_answer_took_and_whether_it_answers_anything() {
    let mut state = with(&["a"]);
    let push = state.next_push(seconds(10)).unwrap();
    let verdict = state.request(&ack(&push, &["a"]), seconds(12)).unwrap().verdict.unwrap();
    assert_eq!(verdict.after, seconds(2));
    for (nonce, is_stale) in
        [("", false), ("00000007-1", false), ("00000007-2", true), ("00000008-1", true), ("x", true)]
    {
        let request = DiscoveryRequest { response_nonce: nonce.to_owned(), ..request(&["a"]) };
        assert_eq!(state.request(&request, AT).unwrap().is_stale, is_stale, "{nonce:?}");
    }
}
