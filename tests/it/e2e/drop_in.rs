//! Envoys that are configured for another SDS server: nothing is changed but the server's address.

use super::{SHUTDOWN, Scene, strangers_before};
use crate::support::bootstrap::{Bootstrap, Party};
use crate::support::cluster::Cluster;
use crate::support::deployment::Deployment;
use crate::support::ledger::{Ledger, no_requests_left};
use crate::support::mesh::{Backend, Ca, builtin_mesh, mesh};
use crate::support::proxy::Proxy;
use crate::support::server::{NODE_ID, Server, Settings};
use crate::support::wire::Certificate;

const FRONTEND: Party<'_> = Party { name: "frontend", spiffe_id: "spiffe://default/frontend", token: None };
const BACKEND: Party<'_> = Party { name: "backend", spiffe_id: "spiffe://default/backend", token: None };

/// A bootstrap with dedicated SDS streams, whose names are in the file.
const PUBLISHED: Bootstrap<'_> =
    Bootstrap { file: "", certificates: &["default"], bundles: &["ROOTCA"], aggregated: false, values: &[] };

/// The longer of the two lifetimes that a test asks for; the builtin CA dates leaves back.
fn lives_two_hours(leaf: &Certificate) -> bool {
    leaf.not_after - leaf.not_before >= 7200
}

