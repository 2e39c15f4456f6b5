//! Whatever the server depends on goes away and comes back.

use std::time::Duration;

use serde_json::json;

use super::{SHUTDOWN, Scene, strangers_before};
use crate::support::PATIENCE;
use crate::support::cluster::{Cluster, ClusterOptions};
use crate::support::deployment::Deployment;
use crate::support::eventually::eventually;
use crate::support::ledger::{Ledger, no_requests_left};
use crate::support::mesh::{Backend, Ca, mesh};
use crate::support::pki::TestCa;
use crate::support::sds::{Caller, Watcher};

const BACKEND: Backend<'_> =
    Backend { name: "certmanager-1", issuer_kind: "Issuer", issuer: "mesh", ca: Ca::Secret("mesh-ca") };

/// How long it may take until all is as if nothing had been: both the server and cert-manager look for an API server that
/// was away at growing intervals, of 30 s and a random part in the end.
const RECOVERY: Duration = Duration::from_secs(150);

/// The mesh with leaves of so many hours: another number means new leaves, at a time of the test's choice.
fn mesh_of(hours: i64) -> String {
    mesh("certmanager-1", &format!("{hours}h"), &[BACKEND])
}

impl Scene {
    async fn both_show_leaves_of(&mut self, hours: i64) {
        let what = format!("a leaf of {hours} h");
        for proxy in self.proxies() {
            proxy.shows_within(RECOVERY, &what, |leaf| leaf.not_after - leaf.not_before == hours * 3600).await;
        }
        self.goes_on(&what).await;
    }
}

/// The issuer is not there at first; cert-manager, the API server, both, and the server itself go away while new leaves are
/// wanted, and come back: every Envoy gets its leaf in the end without anybody's help, and the requests between them never
/// stop.
#[tokio::test]
async fn every_envoy_recovers_by_itself_and_traffic_never_stops() {
    let cluster = Cluster::start(ClusterOptions::default()).await;
    let place = Deployment::new(&cluster, "outages").await;
    let ca = TestCa::root("mesh root").intermediate("mesh intermediate");
    place.mesh_secret("mesh-ca", &ca.root_pem).await;
    let ledger = Ledger::open(&cluster, &place.system).await;
    let mut server = place.serve(&mesh_of(1)).await;
    server.ready().await;

    // The issuer comes late.
    let pair = place.pair(&server).await;
    let strangers = strangers_before(&pair, &place.spiffe_id("web"), "mesh root");
    server.logs("WARN", &["IssuerNotFound", "mesh"]).await;
    assert!(pair.0.is_shut().await && pair.1.is_shut().await);
    cluster.ca_secret(&place.system, "mesh", &ca, true).await;
    cluster
        .apply(json!({
            "apiVersion": "cert-manager.io/v1",
            "kind": "Issuer",
            "metadata": {"name": "mesh", "namespace": place.system},
            "spec": {"ca": {"secretName": "mesh"}},
        }))
        .await;
    let mut scene = Scene::begin(pair, strangers).await;
    assert_eq!(ledger.len(), 2, "each request was kept until it was answered: {}", ledger.summary());

    let token = place.workload("watcher").await;
    let caller = Caller { node: "watcher", workload: "watcher", token: Some(&token) };
    let watcher = Watcher::start(&server.socket, caller, "ROOTCA");

    // cert-manager is away, and then the API server as well; the requests that wait are answered in the end.
    cluster.stop_cert_manager().await;
    server.set_mesh(&mesh_of(2));
    pending(&cluster, &place.system, 2).await;
    // Nothing has failed that could be counted, so what is watched is that they wait.
    let in_the_mesh = [("mesh", "default")];
    server.metric_becomes("issuances_pending", &in_the_mesh, |pending| pending == 2.0).await;
    let failed = ["proxies_unserved", "proxies_failing", "certificate_renewal_errors_total", "issuances_waiting"];
    for metric in failed {
        assert_eq!(server.metric(metric, &in_the_mesh).await, Ok(0.0), "{metric}");
    }
    cluster.stop_api_server();
    scene.goes_on("without cert-manager and API server").await;
    cluster.start_api_server().await;
    cluster.start_cert_manager().await;
    scene.both_show_leaves_of(2).await;
    server.metric_becomes("issuances_pending", &in_the_mesh, |pending| pending == 0.0).await;
    no_requests_left(&cluster, &place.system).await;

    // The API server is away when new leaves are wanted.
    cluster.stop_api_server();
    server.set_mesh(&mesh_of(3));
    server.warns_of(&["pending", "issuance"]).await;
    scene.goes_on("without API server").await;
    cluster.start_api_server().await;
    scene.both_show_leaves_of(3).await;

    // The server crashes.
    server.kill();
    scene.goes_on("without server").await;
    server.start_again().await;
    for proxy in scene.proxies() {
        proxy.is_connected(PATIENCE).await;
    }
    server.set_mesh(&mesh_of(4));
    scene.both_show_leaves_of(4).await;

    // It crashes, and the cluster is not there when it is back.
    server.kill();
    cluster.stop_cert_manager().await;
    cluster.stop_api_server();
    server.start_again().await;
    scene.goes_on("with a server that waits for the API server").await;
    cluster.start_api_server().await;
    // As its kubelet would: it ends when it cannot renew its lease. Left alone it would be back too, but slowly, since
    // client-go's pauses grow from outage to outage.
    cluster.start_cert_manager().await;
    server.ready().await;
    server.set_mesh(&mesh_of(5));
    scene.both_show_leaves_of(5).await;

    // The API server hangs: connections stay open, and nobody answers.
    cluster.pause_api_server();
    server.set_mesh(&mesh_of(6));
    server.warns_of(&["pending", "issuance"]).await;
    scene.goes_on("while the API server hangs").await;
    cluster.resume_api_server();
    scene.both_show_leaves_of(6).await;

    // The server hangs.
    server.pause();
    scene.goes_on("while the server hangs").await;
    server.resume();
    server.set_mesh(&mesh_of(7));
    scene.both_show_leaves_of(7).await;

    server.is_content().await;
    server.assert_discreet();
    watcher.assert_sound();
    let bundles = watcher.history();
    assert!(bundles.iter().all(|bundle| bundle == &bundles[0]), "the CA has not changed: {bundles:?}");
    no_requests_left(&cluster, &place.system).await;

    // It ends in time without the API server too.
    cluster.stop_api_server();
    assert_eq!(server.stop(SHUTDOWN).await.code(), Some(0), "{}", server.log_tail());
    scene.end().await;
}

/// Waits until so many requests wait for cert-manager.
async fn pending(cluster: &Cluster, ns: &str, count: usize) {
    eventually(&format!("{count} requests are pending"), PATIENCE, async || {
        let requests = cluster.certificate_requests(ns).await;
        if requests.len() == count { Ok(()) } else { Err(format!("there are {}", requests.len())) }
    })
    .await;
}
