//! Several trust domains, and the names of several systems, as Envoy takes them.

use std::net::SocketAddr;

use super::SHUTDOWN;
use crate::support::bootstrap;
use crate::support::envoy::Envoy;
use crate::support::eventually::eventually;
use crate::support::proxy::free_address;
use crate::support::server::{NODE_ID, Server, Settings};
use crate::support::{PATIENCE, http, scratch};

const MESHES: &str = "type: Mesh
name: east
mtls: {enabledBackend: ca, backends: [{name: ca, type: builtin}]}
---
type: Mesh
name: west
mtls: {enabledBackend: ca, backends: [{name: ca, type: builtin}]}
";

/// An Envoy with the bootstrap for node ids that asks for its secrets by other names.
struct Caller {
    envoy: Envoy,
    outbound: SocketAddr,
}

impl Caller {
    async fn start(
        server: &Server,
        node: &str,
        [inbound, peer]: [SocketAddr; 2],
        [certificate, cas]: [&str; 2],
    ) -> Self {
        let (mesh, name) = node.split_once('.').expect("it is <mesh>.<name>");
        let (outbound, socket) = (free_address(), format!("unix:{}", server.socket.display()));
        let addresses = [inbound, outbound, peer].map(|address| address.to_string());
        let arguments = [
            ["--server", &socket],
            ["--identity", "node-id"],
            ["--mesh", mesh],
            ["--name", name],
            ["--listen", &addresses[0]],
            ["--outbound", &addresses[1]],
            ["--upstream", &addresses[2]],
        ];
        let arguments: Vec<String> = arguments.into_iter().flatten().map(str::to_owned).collect();
        let (text, _) = bootstrap::printed(&arguments);
        let text = text.replace("name: \"default\"", &format!("name: \"{certificate}\""));
        let text = text.replace("name: \"ROOTCA\"", &format!("name: \"{cas}\""));
        let mut envoy = Envoy::start(&text, &scratch::dir(&format!("envoy-{node}"))).await;
        envoy.ready(PATIENCE).await;
        Self { envoy, outbound }
    }

    /// Waits until requests to the peer are answered with `status`, and gives who the peer took this proxy for.
    async fn gets(&self, status: u16) -> String {
        eventually(&format!("an answer {status}"), PATIENCE, async || {
            let answer = http::get(self.outbound, "/").await?;
            if answer.status == status { Ok(answer.header("x-client").to_owned()) } else { Err(answer.body) }
        })
        .await
    }

    /// Waits until it has refused somebody's certificate at this listener.
    async fn has_refused_somebody(&self, listener: SocketAddr) {
        let stat = format!("listener.{}_{}.ssl.fail_verify_error", listener.ip(), listener.port());
        self.envoy.stat_becomes(&stat, PATIENCE, |count| count > 0).await;
    }

    async fn has_accepted(&self, names: [&str; 2]) {
        for name in names {
            let name = name.replace("://", "_").replace(':', "_");
            self.envoy.stat_becomes(&format!("sds.{name}.update_success"), PATIENCE, |count| count > 0).await;
            assert_eq!(self.envoy.stat(&format!("sds.{name}.update_rejected")).await, Ok(0), "{name}");
        }
    }
}

/// Proxies of two meshes talk to each other where each asks for every trust domain's CAs, by the names of whatever system,
/// and do not where one asks for those of its own mesh only.
#[tokio::test]
async fn items_61_and_65_envoys_of_two_meshes_call_each_other_by_the_names_of_several_systems() {
    let settings = Settings { mesh: MESHES, ..NODE_ID };
    let mut server = Server::start(settings).await;
    server.ready().await;
    let (east, west) = (free_address(), free_address());
    let spire = ["default", "ALL"];
    let one = Caller::start(&server, "east.web-0", [east, west], spire).await;
    for (names, status) in [
        (["spiffe://west/web", "spiffe://east"], 200),
        (["identity_cert:secret:west", "mesh_ca:secret:all"], 200),
        (["system_mtls_identity_west", "system_mtls_ca_all_meshes"], 200),
        (["sds://web", "sds://web-cacert"], 503),
        (["builtin://", "spiffe://west"], 503),
    ] {
        let mut other = Caller::start(&server, "west.web-0", [west, east], names).await;
        other.has_accepted(names).await;
        let client = one.gets(status).await;
        if status == 200 {
            assert_eq!(client, "spiffe://east/web");
        } else {
            other.has_refused_somebody(west).await;
        }
        other.envoy.process.stop(PATIENCE).await;
    }
    one.has_accepted(spire).await;
    assert_eq!(server.stop(SHUTDOWN).await.code(), Some(0), "{}", server.log_tail());
}
