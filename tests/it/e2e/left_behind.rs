//! A mesh that is deleted leaves its builtin CA behind, and one of its name has it; both are told.

use super::SHUTDOWN;
use crate::support::server::{NODE_ID, Server, Settings};

/// A mesh that makes its own CA.
fn builtin(name: &str) -> String {
    format!("{{type: Mesh, name: {name}, mtls: {{enabledBackend: ca, backends: [{{name: ca, type: builtin}}]}}}}\n")
}

#[tokio::test]
async fn a_mesh_that_is_made_again_has_the_builtin_ca_that_it_had_and_that_is_told() {
    let both = format!("{}---\n{}", builtin("default"), builtin("other"));
    let mut server = Server::start(Settings { mesh: &both, ..NODE_ID }).await;
    server.ready().await;
    let root = server.state_dir().join("ca/other/ca/ca.crt");
    server.logs("INFO", &["made a new root CA", "ca/other/ca"]).await;
    let first = std::fs::read(&root).expect("it is made");

    server.set_mesh(&builtin("default"));
    server.logs("INFO", &["no mesh has this builtin CA any more", "ca/other/ca"]).await;
    server.set_mesh(&both);
    server
        .logs("WARN", &["backend ca of mesh other has the builtin CA that was made for one of these names before"])
        .await;
    assert_eq!(std::fs::read(&root).expect("it is kept"), first);
    assert_eq!(server.stop(SHUTDOWN).await.code(), Some(0), "{}", server.log_tail());
    server.assert_discreet();
}
