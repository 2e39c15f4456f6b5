use proptest::proptest;

use super::*;
use crate::load::messages::{Any, DataSource, HEADER, Resource, TlsCertificate, ValidationContext, data_source};

const SOTW: Manner = Manner { variant: Variant::Sotw, repeats_node: false, refuses: false };
const DELTA: Manner = Manner { variant: Variant::Delta, ..SOTW };

fn subscription(names: &[&str]) -> Subscription {
    let names: Vec<Arc<str>> = names.iter().map(|name| Arc::from(*name)).collect();
    Subscription::new(&names, Node { own: Arc::from(&b"\x0a\x01a"[..]), shared: Bytes::new() })
}

fn inline(content: &str) -> Option<DataSource> {
    let bytes = Bytes::copy_from_slice(content.as_bytes());
    Some(DataSource { specifier: Some(data_source::Specifier::InlineBytes(bytes)) })
}

fn any(name: &str, content: &str) -> Any {
    let r#type = match name {
        "ROOTCA" => secret::Type::ValidationContext(ValidationContext {
            trusted_ca: inline(content),
            ..ValidationContext::default()
        }),
        _ => secret::Type::TlsCertificate(TlsCertificate {
            certificate_chain: inline(content),
            ..TlsCertificate::default()
        }),
    };
    let secret = Secret { name: name.to_owned(), r#type: Some(r#type) };
    Any { type_url: SECRET_TYPE.to_owned(), value: secret.encode_to_vec().into() }
}

fn sotw(version: &str, nonce: &str, resources: Vec<Any>) -> Bytes {
    let type_url = SECRET_TYPE.to_owned();
    SotwResponse { version_info: version.into(), nonce: nonce.into(), resources, type_url }.encode_to_vec().into()
}

fn delta(version: &str, nonce: &str, resources: Vec<Any>) -> DeltaResponse {
    let resource = |any: Any| {
        let name = Secret::decode(any.value.clone()).unwrap().name;
        Resource { name, version: version.to_owned(), resource: Some(any) }
    };
    DeltaResponse {
        nonce: nonce.into(),
        type_url: SECRET_TYPE.to_owned(),
        resources: resources.into_iter().map(resource).collect(),
        ..DeltaResponse::default()
    }
}

fn read<M: Message + Default>(pieces: &[Bytes; 2]) -> M {
    M::decode(&pieces.concat()[HEADER..]).unwrap()
}

fn news(received: &Received) -> Vec<(usize, News)> {
    received.changes.iter().map(|change| (change.index, change.news)).collect()
}

#[test]
fn sotw_asks_accepts_and_tells_what_it_has_on_the_next_stream() {
    let mut stream = subscription(&["default", "ROOTCA"]);
    let first: SotwRequest = read(&stream.first(&SOTW));
    assert_eq!((first.resource_names.len(), first.version_info.as_str(), first.response_nonce.as_str()), (2, "", ""));

    let received = stream.receive(sotw("v1", "n1", vec![any("default", "leaf")]), &SOTW).unwrap();
    assert_eq!(news(&received), [(0, News::First)]);
    assert_eq!(received.changes[0].kind, Kind::Certificate);
    let answer: SotwRequest = read(&received.answer);
    assert_eq!((answer.version_info.as_str(), answer.response_nonce.as_str()), ("v1", "n1"));
    assert_eq!((answer.error_detail, answer.resource_names.len()), (None, 2), "all names in every request");
    assert!(!stream.is_complete());

    let received = stream.receive(sotw("v2", "n2", vec![any("ROOTCA", "ca")]), &SOTW).unwrap();
    assert_eq!((news(&received), received.changes[0].kind), (vec![(1, News::First)], Kind::ValidationContext));
    assert!(stream.is_complete());
    let both = vec![any("default", "leaf"), any("ROOTCA", "another")];
    let received = stream.receive(sotw("v3", "n3", both), &SOTW).unwrap();
    assert_eq!(news(&received), [(0, News::Unchanged), (1, News::Changed)]);
    assert_eq!(received.changes[1].before, "v2");

    let again: SotwRequest = read(&stream.first(&SOTW));
    assert_eq!((again.version_info.as_str(), again.response_nonce.as_str()), ("v3", ""));
    let received = stream.receive(sotw("v3", "n1", vec![any("default", "leaf")]), &SOTW).unwrap();
    assert_eq!(news(&received), [(0, News::Again)], "to be sent again on a new stream is no waste");

    stream.forget();
    let anew: SotwRequest = read(&stream.first(&SOTW));
    assert_eq!((anew.version_info.as_str(), stream.is_complete()), ("", false));
}

