//! The manifests of `deploy/`, taken at their word in a cluster of their own: the API server accepts every field of them, the
//! real cert-manager does what they ask of it, and server and Envoys run as their pods would. There is no kubelet: what it
//! would do with a pod (mounts, the token, names of Services) is done here.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};

use super::SHUTDOWN;
use crate::support::cluster::{Cluster, ClusterOptions, client_from};
use crate::support::envoy::Envoy;
use crate::support::eventually::eventually;
use crate::support::process::Process;
use crate::support::proxy::free_address;
use crate::support::server::PROGRAM;
use crate::support::{PATIENCE, http, scratch, wire};

const SYSTEM: &str = "kong-mesh-system";
const EXAMPLE: &str = "envoy-sds-example";

/// A cluster that has cert-manager, and what was applied to it.
struct Applied {
    cluster: Cluster,
    objects: Vec<Value>,
}

impl Applied {
    /// `kubectl apply -k deploy/` and `kubectl apply -f deploy/example.yaml`. A field that the API server does not know is
    /// an error.
    async fn all() -> Self {
        let cluster = Cluster::start(ClusterOptions::default()).await;
        let mut objects = kustomized();
        objects.extend(documents("example.yaml"));
        for object in &objects {
            cluster.apply_strictly(object.clone()).await;
        }
        Self { cluster, objects }
    }

    fn the(&self, kind: &str, namespace: &str, name: &str) -> &Value {
        let is_it = |object: &&Value| {
            let metadata = &object["metadata"];
            object["kind"] == kind && metadata["name"] == name && metadata["namespace"] == namespace
        };
        self.objects.iter().find(is_it).unwrap_or_else(|| panic!("there is no {kind} {namespace}/{name}"))
    }

    async fn config_map(&self, namespace: &str, name: &str) -> Value {
        let found = self.cluster.get("v1", "ConfigMap", Some(namespace), name).await;
        found.unwrap_or_else(|| panic!("there is no ConfigMap {name}")).data["data"].take()
    }

    /// What is in a Secret, once cert-manager has made it.
    async fn secret(&self, namespace: &str, name: &str, key: &str) -> Vec<u8> {
        eventually(&format!("the Secret {name} has {key}"), PATIENCE, async || {
            let secret = self.cluster.get("v1", "Secret", Some(namespace), name).await;
            let secret = secret.ok_or("it is not there")?;
            let text = secret.data["data"][key].as_str().filter(|text| !text.is_empty());
            STANDARD.decode(text.ok_or("the key is not there")?).map_err(|error| error.to_string())
        })
        .await
    }
}

/// A pod of a workload, made for real: whether its namespace's security level lets it in is the API server's to say.
struct Pod {
    name: String,
    container: Value,
    account: String,
    dir: PathBuf,
    /// Where paths of the container are here.
    mounts: Vec<(String, PathBuf)>,
}

