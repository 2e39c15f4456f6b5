//! Proxies that come back, and say what they have. Numbers are items of the conformance list.

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};

use super::super::client_testing::{Delta, Sotw, ads, chain, client, delta, request, server, with_token};
use super::super::testing::svid;
use super::super::version::Version;

#[tokio::test]
async fn items_34_35_89_and_90_a_client_that_comes_back_is_sent_what_it_has() {
    let server = server().await;
    let (svid, bundle) = (server.issue(), server.trust());
    let versions = [
        ("default".to_owned(), Version::of_certificate(&svid).to_string()),
        ("ROOTCA".to_owned(), Version::of_bundle(&bundle).to_string()),
    ];
    let (mut sds, mut ads) = (client(&server).await, ads(&server).await);
    for mut stream in
        [Delta::open_delta(&mut sds, "web").await.unwrap(), Delta::open_delta_ads(&mut ads, "web").await.unwrap()]
    {
        let initial_resource_versions = versions.clone().into();
        let first = DeltaDiscoveryRequest { initial_resource_versions, ..delta(&["default"]) };
        stream.send(first).await;
        assert_eq!(stream.next().await.2, versions[0].1);
        stream.silent().await;
    }
    for (name, version_info) in versions {
        let mut stream = Sotw::open(&mut sds, "web").await.unwrap();
        let response_nonce = "00000001-1".to_owned();
        stream.send(DiscoveryRequest { version_info, response_nonce, ..request(&[&name]) }).await;
        assert_eq!(stream.next().await.1.name, name);
    }
}

#[tokio::test]
async fn item_107_what_a_proxy_holds_is_told_to_the_issuer_and_otherwise_nothing_changes() {
    let server = server().await;
    let old = Version::of_certificate(&svid("web")).to_string();
    let held = Version::held_leaf(&old);
    assert!(held.is_some());
    let mut sds = client(&server).await;

    let mut sotw = Sotw::open(&mut sds, "web").await.unwrap();
    sotw.send(DiscoveryRequest { version_info: old.clone(), ..request(&["default"]) }).await;
    let mut incremental = Delta::open_delta(&mut sds, "web").await.unwrap();
    let reports = |name: &str| [(name.to_owned(), old.clone())].into();
    incremental
        .send(DeltaDiscoveryRequest { initial_resource_versions: reports("default"), ..delta(&["default"]) })
        .await;
    sotw.silent().await;
    incremental.silent().await;
    assert_eq!(*server.source.held.lock().unwrap(), [held.clone(), held]);
    let names = || server.service.roster().snapshot().into_iter().map(|stream| stream.names["default"].clone());
    assert!(names().all(|name| name.held.as_deref() == Some(&*old) && name.sent.is_none()));

    let renewed = server.issue();
    assert_eq!(chain(&sotw.next().await.1), renewed.chain_pem());
    assert_eq!(chain(&incremental.next().await.1), renewed.chain_pem());
    assert!(names().all(|name| name.held.is_none() && name.sent.is_some()));
}

#[tokio::test]
async fn item_107_a_version_is_heard_only_where_it_can_be_believed_to_be_of_this_secret() {
    let server = server().await;
    let (svid, bundle) = (server.issue(), server.trust());
    let old = Version::of_certificate(&svid).to_string();
    let (mut sds, mut ads) = (client(&server).await, ads(&server).await);
    let reports = || [("default".to_owned(), old.clone()), ("ROOTCA".to_owned(), old.clone())].into();
    let bundle = Version::of_bundle(&bundle).to_string();
    let long = old.replacen('.', &format!(".{}", "0".repeat(300)), 1);
    assert_eq!(Version::held_leaf(&long), None, "nobody writes it like that");
    for (door, first, names) in [
        (0, DiscoveryRequest { version_info: old.clone(), ..request(&["default", "ROOTCA"]) }, 2),
        (0, DiscoveryRequest { version_info: old.clone(), ..request(&["ROOTCA"]) }, 1),
        (0, DiscoveryRequest { version_info: bundle, ..request(&["default"]) }, 1),
        (0, DiscoveryRequest { version_info: long, ..request(&["default"]) }, 1),
        (1, DiscoveryRequest { version_info: old.clone(), ..request(&["default"]) }, 1),
    ] {
        let opened = if door == 0 { Sotw::open(&mut sds, "web").await } else { Sotw::open_ads(&mut ads, "web").await };
        let mut stream = opened.unwrap();
        stream.send(first).await;
        for _ in 0..names {
            stream.next().await;
        }
    }
    let mut later = Delta::open_delta(&mut sds, "web").await.unwrap();
    later.send(delta(&["ROOTCA"])).await;
    later.next().await;
    later.send(DeltaDiscoveryRequest { initial_resource_versions: reports(), ..delta(&["default"]) }).await;
    later.next().await;
    let mut aggregated = Delta::open_delta_ads(&mut ads, "web").await.unwrap();
    aggregated
        .send(DeltaDiscoveryRequest { initial_resource_versions: reports(), ..delta(&["default", "ROOTCA"]) })
        .await;
    aggregated.next().await;
    aggregated.next().await;
    sds.fetch_secrets(with_token(DiscoveryRequest { version_info: old.clone(), ..request(&["default"]) }, "web"))
        .await
        .unwrap();
    let held = server.source.held.lock().unwrap().clone();
    assert!(held.len() >= 7 && held.iter().all(Option::is_none), "{held:?}");
}