#[test]
fn who_comes_back_has_to_hear_of_all_that_may_not_be_left_unsaid() {
    let mut stream = subscription(&["default", "ROOTCA"]);
    let settled = |stream: &Subscription| {
        [Silence::Never, Silence::OnCertificates, Silence::Always].map(|s| stream.is_settled(s))
    };
    stream.first(&SOTW);
    stream.receive(sotw("v1", "n1", vec![any("default", "leaf")]), &SOTW).unwrap();
    assert_eq!(settled(&stream), [false; 3], "one is still missing");
    assert!(stream.holds(Kind::Certificate) && !stream.holds(Kind::ValidationContext));
    stream.receive(sotw("v1", "n2", vec![any("ROOTCA", "ca")]), &SOTW).unwrap();
    assert_eq!(settled(&stream), [true; 3]);
    stream.first(&SOTW);
    assert_eq!(settled(&stream), [false, false, true], "a mute server has said nothing on the new stream");
    stream.receive(sotw("v1", "n1", vec![any("ROOTCA", "ca")]), &SOTW).unwrap();
    assert_eq!(settled(&stream), [false, true, true]);
    stream.receive(sotw("v1", "n2", vec![any("default", "leaf")]), &SOTW).unwrap();
    assert_eq!(settled(&stream), [true; 3]);
    stream.forget();
    assert_eq!(settled(&stream), [false; 3]);
}

#[test]
fn delta_tells_the_version_of_each_name() {
    let mut stream = subscription(&["default", "ROOTCA"]);
    let first: DeltaRequest = read(&stream.first(&DELTA));
    assert_eq!(first.resource_names_subscribe, ["default", "ROOTCA"]);
    assert!(first.initial_resource_versions.is_empty());
    let response = delta("v1", "n1", vec![any("default", "leaf")]).encode_to_vec();
    let received = stream.receive(response.into(), &DELTA).unwrap();
    assert_eq!(news(&received), [(0, News::First)]);
    let answer: DeltaRequest = read(&received.answer);
    assert_eq!((answer.response_nonce.as_str(), answer.error_detail), ("n1", None));
    assert!(answer.resource_names_subscribe.is_empty());
    let again: DeltaRequest = read(&stream.first(&DELTA));
    let told: Vec<_> = again.initial_resource_versions.into_iter().collect();
    assert_eq!(told, [("default".to_owned(), "v1".to_owned())]);
}

#[test]
fn who_refuses_keeps_nothing_and_says_so() {
    for variant in [Variant::Sotw, Variant::Delta] {
        let manner = Manner { variant, refuses: true, ..SOTW };
        let mut stream = subscription(&["default"]);
        stream.first(&manner);
        let response = match variant {
            Variant::Sotw => sotw("v1", "n1", vec![any("default", "leaf")]),
            Variant::Delta => delta("v1", "n1", vec![any("default", "leaf")]).encode_to_vec().into(),
        };
        let received = stream.receive(response, &manner).unwrap();
        let (version, nonce, code) = match variant {
            Variant::Sotw => {
                let answer: SotwRequest = read(&received.answer);
                (answer.version_info, answer.response_nonce, answer.error_detail.unwrap().code)
            }
            Variant::Delta => {
                let answer: DeltaRequest = read(&received.answer);
                (String::new(), answer.response_nonce, answer.error_detail.unwrap().code)
            }
        };
        assert_eq!((version.as_str(), nonce.as_str(), code), ("", "n1", REJECTED), "{variant:?}");
        assert!(!stream.is_complete());
    }
}

#[test]
fn the_node_is_in_the_first_request_and_in_all_if_told() {
    for (repeats_node, expected) in [(false, false), (true, true)] {
        let manner = Manner { repeats_node, ..SOTW };
        let mut stream = subscription(&["default"]);
        let has_node = |pieces: &[Bytes; 2]| pieces.concat().ends_with(b"\x12\x03\x0a\x01a");
        assert!(has_node(&stream.first(&manner)));
        let received = stream.receive(sotw("v1", "n1", vec![any("default", "leaf")]), &manner).unwrap();
        assert_eq!(has_node(&received.answer), expected);
    }
}

