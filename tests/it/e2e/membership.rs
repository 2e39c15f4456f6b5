//! Which mesh proxies belong to, whom it lets in, which SPIFFE ID they have there, and what operators see of refusals.

use std::time::Duration;

use serde_json::Value;
use tonic::Code;

use super::cli::run;
use super::{Scene, strangers_before};
use crate::support::PATIENCE;
use crate::support::eventually::eventually;
use crate::support::http;
use crate::support::mesh::builtin_mesh;
use crate::support::proxy::{Login, Proxy};
use crate::support::sds::{self, Caller, Watcher};
use crate::support::server::{NODE_ID, Server, Settings};

const WEB: Caller<'_> = Caller { node: "web-0", workload: "web", token: None };

/// Rules let some workloads in and others not. Who is refused is told nothing but that; the log, the status page and the
/// admin API say why, and count.
#[tokio::test]
async fn refusals_say_why_to_operators_and_not_to_clients() {
    let mesh = builtin_mesh("1h");
    let more = "membership: {allow: [{mesh: default, workloads: [web, api]}, {mesh: gone, workloads: [web]}]}";
    let mut server = Server::start(Settings { mesh: &mesh, more, ..NODE_ID }).await;
    server.ready().await;
    server.says(&["membership.allow[1].mesh: there is no mesh \\\"gone\\\""]).await;

    let served = sds::fetch(&server.socket, WEB, &["default", "ROOTCA"]).await.expect("it is let in");
    assert_eq!(served["default"].certificates()[0].uris, ["spiffe://default/web"]);
    let db = Caller { node: "db-0", workload: "db", token: None };
    for _ in 0..3 {
        let refused = sds::fetch(&server.socket, db, &["default", "ROOTCA"]).await.expect_err("no rule lets it in");
        let told = (refused.code(), refused.message());
        assert_eq!(told, (Code::PermissionDenied, "this identity may not use this server"));
    }
    let token = Caller { token: Some("a-token-of-nobody"), ..WEB };
    let refused = sds::fetch(&server.socket, token, &["default"]).await.expect_err("nobody can verify it");
    assert_eq!((refused.code(), refused.message()), (Code::Unauthenticated, "no proof of identity"));

    let reason = "membership does not let workload \"db\" into mesh \"default\": it does not match allow[0].workloads";
    let (admin, dir) = (server.admin.to_string(), server.state_dir());
    let command = async |words: &[&str]| {
        let words: Vec<&str> = words.iter().copied().chain(["--admin", &admin]).collect();
        let output = run(&words, &dir, Duration::from_secs(60)).await;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).expect("it is text")
    };
    let document: Value = serde_json::from_str(&command(&["proxies", "--refused", "-o", "json"]).await).expect("JSON");
    let refusals = document["refusals"].as_array().expect("a list");
    let [no_proof, forbidden] = refusals.as_slice() else { panic!("{document:#}") };
    assert!(no_proof["reason"].to_string().contains("there is a bearer token, but no method"), "{no_proof:#}");
    assert_eq!((&forbidden["count"], &forbidden["nodeId"]), (&Value::from(3), &Value::from("db-0")), "{forbidden:#}");
    assert_eq!(forbidden["reason"], format!("not allowed: {reason}"));
    assert!(forbidden["peer"].to_string().contains("unix:uid="), "{forbidden:#}");
    let table = command(&["proxies", "--refused"]).await;
    assert!(table.lines().any(|line| line.contains("db-0") && line.contains(reason)), "{table}");
    let page = http::get(server.admin, "/").await.expect("there is a status page").body;
    assert!(page.contains("refused lately") && page.contains(reason), "{page}");
    server.logs("INFO", &["refused", "db-0", "allow[0].workloads"]).await;
    server.metric_becomes("refused_total", &[("reason", "forbidden")], |count| count == 3.0).await;
    // Who was refused is no proxy.
    assert!(!command(&["proxies"]).await.contains("db-0"));
    server.assert_discreet();
}

