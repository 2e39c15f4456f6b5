//! What is ADS's own: names that grow, a repeated ACK, and everything again from time to time. Numbers are items of the
//! conformance list.

use std::time::Duration;

use super::super::ServeSettings;
use super::super::client_testing::{Delta, Sotw, ads, chain, client, delta, request, server};
use super::super::testing::{TestServer, tcp};

#[tokio::test]
async fn items_37_and_38_names_grow_on_ads() {
    let server = server().await;
    let mut stream = Sotw::open_ads(&mut ads(&server).await, "web").await.unwrap();
    stream.send(request(&["default"])).await;
    stream.send(request(&["default", "x"])).await;
    server.issue();
    let (response, secret) = stream.next().await;
    assert_eq!(secret.name, "default");
    server.trust();
    stream.silent().await;
    stream.ack(&response, &["default", "x", "ROOTCA"]).await;
    assert_eq!(stream.next().await.1.name, "ROOTCA");
    stream.silent().await;
}

#[tokio::test]
async fn item_87_a_repeated_ack_on_ads_is_answered() {
    let server = server().await;
    let svid = server.issue();
    let mut stream = Sotw::open_ads(&mut ads(&server).await, "web").await.unwrap();
    stream.send(request(&["default"])).await;
    let (response, _) = stream.next().await;
    stream.ack(&response, &["default"]).await;
    stream.silent().await;
    stream.ack(&response, &["default"]).await;
    let (again, secret) = stream.next().await;
    assert_eq!(chain(&secret), svid.chain_pem());
    assert_ne!(again.nonce, response.nonce);
    stream.ack(&again, &["default"]).await;
    stream.silent().await;
}

#[tokio::test]
async fn item_88_ads_streams_are_sent_everything_again_and_others_are_not() {
    let settings = ServeSettings { ads_resync: Some(Duration::from_millis(400)), ..ServeSettings::default() };
    let server = TestServer::start(settings, &[tcp()]).await;
    let svid = server.issue();
    let mut dedicated = Delta::open_delta(&mut client(&server).await, "web").await.unwrap();
    let mut stream = Delta::open_delta_ads(&mut ads(&server).await, "web").await.unwrap();
    dedicated.send(delta(&["default"])).await;
    dedicated.next().await;
    stream.send(delta(&["default", "x", "ROOTCA"])).await;
    stream.removed().await;
    let (mut last, ..) = stream.next().await;
    for _ in 0..3 {
        stream.ack(&last.nonce).await;
        let (response, secret, _) = stream.next().await;
        assert_eq!(chain(&secret), svid.chain_pem());
        last = response;
    }
    let renewed = server.issue();
    while chain(&stream.next().await.1) != renewed.chain_pem() {}
    assert_eq!(chain(&dedicated.next().await.1), renewed.chain_pem(), "the next that it is sent is the next version");
}