#[test]
fn what_no_server_should_send_is_found() {
    let good = || any("default", "leaf");
    let foreign = Any { type_url: "x".into(), ..good() };
    let empty = Secret { name: "default".into(), r#type: None };
    let empty = Any { value: empty.encode_to_vec().into(), ..good() };
    let garbage = Any { value: Bytes::from_static(b"\xff"), ..good() };
    let mut renamed = delta("v", "n", vec![good()]);
    renamed.resources[0].name = "ROOTCA".into();
    let mut hollow = delta("v", "n", vec![good()]);
    hollow.resources[0].resource = None;
    let removed = DeltaResponse { removed_resources: vec!["default".into()], ..delta("", "n", vec![]) };
    let other_type = DeltaResponse { type_url: "x".into(), ..delta("", "n", vec![]) };
    let cases = [
        (SOTW, sotw("v", "n", vec![foreign]), "a resource of another type"),
        (SOTW, sotw("v", "n", vec![any("stranger", "leaf")]), "a secret that was not asked for"),
        (SOTW, sotw("v", "n", vec![empty]), "a secret that is neither certificate nor validation context"),
        (SOTW, sotw("v", "n", vec![garbage]), "a message that cannot be decoded"),
        (SOTW, Bytes::from_static(b"\xff"), "a message that cannot be decoded"),
        (SOTW, sotw("v0", "n", vec![any("default", "another")]), "another content under the same version"),
        (DELTA, renamed.encode_to_vec().into(), "a resource has another name than the secret in it"),
        (DELTA, hollow.encode_to_vec().into(), "a resource without content"),
        (DELTA, removed.encode_to_vec().into(), "the server says that there is no such secret"),
        (DELTA, other_type.encode_to_vec().into(), "a resource of another type"),
        (SOTW, sotw("v", "", vec![good()]), "a response without a nonce"),
        (DELTA, delta("v", "", vec![good()]).encode_to_vec().into(), "a response without a nonce"),
    ];
    for (manner, response, expected) in cases {
        let mut stream = subscription(&["default"]);
        stream.first(&manner);
        if manner.variant == Variant::Sotw {
            stream.receive(sotw("v0", "n0", vec![good()]), &manner).unwrap();
        }
        let violation = stream.receive(response, &manner).unwrap_err();
        assert_eq!(violation.what, expected, "{violation}");
    }
}

/// A version that counts may be another content's on the next stream. One that is of a content, as this server's, may not.
#[test]
fn a_version_of_a_content_is_held_against_the_server_over_streams_too() {
    const HASH: &str = "0123456789abcdef";
    let certificate = format!("certificate.1700000000.1800000000.{HASH}.{HASH}.{HASH}");
    let bundle = format!("bundle.{HASH}");
    for (version, name, may_be_another) in [
        ("1", "default", true),
        ("bundle.1", "ROOTCA", true),
        ("certificate.1.2.3", "default", true),
        (certificate.as_str(), "default", false),
        (bundle.as_str(), "ROOTCA", false),
    ] {
        for manner in [SOTW, DELTA] {
            let response = |content: &str| match manner.variant {
                Variant::Sotw => sotw(version, "n", vec![any(name, content)]),
                Variant::Delta => delta(version, "n", vec![any(name, content)]).encode_to_vec().into(),
            };
            let mut stream = subscription(&[name]);
            stream.first(&manner);
            stream.receive(response("one"), &manner).unwrap();
            stream.first(&manner);
            assert_eq!(news(&stream.receive(response("one"), &manner).unwrap()), [(0, News::Again)]);
            stream.first(&manner);
            let what = stream.receive(response("another"), &manner).map_err(|violation| violation.what);
            let expected = "another content under the same version";
            assert_eq!(what.as_ref().err(), (!may_be_another).then_some(&expected), "{version}, {:?}", manner.variant);
            stream.forget();
            stream.first(&manner);
            assert!(stream.receive(response("third"), &manner).is_ok(), "who has forgotten cannot know");
        }
    }
}

proptest! {
    #[test]
    fn no_response_makes_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        for manner in [SOTW, DELTA] {
            let mut stream = subscription(&["default"]);
            stream.first(&manner);
            let _ = stream.receive(Bytes::from(bytes.clone()), &manner);
        }
    }
}
