//! The files of `envoy-config/`, each by the command in its first line, with other addresses and paths: run by the Envoy of today and
//! by the oldest that is supported, which call each other.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{SHUTDOWN, cli};
use crate::support::bootstrap::Names;
use crate::support::cluster::Cluster;
use crate::support::deployment::Deployment;
use crate::support::envoy::StartedBy;
use crate::support::eventually::eventually;
use crate::support::http::{self, Answer};
use crate::support::mesh::builtin_mesh;
use crate::support::pki::{Leaf, TestCa};
use crate::support::proxy::{Login, Proxy, free_address};
use crate::support::server::{Listeners, NODE_ID, Server, Settings};
use crate::support::upstream::Upstream;
use crate::support::{PATIENCE, scratch};

const WEB: &str = "spiffe://default/web";
const COMMON: (&str, &[&str]) = ("default", &["ROOTCA"]);

/// How an Envoy proves who it is, as a file of `envoy-config/` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    ProxyToken,
    ServiceAccount,
    ClientCertificate,
    UnixPeer,
    NodeId,
}

/// A file, and what it asks for: a certificate and CAs. `NAMESPACE` stands for that of the test.
type Case = (&'static str, By, (&'static str, &'static [&'static str]));

const CASES: [Case; 14] = [
    ("proxy-token.yaml", By::ProxyToken, COMMON),
    ("api-delta.yaml", By::ProxyToken, COMMON),
    ("api-ads.yaml", By::ProxyToken, COMMON),
    ("names-kuma.yaml", By::ProxyToken, ("identity_cert:secret:default", &["mesh_ca:secret:default"])),
    ("application.yaml", By::ProxyToken, COMMON),
    ("service-account-envoy-grpc.yaml", By::ServiceAccount, COMMON),
    ("service-account-google-grpc.yaml", By::ServiceAccount, COMMON),
    (
        "names-osm.yaml",
        By::ServiceAccount,
        ("service-cert:NAMESPACE/web", &["root-cert-for-mtls-inbound:NAMESPACE/web", "root-cert-for-mtls-outbound"]),
    ),
    ("names-envoy-gateway.yaml", By::ServiceAccount, ("NAMESPACE/web", &["NAMESPACE/web/ca.crt"])),
    ("client-certificate.yaml", By::ClientCertificate, COMMON),
    ("unix-peer.yaml", By::UnixPeer, COMMON),
    ("names-spire.yaml", By::UnixPeer, (WEB, &["spiffe://default"])),
    ("names-istio.yaml", By::UnixPeer, ("sds://web", &["sds://web-cacert"])),
    ("unix-node-id.yaml", By::NodeId, COMMON),
];

/// Second files, which the bootstraps name.
const SECRETS: [&str; 4] =
    ["client-certificate-secret.yaml", "proxy-token-secret.yaml", "server-ca.yaml", "service-account-token.yaml"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy-config")
}

