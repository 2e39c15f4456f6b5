//! The same server through each of its doors, over real sockets: SotW and Delta, dedicated and ADS. Numbers are items of
//! the conformance list.

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use envoy_types::pb::google::rpc;
use tonic::Code;

use super::super::admission::StreamLimits;
use super::super::client_testing::{Delta, Sotw, ads, chain, client, delta, eventually, node, request, server};
use super::super::metrics::Protocol;
use super::super::roster::StreamRecord;
use super::super::testing::{TestServer, ca, tcp};
use super::super::version::Version;
use super::super::{ServeSettings, wire::SECRET_TYPE};
use crate::model::bundle::Bundle;

const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

fn only_stream(server: &TestServer) -> StreamRecord {
    let mut streams = server.service.roster().snapshot();
    assert_eq!(streams.len(), 1);
    streams.remove(0)
}

/// The most names that a stream is listed with.
fn most_names(server: &TestServer) -> usize {
    server.service.roster().snapshot().iter().map(|stream| stream.names.len()).max().unwrap()
}

#[tokio::test]
async fn items_3_49_50_and_79_delta_secrets_from_first_push_to_rotation() {
    let server = server().await;
    let (svid, bundle) = (server.issue(), server.trust());
    let mut stream = Delta::open_delta(&mut client(&server).await, "web").await.unwrap();
    stream.send(delta(&["default", "ROOTCA"])).await;

    let (first, secret, version) = stream.next().await;
    assert_eq!((&*secret.name, &*version), ("ROOTCA", Version::of_bundle(&bundle).as_str()), "item 92");
    let (second, secret, version) = stream.next().await;
    assert_eq!((&*secret.name, &*version), ("default", Version::of_certificate(&svid).as_str()));
    assert_eq!(chain(&secret), svid.chain_pem());
    assert_ne!(first.nonce, second.nonce, "item 33");
    stream.ack(&first.nonce).await;
    stream.ack(&second.nonce).await;
    stream.silent().await;

    let renewed = server.issue();
    let (third, secret, _) = stream.next().await;
    assert_eq!(chain(&secret), renewed.chain_pem(), "item 91, and nothing that has not changed");
    let error_detail = Some(rpc::Status { code: 3, message: "bad".to_owned(), details: Vec::new() });
    stream.send(DeltaDiscoveryRequest { response_nonce: third.nonce, error_detail, ..delta(&[]) }).await;
    stream.silent().await;
    let again = server.issue();
    assert_eq!(chain(&stream.next().await.1), again.chain_pem(), "item 43");

    let record = only_stream(&server);
    assert_eq!((record.protocol, record.names.len()), (Protocol::Delta, 2));
    assert!(record.names["default"].nacked.is_some() && record.names["ROOTCA"].acked.is_some());
    let metrics = server.metrics();
    for line in [
        "streams{protocol=\"delta\"} 1",
        "subscriptions 2",
        "pushes_total{secret=\"certificate\"} 3",
        "acks_total{secret=\"certificate\"} 1",
        "nacks_total{secret=\"certificate\"} 1",
        "ack_duration_seconds_count 3",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    drop(stream);
    eventually(|| server.metrics().contains("subscriptions 0\n")).await;
}

#[tokio::test]
async fn items_2_21_and_31_ads_remembers_the_node_of_another_type_and_answers_secrets_only() {
    let server = server().await;
    let svid = server.issue();
    let mut client = ads(&server).await;

    let mut sotw = Sotw::open_ads(&mut client, "web").await.unwrap();
    sotw.send(DiscoveryRequest { type_url: CLUSTER.to_owned(), ..request(&[]) }).await;
    sotw.silent().await;
    sotw.send(DiscoveryRequest { node: None, ..request(&["default"]) }).await;
    let (response, secret) = sotw.next().await;
    assert_eq!(chain(&secret), svid.chain_pem());
    sotw.ack(&response, &["default"]).await;
    sotw.send(DiscoveryRequest { type_url: CLUSTER.to_owned(), node: None, ..request(&["default"]) }).await;
    sotw.silent().await;
    assert_eq!(only_stream(&server).protocol, Protocol::AdsSotw);
    assert!(server.metrics().contains("streams{protocol=\"ads_sotw\"} 1"));
    drop(sotw);
    eventually(|| server.service.roster().snapshot().is_empty()).await;

    let mut incremental = Delta::open_delta_ads(&mut client, "web").await.unwrap();
    incremental.send(DeltaDiscoveryRequest { type_url: CLUSTER.to_owned(), ..delta(&["*"]) }).await;
    incremental.silent().await;
    incremental.send(DeltaDiscoveryRequest { node: None, ..delta(&["default"]) }).await;
    let (response, secret, _) = incremental.next().await;
    assert_eq!(chain(&secret), svid.chain_pem());
    incremental.ack(&response.nonce).await;
    incremental.silent().await;
    assert_eq!(only_stream(&server).protocol, Protocol::AdsDelta);
    assert!(server.metrics().contains("streams{protocol=\"ads_delta\"} 1"));
}

#[tokio::test]
async fn items_18_19_22_29_30_and_105_who_is_refused_at_the_other_doors() {
    let server = server().await;
    let (mut sds, mut ads) = (client(&server).await, ads(&server).await);
    for (token, code) in [("bad", Code::Unauthenticated), ("away", Code::Unavailable)] {
        assert_eq!(Delta::open_delta(&mut sds, token).await.err().unwrap().code(), code);
        assert_eq!(Sotw::open_ads(&mut ads, token).await.err().unwrap().code(), code);
        assert_eq!(Delta::open_delta_ads(&mut ads, token).await.err().unwrap().code(), code);
    }
    let stranger = Some(Node { id: "proxy-1".to_owned(), ..Default::default() });
    for (requests, dedicated, aggregated) in [
        (vec![DeltaDiscoveryRequest { node: None, ..delta(&[]) }], true, true),
        (vec![delta(&[]), DeltaDiscoveryRequest { node: stranger, ..delta(&[]) }], true, true),
        (vec![DeltaDiscoveryRequest { type_url: CLUSTER.to_owned(), ..delta(&[]) }], true, false),
        (vec![DeltaDiscoveryRequest { type_url: String::new(), ..delta(&[]) }], false, true),
    ] {
        for (is_refused, mut stream) in [
            (dedicated, Delta::open_delta(&mut sds, "web").await.unwrap()),
            (aggregated, Delta::open_delta_ads(&mut ads, "web").await.unwrap()),
        ] {
            for request in &requests {
                stream.send(request.clone()).await;
            }
            if is_refused {
                let status = stream.status().await;
                assert_eq!(status.code(), Code::InvalidArgument, "{requests:?}");
                assert!(status.message().len() < 80, "item 105: {status:?}");
            } else {
                stream.silent().await;
            }
        }
    }
    for (first, second) in [
        (DiscoveryRequest { type_url: String::new(), ..request(&[]) }, request(&[])),
        (DiscoveryRequest { node: None, type_url: CLUSTER.to_owned(), ..request(&[]) }, request(&[])),
    ] {
        let stream = Sotw::open_ads(&mut ads, "web").await.unwrap();
        stream.send(first).await;
        let _ = stream.requests.send(second).await;
        assert_eq!(stream.status().await.code(), Code::InvalidArgument);
    }
    let forbidden = Delta::open_delta_ads(&mut ads, "forbidden").await.unwrap();
    forbidden.send(delta(&[])).await;
    assert_eq!(forbidden.status().await.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn items_20_and_22_a_node_may_be_left_out_or_change_but_for_its_id() {
    let server = server().await;
    let mut stream = Delta::open_delta(&mut client(&server).await, "web").await.unwrap();
    stream.send(delta(&["default"])).await;
    stream.send(DeltaDiscoveryRequest { node: None, ..delta(&["x"]) }).await;
    stream.removed().await;
    let moved = Node { cluster: "elsewhere".to_owned(), user_agent_name: "envoy".to_owned(), ..node().unwrap() };
    stream.send(DeltaDiscoveryRequest { node: Some(moved), ..delta(&["y"]) }).await;
    stream.removed().await;
    stream.silent().await;
}

#[tokio::test]
async fn items_4_and_63_all_doors_share_the_limits() {
    let limits = StreamLimits { streams: 3, per_proxy: 2, ..StreamLimits::default() };
    let server = TestServer::start(ServeSettings { limits, ..Default::default() }, &[tcp()]).await;
    server.trust();
    let (mut sds, mut ads) = (client(&server).await, ads(&server).await);
    let mut sotw = Sotw::open_ads(&mut ads, "web").await.unwrap();
    let mut incremental = Delta::open_delta(&mut sds, "web").await.unwrap();
    sotw.send(request(&["ROOTCA"])).await;
    incremental.send(delta(&["ROOTCA"])).await;
    sotw.next().await;
    incremental.next().await;
    let third = Delta::open_delta_ads(&mut ads, "web").await.unwrap();
    assert_eq!(Sotw::open(&mut sds, "api").await.err().unwrap().code(), Code::ResourceExhausted);
    third.send(delta(&["ROOTCA"])).await;
    assert_eq!(third.status().await.code(), Code::ResourceExhausted);

    // Beside ROOTCA, 256 that there is nothing of: only on Delta there is a way to say so.
    let names: Vec<String> = (0..256).map(|number| number.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    incremental.send(delta(&names)).await;
    assert_eq!(incremental.removed().await.0.len(), 256);
    server.trust();
    incremental.next().await;
    assert_eq!(most_names(&server), 256);
    sotw.next().await;
    sotw.send(request(&[&names[..], &["ROOTCA"]].concat())).await;
    assert_eq!(sotw.status().await.code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn items_64_71_73_and_77_one_removal_on_delta_and_the_rest_is_served() {
    let server = server().await;
    server.trust();
    let (mut sds, mut ads) = (client(&server).await, ads(&server).await);
    let mut streams =
        [Delta::open_delta(&mut sds, "web").await.unwrap(), Delta::open_delta_ads(&mut ads, "web").await.unwrap()];
    for stream in &mut streams {
        stream.send(delta(&["nobodys", "ROOTCA", "spiffe://default/other"])).await;
        let (names, nonce) = stream.removed().await;
        assert_eq!(names, ["nobodys", "spiffe://default/other"]);
        assert_eq!(stream.next().await.1.name, "ROOTCA");
        stream.ack(&nonce).await;
        stream.silent().await;
        stream.send(delta(&["nobodys"])).await;
        assert_eq!(stream.removed().await.0, ["nobodys"]);
        stream.silent().await;
        stream.ack("stale").await;
    }
    eventually(|| server.metrics().contains("stale_nonces_total 2\n")).await;
    // Only the server tells them apart (item 27).
    assert!(server.metrics().contains("withheld_total{reason=\"unknown_name\"} 4"));
    assert!(server.metrics().contains("withheld_total{reason=\"forbidden_name\"} 2"));
    assert!(server.source.held.lock().unwrap().is_empty(), "item 64: nothing was asked of the issuer");
}

#[tokio::test]
async fn items_55_56_68_69_and_101_subscriptions_on_delta_end_and_begin_again() {
    let server = server().await;
    let mut stream = Delta::open_delta(&mut client(&server).await, "web").await.unwrap();
    let interest = || Arc::strong_count(&server.source.interest) - 1;
    stream.send(delta(&["default"])).await;
    stream.silent().await;
    let first = server.issue();
    assert_eq!(chain(&stream.next().await.1), first.chain_pem());
    assert_eq!(interest(), 1);
    stream.send(delta(&["default"])).await;
    assert_eq!(chain(&stream.next().await.1), first.chain_pem(), "asked for once more");
    assert_eq!(interest(), 1);

    let ends = DeltaDiscoveryRequest { resource_names_unsubscribe: vec!["default".to_owned()], ..delta(&[]) };
    stream.send(ends).await;
    eventually(|| interest() == 0).await;
    server.issue();
    stream.silent().await;
    stream.send(delta(&["default"])).await;
    stream.next().await;
    drop(stream);
    eventually(|| interest() == 0 && server.metrics().contains("streams{protocol=\"delta\"} 0")).await;
}

#[tokio::test]
async fn item_9_large_responses_are_sent_and_counted() {
    let server = server().await;
    let large = Bundle::from_certificates([ca(&"x".repeat(900_000)).certificate]).unwrap();
    server.source.bundle.send_replace(Some(Arc::new(large)));
    let mut stream = Delta::open_delta(&mut client(&server).await, "web").await.unwrap();
    stream.send(delta(&["ROOTCA"])).await;
    stream.next().await;
    server.trust();
    stream.next().await;
    assert!(server.metrics().contains("large_responses_total 1\n"));
}

#[tokio::test]
async fn items_94_and_95_a_slow_reader_at_any_door_gets_the_newest_and_holds_nobody_up() {
    let server = server().await;
    let (mut sds, mut ads) = (client(&server).await, ads(&server).await);
    // On each connection somebody who reads, and beside it those who do not.
    let mut quick = Delta::open_delta(&mut sds, "quick").await.unwrap();
    let mut quick_ads = Sotw::open_ads(&mut ads, "quick").await.unwrap();
    let mut slow =
        [Delta::open_delta(&mut sds, "slow").await.unwrap(), Delta::open_delta_ads(&mut ads, "slow").await.unwrap()];
    let mut slow_sotw = Sotw::open_ads(&mut ads, "slow").await.unwrap();
    for stream in slow.iter().chain([&quick]) {
        stream.send(delta(&["ROOTCA"])).await;
    }
    for stream in [&quick_ads, &slow_sotw] {
        stream.send(request(&["ROOTCA"])).await;
    }
    // Some 16 KB each, so that a stream's window is full after four; another order is another version.
    let mut certificates: Vec<_> = (0..30).map(|number| ca(&number.to_string()).certificate).collect();
    let mut newest = String::new();
    for round in 0..60 {
        certificates.rotate_left(1);
        certificates.swap(0, 1 + round % 29);
        let bundle = Arc::new(Bundle::from_certificates(certificates.clone()).unwrap());
        newest = Version::of_bundle(&bundle).to_string();
        server.source.bundle.send_replace(Some(bundle));
        assert_eq!(quick.next().await.2, newest);
        assert_eq!(quick_ads.next().await.0.version_info, newest);
    }
    let mut read = [1; 3];
    for (stream, read) in slow.iter_mut().zip(&mut read) {
        while stream.next().await.2 != newest {
            *read += 1;
        }
    }
    while slow_sotw.next().await.0.version_info != newest {
        read[2] += 1;
    }
    assert!(read.iter().all(|read| (2..30).contains(read)), "{read:?} of 60 versions were kept for who did not read");
}

#[tokio::test]
async fn item_91_every_door_is_pushed_to() {
    let server = server().await;
    server.issue();
    let (mut sds, mut ads) = (client(&server).await, ads(&server).await);
    let mut first = Sotw::open(&mut sds, "web").await.unwrap();
    let mut second = Sotw::open_ads(&mut ads, "web").await.unwrap();
    let mut third = Delta::open_delta(&mut sds, "web").await.unwrap();
    let mut fourth = Delta::open_delta_ads(&mut ads, "web").await.unwrap();
    first.send(request(&["default"])).await;
    second.send(DiscoveryRequest { type_url: SECRET_TYPE.to_owned(), ..request(&["default"]) }).await;
    third.send(delta(&["default"])).await;
    fourth.send(delta(&["default"])).await;
    for round in 0..3 {
        let expected = if round == 0 { None } else { Some(server.issue().chain_pem()) };
        // The last to be read is the first to have been opened.
        let chains = [
            chain(&fourth.next().await.1),
            chain(&third.next().await.1),
            chain(&second.next().await.1),
            chain(&first.next().await.1),
        ];
        assert!(chains.iter().all(|chain| expected.as_ref().is_none_or(|expected| chain == expected)));
    }
}

#[tokio::test]
async fn items_74_75_and_98_where_there_is_nothing_good_any_more_nothing_is_sent_and_streams_stay() {
    let server = server().await;
    server.issue();
    let bundle = server.trust();
    let mut client = client(&server).await;
    let mut sotw = Sotw::open(&mut client, "web").await.unwrap();
    let mut incremental = Delta::open_delta(&mut client, "web").await.unwrap();
    sotw.send(request(&["default", "ROOTCA"])).await;
    incremental.send(delta(&["default", "ROOTCA"])).await;
    for _ in 0..2 {
        sotw.next().await;
        incremental.next().await;
    }
    server.source.certificate.send_replace(None);
    server.source.bundle.send_replace(None);
    sotw.silent().await;
    incremental.silent().await;
    server.source.bundle.send_replace(Some(bundle));
    let renewed = server.issue();
    assert_eq!(chain(&sotw.next().await.1), renewed.chain_pem(), "and the bundle is what it was");
    assert_eq!(chain(&incremental.next().await.1), renewed.chain_pem());
}
