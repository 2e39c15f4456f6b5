//! Every way in which an Envoy can ask: state of the world and incremental, on streams for single secrets and on ADS; and
//! once, without a stream.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::SHUTDOWN;
use super::served::{BACKEND, FRONTEND, serves_on_one_machine};
use crate::support::bootstrap::{Bootstrap, Party, stat_of};
use crate::support::eventually::{eventually, throughout};
use crate::support::mesh::builtin_mesh;
use crate::support::proxy::{Proxy, free_address};
use crate::support::sds::{self, Caller, Content};
use crate::support::server::{NODE_ID, Server, Settings};
use crate::support::wire;
use crate::support::{PATIENCE, http};

/// One of the ways.
#[derive(Debug, Clone, Copy)]
struct Way {
    api: &'static str,
    aggregated: bool,
}

const DEDICATED: Way = Way { api: "GRPC", aggregated: false };
const INCREMENTAL: Way = Way { api: "DELTA_GRPC", aggregated: false };
const AGGREGATED: Way = Way { api: "GRPC", aggregated: true };
const AGGREGATED_INCREMENTAL: Way = Way { api: "DELTA_GRPC", aggregated: true };

impl Way {
    fn is_incremental(self) -> bool {
        self.api == "DELTA_GRPC"
    }

    fn api_config_source(self) -> Value {
        json!({
            "api_type": self.api,
            "transport_api_version": "V3",
            "set_node_on_first_message_only": true,
            "grpc_services": [{"envoy_grpc": {"cluster_name": "sds"}}],
        })
    }

    fn sds_config(self, initial_fetch_timeout: &str) -> String {
        let mut config = json!({"resource_api_version": "V3", "initial_fetch_timeout": initial_fetch_timeout});
        match self.aggregated {
            true => config["ads"] = json!({}),
            false => config["api_config_source"] = self.api_config_source(),
        }
        config.to_string()
    }

    fn dynamic_resources(self) -> String {
        let mut resources = json!({
            "cds_config": {"resource_api_version": "V3", "path_config_source": {"path": "${CLUSTERS_FILE}"}},
        });
        if self.aggregated {
            resources["ads_config"] = self.api_config_source();
        }
        resources.to_string()
    }

    /// Two Envoys that ask in this way.
    async fn serves(self) {
        let (sds, dynamic) = (self.sds_config("0s"), self.dynamic_resources());
        let bootstrap = Bootstrap {
            file: "apis.yaml",
            certificates: &["default"],
            bundles: &["ROOTCA"],
            aggregated: self.aggregated,
            values: &[("SDS_CONFIG", &sds), ("DYNAMIC_RESOURCES", &dynamic)],
        };
        serves_on_one_machine(&bootstrap, "").await;
    }

    /// An Envoy with a listener whose certificate is asked for by `name`; gives the address of that listener too.
    async fn with_name(self, server: &Server, party: Party<'_>, name: &str, patience: &str) -> (Proxy, SocketAddr) {
        let (sds, other, dynamic) = (self.sds_config("0s"), self.sds_config(patience), self.dynamic_resources());
        let bootstrap = Bootstrap {
            file: "names.yaml",
            certificates: &["default"],
            bundles: &["ROOTCA"],
            aggregated: self.aggregated,
            values: &[
                ("SDS_CONFIG", &sds),
                ("OTHER_SDS_CONFIG", &other),
                ("OTHER_NAME", name),
                ("DYNAMIC_RESOURCES", &dynamic),
            ],
        };
        let inbound = free_address();
        let proxy = Proxy::published(server, &bootstrap, party, party, (inbound, inbound)).await;
        let other = proxy.outbound;
        (proxy, other)
    }
}

async fn server_with_builtin_ca() -> Server {
    let mesh = builtin_mesh("1h");
    let mut server = Server::start(Settings { mesh: &mesh, ..NODE_ID }).await;
    server.ready().await;
    server
}

#[tokio::test]
async fn item_1_state_of_the_world_sds() {
    DEDICATED.serves().await;
}

