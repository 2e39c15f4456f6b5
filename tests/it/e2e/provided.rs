//! A CA that the user gives to the server, and replaces where it lies.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::cli::run;
use super::{SHUTDOWN, Scene, assert_workload_leaf, strangers_before};
use crate::support::pki::TestCa;
use crate::support::proxy::{Login, Proxy};
use crate::support::scratch;
use crate::support::server::{NODE_ID, Server, Settings};

/// The Mesh `default` with a CA that is at these places, in its Universal form.
fn provided_mesh(certificate: &str, key: &str) -> String {
    format!(
        "type: Mesh
name: default
mtls:
  enabledBackend: ours
  backends:
  - name: ours
    type: provided
    dpCert: {{rotation: {{expiration: 1h}}}}
    conf:
      cert: {certificate}
      key: {key}
"
    )
}

/// The same, with the pair in mesh Secrets beside it.
fn with_secrets(certificate: &str, key: &str) -> String {
    let mut text = provided_mesh("{secret: our-cert}", "{secret: our-key}");
    for (name, content) in [("our-cert", certificate), ("our-key", key)] {
        text += &format!("---\ntype: Secret\nmesh: default\nname: {name}\ndata: {}\n", STANDARD.encode(content));
    }
    text
}

/// Replaces a file at once.
fn replace(path: &Path, text: &str) {
    let next = path.with_extension("next");
    fs::write(&next, text).expect("the scratch folder can be written");
    fs::rename(next, path).expect("a file can be replaced");
}

async fn rotate_all(server: &Server, dir: &Path) {
    let admin = server.admin.to_string();
    let rotated = run(&["rotate", "--all", "--admin", &admin], dir, Duration::from_secs(60)).await;
    assert_eq!(rotated.stdout, b"renewal queued: 2 proxies\n", "{rotated:?}");
}

/// Two Envoys with leaves of an intermediate that lies in files, root behind it. The pair is replaced one file after the other:
/// in between the old one signs, and the server says what is wrong. Then both roots are trusted, leaves stay as they are, and
/// new ones are of the new CA; not a request fails. After a restart the old root is still known.
#[tokio::test]
async fn a_ca_from_files_is_replaced_under_traffic() {
    let dir = scratch::dir("provided");
    let (certificate, key): (PathBuf, PathBuf) = (dir.join("ca.crt"), dir.join("ca.key"));
    let old = TestCa::root("old root").intermediate("old intermediate");
    let new = TestCa::root("new root").intermediate("new intermediate");
    let chain = |ca: &TestCa| format!("{}{}", ca.cert_pem, ca.root_pem);
    replace(&certificate, &chain(&old));
    replace(&key, &old.key_pem());
    let mesh = provided_mesh(&format!("{{file: {}}}", certificate.display()), &format!("{{file: {}}}", key.display()));
    let mut server = Server::start(Settings { mesh: &mesh, ..NODE_ID }).await;
    server.ready().await;
    let pair = Proxy::pair(&server, ("web", Login::NodeId), ("api", Login::NodeId)).await;
    let strangers = strangers_before(&pair, "spiffe://default/web", "old root");
    let mut scene = Scene::begin(pair, strangers).await;
    scene.both_trust(&["old root"]).await;
    let shown = scene.one.shown().await.expect("it shows a certificate");
    assert_eq!(shown.len(), 2, "the intermediate goes with the leaf, and the root does not: {shown:?}");
    // Dated back by 30 s.
    assert_workload_leaf(&shown[0], "spiffe://default/web", "CN=old intermediate", 3630);

    replace(&certificate, &chain(&new));
    server.says(&["trust/default", "is not the private key", "new intermediate", "stays trusted"]).await;
    server.logs("WARN", &["is not the private key"]).await;
    server.metric_becomes("provided_ca_ready", &[("backend", "ours")], |ready| ready == 0.0).await;
    let before = scene.one.shown().await.expect("it shows a certificate")[0].serial.clone();
    rotate_all(&server, &dir).await;
    scene
        .both_show("another leaf of the old CA", |leaf| leaf.issuer == "CN=old intermediate" && leaf.serial != before)
        .await;

    replace(&key, &new.key_pem());
    scene.both_trust(&["old root", "new root"]).await;
    server.is_content().await;
    server.metric_becomes("provided_ca_ready", &[("backend", "ours")], |ready| ready == 1.0).await;
    scene.both_show("the leaf it has", |leaf| leaf.issuer == "CN=old intermediate").await;
    rotate_all(&server, &dir).await;
    scene.both_show("a leaf of the new CA", |leaf| leaf.issuer == "CN=new intermediate").await;
    scene.both_trust(&["old root", "new root"]).await;

    let status = server.stop(SHUTDOWN).await;
    assert_eq!(status.code(), Some(0), "{}", server.log_tail());
    server.start_again().await;
    server.ready().await;
    scene.both_trust(&["old root", "new root"]).await;
    server.assert_discreet();
    let reports = scene.end().await;
    for report in reports {
        assert_eq!(report.peer_issuers, ["CN=old intermediate", "CN=new intermediate"]);
    }
}

/// The pair is in mesh Secrets of the resource file: a self-signed CA, then an edit that takes the key away, then another CA.
#[tokio::test]
async fn a_ca_from_mesh_secrets_is_replaced_by_an_edit() {
    let dir = scratch::dir("provided-secrets");
    let (old, new) = (TestCa::root("old"), TestCa::root("new"));
    let mut server = Server::start(Settings { mesh: &with_secrets(&old.cert_pem, &old.key_pem()), ..NODE_ID }).await;
    server.ready().await;
    let pair = Proxy::pair(&server, ("web", Login::NodeId), ("api", Login::NodeId)).await;
    let strangers = strangers_before(&pair, "spiffe://default/web", "old");
    let mut scene = Scene::begin(pair, strangers).await;
    scene.both_trust(&["old"]).await;
    server.set_mesh(&with_secrets(&new.cert_pem, &old.key_pem()));
    server.says(&["our-key", "is not the private key"]).await;
    scene.both_trust(&["old"]).await;
    server.set_mesh(&with_secrets(&new.cert_pem, &new.key_pem()));
    scene.both_trust(&["old", "new"]).await;
    server.is_content().await;
    rotate_all(&server, &dir).await;
    scene.both_show("a leaf of the new CA", |leaf| leaf.issuer == "CN=new").await;
    server.assert_discreet();
    scene.end().await;
}
