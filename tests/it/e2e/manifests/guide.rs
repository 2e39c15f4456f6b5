//! The commands of docs/kubernetes.md, typed, and what README has of them.

use std::collections::BTreeMap;
use std::process::Command;

use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::applied::{Applied, documents, folder, kustomized, read};
use super::{EXAMPLE, SYSTEM};
use crate::support::http::Answer;
use crate::support::{parts, scratch};

/// The commands at the top of example.yaml, which are those of README and docs/kubernetes.md.
pub(super) fn copy_ca(applied: &Applied) {
    let example = read(&folder().join("example.yaml"));
    let commands: Vec<_> = example.lines().filter_map(|line| line.strip_prefix("#   ")).collect();
    let commands = commands.join("\n");
    assert!(commands.contains("kubectl apply -f -"), "{commands}");
    for page in ["README.md", "docs/kubernetes.md"] {
        let text = read(&folder().join("..").join(page));
        assert!(text.contains(&format!("\n{commands}\n```\n")), "{page} does not have {commands}");
    }
    run(&commands, applied);
}

/// README and guide show what shop's Envoy answers, but for the moment at which it did, once both workloads are there: ports are
/// forwarded by nodes, so here the port is asked itself.
pub(super) fn shows(answer: &Answer, applied: &Applied) {
    const WAIT: &str =
        "kubectl -n envoy-sds-example wait --for=condition=Available deployment/shop deployment/web --timeout=5m";
    const REQUEST: &str = "\
        $ kubectl -n envoy-sds-example port-forward deployment/shop 8080 >/dev/null &\n\
        $ curl -si --retry 20 --retry-delay 1 --retry-all-errors 127.0.0.1:8080\n";
    are_available(&["shop", "web"], applied);
    let commands = format!("$ {WAIT}\n{}{REQUEST}", run(WAIT, applied));
    let varies = |name: &str| ["date", "x-envoy-upstream-service-time"].contains(&name);
    for page in ["README.md", "docs/kubernetes.md"] {
        let text = read(&folder().join("..").join(page));
        let (_, session) = text.split_once(&commands).unwrap_or_else(|| panic!("{page} does not have {commands}"));
        let (head, rest) = session.split_once("\n\n").expect("a body follows");
        let (body, _) = rest.split_at(answer.body.len());
        let mut head = head.lines();
        assert_eq!(head.next(), Some(&*format!("HTTP/1.1 {} OK", answer.status)), "{page}");
        let headers = head.map(|line| line.split_once(": ").expect("a header"));
        let headers: BTreeMap<_, _> = headers.map(|(name, value)| (name, (!varies(name)).then_some(value))).collect();
        let answered = answer.headers.iter().filter(|(name, _)| *name != "connection");
        let answered = answered.map(|(name, value)| (name.as_str(), (!varies(name)).then_some(value.as_str())));
        assert_eq!(headers, answered.collect(), "{page}");
        assert_eq!(body, answer.body, "{page}");
    }
}

/// What the controller of Deployments says when their pods are ready, which is when their probes say so: without one, it would be as
/// soon as the program runs.
fn are_available(deployments: &[&str], applied: &Applied) {
    let status = json!({"status": {"conditions": [{"type": "Available", "status": "True"}]}});
    for name in deployments {
        let deployment = applied.the("Deployment", EXAMPLE, name);
        let probe = deployment.pointer("/spec/template/spec/containers/0/readinessProbe");
        assert!(probe.is_some_and(Value::is_object), "{name} has no readinessProbe");
        let patch =
            format!("kubectl -n {EXAMPLE} patch deployment/{name} --subresource=status --type=merge -p '{status}'");
        run(&patch, applied);
    }
}

/// Types commands at the top of the repository, as the cluster's administrator; gives what they say.
fn run(commands: &str, applied: &Applied) -> String {
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
    String::from_utf8_lossy(&output.stdout).into_owned()
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
