//! A mesh moves to another CA, by edits of its resource file.

use std::fs;
use std::time::Duration;

use super::{SHUTDOWN, Scene, assert_workload_leaf, strangers_before};
use crate::support::cluster::Cluster;
use crate::support::deployment::Deployment;
use crate::support::eventually::{eventually, throughout};
use crate::support::mesh::{Backend, Ca, mesh};
use crate::support::pki::{Leaf, TestCa};
use crate::support::sds::{Caller, Content, Watcher};
use crate::support::{PATIENCE, wire};

/// It begins with an issuer that does not say which root is above it, which is told; `caCert` mends it. A CA is added and
/// taken away, an edit goes wrong, the server gets a new TLS certificate, a second backend is listed and then enabled, the
/// first one goes: all of it by edits of files, under traffic, without a failed request or a restart.
#[tokio::test]
async fn a_mesh_moves_from_one_issuer_to_another_and_no_request_fails() {
    let cluster = Cluster::shared();
    let place = Deployment::new(cluster, "backends").await;
    let old = cluster.ca_issuer_with_intermediate_only(&place.system, "old").await;
    let new_issuer = cluster.unique("backends-new");
    let new_root = format!("{new_issuer} root");
    cluster.cluster_ca_issuer(&new_issuer).await;
    let first = |ca| Backend { name: "first", issuer_kind: "Issuer", issuer: "old", ca };
    let second = Backend { name: "second", issuer_kind: "ClusterIssuer", issuer: &new_issuer, ca: Ca::OfIssuer };

    // status.ca is an intermediate here: nothing to take trust from.
    let mut server = place.serve(&mesh("first", "1h", &[first(Ca::OfIssuer)])).await;
    let pair = place.pair(&server).await;
    let web_id = place.spiffe_id("web");
    let strangers = strangers_before(&pair, &web_id, "old root");
    server.says(&["old intermediate", "not self-signed", "conf.caCert"]).await;
    server.logs("WARN", &["old intermediate", "conf.caCert"]).await;
    throughout("no door is open", Duration::from_secs(1), async || {
        let shut = pair.0.is_shut().await && pair.1.is_shut().await;
        if shut { Ok(()) } else { Err("somebody listens without a certificate".into()) }
    })
    .await;
    strangers.assert_outside("before there is a CA");
    let token = place.workload("watcher").await;
    let caller = Caller { node: "watcher", workload: "watcher", token: Some(&token) };
    let watcher = Watcher::start(&server.socket, caller, "ROOTCA");

    let with_ca = mesh("first", "1h", &[first(Ca::Inline(&old.root_pem))]);
    server.set_mesh(&with_ca);
    let mut scene = Scene::begin(pair, strangers).await;
    server.is_content().await;
    scene.both_trust(&["old root"]).await;

    // A CA more, and less.
    let partners = TestCa::root("partners");
    let partner = partners.issue(&Leaf::spiffe("spiffe://partner/app"));
    let both = format!("{}{}", old.root_pem, partners.root_pem);
    server.set_mesh(&mesh("first", "1h", &[first(Ca::Inline(&both))]));
    scene.both_trust(&["old root", "partners"]).await;
    scene.one.lets_in(&partner).await;
    server.set_mesh(&with_ca);
    scene.both_trust(&["old root"]).await;
    scene.one.refuses(&partner).await;

    // The same in a file of its own.
    let file = server.state_dir().with_file_name("ca.pem");
    let write = |pem: &str| {
        fs::write(file.with_extension("new"), pem).expect("the scratch folder can be written");
        fs::rename(file.with_extension("new"), &file).expect("a file can be replaced");
    };
    write(&both);
    server.set_mesh(&mesh("first", "1h", &[first(Ca::File(&file))]));
    scene.both_trust(&["old root", "partners"]).await;
    scene.other.lets_in(&partner).await;
    write("nothing");
    server.says(&["ca.pem", "stays trusted"]).await;
    scene.both_trust(&["old root", "partners"]).await;
    write(&old.root_pem);
    scene.both_trust(&["old root"]).await;
    scene.other.refuses(&partner).await;

    // An edit that goes wrong changes nothing, and is told with its place.
    server.set_mesh(&with_ca.replace("issuerRef", "issuerref"));
    server.says(&["mesh.yaml", "issuerref"]).await;
    server.logs("WARN", &["mesh.yaml", "issuerref"]).await;
    scene.goes_on("with a broken resource file").await;
    scene.both_trust(&["old root"]).await;
    server.set_mesh(&with_ca);
    server.is_content().await;

    // New connections to the server see its new certificate; those that are open live on.
    let serial = async || {
        let shown = match wire::get(server.tls_address(), None).await {
            Ok(accepted) => accepted.chain,
            Err(refused) => refused.chain,
        };
        shown.into_iter().next().map(|leaf| leaf.serial).ok_or("the server shows no certificate".to_owned())
    };
    let before = serial().await.expect("a certificate");
    let failed = scene.one.failed_streams().await + scene.other.failed_streams().await;
    server.replace_certificate();
    eventually("the server shows its new certificate", PATIENCE, async || {
        let now = serial().await?;
        if now == before { Err("it is the old one".to_owned()) } else { Ok(()) }
    })
    .await;

    // Both are trusted before either is needed.
    server.set_mesh(&mesh("first", "1h", &[first(Ca::Inline(&old.root_pem)), second]));
    scene.both_trust(&["old root", &new_root]).await;
    scene.both_show("a leaf of the old issuer still", |leaf| leaf.issuer == "CN=old intermediate").await;

    server.set_mesh(&mesh("second", "1h", &[first(Ca::Inline(&old.root_pem)), second]));
    scene.both_show("a leaf of the new issuer", |leaf| leaf.issuer == format!("CN={new_root}")).await;
    scene.both_trust(&["old root", &new_root]).await;
    let chain = scene.one.shown().await.expect("it shows a certificate");
    assert_workload_leaf(&chain[0], &web_id, &format!("CN={new_root}"), 3600);

    server.set_mesh(&mesh("second", "1h", &[second]));
    scene.both_trust(&[&new_root]).await;
    scene.one.refuses(&old.issue(&Leaf::spiffe(&web_id))).await;
    let failed_now = scene.one.failed_streams().await + scene.other.failed_streams().await;
    assert_eq!(failed_now, failed, "a stream has ended");

    // What was sent is exactly what was wanted, each change once.
    watcher.assert_sound();
    assert_eq!(watcher.ends(), [""; 0]);
    let history: Vec<_> = watcher.history().iter().map(Content::common_names).collect();
    let steps: [&[&str]; 7] = [
        &["old root"],
        &["old root", "partners"],
        &["old root"],
        &["old root", "partners"],
        &["old root"],
        &[&new_root, "old root"],
        &[&new_root],
    ];
    assert_eq!(history, steps);

    // It ends in time although streams are open, and the Envoys go on with what they have.
    let status = server.stop(SHUTDOWN).await;
    assert_eq!(status.code(), Some(0), "{}", server.log_tail());
    scene.goes_on("without a server").await;
    server.assert_discreet();
    let reports = scene.end().await;
    for report in reports {
        let issuers = ["CN=old intermediate".to_owned(), format!("CN={new_root}")];
        assert_eq!(report.peer_issuers, issuers);
    }
}
