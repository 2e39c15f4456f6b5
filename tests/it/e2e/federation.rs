//! CAs of a trust domain that is not this server's: `MeshTrust`.

use super::SHUTDOWN;
use crate::support::eventually::eventually;
use crate::support::pki::TestCa;
use crate::support::sds::{Caller, Content, Watcher};
use crate::support::server::{NODE_ID, Server, Settings};
use crate::support::{PATIENCE, http};

const MESH: &str = "type: Mesh
name: default
mtls: {enabledBackend: ca, backends: [{name: ca, type: builtin}]}
";

fn with_partner(ca: &TestCa) -> String {
    let pem: String = ca.root_pem.lines().map(|line| format!("        {line}\n")).collect();
    format!(
        "{MESH}---
type: MeshTrust
name: partner
mesh: default
spec:
  trustDomain: partner.example
  caBundles:
  - type: Pem
    pem:
      value: |
{pem}"
    )
}

/// The names of the CAs of the newest secret of that name.
async fn shows(watcher: &Watcher, what: &str, wanted: impl Fn(&[String]) -> bool) {
    eventually(what, PATIENCE, async || {
        let names = watcher.history().last().map(Content::common_names).unwrap_or_default();
        if wanted(&names) { Ok(()) } else { Err(format!("{names:?}")) }
    })
    .await;
}

/// A partner's CAs are in `ALL` and under the partner's own name, not among those that the mesh believes for its own names;
/// they go with their resource.
#[tokio::test]
async fn the_cas_of_a_mesh_trust_come_and_go_with_it() {
    let partner = TestCa::root("partner root");
    let mut server = Server::start(Settings { mesh: &with_partner(&partner), ..NODE_ID }).await;
    server.ready().await;
    let caller = |node| Caller { node, workload: "web", token: None };
    let all = Watcher::start(&server.socket, caller("all-0"), "ALL");
    let named = Watcher::start(&server.socket, caller("named-0"), "spiffe://partner.example");
    let own = Watcher::start(&server.socket, caller("own-0"), "ROOTCA");
    let is_partner = |name: &String| name == "partner root";
    shows(&all, "both domains", |names| names.len() == 2 && names.iter().any(is_partner)).await;
    shows(&named, "the partner", |names| names.len() == 1 && names.iter().any(is_partner)).await;
    shows(&own, "the mesh alone", |names| names.len() == 1 && !names.iter().any(is_partner)).await;
    // Operators see when these end, too.
    let ends = async || {
        let labels = [("mesh", "default"), ("trust_domain", "partner.example")];
        server.metric("trusted_ca_expiration_timestamp_seconds", &labels).await.expect("metrics")
    };
    let page = async || http::get(server.admin, "/").await.expect("there is a status page").body;
    assert!(ends().await > 0.0 && page().await.contains("trust domain partner.example"), "{}", page().await);

    server.set_mesh(MESH);
    shows(&all, "the mesh alone", |names| names.len() == 1 && !names.iter().any(is_partner)).await;
    assert_eq!(own.history().len(), 1, "nothing has changed for plain names");
    assert!(ends().await == 0.0 && !page().await.contains("trust domain partner.example"), "{}", page().await);
    assert_eq!(server.stop(SHUTDOWN).await.code(), Some(0), "{}", server.log_tail());
}
