use super::super::proxy_json;
use super::*;

fn time(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds, nanos: 123_000_000 })
}

fn subscription(name: &str, state: v1::SubscriptionState) -> v1::Subscription {
    let version = || Some(v1::VersionEvent { version: format!("{name}.1"), time: time(1_800_000_001) });
    v1::Subscription {
        name: name.to_owned(),
        kind: v1::SecretKind::Certificate.into(),
        state: state.into(),
        sent: version(),
        acked: version(),
        ..v1::Subscription::default()
    }
}

fn proxy() -> v1::Proxy {
    let stream = v1::Stream {
        protocol: "sotw".to_owned(),
        peer: "127.0.0.1:1".to_owned(),
        node_id: "web-0".to_owned(),
        node_cluster: "web".to_owned(),
        opened: time(1_800_000_000),
        proof: Some(v1::Proof { method: "proxyToken".to_owned(), valid_until: None }),
        subscriptions: vec![subscription("default", v1::SubscriptionState::Acked)],
    };
    let bundle =
        v1::Stream { subscriptions: vec![subscription("ROOTCA", v1::SubscriptionState::Acked)], ..stream.clone() };
    v1::Proxy {
        mesh: "default".to_owned(),
        name: "web-0".to_owned(),
        spiffe_id: "spiffe://default/web".to_owned(),
        certificate: Some(v1::Certificate {
            serial: "0a".to_owned(),
            issuer: "CN=default".to_owned(),
            not_before: time(1_800_000_000),
            not_after: time(1_800_086_400),
            held_by_proxy_only: false,
        }),
        next_attempt: time(1_800_050_000),
        streams: vec![stream, bundle],
        ..v1::Proxy::default()
    }
}

#[test]
fn a_proxy_is_a_line() {
    let pending = v1::Proxy {
        name: "web-1".to_owned(),
        certificate: None,
        next_attempt: None,
        last_error: "the CA is away".to_owned(),
        streams: Vec::new(),
        ..proxy()
    };
    assert_eq!(
        table(&[proxy(), pending], false),
        "\
MESH      PROXY   SPIFFE ID              PROOF        STREAMS   SECRETS                       SERIAL   EXPIRES                RENEWAL                ERROR
default   web-0   spiffe://default/web   proxyToken   2 sotw    ROOTCA ACKED, default ACKED   0a       2027-01-16T08:00:00Z   2027-01-15T21:53:20Z   -
default   web-1   spiffe://default/web   -            -         -                             -        -                      -                      the CA is away
"
    );
}

#[test]
fn the_wide_table_has_everything() {
    let table = table(&[proxy()], true);
    for text in ["VERSIONS", "ROOTCA ROOTCA.1, default default.1", "CN=default", "127.0.0.1:1", "PROVEN UNTIL"] {
        assert!(table.contains(text), "{text} is not in\n{table}");
    }
}

#[test]
fn what_is_wrong_is_told_and_cut_short() {
    let mut proxy = proxy();
    let subscription = &mut proxy.streams[0].subscriptions[0];
    subscription.state = v1::SubscriptionState::Nacked.into();
    subscription.nacked = Some(v1::Rejection { reason: "bad ".repeat(100), ..v1::Rejection::default() });
    let narrow = table(std::slice::from_ref(&proxy), false);
    assert!(narrow.contains("ROOTCA ACKED, default NACKED"), "{narrow}");
    assert!(narrow.contains("default rejected: bad bad") && narrow.ends_with("…\n"), "{narrow}");
    assert!(narrow.lines().all(|line| line.chars().count() < 250), "{narrow}");
    proxy.certificate.as_mut().unwrap().held_by_proxy_only = true;
    assert!(table(&[proxy], true).contains("(held by the proxy)"));
}

/// Names, node ids and reasons are of a proxy's choice.
#[test]
fn item_105_no_proxy_can_write_to_the_terminal() {
    let evil = "\u{1b}[2J\u{9b}31m\u{202e}\r\n\u{7f}evil";
    let mut proxy = proxy();
    proxy.name = evil.to_owned();
    proxy.last_error = evil.to_owned();
    proxy.streams[0].node_id = evil.to_owned();
    proxy.streams[0].subscriptions[0].name = evil.to_owned();
    proxy.streams[0].subscriptions[0].nacked = Some(v1::Rejection { reason: evil.to_owned(), ..Default::default() });
    let proxies = [proxy];
    for text in [table(&proxies, false), table(&proxies, true), proxy_json::document(&proxies).unwrap()] {
        assert!(text.contains("evil"), "{text:?}");
        assert!(text.chars().all(|c| c == '\n' || !crate::model::text::is_unsafe(c)), "{text:?}");
    }
    assert_eq!(table(&proxies, true).lines().count(), 2);
    let read: serde_json::Value = serde_json::from_str(&proxy_json::document(&proxies).unwrap()).unwrap();
    assert_eq!(read["proxies"][0]["name"], evil, "programs get it as it is");
}

#[test]
fn json_has_the_names_of_the_api() {
    let document: serde_json::Value = serde_json::from_str(&proxy_json::document(&[proxy()]).unwrap()).unwrap();
    let subscription = |name: &str| {
        serde_json::json!({
            "name": name,
            "kind": "CERTIFICATE",
            "state": "ACKED",
            "sent": {"version": format!("{name}.1"), "time": "2027-01-15T08:00:01.123Z"},
            "acked": {"version": format!("{name}.1"), "time": "2027-01-15T08:00:01.123Z"},
        })
    };
    let stream = |name: &str| {
        serde_json::json!({
            "protocol": "sotw",
            "peer": "127.0.0.1:1",
            "nodeId": "web-0",
            "nodeCluster": "web",
            "opened": "2027-01-15T08:00:00.123Z",
            "proof": {"method": "proxyToken"},
            "subscriptions": [subscription(name)],
        })
    };
    let expected = serde_json::json!({"proxies": [{
        "mesh": "default",
        "name": "web-0",
        "nameIsProven": false,
        "spiffeId": "spiffe://default/web",
        "certificate": {
            "serial": "0a",
            "issuer": "CN=default",
            "notBefore": "2027-01-15T08:00:00.123Z",
            "notAfter": "2027-01-16T08:00:00.123Z",
            "heldByProxyOnly": false,
        },
        "nextAttempt": "2027-01-15T21:53:20.123Z",
        "streams": [stream("default"), stream("ROOTCA")],
    }]});
    assert_eq!(document, expected);
    let nothing: serde_json::Value = serde_json::from_str(&proxy_json::document(&[]).unwrap()).unwrap();
    assert_eq!(nothing, serde_json::json!({"proxies": []}));
}
