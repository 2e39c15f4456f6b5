//! Envoys that are configured for another SDS server. What is changed is what docs/migrating.md says: those that come to a unix
//! socket, its path alone; those that come over TLS, the server's address, name and CA, and the proof of identity.

use std::fs;
use std::path::Path;

use super::SHUTDOWN;
use super::served::{serves, serves_by_proxy_tokens, serves_on_one_machine};
use crate::support::bootstrap::{Bootstrap, Party, Proof};
use crate::support::cluster::Cluster;
use crate::support::deployment::Deployment;
use crate::support::ledger::{Ledger, no_requests_left};
use crate::support::mesh::{Backend, Ca, mesh};

/// A bootstrap with dedicated SDS streams, whose names are in the file.
const PUBLISHED: Bootstrap<'_> =
    Bootstrap { file: "", certificates: &["default"], bundles: &["ROOTCA"], aggregated: false, values: &[] };

#[tokio::test]
async fn spire_by_its_default_names() {
    let values = &[("CERTIFICATE", "default"), ("BUNDLE", "ROOTCA")];
    serves_on_one_machine(&Bootstrap { file: "spire.yaml", values, ..PUBLISHED }, "").await;
}

#[tokio::test]
async fn spire_by_spiffe_id_and_trust_domain() {
    let bootstrap = Bootstrap {
        file: "spire.yaml",
        certificates: &["${OWN_ID}"],
        bundles: &["spiffe://default"],
        values: &[("CERTIFICATE", "${OWN_ID}"), ("BUNDLE", "spiffe://default")],
        ..PUBLISHED
    };
    serves_on_one_machine(&bootstrap, "").await;
}

#[tokio::test]
async fn spire_by_spiffe_id_and_all_trust_domains() {
    let bootstrap = Bootstrap {
        file: "spire.yaml",
        certificates: &["${OWN_ID}"],
        bundles: &["ALL"],
        values: &[("CERTIFICATE", "${OWN_ID}"), ("BUNDLE", "ALL")],
        ..PUBLISHED
    };
    serves_on_one_machine(&bootstrap, "naming: {profiles: [spire]}").await;
}

#[tokio::test]
async fn istio_workload() {
    serves_on_one_machine(&Bootstrap { file: "istio-workload.yaml", ..PUBLISHED }, "").await;
}

#[tokio::test]
async fn istio_external_sds() {
    let bootstrap = Bootstrap {
        file: "istio-external.yaml",
        certificates: &["sds://gateway"],
        bundles: &["sds://gateway-cacert"],
        values: &[("CREDENTIAL", "gateway")],
        ..PUBLISHED
    };
    serves_on_one_machine(&bootstrap, "naming: {profiles: [istio]}").await;
}

/// The names of Kuma's releases so far, on ADS, state of the world; with a token in the bootstrap, to which Kuma gives no scheme.
#[tokio::test]
async fn kuma_by_its_classic_names() {
    let bootstrap = Bootstrap {
        file: "kuma.yaml",
        certificates: &["identity_cert:secret:default"],
        bundles: &["mesh_ca:secret:default"],
        aggregated: true,
        values: &[
            ("API_TYPE", "GRPC"),
            ("CERTIFICATE", "identity_cert:secret:default"),
            ("BUNDLE", "mesh_ca:secret:default"),
        ],
    };
    serves_by_proxy_tokens(&bootstrap, "").await;
}

/// The newer names, on incremental ADS, with a token in a file, which Google's gRPC client sends without a scheme.
#[tokio::test]
async fn kuma_by_its_newer_names() {
    let bootstrap = Bootstrap {
        file: "kuma-token-file.yaml",
        certificates: &["system_mtls_identity_default"],
        bundles: &["system_mtls_ca_default"],
        aggregated: true,
        values: &[
            ("API_TYPE", "DELTA_GRPC"),
            ("CERTIFICATE", "system_mtls_identity_default"),
            ("BUNDLE", "system_mtls_ca_default"),
        ],
    };
    serves_by_proxy_tokens(&bootstrap, "").await;
}

#[tokio::test]
async fn kuma_with_a_spire_identity() {
    let bootstrap = Bootstrap { file: "kuma-spire.yaml", certificates: &["${OWN_ID}"], bundles: &["ALL"], ..PUBLISHED };
    serves_on_one_machine(&bootstrap, "").await;
}