#[tokio::test]
async fn item_3_incremental_sds() {
    INCREMENTAL.serves().await;
}

#[tokio::test]
async fn item_2_aggregated_sds() {
    AGGREGATED.serves().await;
}

#[tokio::test]
async fn items_2_and_3_aggregated_incremental_sds() {
    AGGREGATED_INCREMENTAL.serves().await;
}

/// The same secrets to whoever asks once, and to nobody who would not be served on a stream.
#[tokio::test]
async fn item_4_fetch_is_the_same_engine() {
    let mut server = server_with_builtin_ca().await;
    let caller = Caller { node: "backend", workload: "backend", token: None };
    let names = ["default", "nobody-knows-this", "ROOTCA", "spiffe://default/frontend"];
    let fetched = sds::fetch(&server.socket, caller, &names).await.expect("it is served");
    assert_eq!(fetched.keys().collect::<Vec<_>>(), ["ROOTCA", "default"]);
    assert_eq!(fetched["default"].certificates()[0].uris, [BACKEND.spiffe_id]);
    assert!(matches!(fetched["ROOTCA"], Content::TrustBundle { .. }));
    assert_eq!(server.metric("withheld_total", &[]).await, Ok(2.0));
    let again = sds::fetch(&server.socket, caller, &["default"]).await.expect("it is served");
    assert_eq!(again["default"], fetched["default"], "it is the same proxy");
    assert_eq!(server.metric("issuances_total", &[]).await, Ok(1.0));
    for (caller, code) in [
        (Caller { token: Some("rubbish"), ..caller }, tonic::Code::Unauthenticated),
        (Caller { node: "", ..caller }, tonic::Code::InvalidArgument),
    ] {
        let refused = sds::fetch(&server.socket, caller, &names).await.expect_err("it is refused");
        assert_eq!(refused.code(), code, "{refused:?}");
    }
    let refused = sds::fetch(&server.socket, caller, &[]).await.expect_err("nothing was asked for");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused:?}");
    assert!(server.stop(SHUTDOWN).await.success());
}

/// A listener asks for a certificate that nobody has, or that is another's, beside one that asks for its own: that one is
/// served as if there were no other. Incremental, Envoy is told that there is none, and does not wait; otherwise it waits as
/// long as it was told to. Neither way does it open that listener to anybody, or make the server ask its CA for anything.
#[tokio::test]
async fn items_64_70_71_72_and_73_names_that_nobody_may_have_cost_nothing() {
    let mut server = server_with_builtin_ca().await;
    let names = ["nobody-knows-this", "spiffe://default/frontend"];
    let mut envoys = Vec::new();
    for (way, name) in
        [DEDICATED, AGGREGATED, INCREMENTAL, AGGREGATED_INCREMENTAL].into_iter().zip(names.iter().cycle())
    {
        // Envoy would wait for ever, but it is told.
        let patience = if way.is_incremental() { "0s" } else { "0.5s" };
        let (mut proxy, other) = way.with_name(&server, BACKEND, name, patience).await;
        proxy.envoy.ready(PATIENCE).await;
        let shown = proxy.shown().await.expect("its own certificate");
        assert_eq!(shown[0].uris, [BACKEND.spiffe_id], "{way:?}");
        let refused = wire::get(other, None).await.expect_err("it has no certificate");
        assert!(refused.chain.is_empty(), "{way:?}: {refused:?}");
        let stats = proxy.envoy.stats().await.expect("Envoy tells its statistics");
        let timeouts = stats.get(&stat_of(name, "init_fetch_timeout")).copied().unwrap_or_default();
        assert_eq!(timeouts, u64::from(!way.is_incremental()), "{way:?}");
        envoys.push(proxy);
    }
    // A new leaf reaches the good listeners of all of them.
    server.set_mesh(&builtin_mesh("2h"));
    for proxy in &envoys {
        proxy.shows("a leaf of 2 h", |leaf| leaf.not_after - leaf.not_before >= 7200).await;
    }
    assert_eq!(server.metric("withheld_total", &[]).await, Ok(4.0), "once a stream");
    assert_eq!(server.metric("nacks_total", &[]).await, Ok(0.0));
    // It is one proxy by its node id, so one leaf for all, and a new one.
    assert_eq!(server.metric("issuances_total", &[]).await, Ok(2.0));
    assert!(server.stop(SHUTDOWN).await.success());
}

