//! The manifests of `deploy/`, taken at their word in a cluster of their own: the API server accepts every field of them, the
//! real cert-manager does what they ask of it, and server and Envoys run as their pods would. There is no kubelet: what it
//! would do with a pod (mounts, tokens, its service account, names of Services) is done here.

mod applied;
mod guide;
mod node;
mod pod;
mod policies;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::{Value, json};

use self::applied::{Applied, documents, folder, kustomized, parsed};
use self::pod::Pod;
use super::SHUTDOWN;
use crate::support::envoy::Envoy;
use crate::support::eventually::eventually;
use crate::support::process::Process;
use crate::support::proxy::free_address;
use crate::support::server::PROGRAM;
use crate::support::wire::Certificate;
use crate::support::{PATIENCE, http, parts, wire};

const SYSTEM: &str = "kong-mesh-system";
const EXAMPLE: &str = "envoy-sds-example";

/// The server, as its pod would run.
struct Server {
    process: Process,
    /// The rights that it has.
    kubeconfig: PathBuf,
    admin: SocketAddr,
    metrics: SocketAddr,
    pod: Pod,
}

impl Server {
    /// A replica, at the Service's address.
    async fn replica(ordinal: usize, at: SocketAddr, applied: &Applied) -> Self {
        let set = applied.the("StatefulSet", SYSTEM, "envoy-sds");
        Self::start(Pod::of(set, ordinal, applied).await, ("sds", &at.to_string()), applied).await
    }

    /// The server of a pod. Where it is found by Envoys, which is a port of the pod by its name or a socket by its path, is
    /// elsewhere here; so are metrics and the admin API.
    async fn start(pod: Pod, (listener, place): (&str, &str), applied: &Applied) -> Self {
        let (admin, metrics) = (free_address(), free_address());
        let config = pod.here("/etc/envoy-sds/config/server.yaml");
        let mut text = fs::read_to_string(&config).expect("it is there");
        for (name, place) in [(listener, place), ("metrics", &metrics.to_string())] {
            let is_path = name.starts_with('/');
            let listened = if is_path { pod.here(name) } else { format!("0.0.0.0:{}", pod.port(name)) };
            assert_eq!(text.matches(&listened).count(), 1, "{listened} in {text}");
            text = text.replace(&listened, place);
        }
        assert!(!text.contains("0.0.0.0"), "{text}");
        fs::write(&config, text).expect("it can be written");

        let kubeconfig = applied.cluster.kubeconfig_for(SYSTEM, &pod.account).await;
        let mut command = pod.command(PROGRAM, &kubeconfig, applied).await;
        command.args(["--admin", &admin.to_string()]);
        let process = Process::start("envoy-sds", command, &pod.dir);
        Self { process, kubeconfig, admin, metrics, pod }
    }

    /// Changes mesh.yaml as operators do, and has kubelet bring it to the pod.
    async fn edit_mesh(&self, applied: &Applied, from: &str, to: &str) {
        let change = |text: &str| {
            assert_eq!(text.matches(from).count(), 1, "{from} in {text}");
            text.replace(from, to)
        };
        applied.edit(SYSTEM, "envoy-sds", "mesh.yaml", change).await;
        self.pod.refresh(applied).await;
    }

    /// Waits until it is ready, and has nothing to warn of.
    async fn content(&mut self) {
        eventually("the server is content", PATIENCE, async || {
            self.process.assert_running();
            let answer = http::get(self.admin, "/readyz").await?;
            let body: Value = serde_json::from_str(&answer.body).map_err(|error| error.to_string())?;
            let warns = body["warnings"].as_object().is_some_and(|warnings| !warnings.is_empty());
            let content = answer.status == 200 && !warns;
            if content { Ok(()) } else { Err(format!("{body}\n{}", self.process.log_tail())) }
        })
        .await;
    }

    /// What a probe says, as kubelet would run it.
    fn probe(&self, name: &str) -> bool {
        let command = &self.pod.container[name]["exec"]["command"];
        let words: Vec<_> = command.as_array().expect("it has one").iter().filter_map(Value::as_str).collect();
        assert_eq!(words[0], "envoy-sds");
        self.run(&words[1..]).status.success()
    }

    /// Runs the program in its container.
    fn run(&self, args: &[&str]) -> Output {
        let output = Command::new(PROGRAM).args(args).args(["--admin", &self.admin.to_string()]).output();
        output.expect("the program can be run")
    }

    /// Waits until it says this of two proxies.
    async fn has_two(&self, secrets: &str) {
        eventually(&format!("two proxies have {secrets}"), PATIENCE, async || {
            let table = String::from_utf8_lossy(&self.run(&["proxies"]).stdout).into_owned();
            if table.matches(secrets).count() == 2 { Ok(()) } else { Err(table) }
        })
        .await;
    }
}