#[tokio::test]
async fn envoy_gateway_external_sds() {
    const CERTIFICATE: &str = "arn:aws:acm:us-east-1:123456789:certificate/abc-def-123";
    let bootstrap = Bootstrap {
        file: "envoy-gateway.yaml",
        certificates: &[CERTIFICATE],
        bundles: &["my-client-cas"],
        values: &[("CERTIFICATE", CERTIFICATE), ("BUNDLE", "my-client-cas")],
        ..PUBLISHED
    };
    let naming = format!(
        "naming: {{profiles: [envoy-gateway], certificates: ['{CERTIFICATE}'], trustBundles: [my-client-cas]}}"
    );
    serves_on_one_machine(&bootstrap, &naming).await;
}

/// Here a name says a namespace and a service account, so these proxies have both.
#[tokio::test]
async fn open_service_mesh() {
    let cluster = Cluster::shared();
    let place = Deployment::new(cluster, "osm").await;
    let ca = cluster.ca_issuer_with_intermediate(&place.system, "mesh").await;
    let backend =
        Backend { name: "certmanager-1", issuer_kind: "Issuer", issuer: "mesh", ca: Ca::Inline(&ca.root_pem) };
    let of_hours = |hours: u32| mesh("certmanager-1", &format!("{hours}h"), &[backend]);
    let mut server = place.serve_with(&of_hours(1), "naming: {profiles: [osm]}").await;
    server.ready().await;
    let ledger = Ledger::open(cluster, &place.system).await;

    let tokens = [place.workload("bookbuyer").await, place.workload("bookstore").await];
    let ids = [place.spiffe_id("bookbuyer"), place.spiffe_id("bookstore")];
    let party = |name, at: usize| Party { name, spiffe_id: &ids[at], proof: Proof::Token(&tokens[at]) };
    let bootstrap = Bootstrap {
        file: "osm.yaml",
        certificates: &["service-cert:${NAMESPACE}/${OWN_NAME}"],
        bundles: &[
            "root-cert-for-mtls-inbound:${NAMESPACE}/${OWN_NAME}",
            "root-cert-for-mtls-outbound:${NAMESPACE}/${PEER_NAME}",
        ],
        aggregated: true,
        values: &[],
    };
    let parties = [party("bookbuyer", 0), party("bookstore", 1)];
    serves(&mut server, &bootstrap, parties, "mesh root", |server| server.set_mesh(&of_hours(2))).await;
    assert_eq!(ledger.len(), 4, "{}", ledger.summary());
    assert!(server.stop(SHUTDOWN).await.success());
    no_requests_left(cluster, &place.system).await;
}

/// Each diff of docs/migrating.md leads to what these tests run.
#[test]
fn the_guide_shows_the_bootstraps_that_are_tested() {
    let read = |path: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let files = ["spire", "istio-workload", "kuma-spire", "kuma", "kuma-token-file", "osm"];
    let guide = read("docs/migrating.md");
    let diffs: Vec<_> = guide.split("```diff\n").skip(1).map(|rest| rest.split("```").next().unwrap_or(rest)).collect();
    assert_eq!(diffs.len(), files.len());
    for (diff, file) in diffs.into_iter().zip(files) {
        let bootstrap = read(&format!("tests/fixtures/bootstraps/{file}.yaml"));
        let bootstrap: Vec<_> = bootstrap.lines().collect();
        // In a list, a diff is as far in as the list.
        let margin = diff.len() - diff.trim_start_matches(' ').len();
        let mut hunks: Vec<Vec<&str>> = Vec::new();
        for line in diff.lines().filter_map(|line| line.get(margin..)) {
            match (line.get(..1), hunks.last_mut()) {
                (Some(" " | "+"), Some(hunk)) => hunk.push(&line[1..]),
                (Some("@"), _) => hunks.push(Vec::new()),
                _ => {}
            }
        }
        assert!(!hunks.is_empty(), "{file}");
        for hunk in hunks {
            let is_there = bootstrap.windows(hunk.len()).any(|lines| lines.iter().zip(&hunk).all(|(a, b)| fits(a, b)));
            assert!(is_there, "{file}.yaml does not have:\n{}", hunk.join("\n"));
        }
    }
}

/// Whether a line of a bootstrap may become this one, once its placeholder is filled.
fn fits(line: &str, filled: &str) -> bool {
    match line.split_once("${") {
        None => line == filled,
        Some((before, rest)) => {
            let after = rest.split_once('}').map_or("", |(_, after)| after);
            let literal = after.rsplit_once('}').filter(|_| after.contains("${")).map_or(after, |(_, after)| after);
            filled.len() > before.len() + literal.len() && filled.starts_with(before) && filled.ends_with(literal)
        }
    }
}
