//! Certificates and CAs change under traffic, in a cluster.

use std::time::Duration;

use super::{SHUTDOWN, Scene, assert_workload_leaf, strangers_before};
use crate::support::cluster::Cluster;
use crate::support::deployment::Deployment;
use crate::support::eventually::throughout;
use crate::support::ledger::{Ledger, no_requests_left};
use crate::support::mesh::{Backend, Ca, mesh};
use crate::support::pki::{Leaf, TestCa, certs};
use crate::support::sds::{Caller, Content, Watcher};

/// How long a leaf lives here: renewed after 12 to 14.6 s.
const LIFETIME: &str = "20s";
/// In which the leaf is renewed three times, on a busy machine too.
const THREE_RENEWALS: Duration = Duration::from_secs(120);

/// An Issuer with an intermediate signs leaves of 20 s, so they are renewed all the time; `caCert` is a mesh Secret of
/// the cluster. A CA is added to it and taken away again, the Secret is replaced by one of the wrong type, deleted and put
/// back: Envoys trust exactly what they should, and never is anybody cut off or let in who should not be.
#[tokio::test]
async fn leaves_are_renewed_and_the_ca_secret_changes_and_no_request_fails() {
    let cluster = Cluster::shared();
    let place = Deployment::new(cluster, "rotation").await;
    let ca = cluster.ca_issuer_with_intermediate(&place.system, "mesh").await;
    place.mesh_secret("mesh-ca", &ca.root_pem).await;
    let ledger = Ledger::open(cluster, &place.system).await;
    let backend = Backend { name: "certmanager-1", issuer_kind: "Issuer", issuer: "mesh", ca: Ca::Secret("mesh-ca") };
    let mut server = place.serve(&mesh("certmanager-1", LIFETIME, &[backend])).await;
    server.ready().await;

    let (web_id, api_id) = (place.spiffe_id("web"), place.spiffe_id("api"));
    let pair = place.pair(&server).await;
    let strangers = strangers_before(&pair, &web_id, "mesh root");
    let mut scene = Scene::begin(pair, strangers).await;
    let token = place.workload("watcher").await;
    let watcher =
        Watcher::start(&server.socket, Caller { node: "watcher", workload: "watcher", token: Some(&token) }, "ROOTCA");
    for (proxy, id) in scene.proxies().into_iter().zip([&web_id, &api_id]) {
        let chain = proxy.shown().await.expect("it shows a certificate");
        assert_workload_leaf(&chain[0], id, "CN=mesh intermediate", 20);
        let shown: Vec<_> = chain[1..].iter().map(|cert| cert.der.clone()).collect();
        assert_eq!(shown, [certs(&ca.cert_pem)[0].to_vec()], "the intermediate and no root");
    }
    scene.both_trust(&["mesh root"]).await;

    // One more CA is trusted.
    let newcomers = TestCa::root("newcomers");
    let newcomer = newcomers.issue(&Leaf::spiffe("spiffe://default/newcomer"));
    scene.one.refuses(&newcomer).await;
    place.mesh_secret("mesh-ca", &format!("{}{}", ca.root_pem, newcomers.root_pem)).await;
    scene.both_trust(&["mesh root", "newcomers"]).await;
    for proxy in scene.proxies() {
        proxy.lets_in(&newcomer).await;
    }

    // And no longer.
    place.mesh_secret("mesh-ca", &ca.root_pem).await;
    scene.both_trust(&["mesh root"]).await;
    for proxy in scene.proxies() {
        proxy.refuses(&newcomer).await;
    }
    server.is_content().await;

    // A Secret of another type is none of ours, whatever is in it: what was good stays, and the server says so.
    place.delete_secret("mesh-ca").await;
    place.secret("mesh-ca", "Opaque", &newcomers.root_pem).await;
    server.says(&["mesh-ca", "system.kuma.io/secret"]).await;
    throughout("the last good CA is trusted", Duration::from_secs(2), async || {
        let trusted = scene.one.trusted().await?;
        if trusted == ["CN=mesh root"] { Ok(()) } else { Err(format!("{trusted:?}")) }
    })
    .await;
    scene.one.refuses(&newcomer).await;

    // Rubbish in it is refused as well.
    place.delete_secret("mesh-ca").await;
    place.mesh_secret("mesh-ca", "-----BEGIN CERTIFICATE-----\nrubbish\n-----END CERTIFICATE-----\n").await;
    server.logs("WARN", &["mesh-ca", "trust source"]).await;
    scene.goes_on("with rubbish in the Secret").await;
    scene.both_trust(&["mesh root"]).await;
    place.mesh_secret("mesh-ca", &ca.root_pem).await;
    server.is_content().await;

    // All that time leaves were renewed.
    for traffic in &scene.traffic {
        traffic.until("three renewals", THREE_RENEWALS, |report| report.serials.len() >= 4).await;
    }
    let reports = scene.end().await;
    for report in &reports {
        assert_eq!(report.peer_issuers, ["CN=mesh intermediate"]);
    }
    // Each request became a certificate: none was asked for in vain, or twice.
    for (id, report) in [&web_id, &api_id].into_iter().zip(&reports) {
        let asked = ledger.of(id).len();
        assert!(asked <= report.serials.len() + 1, "{asked} requests for {:?}", report.serials);
    }

    watcher.assert_sound();
    assert!(watcher.ends().is_empty(), "{:?}", watcher.ends());
    let history: Vec<_> = watcher.history().iter().map(Content::common_names).collect();
    let steps: [&[&str]; 3] = [&["mesh root"], &["mesh root", "newcomers"], &["mesh root"]];
    assert_eq!(history, steps);
    assert!(server.stop(SHUTDOWN).await.success());
    no_requests_left(cluster, &place.system).await;
}
