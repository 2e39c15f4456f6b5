//! Names over real streams. Numbers are items of the conformance list.

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{Node, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, SpiffeCertValidatorConfig, secret,
};
use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use prost::Message;

use crate::model::bundle::Bundle;
use crate::model::bundle_set::BundleSet;
use crate::serve::ServeSettings;
use crate::serve::client_testing::{Sotw, client, node, request, server};
use crate::serve::naming::{NameSettings, Names};
use crate::serve::testing::{TestServer, bundle, tcp};

fn context(secret: Secret) -> CertificateValidationContext {
    match secret.r#type {
        Some(secret::Type::ValidationContext(context)) => context,
        other => panic!("not a validation context: {other:?}"),
    }
}

/// The trust domains that a secret's SPIFFE validator knows; `None` if it is plain.
fn trust_domains(secret: Secret) -> Option<Vec<String>> {
    let validator = context(secret).custom_validator_config?;
    let config = SpiffeCertValidatorConfig::decode(&*validator.typed_config.unwrap().value).unwrap();
    Some(config.trust_domains.into_iter().map(|domain| domain.name).collect())
}

fn plain(secret: Secret) -> String {
    match context(secret).trusted_ca.unwrap().specifier {
        Some(Specifier::InlineBytes(bytes)) => String::from_utf8(bytes).unwrap(),
        other => panic!("not inline bytes: {other:?}"),
    }
}

/// Makes these the trust domains that there are.
fn set_domains(server: &TestServer, domains: &[(&str, &Arc<Bundle>)]) {
    let domains = domains.iter().map(|(name, bundle)| ((*name).into(), (*bundle).clone())).collect();
    server.source.domains.send_replace(BundleSet::new(domains).map(Arc::new));
}

fn with_metadata(request: DiscoveryRequest, key: &str, kind: Kind) -> DiscoveryRequest {
    let fields = [(key.to_owned(), Value { kind: Some(kind) })].into();
    let node = Node { metadata: Some(Struct { fields }), ..node().unwrap() };
    DiscoveryRequest { node: Some(node), ..request }
}

const SWITCH: &str = "disable_spiffe_cert_validation";

#[tokio::test]
async fn all_trust_domains_come_once_the_proxys_own_is_known_and_again_with_each_change() {
    let server = server().await;
    let (own, one, two) = (Arc::new(bundle("own")), Arc::new(bundle("one")), Arc::new(bundle("two")));
    set_domains(&server, &[("other", &one)]);
    let mut client = client(&server).await;
    let mut all = Sotw::open(&mut client, "web").await.unwrap();
    all.send(request(&["ALL"])).await;
    let mut rootca = Sotw::open(&mut client, "web").await.unwrap();
    rootca.send(request(&["ROOTCA"])).await;
    all.silent().await;
    server.trust();
    rootca.next().await;
    set_domains(&server, &[("other", &one), ("default", &own)]);
    let (first, secret) = all.next().await;
    assert_eq!(trust_domains(secret).unwrap(), ["default", "other"]);
    set_domains(&server, &[("other", &two), ("default", &own)]);
    let (second, secret) = all.next().await;
    assert_ne!(first.version_info, second.version_info, "item 48");
    assert_eq!(trust_domains(secret).unwrap(), ["default", "other"]);
    rootca.silent().await;
    all.silent().await;
}

#[tokio::test]
async fn items_27_and_70_a_trust_domain_that_nobody_has_is_withheld_until_somebody_has_it() {
    let server = server().await;
    server.trust();
    let mut stream = Sotw::open(&mut client(&server).await, "web").await.unwrap();
    stream.send(request(&["spiffe://other", "ROOTCA"])).await;
    assert_eq!(stream.next().await.1.name, "ROOTCA");
    stream.silent().await;
    assert!(server.metrics().contains("withheld_total{reason=\"unknown_name\"} 1"), "{}", server.metrics());
    set_domains(&server, &[("other", &Arc::new(bundle("other")))]);
    let secret = stream.next().await.1;
    assert_eq!(secret.name, "spiffe://other", "item 61");
    assert_eq!(trust_domains(secret).unwrap(), ["other"]);
}

#[tokio::test]
async fn a_node_may_ask_for_plain_cas_and_keeps_them_though_only_its_first_request_says_so() {
    let server = server().await;
    let (own, other) = (Arc::new(bundle("own")), Arc::new(bundle("other")));
    set_domains(&server, &[("default", &own), ("other", &other)]);
    let mut client = client(&server).await;
    for kind in [Kind::BoolValue(true), Kind::StringValue("true".to_owned())] {
        let mut stream = Sotw::open(&mut client, "web").await.unwrap();
        stream.send(with_metadata(request(&["ALL"]), SWITCH, kind)).await;
        assert_eq!(plain(stream.next().await.1), own.pem() + &other.pem());
        stream.send(DiscoveryRequest { node: None, ..request(&["ALL", "spiffe://other"]) }).await;
        assert_eq!(plain(stream.next().await.1), other.pem());
        // Nor does it change its mind on a stream.
        let changed = with_metadata(request(&["spiffe://other"]), SWITCH, Kind::BoolValue(false));
        stream.send(changed).await;
        stream.send(request(&["ALL", "spiffe://other"])).await;
        assert_eq!(plain(stream.next().await.1), own.pem() + &other.pem());
    }
    let mut stream = Sotw::open(&mut client, "web").await.unwrap();
    stream.send(with_metadata(request(&["ALL"]), SWITCH, Kind::BoolValue(false))).await;
    assert!(trust_domains(stream.next().await.1).is_some());
}

#[tokio::test]
async fn a_server_may_be_told_to_send_plain_cas_only() {
    let names = Names::new(NameSettings { spiffe_validator: false, ..NameSettings::default() }).unwrap();
    let server = TestServer::start(ServeSettings { names, ..ServeSettings::default() }, &[tcp()]).await;
    let (own, other) = (Arc::new(bundle("own")), Arc::new(bundle("other")));
    set_domains(&server, &[("default", &own), ("other", &other)]);
    let mut stream = Sotw::open(&mut client(&server).await, "web").await.unwrap();
    stream.send(request(&["mesh_ca:secret:all"])).await;
    assert_eq!(plain(stream.next().await.1), own.pem() + &other.pem());
}

#[tokio::test]
async fn metadata_may_be_large_and_deep() {
    let server = server().await;
    server.trust();
    let mut kind = Kind::StringValue("x".repeat(1 << 20));
    for _ in 0..90 {
        kind = Kind::StructValue(Struct { fields: [("x".to_owned(), Value { kind: Some(kind) })].into() });
    }
    let mut stream = Sotw::open(&mut client(&server).await, "web").await.unwrap();
    stream.send(with_metadata(request(&["ROOTCA"]), "x", kind)).await;
    assert_eq!(stream.next().await.1.name, "ROOTCA");
}
