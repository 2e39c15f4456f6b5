//! `deploy/node/`: a server on each node, which knows pods by the processes that come to its socket. There is no kubelet, so what
//! stays untried is what it does: the node's processes and folders in the pod, and who owns these.

use std::process::Command;

use k8s_openapi::api::core::v1::Pod as Object;
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};

use super::applied::{Applied, folder, kustomized, parsed};
use super::pod::Pod;
use super::{SYSTEM, Server};
use crate::e2e::peers::Cgroup;
use crate::support::bootstrap::printed;
use crate::support::envoy::{Envoy, StartedBy};
use crate::support::eventually::eventually;
use crate::support::proxy::free_address;
use crate::support::{PATIENCE, parts, scratch, wire};

/// What `kubectl kustomize deploy/node` makes.
fn manifests() -> Vec<Value> {
    let output = Command::new(parts::program("kubectl")).arg("kustomize").arg(folder().join("node")).output();
    let output = output.expect("kubectl starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    parsed("kubectl kustomize", &String::from_utf8_lossy(&output.stdout))
}

fn daemon_set(manifests: &[Value]) -> &Value {
    manifests.iter().find(|object| object["kind"] == "DaemonSet").expect("it is there")
}

/// Whether the API server would let such a pod in.
async fn admits(applied: &Applied, daemon_set: &Value) -> Result<(), String> {
    let template = &daemon_set["spec"]["template"];
    let metadata = json!({"name": "trial", "labels": template["metadata"]["labels"]});
    let pod = serde_json::from_value(json!({"metadata": metadata, "spec": template["spec"]})).expect("it is a pod");
    let pods = Api::<Object>::namespaced(applied.cluster.client().await, SYSTEM);
    let trial = PostParams { dry_run: true, ..PostParams::default() };
    pods.create(&trial, &pod).await.map(drop).map_err(|error| error.to_string())
}

/// Beside what `deploy/` is: the namespace is given the level that these pods need, the API server takes every field of them, and
/// an Envoy of a pod gets that pod's certificate by the socket.
pub(super) async fn serves_the_pods_of_its_node(applied: &Applied) {
    let manifests = manifests();
    let daemon_set = daemon_set(&manifests);
    let refused = admits(applied, daemon_set).await.expect_err("the level is still `restricted`");
    assert!(refused.contains("hostPID") && refused.contains("hostPath"), "{refused}");
    give_level("privileged", applied).await;
    eventually("the namespace has its new level", PATIENCE, async || admits(applied, daemon_set).await).await;
    for object in &manifests {
        applied.cluster.apply_strictly(object.clone()).await;
    }

    // A socket's path has to be short.
    let node = tempfile::Builder::new().prefix("sds").tempdir().expect("a temporary folder can be made");
    let socket = node.path().join("sds.sock").display().to_string();
    let pod = Pod::of(daemon_set, 0, applied).await;
    let mut server = Server::start(pod, ("/run/envoy-sds/sds.sock", &socket), applied).await;
    server.content().await;
    assert!(server.probe("readinessProbe"));

    let apps = applied.cluster.namespace("by-socket").await;
    applied.cluster.service_account(&apps, "web").await;
    let pod = applied.cluster.pod(&apps, "web-0", "web").await;
    let cgroup = Cgroup::of_pod(&pod.metadata.uid.expect("it has a uid"));
    let (inbound, outbound) = (free_address(), free_address());
    let arguments = [
        ("--identity", "unix".to_owned()),
        ("--server", format!("unix:{socket}")),
        ("--listen", inbound.to_string()),
        ("--outbound", outbound.to_string()),
        ("--upstream", inbound.to_string()),
    ];
    let arguments: Vec<_> = arguments.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
    let (bootstrap, _) = printed(&arguments);
    let mut envoy =
        Envoy::start_by(StartedBy::Cgroup(cgroup.path()), &bootstrap, &scratch::dir("envoy-by-socket")).await;
    envoy.ready(PATIENCE).await;
    let shown = wire::get(inbound, None).await.expect_err("a caller without a certificate is refused").chain;
    assert_eq!(shown[0].uris, [format!("spiffe://default/ns/{apps}/sa/web")]);
    give_level("restricted", applied).await;
}

async fn give_level(level: &str, applied: &Applied) {
    let metadata = json!({"name": SYSTEM, "labels": {"pod-security.kubernetes.io/enforce": level}});
    applied.cluster.apply(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})).await;
}

/// It is the same program with the same rights and the same mesh, and nothing that is for the replicas selects its pods.
#[test]
fn the_nodes_manifests_fit_those_of_the_replicas() {
    let (own, others) = (manifests(), kustomized());
    let daemon_set = daemon_set(&own);
    let stateful_set = others.iter().find(|object| object["kind"] == "StatefulSet").expect("it is there");
    let spec = |workload: &Value| workload["spec"]["template"]["spec"].clone();
    let (here, there) = (spec(daemon_set), spec(stateful_set));
    assert_eq!(here["serviceAccountName"], there["serviceAccountName"]);
    assert_eq!(here["containers"][0]["image"], there["containers"][0]["image"]);
    let is_there = |name: &Value| {
        own.iter().chain(&others).any(|object| object["kind"] == "ConfigMap" && object["metadata"]["name"] == *name)
    };
    let volumes = here["volumes"].as_array().expect("it has volumes");
    let mut config_maps = volumes.iter().map(|volume| &volume["configMap"]["name"]).filter(|name| name.is_string());
    assert!(config_maps.all(is_there));
    let label = &daemon_set["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"];
    assert_ne!(*label, stateful_set["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"]);
    let policy = own.iter().find(|object| object["kind"] == "NetworkPolicy").expect("it is there");
    for selector in [&daemon_set["spec"]["selector"], &policy["spec"]["podSelector"]] {
        assert_eq!(selector["matchLabels"]["app.kubernetes.io/name"], *label);
    }
}
