//! What was good stays, also when the server ends while what is there now is not.

use super::SHUTDOWN;
use crate::support::cluster::Cluster;
use crate::support::deployment::Deployment;
use crate::support::mesh::{Backend, Ca, validated_mesh};
use crate::support::sds::{Caller, fetch};

/// The only backend of a mesh is edited in its place, to an issuer that does not exist: after a restart the one before signs
/// still, and its CA is trusted. Then the file is broken altogether, and it is the same; and the edit can be taken back.
#[tokio::test]
async fn a_restart_while_a_backend_is_held_back_or_its_mesh_is_broken_changes_nothing() {
    let cluster = Cluster::shared();
    let place = Deployment::new(cluster, "last-good").await;
    let ca = cluster.ca_issuer_with_intermediate(&place.system, "good").await;
    let good = Backend { name: "ca", issuer_kind: "Issuer", issuer: "good", ca: Ca::Inline(&ca.root_pem) };
    let bad = Backend { issuer: "nobody", ca: Ca::OfIssuer, ..good };
    let good = validated_mesh("ca", "1h", &[good]);
    let mut server = place.serve(&good).await;
    server.ready().await;
    let passed = [("backend", "ca"), ("outcome", "passed")];
    server.metric_becomes("preflights_total", &passed, |count| count >= 1.0).await;
    let token = place.workload("web").await;

    let bad = validated_mesh("ca", "1h", &[bad]);
    let broken = bad.replace("mtls:", "mtls: [");
    let texts = ["backend ca has not passed its preflight", "mesh.yaml"];
    for (at, (mesh, told)) in [&bad, &broken].into_iter().zip(texts).enumerate() {
        server.set_mesh(mesh);
        server.says(&[told]).await;
        for restart in 0..2 {
            assert_eq!(server.stop(SHUTDOWN).await.code(), Some(0), "{}", server.log_tail());
            server.start_again().await;
            server.ready().await;
            server.says(&[told]).await;
            let node = format!("web-{at}-{restart}");
            let caller = Caller { node: &node, workload: "web", token: Some(&token) };
            let served = fetch(&server.socket, caller, &["default", "ROOTCA"]).await.expect("it is served");
            assert_eq!(served["default"].certificates()[0].issuer, "CN=good intermediate");
            let trusted: Vec<_> = served["ROOTCA"].certificates().iter().map(|ca| ca.subject.clone()).collect();
            assert_eq!(trusted, ["CN=good root"]);
        }
    }
    server.set_mesh(&good);
    server.is_content().await;
    server.stop(SHUTDOWN).await;
    server.assert_discreet();
}