/// A listener asks for the trust bundle where its certificate belongs: Envoy refuses it, the server notes that and does not
/// argue, and the listener lets nobody in. When there is another bundle, it is sent.
#[tokio::test]
async fn items_41_and_43_a_rejection_is_recorded_and_never_answered() {
    let mut server = server_with_builtin_ca().await;
    for (way, party) in [(DEDICATED, FRONTEND), (INCREMENTAL, BACKEND)] {
        let before = server.metric("nacks_total", &[]).await.expect("metrics");
        let (mut proxy, other) = way.with_name(&server, party, "ROOTCA", "0s").await;
        proxy.envoy.ready(PATIENCE).await;
        server.metric_becomes("nacks_total", &[], |nacks| nacks == before + 1.0).await;
        let shown = proxy.shown().await.expect("its own certificate");
        assert_eq!(shown[0].uris, [party.spiffe_id], "{way:?}");
        let refused = wire::get(other, None).await.expect_err("it has no certificate");
        assert!(refused.chain.is_empty(), "{way:?}: {refused:?}");
        throughout("the server does not argue", Duration::from_secs(1), async || {
            let nacks = server.metric("nacks_total", &[]).await?;
            if nacks == before + 1.0 { Ok(()) } else { Err(format!("{nacks} rejections")) }
        })
        .await;
        eventually("Envoy counts one", PATIENCE, async || {
            let rejected = proxy.envoy.stat(&stat_of("ROOTCA", "update_rejected")).await?;
            if rejected == 1 { Ok(()) } else { Err(format!("{rejected}")) }
        })
        .await;
    }
    server.logs("WARN", &["ROOTCA"]).await;
    server.assert_discreet();
    assert!(server.stop(SHUTDOWN).await.success());
}

/// What Envoy says when it rejects a whole message: all of it, the private key too. Whoever reads the server's log or asks it
/// anything sees the reason without the key.
#[tokio::test]
async fn item_45_no_key_gets_out_of_a_rejection() {
    let mut server = server_with_builtin_ca().await;
    let caller = Caller { node: "backend", workload: "backend", token: None };
    let reason = |content: &Content| {
        let Content::Certificate { key_pem, .. } = content else { panic!("not a certificate: {content:?}") };
        let one_line = key_pem.replace('\n', "\\n");
        format!("Proto constraint validation failed (TlsCertificateValidationError): {one_line} and again {key_pem}")
    };
    let rejected = sds::reject(&server.socket, caller, "default", reason).await;
    let (content, _stream) = rejected.expect("it is served");
    server.metric_becomes("nacks_total", &[], |nacks| nacks == 1.0).await;
    let line = server.logs("WARN", &["Proto constraint validation failed"]).await.to_string();
    assert!(line.contains("default"), "{line}");

    server.assert_discreet();
    let Content::Certificate { key_pem, .. } = content else { panic!("not a certificate: {content:?}") };
    let secrets: Vec<_> = key_pem.lines().filter(|line| !line.starts_with("---")).collect();
    assert!(secrets.len() >= 2, "a key has several lines");
    let mut told = vec![server.log().into_iter().map(|line| line.to_string()).collect::<String>()];
    for path in ["/", "/metrics", "/readyz"] {
        told.push(http::get(server.admin, path).await.expect("the admin interface answers").body);
    }
    for secret in secrets {
        assert!(!told.iter().any(|text| text.contains(secret)), "a part of the key is told");
    }
    assert!(server.stop(SHUTDOWN).await.success());
}