/// A quick start, from its first command to the request that arrives over mTLS. Then the replica is gone, and the other one takes
/// over its proxies with the certificates that they have: it needs nothing of the first one's volume.
#[tokio::test]
async fn a_cluster_with_cert_manager_needs_no_more_than_the_manifests() {
    let applied = Applied::all().await;
    let at = free_address();
    let mut server = Server::replica(0, at, &applied).await;
    server.content().await;
    assert!(server.probe("readinessProbe"));

    guide::copy_ca(&applied);
    guide::copy_ca(&applied);
    let web = Pod::of(applied.the("Deployment", EXAMPLE, "web"), 0, &applied).await;
    let shop = Pod::of(applied.the("Deployment", EXAMPLE, "shop"), 0, &applied).await;
    let (inbound, outbound) = (free_address(), free_address());
    let places = [
        (service(&applied, SYSTEM, "envoy-sds", &server.pod), at),
        (service(&applied, EXAMPLE, "web", &web), inbound),
        (socket_address("0.0.0.0", web.port("mtls")), inbound),
        (socket_address("127.0.0.1", 8080), outbound),
    ];
    let mut web = envoy(&web, &places).await;
    let shop_opens = || shop.probe("readinessProbe", ("127.0.0.1/8080", &format!("127.0.0.1/{}", outbound.port())));
    assert!(!shop_opens());
    let mut shop_envoy = envoy(&shop, &places).await;
    web.ready(PATIENCE).await;
    shop_envoy.ready(PATIENCE).await;
    assert!(shop_opens());

    let [shop_id, web_id] = ["shop", "web"].map(|name| format!("spiffe://default/ns/{EXAMPLE}/sa/{name}"));
    let request_arrives = async || {
        let answer = http::get(outbound, "/").await.expect("shop's Envoy answers");
        let seen = [answer.body.as_str(), answer.header("x-client"), answer.header("x-server")];
        assert_eq!((answer.status, seen), (200, ["hello from web\n", shop_id.as_str(), web_id.as_str()]));
        answer
    };
    guide::shows(&request_arrives().await, &applied);
    server.has_two("ROOTCA ACKED, default ACKED").await;

    // Each Service's name is one that the server can be known by.
    let shown = applied.secret(SYSTEM, "envoy-sds-tls", "tls.crt").await;
    let names = &Certificate::parse_all(&String::from_utf8_lossy(&shown))[0].dns_names;
    for service in ["envoy-sds", "envoy-sds-replicas"] {
        applied.the("Service", SYSTEM, service);
        for suffix in ["svc", "svc.cluster.local"] {
            let name = format!("{service}.{SYSTEM}.{suffix}");
            assert!(names.contains(&name), "{name} is not in {names:?}");
        }
    }

    // What Prometheus reaches.
    let scraped = http::get(server.metrics, "/metrics").await.expect("it answers");
    assert!(scraped.status == 200 && scraped.body.contains("\nenvoy_sds_ready 1\n"), "{scraped:?}");
    for path in ["/", "/readyz"] {
        assert_eq!(http::get(server.metrics, path).await.expect("it answers").status, 404, "{path}");
    }

    // An edit, first with a mistake, which changes nothing but what the server says.
    server.edit_mesh(&applied, "type: certmanager", "type: certmanagr").await;
    eventually("the mistake is told", PATIENCE, async || {
        let answer = http::get(server.admin, "/readyz").await?;
        if answer.body.contains("certmanagr") { Ok(()) } else { Err(answer.body) }
    })
    .await;
    request_arrives().await;
    server.edit_mesh(&applied, "type: certmanagr", "type: certmanager").await;
    server.edit_mesh(&applied, "expiration: 24h", "expiration: 12h").await;
    let shown = eventually("web has a certificate for 12 h", PATIENCE, async || {
        let shown = wire::get(inbound, None).await.expect_err("a caller without a certificate is refused").chain;
        let [leaf, ..] = shown.as_slice() else { return Err("no certificate".to_owned()) };
        if leaf.not_after - leaf.not_before < 13 * 3600 { Ok(shown) } else { Err(leaf.to_string()) }
    })
    .await;
    server.content().await;
    server.has_two("ROOTCA ACKED, default ACKED").await;
    policies::touches_nothing_of_others(&server.kubeconfig, &applied).await;
    policies::has_leaves_signed_and_nothing_else(&server.kubeconfig, &applied).await;
    policies::strangers_of_its_name_are_not_bound(&applied).await;

    server.process.stop(SHUTDOWN).await;
    let mut other = Server::replica(1, at, &applied).await;
    other.content().await;
    other.has_two("default HELD").await;
    assert_eq!(wire::get(inbound, None).await.expect_err("as before").chain, shown);
    request_arrives().await;
    other.process.assert_running();
    node::serves_the_pods_of_its_node(&applied).await;
    other.process.stop(SHUTDOWN).await;
    guide::takes_all_away(&applied).await;
}