/// Where several meshes could be meant it is the configured one, unless something names another; when that mesh goes, the
/// proxy is refused, not moved.
#[tokio::test]
async fn the_mesh_of_a_proxy_is_what_the_configuration_says() {
    let named = |name: &str| builtin_mesh("1h").replace("name: default", &format!("name: {name}"));
    let both = format!("{}---\n{}", named("default"), named("prod"));
    let more = "membership: {default: prod}";
    let mut server = Server::start(Settings { mesh: &both, more, ..NODE_ID }).await;
    server.ready().await;
    let leaf = async |node: &str| {
        let fetched = sds::fetch(&server.socket, Caller { node, ..WEB }, &["default"]).await?;
        Ok::<_, tonic::Status>(fetched["default"].certificates()[0].uris.clone())
    };
    assert_eq!(leaf("web-0").await.expect("it is let in"), ["spiffe://prod/web"]);
    assert_eq!(leaf("default.web-0").await.expect("it is let in"), ["spiffe://default/web"]);
    server.set_mesh(&named("default"));
    server.says(&["membership.default: there is no mesh \\\"prod\\\""]).await;
    assert_eq!(leaf("web-0").await.expect_err("its mesh is gone").code(), Code::PermissionDenied);
}

/// A mesh without classic mTLS, whose one `MeshIdentity` makes its own CA and says how SPIFFE IDs look.
const IDENTITY: &str = "type: Mesh
name: default
---
type: MeshIdentity
name: identity
mesh: default
spec:
  selector: {dataplane: {matchLabels: {}}}
  spiffeID:
    trustDomain: mesh.example
    path: /{{ .Mesh }}/{{ .Workload }}
  provider:
    type: Bundled
    bundled:
      insecureAllowSelfSigned: true
      autogenerate: {enabled: true}
";

/// Two Envoys have the SPIFFE IDs of the identity policy that selects them, and call each other by mutual TLS. A name that
/// reaches for another's ID gets none.
#[tokio::test]
async fn a_mesh_identity_gives_proxies_their_spiffe_ids() {
    let mut server = Server::start(Settings { mesh: IDENTITY, ..NODE_ID }).await;
    server.ready().await;
    let pair = Proxy::pair(&server, ("web", Login::NodeId), ("api", Login::NodeId)).await;
    let strangers = strangers_before(&pair, "spiffe://mesh.example/default/web", "default");
    let scene = Scene::begin(pair, strangers).await;
    for proxy in scene.proxies() {
        let chain = proxy.shown().await.expect("it shows a certificate");
        assert_eq!(chain[0].uris, [format!("spiffe://mesh.example/default/{}", proxy.name)], "{chain:?}");
    }
    for workload in ["web/../api", "../default/api", "api/", "/api", "%61pi", "."] {
        let refused = sds::fetch(&server.socket, Caller { workload, ..WEB }, &["default"]).await;
        assert_eq!(refused.expect_err("it is no name").code(), Code::PermissionDenied, "{workload}");
    }
    let reports = scene.end().await;
    let called = |caller: &str, peer: &str| {
        let id = |name: &str| format!("spiffe://mesh.example/default/{name}");
        vec![(id(caller), id(peer))]
    };
    assert_eq!(
        reports.each_ref().map(|report| report.identities.clone()),
        [called("web", "api"), called("api", "web")]
    );
}

/// A `MeshIdentity` that selects nobody distributes its CA before anything is issued; whom it selects then has its ID.
#[tokio::test]
async fn trust_is_distributed_before_anything_is_issued() {
    let nobody = IDENTITY.replace("selector: {dataplane: {matchLabels: {}}}", "selector: {}");
    assert_ne!(nobody, IDENTITY);
    let mut server = Server::start(Settings { mesh: &nobody, ..NODE_ID }).await;
    server.ready().await;
    let fetched = sds::fetch(&server.socket, WEB, &["ROOTCA"]).await.expect("it is let in");
    assert_eq!(fetched.len(), 1, "{fetched:?}");
    let watcher = Watcher::start(&server.socket, WEB, "default");
    server.metric_becomes("streams", &[], |count| count == 1.0).await;
    server.set_mesh(IDENTITY);
    eventually("it has the ID that the policy gives", PATIENCE, async || {
        let history = watcher.history();
        match history.first() {
            Some(first) if first.certificates()[0].uris == ["spiffe://mesh.example/default/web"] => Ok(()),
            _ => Err(format!("{history:?} {:?}\n{}", watcher.ends(), server.log_tail())),
        }
    })
    .await;
    watcher.assert_sound();
}
