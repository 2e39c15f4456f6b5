//! The trust that a mesh needs comes later than its leaves.

use std::time::Duration;

use super::{Scene, strangers_before};
use crate::support::cluster::Cluster;
use crate::support::deployment::Deployment;
use crate::support::mesh::{Backend, Ca, mesh};
use crate::support::pki::TestCa;

/// `caCert` lacks the CA that the issuer signs by: the leaves are not handed on, and the server says why. It is mended in
/// the Secret, and the proxies that waited get their certificates at once, not when the next attempt would have been due.
#[tokio::test]
async fn proxies_are_served_as_soon_as_the_issuers_ca_is_trusted() {
    let cluster = Cluster::shared();
    let place = Deployment::new(cluster, "late-trust").await;
    let ca = cluster.ca_issuer_with_intermediate(&place.system, "mesh").await;
    place.mesh_secret("mesh-ca", &TestCa::root("another root").root_pem).await;
    let backend = Backend { name: "certmanager-1", issuer_kind: "Issuer", issuer: "mesh", ca: Ca::Secret("mesh-ca") };
    let mut server = place.serve(&mesh("certmanager-1", "1h", &[backend])).await;
    server.ready().await;
    let pair = place.pair(&server).await;
    let strangers = strangers_before(&pair, &place.spiffe_id("web"), "mesh root");
    server.says(&["would refuse the leaf", "mesh intermediate", "another root"]).await;
    // By now the pause between attempts is 20 s at least.
    server.metric_becomes("issuances_total", &[("outcome", "rejected")], |count| count >= 8.0).await;
    assert!(pair.0.is_shut().await && pair.1.is_shut().await);

    place.mesh_secret("mesh-ca", &ca.root_pem).await;
    let soon = Duration::from_secs(15);
    let issued = server.metric_becomes("issuances_total", &[("outcome", "issued")], |count| count >= 2.0);
    let issued = tokio::time::timeout(soon, issued).await;
    assert!(issued.is_ok(), "not within {soon:?} of the change\n{}", server.log_tail());
    let mut scene = Scene::begin(pair, strangers).await;
    scene.both_trust(&["mesh root"]).await;
    scene.both_show("a leaf", |leaf| leaf.issuer == "CN=mesh intermediate").await;
    scene.end().await;
}