impl Pod {
    async fn of(workload: &Value, ordinal: usize, applied: &Applied) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text(&workload["metadata"]["namespace"]), text(&workload["metadata"]["name"]));
        let pod_name = format!("{name}-{ordinal}");
        let template = &workload["spec"]["template"];
        let mut spec = template["spec"].clone();
        let claims = workload["spec"]["volumeClaimTemplates"].as_array().cloned().unwrap_or_default();
        for claim in &claims {
            let name = &claim["metadata"]["name"];
            let volume = json!({"name": name, "persistentVolumeClaim": {"claimName": name}});
            spec["volumes"].as_array_mut().expect("it has volumes").push(volume);
        }
        let metadata = json!({"name": pod_name, "namespace": namespace, "labels": template["metadata"]["labels"]});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        applied.cluster.apply_strictly(pod).await;

        let dir = scratch::dir(&pod_name);
        let [container] = spec["containers"].as_array().expect("it has containers").as_slice() else {
            panic!("{name} has several containers");
        };
        let account = text(&spec["serviceAccountName"]);
        let mut pod = Self { name: pod_name.clone(), container: container.clone(), account, dir, mounts: Vec::new() };
        let wanted = container["volumeMounts"].as_array().expect("it mounts something");
        for mount in wanted {
            let here = pod.dir.join(text(&mount["name"]));
            fs::create_dir(&here).expect("the scratch folder can be written");
            pod.mounts.push((text(&mount["mountPath"]), here));
        }
        for (mount, (_, here)) in wanted.iter().zip(&pod.mounts) {
            let volume = spec["volumes"].as_array().and_then(|all| all.iter().find(|one| one["name"] == mount["name"]));
            let volume = volume.unwrap_or_else(|| panic!("nothing is called {}", mount["name"]));
            pod.fill(here, volume, (&namespace, &pod_name), applied).await;
        }
        pod
    }

    async fn fill(&self, here: &Path, volume: &Value, (namespace, pod): (&str, &str), applied: &Applied) {
        let write = |name: &str, content: &[u8]| fs::write(here.join(name), content).expect("it can be written");
        if let Some(name) = volume["configMap"]["name"].as_str() {
            let data = applied.config_map(namespace, name).await;
            for (name, content) in data.as_object().expect("it has data") {
                write(name, self.here(content.as_str().expect("it is text")).as_bytes());
            }
        } else if let Some(name) = volume["secret"]["secretName"].as_str() {
            for item in volume["secret"]["items"].as_array().expect("it says which") {
                let (key, path) = (item["key"].as_str().expect("a key"), item["path"].as_str().expect("a path"));
                write(path, &applied.secret(namespace, name, key).await);
            }
        } else if let Some(sources) = volume["projected"]["sources"].as_array() {
            let token = &sources[0]["serviceAccountToken"];
            let audience = token["audience"].as_str().expect("it has an audience");
            let ttl = Duration::from_secs(token["expirationSeconds"].as_u64().expect("it ends"));
            let cluster = &applied.cluster;
            let text = cluster.service_account_token(namespace, &self.account, Some(pod), &[audience], ttl).await;
            write(token["path"].as_str().expect("it has a path"), text.as_bytes());
        } else {
            assert!(volume["persistentVolumeClaim"].is_object(), "nobody knows how to mount {volume}");
        }
    }

    /// A text with the container's paths, with the paths here.
    fn here(&self, text: &str) -> String {
        let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '-' || c == '_');
        self.mounts.iter().fold(text.to_owned(), |text, (path, here)| {
            let mut parts = text.split(path.as_str());
            let mut mapped = parts.next().unwrap_or_default().to_owned();
            for part in parts {
                let here = here.display().to_string();
                mapped.push_str(if ends(part) { &here } else { path });
                mapped.push_str(part);
            }
            mapped
        })
    }

    fn file(&self, path: &str) -> String {
        fs::read_to_string(self.here(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn args(&self) -> Vec<String> {
        let args = self.container["args"].as_array().expect("it has arguments").iter();
        args.map(|arg| self.here(arg.as_str().expect("it is text")).replace("$(POD_NAME)", &self.name)).collect()
    }

    fn port(&self, name: &str) -> u64 {
        let ports = self.container["ports"].as_array().expect("it has ports");
        let port = ports.iter().find(|port| port["name"] == name).unwrap_or_else(|| panic!("no port is called {name}"));
        port["containerPort"].as_u64().expect("a number")
    }
}

/// The server, as its pod would run.
struct Server {
    process: Process,
    kubeconfig: PathBuf,
    admin: SocketAddr,
    pod: Pod,
}

impl Server {
    /// A replica, at the Service's address.
    async fn start(ordinal: usize, at: SocketAddr, applied: &Applied) -> Self {
        let pod = Pod::of(applied.the("StatefulSet", SYSTEM, "envoy-sds"), ordinal, applied).await;
        let admin = free_address();
        let config = pod.here("/etc/envoy-sds/config/server.yaml");
        let text = fs::read_to_string(&config).expect("it is there");
        let listened = format!("0.0.0.0:{}", pod.port("sds"));
        assert!(text.contains(&listened) && !text.contains("admin"), "{text}");
        fs::write(&config, text.replace(&listened, &at.to_string())).expect("it can be written");

        // What the pod finds in its own service account's folder.
        let kubeconfig = applied.cluster.kubeconfig_for(SYSTEM, &pod.account).await;
        let mut command = Command::new(PROGRAM);
        command.args(pod.args()).args(["--admin", &admin.to_string()]).arg("--kubeconfig").arg(&kubeconfig);
        command.env_clear();
        let process = Process::start("envoy-sds", command, &pod.dir);
        Self { process, kubeconfig, admin, pod }
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
    let mut server = Server::start(0, at, &applied).await;
    server.content().await;
    assert!(server.probe("readinessProbe"));

    // The command at the top of example.yaml.
    let ca = applied.secret(SYSTEM, "envoy-sds-tls", "ca.crt").await;
    let data = json!({"ca.crt": String::from_utf8(ca).expect("it is PEM")});
    let metadata = json!({"name": "envoy-sds-ca", "namespace": EXAMPLE});
    applied.cluster.apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})).await;
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
    let mut shop = envoy(&shop, &places).await;
    web.ready(PATIENCE).await;
    shop.ready(PATIENCE).await;

    let [shop_id, web_id] = ["shop", "web"].map(|name| format!("spiffe://default/ns/{EXAMPLE}/sa/{name}"));
    let request_arrives = async || {
        let answer = http::get(outbound, "/").await.expect("shop's Envoy answers");
        let seen = [answer.body.as_str(), answer.header("x-client"), answer.header("x-server")];
        assert_eq!((answer.status, seen), (200, ["hello from web\n", shop_id.as_str(), web_id.as_str()]));
    };
    request_arrives().await;
    let shown = wire::get(inbound, None).await.expect_err("a caller without a certificate is refused").chain;
    server.has_two("ROOTCA ACKED, default ACKED").await;

    // The CA's key is in the same namespace.
    let secrets = Api::<Secret>::namespaced(client_from(&server.kubeconfig).await, SYSTEM);
    match secrets.list(&ListParams::default()).await {
        Err(kube::Error::Api(status)) => assert_eq!(status.code, 403, "{status:?}"),
        other => panic!("the server may read Secrets: {:?}", other.map(|list| list.items.len())),
    }

    server.process.stop(SHUTDOWN).await;
    let mut other = Server::start(1, at, &applied).await;
    other.content().await;
    other.has_two("default HELD").await;
    assert_eq!(wire::get(inbound, None).await.expect_err("as before").chain, shown);
    request_arrives().await;
    other.process.assert_running();
}