/// What kubectl applies is what these tests apply.
#[test]
fn kustomize_makes_the_same_of_the_manifests() {
    let output = Command::new(parts::program("kubectl")).arg("kustomize").arg(folder()).output();
    let output = output.expect("kubectl starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let sorted = |mut objects: Vec<Value>| {
        objects.sort_by_key(|object| {
            ["/kind", "/metadata/namespace", "/metadata/name"].map(|at| object.pointer(at).map(Value::to_string))
        });
        objects
    };
    let theirs = sorted(parsed("kubectl kustomize", &String::from_utf8_lossy(&output.stdout)));
    assert_eq!(theirs, sorted(kustomized()));
}

/// What selects pods selects the server's, and rights are taken from those that are explained, never added to them.
#[test]
fn the_manifests_fit_each_other() {
    let objects = kustomized();
    // It would be deleted with the rest, and may be another's as well.
    assert!(objects.iter().all(|object| object["kind"] != "Namespace"));
    let the = |kind: &str| objects.iter().find(|object| object["kind"] == kind).expect("it is there");
    let template = &the("StatefulSet")["spec"]["template"];
    let labels = template["metadata"]["labels"].as_object().expect("it has labels");
    let mut selectors = Vec::new();
    let monitor = documents("monitoring/pod-monitor.yaml");
    for object in objects.iter().chain(&monitor) {
        let spec = &object["spec"];
        selectors.extend(match object["kind"].as_str().unwrap_or_default() {
            "Service" => Some(&spec["selector"]),
            "NetworkPolicy" => Some(&spec["podSelector"]["matchLabels"]),
            "PodDisruptionBudget" | "PodMonitor" | "StatefulSet" => Some(&spec["selector"]["matchLabels"]),
            _ => None,
        });
    }
    assert_eq!(selectors.len(), 6);
    for selector in selectors {
        let selector = selector.as_object().expect("it selects by label");
        assert!(!selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value)));
    }
    let container = &template["spec"]["containers"][0];
    let ports: Vec<_> = container["ports"].as_array().into_iter().flatten().map(|port| &port["name"]).collect();
    let ingress = the("NetworkPolicy")["spec"]["ingress"].as_array().expect("it lets somebody in");
    let opened = ingress.iter().flat_map(|rule| rule["ports"].as_array().expect("it says which"));
    assert_eq!(opened.map(|port| &port["port"]).collect::<Vec<_>>(), ports);
    assert!(ports.contains(&&monitor[0]["spec"]["podMetricsEndpoints"][0]["port"]));
    let image = &container["image"];
    assert!(image.as_str().is_some_and(|image| image.starts_with("envoy-sds:")), "{image}");

    let explained = documents("rbac.yaml");
    for role in objects.iter().filter(|object| object["rules"].is_array()) {
        let is_it = |other: &&Value| other["kind"] == role["kind"] && other["metadata"] == role["metadata"];
        let explained = explained.iter().find(is_it).expect("rbac.yaml has it")["rules"].as_array().cloned();
        for rule in role["rules"].as_array().expect("it has rules") {
            assert!(explained.iter().flatten().any(|other| other == rule), "rbac.yaml does not have {rule}");
        }
    }
}

/// Starts a pod's Envoy. What it would find by the names of Services, or listen on in a network of its own, is at `places`.
async fn envoy(pod: &Pod, places: &[(String, SocketAddr)]) -> Envoy {
    let args = pod.args();
    let after = |flag: &str| args.iter().skip_while(|arg| *arg != flag).nth(1).expect("it has the flag").clone();
    let bootstrap = pod.file(&after("-c"));
    let bootstrap = places.iter().fold(bootstrap, |text, (of, here)| {
        text.replace(of, &socket_address(&here.ip().to_string(), here.port().into()))
    });
    assert!(!bootstrap.contains(".svc, port_value"), "it names a Service that there is not: {bootstrap}");
    let node =
        json!({"id": after("--service-node").replace("$(POD_NAME)", "pod"), "cluster": after("--service-cluster")});
    Envoy::start(&format!("node: {node}\n{bootstrap}"), &pod.dir).await
}

/// As bootstraps write an address.
fn socket_address(host: &str, port: u64) -> String {
    format!("{{address: {host}, port_value: {port}}}")
}

/// A Service as bootstraps name it: one port, which leads to one of this pod's.
fn service(applied: &Applied, namespace: &str, name: &str, pod: &Pod) -> String {
    let service = applied.the("Service", namespace, name);
    let port = &service["spec"]["ports"][0];
    pod.port(port["targetPort"].as_str().expect("it leads to a port by name"));
    socket_address(&format!("{name}.{namespace}.svc"), port["port"].as_u64().expect("a number"))
}
