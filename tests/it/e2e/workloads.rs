//! Who gets which certificate in a cluster.

use serde_json::json;

use super::{Scene, assert_workload_leaf, strangers_before};
use crate::support::cluster::{CERT_MANAGER_NAMESPACE, Cluster};
use crate::support::deployment::Deployment;
use crate::support::http;
use crate::support::ledger::{Ledger, no_requests_left};
use crate::support::mesh::{Backend, Ca, mesh};
use crate::support::pki::TestCa;
use crate::support::sds::{self, Caller, Content};

/// Two Envoys prove who they are with pod-bound tokens, by either gRPC client; a ClusterIssuer signs, and names its CA
/// itself. Mutual TLS flows, the leaf on the wire is what it should be, what the server asks cert-manager for is what the
/// interface says, nothing is left behind, and the server has no more rights than deploy/rbac.yaml gives it. When the
/// issuer's CA is replaced, nobody is cut off.
#[tokio::test]
async fn proxies_with_pod_bound_tokens_get_certificates_of_a_cluster_issuer() {
    let cluster = Cluster::shared();
    let place = Deployment::new(cluster, "workloads").await;
    let issuer = cluster.unique("workloads-ca");
    cluster.cluster_ca_issuer(&issuer).await;
    let root = format!("{issuer} root");
    let ledger = Ledger::open(cluster, &place.system).await;
    let backend = Backend { name: "certmanager-1", issuer_kind: "ClusterIssuer", issuer: &issuer, ca: Ca::OfIssuer };
    let mut server = place.serve(&mesh("certmanager-1", "1h", &[backend])).await;
    server.ready().await;

    let (web_id, api_id) = (place.spiffe_id("web"), place.spiffe_id("api"));
    let pair = place.pair(&server).await;
    let strangers = strangers_before(&pair, &web_id, &root);
    let mut scene = Scene::begin(pair, strangers).await;
    scene.both_trust(&[&root]).await;
    let mut ends = Vec::new();
    for (proxy, id) in scene.proxies().into_iter().zip([&web_id, &api_id]) {
        let chain = proxy.shown().await.expect("it shows a certificate");
        assert_eq!(chain.len(), 1, "no root is shown: {chain:?}");
        assert_workload_leaf(&chain[0], id, &format!("CN={root}"), 3600);
        ends.push(chain[0].not_after);
    }

    // What was asked of cert-manager.
    for (id, name) in [(&web_id, "web"), (&api_id, "api")] {
        let requests = ledger.of(id);
        assert_eq!(requests.len(), 1, "{}", ledger.summary());
        let (metadata, spec) = (&requests[0].metadata, &requests[0].data["spec"]);
        let labels = metadata.labels.clone().unwrap_or_default();
        assert_eq!(labels["app.kubernetes.io/managed-by"], "envoy-sds", "{labels:?}");
        assert_eq!(labels["kuma.io/mesh"], "default", "{labels:?}");
        assert!(labels.contains_key("envoy-sds.io/proxy"), "{labels:?}");
        let generated = metadata.generate_name.clone().unwrap_or_default();
        assert!(generated.starts_with("default-") && generated.contains(name), "{generated}");
        assert_eq!(spec["duration"], "3600s");
        assert_eq!(spec["issuerRef"], json!({"name": issuer, "kind": "ClusterIssuer", "group": "cert-manager.io"}));
        assert_eq!(spec["usages"], json!(["digital signature", "key encipherment", "server auth", "client auth"]));
        assert_ne!(spec["isCA"], json!(true));
    }
    no_requests_left(cluster, &place.system).await;
    let issued = server.metric("issuances_total", &[("mesh", "default"), ("outcome", "issued")]).await;
    assert_eq!(issued, Ok(2.0));

    let gauge = async |name, labels: &[(&str, &str)]| server.metric(name, labels).await.expect("metrics");
    assert_eq!(gauge("streams", &[("protocol", "sotw")]).await, 4.0);
    assert_eq!(gauge("proxies", &[("mesh", "default")]).await, 2.0);
    assert_eq!(gauge("certificate_ready_status", &[("mesh", "default")]).await, 1.0);
    assert_eq!(gauge("nacks_total", &[]).await, 0.0);
    assert_eq!(
        gauge("certificate_expiration_timestamp_seconds", &[("mesh", "default")]).await,
        *ends.iter().min().expect("two") as f64
    );
    let page = http::get(server.admin, "/").await.expect("there is a status page").body;
    assert!([&web_id, &api_id, &root].iter().all(|part| page.contains(part.as_str())), "{page}");

    // A second pod of the same account has the same SPIFFE ID and a key of its own, which the mesh accepts.
    let token = place.pod("web-2", "web").await;
    let caller = Caller { node: "web-2", workload: "web", token: Some(&token) };
    let fetched = sds::fetch(&server.socket, caller, &["default", "ROOTCA", &api_id]).await;
    let fetched = fetched.expect("a good token is served");
    let names: Vec<_> = fetched.keys().map(String::as_str).collect();
    assert_eq!(names, ["ROOTCA", "default"], "another's certificate is withheld, what it may have is not");
    assert!(matches!(fetched["ROOTCA"], Content::TrustBundle { .. }));
    let leaf = fetched["default"].certificates().remove(0);
    assert_workload_leaf(&leaf, &web_id, &format!("CN={root}"), 3600);
    assert_ne!(leaf.serial, scene.one.shown().await.expect("it shows a certificate")[0].serial);
    scene.other.lets_in(&fetched["default"].identity()).await;
    assert!(server.metric("withheld_total", &[]).await.expect("metrics") >= 1.0);
    assert_eq!(ledger.of(&api_id).len(), 1, "{}", ledger.summary());

    // The issuer's CA is replaced. Whoever has a leaf of the old one goes on being trusted; the new one is trusted before
    // the first leaf of it is shown.
    let next = TestCa::root("next root");
    cluster.ca_secret(CERT_MANAGER_NAMESPACE, &issuer, &next, true).await;
    server.set_mesh(&mesh("certmanager-1", "2h", &[backend]));
    scene.both_show("a leaf of the issuer's new CA", |leaf| leaf.issuer == "CN=next root").await;
    scene.both_trust(&[&root, "next root"]).await;
    scene.other.lets_in(&fetched["default"].identity()).await;

    let reports = scene.end().await;
    let called = |caller: &str, peer: &str| vec![(caller.to_owned(), peer.to_owned())];
    assert_eq!(reports.each_ref().map(|r| r.identities.clone()), [called(&web_id, &api_id), called(&api_id, &web_id)]);
    no_requests_left(cluster, &place.system).await;
    server.metric_becomes("streams", &[], |open| open == 0.0).await;
    server.assert_discreet();
}
