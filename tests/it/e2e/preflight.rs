//! A CA backend that does not sign is found out before anybody relies on it.

use super::{SHUTDOWN, Scene, strangers_before};
use crate::support::PATIENCE;
use crate::support::cluster::Cluster;
use crate::support::deployment::Deployment;
use crate::support::eventually::eventually;
use crate::support::mesh::{Backend, Ca, validated_mesh};
use crate::support::sds::{Caller, fetch};

/// Leaves are renewed after 12 to 14.6 s.
const LIFETIME: &str = "20s";

/// One edit lists and enables a backend whose Issuer does not exist. What was in force stays: trust, leaves and their renewal;
/// and the server says why. When the Issuer is made, the mesh moves to it by itself.
#[tokio::test]
async fn a_backend_that_cannot_sign_replaces_none_that_can() {
    let cluster = Cluster::shared();
    let place = Deployment::new(cluster, "preflight").await;
    let ca = cluster.ca_issuer_with_intermediate(&place.system, "good").await;
    let good = Backend { name: "good", issuer_kind: "Issuer", issuer: "good", ca: Ca::Inline(&ca.root_pem) };
    let later = cluster.unique("preflight-later");
    let new = Backend { name: "new", issuer_kind: "ClusterIssuer", issuer: &later, ca: Ca::OfIssuer };
    let mut server = place.serve(&validated_mesh("good", LIFETIME, &[good])).await;
    server.ready().await;
    let labels = |backend| [("backend", backend), ("outcome", "passed")];
    server.metric_becomes("preflights_total", &labels("good"), |count| count >= 1.0).await;
    let pair = place.pair(&server).await;
    let strangers = strangers_before(&pair, &place.spiffe_id("web"), "good root");
    let mut scene = Scene::begin(pair, strangers).await;
    scene.both_trust(&["good root"]).await;

    server.set_mesh(&validated_mesh("new", LIFETIME, &[good, new]));
    server.says(&["backend new has not passed its preflight", "stays in force", "IssuerNotFound"]).await;
    server.logs("WARN", &["has not passed its preflight", "IssuerNotFound"]).await;
    server.metric_becomes("preflight_held_back", &[("mesh", "default")], |held| held >= 1.0).await;
    // Two renewals, by the backend that is no longer the enabled one.
    for _ in 0..2 {
        let before = scene.one.shown().await.expect("it shows a certificate")[0].serial.clone();
        scene.both_show("a leaf of the old issuer", |leaf| leaf.issuer == "CN=good intermediate").await;
        scene.one.shows("a renewed leaf", |leaf| leaf.serial != before).await;
    }
    scene.both_trust(&["good root"]).await;
    let (status, readiness) = server.readyz().await.expect("it answers");
    assert_eq!(status, 200, "{readiness}");

    cluster.cluster_ca_issuer(&later).await;
    let new_root = format!("{later} root");
    let new_issuer = format!("CN={new_root}");
    scene.both_show("a leaf of the new issuer", |leaf| leaf.issuer == new_issuer).await;
    scene.both_trust(&["good root", &new_root]).await;
    eventually("nothing is held back", PATIENCE, async || {
        let held = server.metric("preflight_held_back", &[("mesh", "default")]).await?;
        if held == 0.0 { Ok(()) } else { Err(format!("{held}")) }
    })
    .await;
    scene.end().await;
    assert_eq!(server.stop(SHUTDOWN).await.code(), Some(0), "{}", server.log_tail());
    server.assert_discreet();
}

/// The server that starts anew has never seen the mesh without the backend that does not sign. The mesh is what it was all
/// the same: neither its leaves nor its trust wait for that one.
#[tokio::test]
async fn what_is_held_back_is_held_back_after_a_restart() {
    let cluster = Cluster::shared();
    let place = Deployment::new(cluster, "preflight-restart").await;
    let ca = cluster.ca_issuer_with_intermediate(&place.system, "good").await;
    let good = Backend { name: "good", issuer_kind: "Issuer", issuer: "good", ca: Ca::Inline(&ca.root_pem) };
    let new = Backend { name: "new", issuer_kind: "Issuer", issuer: "nobody", ca: Ca::OfIssuer };
    let mut server = place.serve(&validated_mesh("good", "1h", &[good])).await;
    server.ready().await;
    let passed = [("backend", "good"), ("outcome", "passed")];
    server.metric_becomes("preflights_total", &passed, |count| count >= 1.0).await;
    let is_held = ("preflight_held_back", [("mesh", "default")]);
    server.set_mesh(&validated_mesh("new", "1h", &[good, new]));
    server.metric_becomes(is_held.0, &is_held.1, |held| held >= 1.0).await;
    let token = place.workload("web").await;
    for node in ["web-0", "web-1", "web-2"] {
        let caller = Caller { node, workload: "web", token: Some(&token) };
        let served = fetch(&server.socket, caller, &["default", "ROOTCA"]).await.expect("it is served");
        assert_eq!(served["default"].certificates()[0].issuer, "CN=good intermediate");
        assert_eq!(served["ROOTCA"].certificates().len(), 1);
        assert_eq!(server.stop(SHUTDOWN).await.code(), Some(0), "{}", server.log_tail());
        server.start_again().await;
        server.ready().await;
        server.metric_becomes(is_held.0, &is_held.1, |held| held >= 1.0).await;
    }
    server.stop(SHUTDOWN).await;
    server.assert_discreet();
}