/// The arguments in the first line of a file: what is behind `# envoy-sds bootstrap`.
fn arguments_of(file: &str) -> Vec<String> {
    let text = fs::read_to_string(folder().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let command = text.lines().next().and_then(|line| line.strip_prefix("# envoy-sds bootstrap "));
    command.unwrap_or_else(|| panic!("{file} does not begin with its command")).split(' ').map(str::to_owned).collect()
}

/// Each file is what the command in its first line prints, and is run by one of the tests below.
#[tokio::test]
async fn every_file_is_what_its_command_prints() {
    let files: BTreeSet<String> = fs::read_dir(folder())
        .expect("the folder is there")
        .map(|entry| entry.expect("it can be read").file_name().into_string().expect("it is UTF-8"))
        .collect();
    let known: BTreeSet<String> = CASES.iter().map(|(file, ..)| *file).chain(SECRETS).map(str::to_owned).collect();
    assert_eq!(files, known, "files that are tested here, and files that are there");
    for file in &files {
        let arguments = arguments_of(file);
        let mut words = vec!["bootstrap"];
        words.extend(arguments.iter().map(String::as_str));
        let printed = cli::run(&words, &scratch::dir("bootstrap"), Duration::from_secs(60)).await;
        let said = String::from_utf8_lossy(&printed.stderr);
        assert!(printed.status.success(), "{file}: {said}");
        let expected = fs::read_to_string(folder().join(file)).expect("it can be read");
        let text = String::from_utf8(printed.stdout).expect("it is text");
        assert_eq!(text, expected, "{file} is not what its first line gives: run that and put its output there");
    }
}

/// Runs the files of one way to prove who one is: two Envoys of different versions, which are one workload, call each other.
async fn run(server: &mut Server, by: By, login: Login<'_>, namespace: &str, spiffe_id: &str) {
    let application = Upstream::start("the application").await;
    for (file, _, (certificate, cas)) in CASES.into_iter().filter(|(_, how, _)| *how == by) {
        let mut arguments = arguments_of(file);
        if by == By::ServiceAccount {
            arguments.extend(
                ["--namespace", namespace, "--client-id", spiffe_id, "--upstream-id", spiffe_id].map(str::to_owned),
            );
        }
        let forwards = arguments.iter().any(|argument| argument == "--application");
        if forwards {
            arguments.extend(["--application".to_owned(), application.address.to_string()]);
            arguments.extend(["--client-id", spiffe_id, "--upstream-id", spiffe_id].map(str::to_owned));
        }
        let login = match login {
            Login::EnvoyGrpc { token } if arguments.iter().any(|argument| argument == "google") => {
                Login::GoogleGrpc { token }
            }
            login => login,
        };
        let own = |name: &&str| name.replace("NAMESPACE", namespace);
        let names = || Names {
            certificates: vec![own(&certificate)],
            bundles: cas.iter().map(own).collect(),
            aggregated: false,
        };
        let (one, other) = (free_address(), free_address());
        let start = |program, own, peer| Proxy::by_arguments(program, server, login, &arguments, names(), (own, peer));
        let (newest, oldest) = tokio::join!(start("envoy", one, other), start("envoy-oldest", other, one));
        let mut both = [newest, oldest];
        for proxy in &mut both {
            proxy.ready().await;
            proxy.is_connected(PATIENCE).await;
            if file == "api-ads.yaml" {
                proxy.envoy.stat_becomes("control_plane.connected_state", PATIENCE, |connected| connected == 1).await;
            }
            let chain = proxy.shown().await.unwrap_or_else(|error| panic!("{file}, {}: {error}", proxy.name));
            assert_eq!(chain[0].uris, [spiffe_id], "{file}, {}", proxy.name);
            let answer = answer_through(proxy).await;
            assert_eq!(answer.header("x-server"), spiffe_id, "{file}, {}: {answer:?}", proxy.name);
            match forwards {
                true => {
                    assert_eq!((answer.body.as_str(), answer.header("x-version")), ("the application", "HTTP/1.1"));
                    // Each on its own protocol, all the way: gRPC has no other.
                    let answer = http::get_by_http2(proxy.outbound, "/").await.expect("HTTP/2 is taken as well");
                    assert_eq!((answer.body.as_str(), answer.header("x-version")), ("the application", "HTTP/2.0"));
                }
                false => assert_eq!(answer.header("x-client"), spiffe_id, "{file}, {}: {answer:?}", proxy.name),
            }
        }
    }
    for metric in ["nacks_total", "withheld_total"] {
        assert_eq!(server.metric(metric, &[]).await, Ok(0.0), "{metric}\n{}", server.log_tail());
    }
    server.assert_discreet();
    assert!(server.stop(SHUTDOWN).await.success());
}

/// The answer to a request that goes to the peer, once that is there.
async fn answer_through(proxy: &Proxy) -> Answer {
    eventually(&format!("an answer through {}", proxy.name), PATIENCE, async || {
        let answer = http::get(proxy.outbound, "/").await?;
        if answer.status == 200 { Ok(answer) } else { Err(answer.body) }
    })
    .await
}

async fn server(identify: &str, listeners: Listeners<'_>) -> Server {
    let settings = Settings { mesh: &builtin_mesh("1h"), identify, ..NODE_ID };
    let mut server = Server::start_with(settings, listeners).await;
    server.ready().await;
    server
}

/// A proxy token for the workload `web`.
async fn token(server: &Server) -> String {
    let state_dir = server.state_dir().display().to_string();
    let issue = ["token", "issue", "--state-dir", &state_dir, "--name", "web-0", "--workload", "web"];
    let issued = cli::run(&issue, &scratch::dir("token"), Duration::from_secs(60)).await;
    String::from_utf8(issued.stdout).expect("it is text")
}

#[tokio::test]
async fn by_proxy_token() {
    let mut server = server("{proxyToken: {}}", Listeners::default()).await;
    let token = token(&server).await;
    run(&mut server, By::ProxyToken, Login::ProxyToken { token: &token }, "", WEB).await;
}

/// The CAs alone say "a member of the mesh". Whom the bootstrap does not name is refused all the same, by Envoys of both versions: as a
/// caller, and as who is called.
#[tokio::test]
async fn a_member_that_the_bootstrap_does_not_name_is_refused() {
    let mut server = server("{proxyToken: {}}", Listeners::default()).await;
    let token = token(&server).await;
    let login = Login::ProxyToken { token: &token };
    for flag in ["--client-id", "--upstream-id"] {
        let mut arguments = arguments_of("proxy-token.yaml");
        arguments.extend([flag, "spiffe://default/another"].map(str::to_owned));
        let (certificate, cas) = COMMON;
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let names = || Names { certificates: own(&[certificate]), bundles: own(cas), aggregated: false };
        let (one, other) = (free_address(), free_address());
        let start = |program, own, peer| Proxy::by_arguments(program, &server, login, &arguments, names(), (own, peer));
        let (newest, oldest) = tokio::join!(start("envoy", one, other), start("envoy-oldest", other, one));
        let mut both = [newest, oldest];
        for proxy in &mut both {
            proxy.ready().await;
        }
        for proxy in &both {
            let answer = eventually("Envoy answers", PATIENCE, async || http::get(proxy.outbound, "/").await).await;
            assert_eq!(answer.status, 503, "{flag}, from {}: {answer:?}", proxy.name);
        }
        // For that reason and no other: its name.
        for proxy in &both {
            let at = proxy.inbound;
            let place = match flag {
                "--client-id" => format!("listener.{}_{}", at.ip(), at.port()),
                _ => "cluster.peer".to_owned(),
            };
            let stat = format!("{place}.ssl.fail_verify_san");
            proxy.envoy.stat_becomes(&stat, PATIENCE, |refused| refused > 0).await;
        }
    }
    assert!(server.stop(SHUTDOWN).await.success());
}

#[tokio::test]
async fn by_service_account() {
    let cluster = Cluster::shared();
    let place = Deployment::new(cluster, "bootstraps").await;
    let naming = "naming: {profiles: [spire, istio, kuma, osm, envoy-gateway]}";
    let mut server = place.serve_with(&builtin_mesh("1h"), naming).await;
    server.ready().await;
    let token = place.workload("web").await;
    let login = Login::EnvoyGrpc { token: &token };
    run(&mut server, By::ServiceAccount, login, &place.apps, &place.spiffe_id("web")).await;
}

#[tokio::test]
async fn by_client_certificate() {
    let ca = TestCa::root("clients");
    let crl = ca.crl(&[]);
    let listeners = Listeners { clients: Some((ca.root_pem.as_str(), crl.as_str())), ..Listeners::default() };
    let mut server = server("{clientCertificate: {}}", listeners).await;
    let identity = ca.issue(&Leaf::spiffe(WEB));
    run(&mut server, By::ClientCertificate, Login::ClientCertificate { identity: &identity }, "", WEB).await;
}

/// The server's certificate comes to be of another CA: proxies believe both for a time, then the new one alone, and are never started
/// anew. Without the bootstrap's third file, they would know the first CA only, and never come back.
#[tokio::test]
async fn another_ca_of_the_server_is_taken_up_as_envoy_runs() {
    let clients = TestCa::root("clients");
    let crl = clients.crl(&[]);
    let listeners = Listeners { clients: Some((clients.root_pem.as_str(), crl.as_str())), ..Listeners::default() };
    let mut server = server("{clientCertificate: {}}", listeners).await;
    let identity = clients.issue(&Leaf::spiffe(WEB));
    let login = Login::ClientCertificate { identity: &identity };
    let arguments = arguments_of("client-certificate.yaml");
    let (one, other) = (free_address(), free_address());
    let start =
        |program, own, peer| Proxy::by_arguments(program, &server, login, &arguments, Names::default(), (own, peer));
    let (newest, oldest) = tokio::join!(start("envoy", one, other), start("envoy-oldest", other, one));
    let mut both = [newest, oldest];
    for proxy in &mut both {
        proxy.ready().await;
        proxy.is_connected(PATIENCE).await;
    }

    let old = fs::read_to_string(server.ca_file()).expect("it is there");
    let next = TestCa::root("the next SDS server CA");
    let new = next.root_pem.clone();
    believe(&server, &both, &format!("{old}{new}")).await;
    let before = restart(&mut server, &both, next).await;
    for proxy in &both {
        proxy.is_connected(PATIENCE).await;
    }
    believe(&server, &both, &new).await;
    restart(&mut server, &both, before).await;
    for proxy in &both {
        proxy.envoy.stat_becomes("cluster.sds.ssl.fail_verify_error", PATIENCE, |refused| refused > 0).await;
    }
    // It hears why from each, and says so.
    server
        .metric_becomes("tls_handshakes_failed_total", &[("reason", "server_certificate")], |failed| failed > 1.0)
        .await;
    server.logs("WARN", &["TLS handshakes fail", "does not accept this server's certificate: alert UnknownCA"]).await;
    let page = http::get(server.admin, "/").await.expect("there is a status page").body;
    assert!(page.contains("does not accept this server's certificate"), "{page}");
    assert!(server.stop(SHUTDOWN).await.success());
}

/// Replaces the file of CAs, and waits until the Envoys have it.
async fn believe(server: &Server, proxies: &[Proxy], pem: &str) {
    const TAKEN: &str = "cluster.sds.client_ssl_socket_factory.ssl_context_update_by_sds";
    let mut before = Vec::new();
    for proxy in proxies {
        before.push(proxy.envoy.stat(TAKEN).await.expect("Envoy answers"));
    }
    server.set_ca_file(pem);
    for (proxy, before) in proxies.iter().zip(before) {
        proxy.envoy.stat_becomes(TAKEN, PATIENCE, |now| now > before).await;
    }
}

/// Starts the server anew, with a certificate of this CA; all connections have ended by then. Gives the CA before.
async fn restart(server: &mut Server, proxies: &[Proxy], ca: TestCa) -> TestCa {
    assert!(server.stop(SHUTDOWN).await.success());
    for proxy in proxies {
        for stat in proxy.names.connected() {
            proxy.envoy.stat_becomes(&stat, PATIENCE, |connected| connected == 0).await;
        }
    }
    let before = server.replace_ca(ca);
    server.start_again().await;
    before
}

#[tokio::test]
async fn by_unix_peer() {
    let user = fs::metadata("/proc/self").expect("there is /proc").uid();
    let identify = format!("{{unixPeer: [{{uid: {user}, name: web-0, workload: web}}]}}");
    let mut server = server(&identify, Listeners::default()).await;
    run(&mut server, By::UnixPeer, Login::UnixPeer { process: StartedBy::Test }, "", WEB).await;
}

#[tokio::test]
async fn by_node_id() {
    let mut server = server("{insecureNodeId: true}", Listeners::default()).await;
    run(&mut server, By::NodeId, Login::NodeId, "", WEB).await;
}
