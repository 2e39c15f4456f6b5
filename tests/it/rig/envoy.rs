//! That Envoy runs, and that the probes see what it shows.

use crate::support::envoy::Envoy;
use crate::support::pki::{Identity, Leaf, TestCa};
use crate::support::upstream::Upstream;
use crate::support::{PATIENCE, http, scratch, wire};

const SERVER: &str = "spiffe://example.org/server";
const CLIENT: &str = "spiffe://example.org/client";

/// A listener in plaintext and one that wants a client certificate, both in front of the same upstream.
fn bootstrap(upstream: &Upstream, server: &Identity, ca: &TestCa) -> String {
    let text = |text: &str| serde_json::json!(text).to_string(); // a JSON string is a YAML string
    let routes = "filters:
        - name: http
          typed_config:
            '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
            stat_prefix: http
            route_config:
              virtual_hosts: [{name: all, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: upstream}}]}]
            http_filters:
            - name: router
              typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}";
    format!(
        "
static_resources:
  clusters:
  - name: upstream
    load_assignment:
      cluster_name: upstream
      endpoints:
      - lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]
  listeners:
  - name: plain
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - {routes}
  - name: tls
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - transport_socket:
        name: tls
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context:
            tls_certificates:
            - certificate_chain: {{inline_string: {chain}}}
              private_key: {{inline_string: {key}}}
            validation_context: {{trusted_ca: {{inline_string: {root}}}}}
      {routes}
",
        port = upstream.address.port(),
        chain = text(&server.chain_pem),
        key = text(&server.key_pem),
        root = text(&ca.root_pem),
    )
}

#[tokio::test]
async fn serves_over_plaintext_and_mutual_tls() {
    let upstream = Upstream::start("from upstream").await;
    let ca = TestCa::root("root").intermediate("intermediate");
    let server = ca.issue(&Leaf::spiffe(SERVER));
    let mut envoy = Envoy::start(&bootstrap(&upstream, &server, &ca), &scratch::dir("envoy")).await;
    envoy.ready(PATIENCE).await;

    let plain = envoy.listener("plain").await;
    let answer = http::get(plain, "/").await.expect("Envoy answers");
    assert_eq!((answer.status, answer.body.as_str()), (200, "from upstream"));
    envoy.stat_becomes("cluster.upstream.upstream_rq_200", PATIENCE, |count| count == 1).await;

    let tls = envoy.listener("tls").await;
    let client = ca.issue(&Leaf::spiffe(CLIENT));
    let accepted = wire::get(tls, Some(&client)).await.expect("a client of the same root is let in");
    assert_eq!((accepted.status, accepted.body.as_str()), (200, "from upstream"));
    let shown: Vec<_> = accepted.chain.iter().map(|cert| (cert.uris.concat(), cert.issuer.clone())).collect();
    assert_eq!(shown, [(SERVER.to_owned(), "CN=intermediate".to_owned()), (String::new(), "CN=root".to_owned())]);
    assert!(accepted.asked_for_certificate);

    let stranger = TestCa::root("stranger").issue(&Leaf::spiffe(CLIENT));
    for identity in [None, Some(&stranger)] {
        let refused = wire::get(tls, identity).await.expect_err("Envoy refuses such a client");
        assert_eq!(refused.chain, accepted.chain);
        assert!(refused.reason.contains("alert"), "{}", refused.reason);
    }
    let certs = envoy.certs().await.expect("Envoy tells its certificates");
    assert_eq!(certs["certificates"].as_array().map(Vec::len), Some(1), "{certs}");
    assert!(envoy.config_dump_secrets().await.expect("Envoy dumps").is_empty());
}

#[tokio::test]
async fn a_paused_envoy_is_silent_and_comes_back() {
    let mut envoy = Envoy::start("static_resources: {}", &scratch::dir("envoy")).await;
    envoy.ready(PATIENCE).await;
    envoy.process.pause();
    let span = std::time::Duration::from_millis(500);
    tokio::time::timeout(span, http::get(envoy.admin, "/ready")).await.expect_err("nobody answers");
    envoy.process.resume();
    envoy.ready(PATIENCE).await;
    envoy.process.stop(PATIENCE).await;
}