/// Two Envoys with this bootstrap get their secrets and call each other, strangers stay outside, and new leaves arrive.
/// `renew` makes the server want leaves of 2 h instead of 1 h.
async fn serves(
    server: &mut Server,
    bootstrap: &Bootstrap<'_>,
    parties: [Party<'_>; 2],
    ca: &str,
    renew: impl Fn(&Server),
) {
    let [one, other] = parties;
    let pair = Proxy::published_pair(server, bootstrap, one, other).await;
    let strangers = strangers_before(&pair, other.spiffe_id, ca);
    let mut scene = Scene::begin(pair, strangers).await;
    for (proxy, party) in scene.proxies().into_iter().zip(parties) {
        proxy.is_connected(crate::support::PATIENCE).await;
        let chain = proxy.shown().await.expect("it shows a certificate");
        assert_eq!(chain[0].uris, [party.spiffe_id], "{}", chain[0]);
        assert!(!lives_two_hours(&chain[0]), "{}", chain[0]);
    }
    let updates = [scene.one.certificate_updates().await, scene.other.certificate_updates().await];
    renew(server);
    scene.both_show("a leaf of 2 h", lives_two_hours).await;
    for (proxy, before) in scene.proxies().into_iter().zip(updates) {
        let after = proxy.certificate_updates().await;
        assert!(after > before, "{}: {after} updates", proxy.name);
    }
    for metric in ["nacks_total", "withheld_total"] {
        assert_eq!(server.metric(metric, &[]).await, Ok(0.0), "{metric}\n{}", server.log_tail());
    }
    assert_eq!(server.metric("issuances_total", &[("outcome", "issued")]).await, Ok(4.0));
    let reports = scene.end().await;
    let [one, other] = [one, other].map(|party| party.spiffe_id.to_owned());
    let called = [vec![(one.clone(), other.clone())], vec![(other, one)]];
    assert_eq!(reports.map(|report| report.identities), called);
    server.assert_discreet();
}

/// Where the builtin CA does, and a node id.
async fn serves_on_one_machine(bootstrap: &Bootstrap<'_>, naming: &str) {
    let mesh = builtin_mesh("1h");
    let mut server = Server::start(Settings { mesh: &mesh, more: naming, ..NODE_ID }).await;
    server.ready().await;
    serves(&mut server, bootstrap, [FRONTEND, BACKEND], "default", |server| server.set_mesh(&builtin_mesh("2h"))).await;
    assert!(server.stop(SHUTDOWN).await.success());
}

#[tokio::test]
async fn spire_by_its_default_names() {
    let values = &[("CERTIFICATE", "default"), ("BUNDLE", "ROOTCA")];
    serves_on_one_machine(&Bootstrap { file: "spire.yaml", values, ..PUBLISHED }, "").await;
}

#[tokio::test]
async fn spire_by_spiffe_id_and_trust_domain() {
    let bootstrap = Bootstrap {
        file: "spire.yaml",
        certificates: &["${OWN_ID}"],
        bundles: &["spiffe://default"],
        values: &[("CERTIFICATE", "${OWN_ID}"), ("BUNDLE", "spiffe://default")],
        ..PUBLISHED
    };
    serves_on_one_machine(&bootstrap, "").await;
}

#[tokio::test]
async fn spire_by_spiffe_id_and_all_trust_domains() {
    let bootstrap = Bootstrap {
        file: "spire.yaml",
        certificates: &["${OWN_ID}"],
        bundles: &["ALL"],
        values: &[("CERTIFICATE", "${OWN_ID}"), ("BUNDLE", "ALL")],
        ..PUBLISHED
    };
    serves_on_one_machine(&bootstrap, "naming: {profiles: [spire]}").await;
}

#[tokio::test]
async fn istio_workload() {
    serves_on_one_machine(&Bootstrap { file: "istio-workload.yaml", ..PUBLISHED }, "").await;
}

#[tokio::test]
async fn istio_external_sds() {
    let bootstrap = Bootstrap {
        file: "istio-external.yaml",
        certificates: &["sds://gateway"],
        bundles: &["sds://gateway-cacert"],
        values: &[("CREDENTIAL", "gateway")],
        ..PUBLISHED
    };
    serves_on_one_machine(&bootstrap, "naming: {profiles: [istio]}").await;
}

/// The names of Kuma's releases so far, on ADS, state of the world.
#[tokio::test]
async fn kuma_by_its_classic_names() {
    let bootstrap = Bootstrap {
        file: "kuma.yaml",
        certificates: &["identity_cert:secret:default"],
        bundles: &["mesh_ca:secret:default"],
        aggregated: true,
        values: &[
            ("API_TYPE", "GRPC"),
            ("CERTIFICATE", "identity_cert:secret:default"),
            ("BUNDLE", "mesh_ca:secret:default"),
        ],
    };
    serves_on_one_machine(&bootstrap, "").await;
}

/// The newer names, on incremental ADS.
#[tokio::test]
async fn kuma_by_its_newer_names() {
    let bootstrap = Bootstrap {
        file: "kuma.yaml",
        certificates: &["system_mtls_identity_default"],
        bundles: &["system_mtls_ca_default"],
        aggregated: true,
        values: &[
            ("API_TYPE", "DELTA_GRPC"),
            ("CERTIFICATE", "system_mtls_identity_default"),
            ("BUNDLE", "system_mtls_ca_default"),
        ],
    };
    serves_on_one_machine(&bootstrap, "").await;
}

#[tokio::test]
async fn kuma_with_a_spire_identity() {
    let bootstrap = Bootstrap { file: "kuma-spire.yaml", certificates: &["${OWN_ID}"], bundles: &["ALL"], ..PUBLISHED };
    serves_on_one_machine(&bootstrap, "").await;
}

#[tokio::test]
async fn envoy_gateway_external_sds() {
    const CERTIFICATE: &str = "arn:aws:acm:us-east-1:123456789:certificate/abc-def-123";
    let bootstrap = Bootstrap {
        file: "envoy-gateway.yaml",
        certificates: &[CERTIFICATE],
        bundles: &["my-client-cas"],
        values: &[("CERTIFICATE", CERTIFICATE), ("BUNDLE", "my-client-cas")],
        ..PUBLISHED
    };
    let naming = format!(
        "naming: {{profiles: [envoy-gateway], certificates: ['{CERTIFICATE}'], trustBundles: [my-client-cas]}}"
    );
    serves_on_one_machine(&bootstrap, &naming).await;
}

/// Here a name says a namespace and a service account, so these proxies have both.
#[tokio::test]
async fn open_service_mesh() {
    let cluster = Cluster::shared();
    let place = Deployment::new(cluster, "osm").await;
    let ca = cluster.ca_issuer_with_intermediate(&place.system, "mesh").await;
    let backend =
        Backend { name: "certmanager-1", issuer_kind: "Issuer", issuer: "mesh", ca: Ca::Inline(&ca.root_pem) };
    let of_hours = |hours: u32| mesh("certmanager-1", &format!("{hours}h"), &[backend]);
    let mut server = place.serve_with(&of_hours(1), "naming: {profiles: [osm]}").await;
    server.ready().await;
    let ledger = Ledger::open(cluster, &place.system).await;

    let tokens = [place.workload("bookbuyer").await, place.workload("bookstore").await];
    let ids = [place.spiffe_id("bookbuyer"), place.spiffe_id("bookstore")];
    let party = |name, at: usize| Party { name, spiffe_id: &ids[at], token: Some(tokens[at].as_str()) };
    let bootstrap = Bootstrap {
        file: "osm.yaml",
        certificates: &["service-cert:${NAMESPACE}/${OWN_NAME}"],
        bundles: &[
            "root-cert-for-mtls-inbound:${NAMESPACE}/${OWN_NAME}",
            "root-cert-for-mtls-outbound:${NAMESPACE}/${PEER_NAME}",
        ],
        aggregated: true,
        values: &[],
    };
    let parties = [party("bookbuyer", 0), party("bookstore", 1)];
    serves(&mut server, &bootstrap, parties, "mesh root", |server| server.set_mesh(&of_hours(2))).await;
    assert_eq!(ledger.len(), 4, "{}", ledger.summary());
    assert!(server.stop(SHUTDOWN).await.success());
    no_requests_left(cluster, &place.system).await;
}
