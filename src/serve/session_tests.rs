//! What becomes of streams, over real sockets. Numbers are items of the conformance list.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::SignedDuration;
use tokio::time::Instant;
use tonic::Code;

use super::super::ServeSettings;
use super::super::client_testing::{Raw, Sotw, chain, client, eventually, request, server, with_token};
use super::super::testing::{TestServer, ca, svid_until, tcp};
use crate::model::bundle::Bundle;
use crate::runtime::clock::Clock;

#[tokio::test]
async fn item_99_a_certificate_that_has_ended_counts_as_not_there() {
    let server = server().await;
    let ended = || Some(Arc::new(svid_until("web", Clock::system().now() - SignedDuration::from_secs(5))));
    server.source.certificate.send_replace(ended());
    let mut client = client(&server).await;
    let mut stream = Sotw::open(&mut client, "web").await.unwrap();
    stream.send(request(&["default"])).await;
    stream.silent().await;
    let mut hasty = with_token(request(&["default"]), "web");
    hasty.set_timeout(Duration::from_millis(300));
    assert_eq!(client.fetch_secrets(hasty).await.unwrap_err().code(), Code::Unavailable);

    let good = server.issue();
    assert_eq!(chain(&stream.next().await.1), good.chain_pem());
    server.source.certificate.send_replace(ended());
    stream.silent().await;
}

#[tokio::test]
async fn item_26_a_change_of_policy_ends_the_streams_of_those_it_changes() {
    let server = server().await;
    server.issue();
    let mut client = client(&server).await;
    let mut streams = Vec::new();
    for name in ["stays", "moves", "goes"] {
        let mut stream = Sotw::open(&mut client, name).await.unwrap();
        stream.send(request(&["default"])).await;
        stream.next().await;
        streams.push(stream);
    }
    let authenticate = &server.authenticate;
    authenticate.moved.lock().unwrap().insert("moves".to_owned());
    authenticate.forbidden.lock().unwrap().insert("goes".to_owned());
    authenticate.policies.send_modify(|_| {});
    eventually(|| Arc::strong_count(&server.source.interest) == 2).await;
    server.issue();
    assert_eq!(streams.pop().unwrap().status().await.code(), Code::PermissionDenied);
    assert_eq!(streams.pop().unwrap().status().await.code(), Code::Unavailable);
    let mut stays = streams.pop().unwrap();
    stays.next().await;
    stays.silent().await;
}

