//! The builtin CA, on one machine without a cluster.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{SHUTDOWN, Scene, assert_workload_leaf, strangers_before};
use crate::support::PATIENCE;
use crate::support::mesh::builtin_mesh;
use crate::support::proxy::{Login, Proxy};
use crate::support::sds::{self, Caller, Content, Watcher};
use crate::support::server::{NODE_ID, Server, Settings};
use crate::support::wire::Certificate;

/// Every file below a folder.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("the folder can be read").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The builtin CA dates leaves back by 30 s.
fn lifetime(leaf: &Certificate) -> i64 {
    leaf.not_after - leaf.not_before
}

/// Two Envoys on the unix socket are who they say; their leaves of 15 s are renewed all the time. The CA's key is for
/// nobody else to read, and the CA outlives a crash of the server. A resource file that goes wrong changes nothing. The
/// server ends in time although streams are open. An SDS client that is no Envoy is served the same, asked once or by a
/// stream.
#[tokio::test]
async fn the_builtin_ca_serves_two_envoys_over_a_unix_socket() {
    let good = builtin_mesh("15s");
    let mut server = Server::start(Settings { mesh: &good, ..NODE_ID }).await;
    server.ready().await;
    let pair = Proxy::pair(&server, ("web", Login::NodeId), ("api", Login::NodeId)).await;
    let strangers = strangers_before(&pair, "spiffe://default/web", "default");
    let mut scene = Scene::begin(pair, strangers).await;
    let watchers = ["default", "ROOTCA"]
        .map(|name| Watcher::start(&server.socket, Caller { node: "watcher", workload: "watcher", token: None }, name));
    let root = scene.one.trusted().await.expect("it trusts a CA");
    let chain = scene.one.shown().await.expect("it shows a certificate");
    assert_eq!((chain.len(), &chain[0].uris[..]), (1, &["spiffe://default/web".to_owned()][..]), "{chain:?}");
    assert_eq!([chain[0].issuer.clone()], root[..]);

    let keys: Vec<_> = files(&server.state_dir()).into_iter().filter(|path| path.ends_with("ca.key")).collect();
    assert_eq!(keys.len(), 1, "{:?}", files(&server.state_dir()));
    let mode = |path: &Path| fs::metadata(path).expect("the file is there").permissions().mode() & 0o777;
    assert_eq!(mode(&keys[0]), 0o600, "{}", keys[0].display());
    assert_eq!(mode(&server.socket), 0o600, "as configured");

    for traffic in &scene.traffic {
        traffic.until("three renewals", PATIENCE, |report| report.serials.len() >= 4).await;
    }

    // A proxy by another name is another one, also for a client that asks once.
    let caller = Caller { node: "web-2", workload: "web", token: None };
    let fetched = sds::fetch(&server.socket, caller, &["default", "ROOTCA", "spiffe://default/api"]).await;
    let fetched = fetched.expect("it is served");
    assert_eq!(fetched.keys().collect::<Vec<_>>(), ["ROOTCA", "default"], "the certificate of another is withheld");
    scene.other.lets_in(&fetched["default"].identity()).await;

    // An edit that goes wrong.
    for broken in [good.replace("builtin", "bulitin"), good.replace("mtls:", "mtls: ["), good.replace("ca-1\n", "\n")] {
        server.set_mesh(&broken);
        server.says(&["mesh.yaml"]).await;
        scene.goes_on("with a broken resource file").await;
        server.set_mesh(&good);
        server.is_content().await;
    }
    server.logs("WARN", &["mesh.yaml", "bulitin"]).await;

    // From here on leaves live longer than the server is away.
    server.set_mesh(&builtin_mesh("1h"));
    scene.both_show("a leaf of 1 h", |leaf| lifetime(leaf) == 3630).await;

    // A crash. The CA is what it was.
    server.kill();
    server.start_again().await;
    for proxy in scene.proxies() {
        proxy.is_connected(PATIENCE).await;
    }
    server.set_mesh(&builtin_mesh("2h"));
    scene.both_show("a leaf of 2 h", |leaf| lifetime(leaf) == 7230).await;
    assert_eq!(scene.one.trusted().await.as_ref(), Ok(&root));

    // The end, with streams open.
    assert!(server.metric("streams", &[]).await.expect("metrics") >= 4.0);
    let status = server.stop(SHUTDOWN).await;
    assert_eq!(status.code(), Some(0), "{}", server.log_tail());
    scene.goes_on("without server").await;
    server.start_again().await;
    for proxy in scene.proxies() {
        proxy.is_connected(PATIENCE).await;
    }
    for watcher in &watchers {
        watcher.assert_sound();
    }
    let bundles = watchers[1].history();
    assert!(bundles.iter().all(|bundle| bundle == &bundles[0]), "the CA has not changed: {bundles:?}");
    let leaves: Vec<_> = watchers[0].history().iter().map(Content::certificates).collect();
    let lifetimes: BTreeSet<_> = leaves.iter().map(|chain| lifetime(&chain[0])).collect();
    assert_eq!(lifetimes, BTreeSet::from([45, 3630, 7230]), "{leaves:?}");
    for chain in leaves {
        assert_workload_leaf(&chain[0], "spiffe://default/watcher", &root[0], lifetime(&chain[0]));
    }
    server.assert_discreet();
    scene.end().await;
}

/// What is not configured proves nothing: a token that nobody can verify is refused even where node ids are believed, and
/// without a node id there is nobody.
#[tokio::test]
async fn only_what_is_configured_identifies() {
    let mesh = builtin_mesh("1h");
    let mut server = Server::start(Settings { mesh: &mesh, ..NODE_ID }).await;
    server.ready().await;
    let caller = Caller { node: "web", workload: "web", token: Some("eyJhbGciOiJub25lIn0.e30.") };
    let refused = sds::fetch(&server.socket, caller, &["default"]).await.expect_err("an unverified token is bad");
    assert_eq!(refused.code(), tonic::Code::Unauthenticated, "{refused:?}");
    let nameless = Caller { node: "", ..Caller::default() };
    let refused = sds::fetch(&server.socket, nameless, &["default"]).await.expect_err("nobody is nobody");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused:?}");
    assert_eq!(server.metric("issuances_total", &[]).await, Ok(0.0));
}
