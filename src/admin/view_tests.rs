use super::super::testing::{identity, lives, status, stream, svid};
use super::*;
use crate::testing::certs::timestamp as moment;

#[test]
fn item_41_a_subscription_is_as_far_as_its_newest_version() {
    for (expected, record) in lives() {
        assert_eq!(state(&record).as_str_name(), format!("SUBSCRIPTION_STATE_{expected}"), "{record:?}");
    }
}

/// Anybody can report a version. It counts where the server stands by it, and for the proxy that it is a leaf of.
#[test]
fn what_a_proxy_says_it_holds_is_shown_only_if_the_server_stands_by_it() {
    let held = lives()[2].1.clone();
    let streams = ["web-0", "web-1", "web-2"].map(|name| stream("default", name, &[("default", held.clone())]));
    let mut stands_by = status(None, None);
    stands_by.held_until = Some(moment(700));
    let known = Held::from([
        (identity("default", "web-0").proxy_key(), (None, stands_by)),
        (identity("default", "web-1").proxy_key(), (None, status(Some(500), None))),
    ]);
    let messages: Vec<v1::Proxy> = proxies(streams.to_vec(), known).iter().map(Listed::message).collect();
    let shown = messages.iter().map(|proxy| &proxy.streams[0].subscriptions[0]);
    let shown: Vec<_> = shown.map(|name| (name.state(), !name.held_version.is_empty())).collect();
    use v1::SubscriptionState::{Held as Holds, Pending};
    assert_eq!(shown, [(Holds, true), (Pending, false), (Pending, false)]);
}

#[test]
fn a_proxy_is_shown_with_its_streams_and_its_certificate() {
    let (svid, _) = svid("default");
    let (serial, ends) = (svid.leaf.serial().to_owned(), svid.validity().not_after);
    let web = identity("default", "web-0").proxy_key();
    let gone = ProxyKey { instance: Instance::Node("gone".into()), ..web.clone() };
    let held = Held::from([
        (web, (Some(Arc::new(svid)), status(Some(500), None))),
        (gone, (None, status(Some(600), Some("the CA is away")))),
    ]);
    let names = lives();
    let streams = vec![
        stream("default", "web-0", &[("default", names[4].1.clone()), ("ROOTCA", names[1].1.clone())]),
        stream("other", "api-0", &[("x", names[0].1.clone())]),
        stream("default", "web-0", &[("default", names[7].1.clone())]),
    ];
    let proxies: Vec<v1::Proxy> = proxies(streams, held).iter().map(Listed::message).collect();
    let names: Vec<(&str, &str, bool, usize)> =
        proxies.iter().map(|proxy| (&*proxy.mesh, &*proxy.name, proxy.name_is_proven, proxy.streams.len())).collect();
    assert_eq!(
        names,
        [("default", "web-0", true, 2), ("default", "gone", false, 0), ("other", "api-0", true, 1)],
        "one for each that is known, by stream or by certificate"
    );

    let web = &proxies[0];
    let certificate = web.certificate.as_ref().unwrap();
    assert_eq!((&certificate.serial, certificate.held_by_proxy_only), (&serial, false));
    assert_eq!(certificate.issuer, "CN=test CA");
    assert_eq!(certificate.not_after, Some(timestamp(ends)));
    assert_eq!((web.next_attempt, &*web.last_error), (Some(timestamp(moment(500))), ""));
    assert_eq!(web.workload.as_ref().unwrap().name, "web");
    let first = &web.streams[0];
    assert_eq!((&*first.protocol, &*first.node_id, &*first.peer), ("sotw", "web-0", "127.0.0.1:1"));
    assert_eq!(first.opened, Some(timestamp(moment(1_000))));
    let proof = first.proof.as_ref().unwrap();
    assert_eq!((&*proof.method, proof.valid_until), ("proxyToken", Some(timestamp(moment(2_000)))));
    let names: Vec<&str> = first.subscriptions.iter().map(|subscription| &*subscription.name).collect();
    assert_eq!(names, ["ROOTCA", "default"], "ordered");
    let rejected = &web.streams[1].subscriptions[0];
    assert_eq!(rejected.kind(), v1::SecretKind::Certificate);
    assert_eq!(rejected.nacked.as_ref().unwrap().reason, "bad: [redacted]");

    assert_eq!((&*proxies[1].last_error, &proxies[1].certificate), ("the CA is away", &None));
    assert_eq!(proxies[2].streams[0].subscriptions[0].kind(), v1::SecretKind::Unspecified);
}

#[test]
fn a_proxy_cannot_make_its_entry_too_large_for_a_client() {
    let names: Vec<String> = (0..64).map(|i| format!("{i:02048}")).collect();
    let names: Vec<_> = names.iter().map(|name| (name.as_str(), lives()[7].1.clone())).collect();
    let streams = vec![stream("default", "web-0", &names); 64];
    let message = proxies(streams, Held::new())[0].message();
    assert!(message.encoded_len() < 2 << 20, "{}", message.encoded_len());
    assert!(!message.streams.is_empty());
    assert_eq!(message.streams.len() + usize::try_from(message.streams_omitted).unwrap(), 64);
}

#[test]
fn a_certificate_that_only_the_proxy_has_is_shown_as_such() {
    let mut listed = proxies(vec![stream("default", "web-0", &[])], Held::new()).remove(0);
    assert_eq!(listed.message().certificate, None);
    listed.status.held_until = Some(moment(700));
    let not_after = Some(timestamp(moment(700)));
    let held = v1::Certificate { not_after, held_by_proxy_only: true, ..v1::Certificate::default() };
    assert_eq!(listed.message().certificate, Some(held));
}

/// The private key is at hand where the leaf is; neither it nor any certificate is in what is shown.
#[test]
fn nothing_that_is_shown_has_key_material_in_it() {
    let (svid, key) = svid("default");
    let held = Held::from([(identity("default", "web-0").proxy_key(), (Some(Arc::new(svid)), status(None, None)))]);
    let listed = proxies(vec![stream("default", "web-0", &[("default", lives()[7].1.clone())])], held);
    let message = listed[0].message();
    let wire = String::from_utf8_lossy(&message.encode_to_vec()).into_owned();
    for shown in [format!("{listed:?}"), format!("{message:?}"), wire] {
        assert!(shown.contains("web-0"), "{shown}");
        assert!(!shown.contains("-----"), "{shown}");
        for line in key.lines().filter(|line| line.len() > 16) {
            assert!(!shown.contains(line), "{shown}");
        }
    }
}

#[test]
fn times_before_1970_too_have_a_positive_fraction() {
    let time = Timestamp::new(-1, -500_000_000).unwrap();
    assert_eq!(timestamp(time), prost_types::Timestamp { seconds: -2, nanos: 500_000_000 });
    let time = Timestamp::new(1, 5).unwrap();
    assert_eq!(timestamp(time), prost_types::Timestamp { seconds: 1, nanos: 5 });
}

#[test]
fn a_selector_matches_every_part_that_it_has() {
    let key = identity("default", "web-0").proxy_key();
    for (mesh, name, spiffe_id, expected) in [
        ("", "", "", true),
        ("default", "", "", true),
        ("defaul", "", "", false),
        ("default", "web-0", "spiffe://default/web", true),
        ("other", "web-0", "", false),
        ("", "web", "", false),
        ("", "", "spiffe://default/web", true),
        ("", "", "spiffe://default/we", false),
    ] {
        let selector = Selector { mesh: mesh.to_owned(), name: name.to_owned(), spiffe_id: spiffe_id.to_owned() };
        assert_eq!(selector.matches(&key), expected, "{selector:?}");
    }
}