#[tokio::test]
async fn a_node_with_a_long_id_is_refused() {
    let server = server().await;
    let mut client = client(&server).await;
    for (length, served) in [(1024, true), (1025, false)] {
        let mut stream = Sotw::open(&mut client, "web").await.unwrap();
        let mut first = request(&["default"]);
        first.node.as_mut().unwrap().id = "x".repeat(length);
        stream.send(first).await;
        if served {
            stream.silent().await;
        } else {
            assert_eq!(stream.status().await.code(), Code::InvalidArgument);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_rest_of_a_request_has_to_come() {
    let server = TestServer::start(ServeSettings::default(), &[]).await;
    let mut stream = Raw::open(&server, "web").await;
    stream.send(request(&["default"])).await;
    stream.requests.send(Bytes::from_static(&[0, 0, 0])).await.unwrap();
    let began = Instant::now();
    let (_, trailers) = stream.ended().await;
    assert_eq!(trailers["grpc-status"], "4");
    assert!((30..32).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn item_100_an_idle_stream_stays_open_and_a_half_close_ends_it_well() {
    let server = TestServer::start(ServeSettings::default(), &[]).await;
    server.issue();
    let mut stream = Raw::open(&server, "web").await;
    stream.send(request(&["default"])).await;
    let week = Duration::from_secs(7 * 24 * 3600);
    let ended = tokio::time::timeout(week, stream.ended()).await;
    assert!(ended.is_err(), "{ended:?}");
    drop(stream.requests);
    let (read, trailers) = Raw { requests: tokio::sync::mpsc::channel(1).0, body: stream.body }.ended().await;
    assert_eq!((read, trailers["grpc-status"].as_bytes()), (0, &b"0"[..]), "item 101");
}

#[tokio::test]
async fn item_96_a_proxy_that_does_not_read_is_cut_off() {
    let settings = ServeSettings { send_limit: Duration::from_millis(600), ..ServeSettings::default() };
    let server = TestServer::start(settings, &[tcp()]).await;
    let mut slow = Sotw::open(&mut client(&server).await, "slow").await.unwrap();
    let mut quick = Sotw::open(&mut client(&server).await, "quick").await.unwrap();
    slow.send(request(&["ROOTCA"])).await;
    quick.send(request(&["ROOTCA"])).await;
    // Some 16 KB each; the client's window is 64 KB.
    let mut certificates: Vec<_> = (0..30).map(|number| ca(&number.to_string()).certificate).collect();
    for _ in 0..10 {
        certificates.rotate_left(1);
        certificates.swap(0, 7);
        let bundle = Bundle::from_certificates(certificates.clone()).unwrap();
        server.source.bundle.send_replace(Some(Arc::new(bundle)));
        quick.next().await;
    }
    eventually(|| server.metrics().contains("stalled_connections_total 1\n")).await;
    eventually(|| server.metrics().contains("streams{protocol=\"sotw\"} 1\n")).await;
    quick.silent().await;
    let ended = async { while let Ok(Some(_)) = slow.responses.message().await {} };
    tokio::time::timeout(Duration::from_secs(5), ended).await.unwrap();
}

#[tokio::test]
async fn item_24_two_streams_with_one_node_and_one_name() {
    let server = server().await;
    server.issue();
    let mut client = client(&server).await;
    let mut old = Sotw::open(&mut client, "web").await.unwrap();
    let mut new = Sotw::open(&mut client, "web").await.unwrap();
    for stream in [&mut old, &mut new] {
        stream.send(request(&["default"])).await;
        let (response, _) = stream.next().await;
        stream.ack(&response, &["default"]).await;
    }
    let renewed = server.issue();
    assert_eq!(chain(&old.next().await.1), renewed.chain_pem());
    assert_eq!(chain(&new.next().await.1), renewed.chain_pem());
    drop(old);
    eventually(|| Arc::strong_count(&server.source.interest) == 2).await;
    let renewed = server.issue();
    assert_eq!(chain(&new.next().await.1), renewed.chain_pem());
}

#[tokio::test]
async fn item_25_each_stream_of_a_connection_has_its_own_token() {
    let server = server().await;
    server.issue();
    let until = Clock::system().now() + SignedDuration::from_millis(500);
    server.authenticate.until.lock().unwrap().insert("old".to_owned(), until);
    let mut client = client(&server).await;
    let mut old = Sotw::open(&mut client, "old").await.unwrap();
    old.send(request(&["default"])).await;
    let mut rotated = Sotw::open(&mut client, "rotated").await.unwrap();
    rotated.send(request(&["default"])).await;
    rotated.next().await;
    old.next().await;
    assert_eq!(old.status().await.code(), Code::Unauthenticated);
    server.issue();
    rotated.next().await;
    assert_eq!(Sotw::open(&mut client, "bad").await.err().unwrap().code(), Code::Unauthenticated);
    let seen = server.authenticate.seen.lock().unwrap();
    let ports: std::collections::HashSet<_> = seen.iter().map(|evidence| evidence.address).collect();
    assert_eq!((seen.len(), ports.len()), (3, 1), "one connection");
}

#[tokio::test]
async fn a_request_that_is_too_large_ends_its_stream_and_no_other() {
    let server = server().await;
    server.issue();
    let mut client = client(&server).await;
    let mut other = Sotw::open(&mut client, "web").await.unwrap();
    other.send(request(&["default"])).await;
    other.next().await;
    let stream = Sotw::open(&mut client, "web").await.unwrap();
    stream.send(request(&["x".repeat(3 << 20).as_str()])).await;
    assert_eq!(stream.status().await.code(), Code::ResourceExhausted);
    server.issue();
    other.next().await;
}