/// What selects pods selects the server's, and rights are taken from those that are explained, never added to them.
#[test]
fn the_manifests_fit_each_other() {
    let objects = kustomized();
    let the = |kind: &str| objects.iter().find(|object| object["kind"] == kind).expect("it is there");
    let template = &the("StatefulSet")["spec"]["template"];
    let labels = template["metadata"]["labels"].as_object().expect("it has labels");
    let mut selectors = Vec::new();
    for object in &objects {
        let spec = &object["spec"];
        selectors.extend(match object["kind"].as_str().unwrap_or_default() {
            "Service" => Some(&spec["selector"]),
            "NetworkPolicy" => Some(&spec["podSelector"]["matchLabels"]),
            "PodDisruptionBudget" | "StatefulSet" => Some(&spec["selector"]["matchLabels"]),
            _ => None,
        });
    }
    assert_eq!(selectors.len(), 5);
    for selector in selectors {
        let selector = selector.as_object().expect("it selects by label");
        assert!(!selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value)));
    }
    let image = &template["spec"]["containers"][0]["image"];
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

/// What `kubectl kustomize deploy` makes: of kustomize, this is what kustomization.yaml uses.
fn kustomized() -> Vec<Value> {
    let [kustomization] = documents("kustomization.yaml").try_into().expect("it is one document");
    let list = |key: &str| kustomization[key].as_array().cloned().unwrap_or_default();
    let known = ["apiVersion", "kind", "images", "resources", "patches"];
    let used = kustomization.as_object().expect("it is a map").keys();
    assert_eq!(used.filter(|key| !known.contains(&key.as_str())).collect::<Vec<_>>(), [""; 0]);
    let mut objects: Vec<Value> =
        list("resources").iter().flat_map(|file| documents(file.as_str().expect("a file"))).collect();
    for patch in list("patches") {
        for patch in documents(patch["path"].as_str().expect("a file")) {
            let is_it = |object: &&mut Value| {
                ["/kind", "/metadata/name", "/metadata/namespace"]
                    .iter()
                    .all(|at| object.pointer(at) == patch.pointer(at))
            };
            let patched = objects.iter_mut().find(is_it).expect("what is patched is there");
            // Rules are replaced as a whole.
            patched["rules"] = patch["rules"].clone();
        }
    }
    for image in list("images") {
        for container in objects.iter_mut().flat_map(|object| {
            let containers = object.pointer_mut("/spec/template/spec/containers").and_then(Value::as_array_mut);
            containers.into_iter().flatten()
        }) {
            if container["image"] == image["name"] {
                let text = |key: &str| image[key].as_str().expect("it is text").to_owned();
                container["image"] = json!(format!("{}:{}", text("newName"), text("newTag")));
            }
        }
    }
    objects
}

fn documents(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
    serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{file}: {error}"))
}
