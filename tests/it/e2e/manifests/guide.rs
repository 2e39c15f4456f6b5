//! The commands of docs/kubernetes.md, typed.

use std::process::Command;

use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::SYSTEM;
use super::applied::{Applied, documents, folder, kustomized, read};
use crate::support::{parts, scratch};

/// The commands at the top of example.yaml, which are those of docs/kubernetes.md.
pub(super) fn copy_ca(applied: &Applied) {
    let example = read(&folder().join("example.yaml"));
    let commands: Vec<_> = example.lines().filter_map(|line| line.strip_prefix("#   ")).collect();
    let commands = commands.join("\n");
    assert!(commands.contains("kubectl apply -f -"), "{commands}");
    assert!(read(&folder().join("../docs/kubernetes.md")).contains(&format!("\n{commands}\n```\n")), "{commands}");
    run(&commands, applied);
}

/// Types commands at the top of the repository, as the cluster's administrator.
fn run(commands: &str, applied: &Applied) {
    let kubectl = parts::program("kubectl");
    let mut path = kubectl.parent().expect("it is in a folder").as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", commands])
        .current_dir(folder().join(".."))
        .env("PATH", path)
        .env("HOME", scratch::dir("kubectl"))
        .env("KUBECONFIG", applied.cluster.kubeconfig())
        .output()
        .expect("bash starts");
    assert!(output.status.success(), "{commands}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The rest of what docs/kubernetes.md has typed, but for what only a cluster with nodes can do.
pub(super) async fn takes_all_away(applied: &Applied) {
    let guide = read(&folder().join("../docs/kubernetes.md"));
    let is_typed = |line: &str| assert!(guide.contains(line), "docs/kubernetes.md does not have {line}");
    for command in [
        "kubectl label namespace kong-mesh-system pod-security.kubernetes.io/enforce=restricted",
        "kubectl -n kong-mesh-system rollout restart statefulset/envoy-sds",
        "kubectl apply -f deploy/crds.yaml",
        "kubectl apply -f deploy/monitoring/",
    ] {
        is_typed(command);
        if command.contains("monitoring") {
            applied.cluster.apply(pod_monitors()).await;
            applied
                .cluster
                .condition(CRDS, "CustomResourceDefinition", None, "podmonitors.monitoring.coreos.com", "Established")
                .await;
        }
        run(command, applied);
    }
    // As the controller of StatefulSets makes one, for each replica.
    let set = applied.the("StatefulSet", SYSTEM, "envoy-sds");
    let mut claim = set["spec"]["volumeClaimTemplates"][0].clone();
    claim["apiVersion"] = json!("v1");
    claim["kind"] = json!("PersistentVolumeClaim");
    let labels = &set["spec"]["selector"]["matchLabels"];
    claim["metadata"] = json!({"name": "state-envoy-sds-0", "namespace": SYSTEM, "labels": labels});
    applied.cluster.apply(claim).await;

    let (_, rest) = guide.split_once("To take it all away:\n\n```sh\n").expect("the guide says how");
    let (commands, _) = rest.split_once("```").expect("it ends");
    // Nobody here finishes the deletion of a namespace or a volume.
    for command in commands.lines() {
        run(&format!("{command} --wait=false"), applied);
    }
    for object in kustomized().iter().chain(&documents("example.yaml")) {
        let text = |at: &str| object.pointer(at).and_then(Value::as_str);
        let (version, kind, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
        let (version, kind, name) = (version.expect("a version"), kind.expect("a kind"), name.expect("a name"));
        let left = applied.cluster.get(version, kind, text("/metadata/namespace"), name).await;
        let is_going = |left: &DynamicObject| left.metadata.deletion_timestamp.is_some();
        assert!(left.as_ref().is_none_or(is_going), "{kind} {name} is left");
    }
    for (kind, name) in [
        ("Secret", "envoy-sds-ca"),
        ("Secret", "envoy-sds-tls"),
        ("Secret", "mesh-ca"),
        ("PersistentVolumeClaim", "state-envoy-sds-0"),
    ] {
        let left = applied.cluster.get("v1", kind, Some(SYSTEM), name).await;
        assert!(left.is_none_or(|left| left.metadata.deletion_timestamp.is_some()), "{kind} {name} is left");
    }
}

const CRDS: &str = "apiextensions.k8s.io/v1";

/// As much of the Prometheus operator as the API server needs to take its objects.
fn pod_monitors() -> Value {
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let version = json!({"name": "v1", "served": true, "storage": true, "schema": schema});
    let names = json!({"kind": "PodMonitor", "plural": "podmonitors", "singular": "podmonitor"});
    let group = "monitoring.coreos.com";
    json!({
        "apiVersion": CRDS,
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("podmonitors.{group}")},
        "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": [version]},
    })
}
