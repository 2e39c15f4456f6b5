//! Mesh resources that are objects of the cluster. A Mesh has no namespace, so this is a cluster of its own: no other
//! test's server is to see them.

use std::time::Duration;

use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};

use super::cli::run;
use super::{SHUTDOWN, Scene, strangers_before};
use crate::support::cluster::{Cluster, ClusterOptions};
use crate::support::deployment::Deployment;
use crate::support::eventually::{eventually, throughout};
use crate::support::mesh::builtin_mesh;
use crate::support::server::Server;
use crate::support::wire::Certificate;
use crate::support::{PATIENCE, scratch};

const API: &str = "kuma.io/v1alpha1";
/// A resource file with nothing to serve.
const IDLE: &str = "{type: Mesh, name: idle}\n";
const KINDS: [&str; 3] = ["meshes", "meshidentities", "meshtrusts"];

/// Everything that a Mesh in the cluster goes through, under traffic: its definition is installed while the server runs,
/// it is broken and mended, a file takes its place and gives it back, another one is not affected, and goes. Then the same
/// with definitions of Kuma's shape, which keep a status as a field or not at all.
#[tokio::test]
async fn meshes_of_the_cluster_are_served_and_told_how_they_fare() {
    let cluster = &Cluster::start(ClusterOptions { cert_manager: false, ..ClusterOptions::default() }).await;
    let place = Deployment::new(cluster, "objects").await;
    let mut server = place.serve(IDLE).await;
    for kind in KINDS {
        server.logs("INFO", &[kind, "not installed"]).await;
    }

    // `envoy-sds crds`, and what it defines.
    let crds = run(&["crds"], &scratch::dir("crds"), Duration::from_secs(60)).await;
    assert_eq!(crds.status.code(), Some(0));
    let crds = String::from_utf8(crds.stdout).expect("the definitions are text");
    assert_eq!(crds, include_str!("../../../deploy/crds.yaml"));
    install(cluster, &crds).await;
    cluster.apply(mesh("default", "ca-1", "1h")).await;
    cluster.apply(mesh("other", "ca-1", "1h")).await;
    says(cluster, "Mesh", None, "default", "True", "Accepted", "").await;
    says(cluster, "Mesh", None, "other", "True", "Accepted", "").await;
    server.ready().await;
    let pair = place.pair(&server).await;
    let strangers = strangers_before(&pair, &place.spiffe_id("web"), "default");
    let mut scene = Scene::begin(pair, strangers).await;
    scene.both_show("a leaf of 1 h", |leaf| lifetime(leaf) == 3630).await;

    // Nonsense: what was good stays, the object and an Event say why, and the other mesh is what it was.
    cluster.apply(mesh("default", "nobody", "2h")).await;
    says(cluster, "Mesh", None, "default", "False", "Invalid", "spec.mtls.enabledBackend").await;
    server.says(&["Mesh default (cluster)", "spec.mtls.enabledBackend", "nobody"]).await;
    told(cluster, "default", "Warning", "Invalid", "spec.mtls.enabledBackend").await;
    scene.goes_on("with a broken Mesh").await;
    cluster.apply(mesh("other", "ca-1", "3h")).await;
    let other = says(cluster, "Mesh", None, "other", "True", "Accepted", "").await;
    assert_eq!(other["observedGeneration"], 2);
    scene.both_show("the leaf of 1 h still", |leaf| lifetime(leaf) == 3630).await;

    cluster.apply(mesh("default", "ca-1", "2h")).await;
    let ready = says(cluster, "Mesh", None, "default", "True", "Accepted", "").await;
    assert_eq!(ready["observedGeneration"], 3);
    told(cluster, "default", "Normal", "Accepted", "in force").await;
    scene.both_show("a leaf of 2 h", |leaf| lifetime(leaf) == 7230).await;
    server.is_content().await;

    // A file wins, for as long as it is there.
    server.set_mesh(&builtin_mesh("3h"));
    scene.both_show("a leaf of 3 h", |leaf| lifetime(leaf) == 10_830).await;
    says(cluster, "Mesh", None, "default", "False", "ShadowedByFile", "mesh.yaml").await;
    server.says(&["Mesh default (cluster)", "mesh.yaml"]).await;
    server.set_mesh(IDLE);
    scene.both_show("a leaf of 2 h again", |leaf| lifetime(leaf) == 7230).await;
    says(cluster, "Mesh", None, "default", "True", "Accepted", "").await;

    // One goes; the other, and its status, are left alone.
    cluster.delete(API, "Mesh", None, "other").await;
    server.logs("INFO", &["resources have changed", "\"meshes\":1"]).await;
    settles(cluster, "Mesh", None, "default").await;
    server.stop(SHUTDOWN).await;
    server.assert_discreet();
    scene.end().await;

    kuma(cluster, &crds).await;
}

/// With definitions of Kuma's shape, instead of those that are there.
async fn kuma(cluster: &Cluster, crds: &str) {
    for kind in KINDS {
        let name = format!("{kind}.kuma.io");
        cluster.delete("apiextensions.k8s.io/v1", "CustomResourceDefinition", None, &name).await;
        eventually(&format!("{name} is gone"), PATIENCE, async || {
            let found = cluster.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", None, &name).await;
            if found.is_none() { Ok(()) } else { Err("it is there".to_owned()) }
        })
        .await;
    }
    let definitions = [
        definition(crds, "meshes", &json!({})),
        definition(
            crds,
            "meshidentities",
            &json!({"conditions": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
                "items": {
                    "type": "object",
                    "required": ["message", "reason", "status", "type"],
                    "properties": {
                        "type": {"type": "string"}, "status": {"type": "string"},
                        "reason": {"type": "string", "minLength": 1}, "message": {"type": "string"},
                    },
                },
            }}),
        ),
        definition(crds, "meshtrusts", &json!({"origin": {"type": "object"}})),
    ];
    install(cluster, &definitions.map(|definition| definition.to_string()).join("\n---\n")).await;

    let place = Deployment::new(cluster, "kuma").await;
    let (system, ns) = (place.system.as_str(), Some(place.system.as_str()));
    // What `deploy/rbac.yaml` has as a comment, for one of the kinds.
    let rule = json!({"apiGroups": ["kuma.io"], "resources": ["meshidentities"], "verbs": ["patch"]});
    let metadata = json!({"name": "patch-identities", "namespace": system});
    let rbac = "rbac.authorization.k8s.io/v1";
    cluster.apply(json!({"apiVersion": rbac, "kind": "Role", "metadata": metadata, "rules": [rule]})).await;
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "patch-identities"});
    let subject = json!({"kind": "ServiceAccount", "name": "envoy-sds", "namespace": system});
    cluster
        .apply(json!({"apiVersion": rbac, "kind": "RoleBinding", "metadata": metadata, "roleRef": role,
            "subjects": [subject]}))
        .await;

    cluster.apply(mesh("default", "ca-1", "1h")).await;
    let provider = json!({"type": "Bundled",
        "bundled": {"autogenerate": {"enabled": true}, "insecureAllowSelfSigned": true}});
    let metadata = json!({"name": "identity", "namespace": system, "labels": {"kuma.io/mesh": "default"}});
    let spec = json!({"selector": {"dataplane": {"matchLabels": {"app": "none"}}}, "provider": provider});
    cluster.apply(json!({"apiVersion": API, "kind": "MeshIdentity", "metadata": metadata, "spec": spec})).await;
    let mut server: Server = place.serve(IDLE).await;
    server.ready().await;

    // The status is a field of its own: it is written once, with what the definition keeps of it.
    let ready = says(cluster, "MeshIdentity", ns, "identity", "True", "Accepted", "").await;
    assert_eq!(ready["observedGeneration"], Value::Null);
    settles(cluster, "MeshIdentity", ns, "identity").await;

    // A Mesh keeps none, so it is left alone; that one is broken is told all the same.
    server.logs("INFO", &["no status is written", "Mesh"]).await;
    cluster.apply(mesh("default", "nobody", "2h")).await;
    server.says(&["Mesh default (cluster)", "spec.mtls.enabledBackend"]).await;
    told(cluster, "default", "Warning", "Invalid", "nobody").await;
    settles(cluster, "Mesh", None, "default").await;
    let token = place.workload("web").await;
    let caller = crate::support::sds::Caller { node: "web", workload: "web", token: Some(&token) };
    let served = crate::support::sds::fetch(&server.socket, caller, &["default"]).await.expect("it is served");
    assert_eq!(lifetime(&served["default"].certificates()[0]), 3630, "the last good is in force");
    server.stop(SHUTDOWN).await;
    server.assert_discreet();
}

fn mesh(name: &str, enabled: &str, lifetime: &str) -> Value {
    let backend = json!({"name": "ca-1", "type": "builtin", "dpCert": {"rotation": {"expiration": lifetime}}});
    let spec = json!({"mtls": {"enabledBackend": enabled, "backends": [backend]}});
    json!({"apiVersion": API, "kind": "Mesh", "metadata": {"name": name}, "spec": spec})
}

/// The builtin CA dates leaves back by 30 s.
fn lifetime(leaf: &Certificate) -> i64 {
    leaf.not_after - leaf.not_before
}

/// Applies definitions, and waits until their kinds are served.
async fn install(cluster: &Cluster, definitions: &str) {
    cluster.apply_yaml(definitions).await;
    for kind in KINDS {
        let name = format!("{kind}.kuma.io");
        let kind = "CustomResourceDefinition";
        cluster.condition("apiextensions.k8s.io/v1", kind, None, &name, "Established").await;
    }
}

/// The definition of `plural`, without a status subresource and with no more in its status than Kuma's has.
fn definition(crds: &str, plural: &str, status: &Value) -> Value {
    let all: Vec<Value> = serde_saphyr::from_multiple(crds).expect("the definitions are YAML");
    let mut found = all.into_iter().find(|one| one["spec"]["names"]["plural"] == plural).expect("it is there");
    let version = found["spec"]["versions"][0].as_object_mut().expect("there is a version");
    version.remove("subresources");
    version.remove("additionalPrinterColumns");
    let fields = version["schema"]["openAPIV3Schema"]["properties"].as_object_mut().expect("there is a schema");
    fields.remove("status");
    if status.as_object().is_some_and(|status| !status.is_empty()) {
        fields.insert("status".to_owned(), json!({"type": "object", "properties": status}));
    }
    found
}

/// Waits until the object's condition `Ready` is this, and observed in its newest generation if that is kept; gives it.
async fn says(
    cluster: &Cluster,
    kind: &str,
    ns: Option<&str>,
    name: &str,
    status: &str,
    reason: &str,
    message: &str,
) -> Value {
    eventually(&format!("{kind} {name} is Ready: {status}, {reason}"), PATIENCE, async || {
        let object = cluster.get(API, kind, ns, name).await.ok_or("it is not there")?;
        let conditions = object.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions.into_iter().find(|found| found["type"] == "Ready").unwrap_or_default();
        let newest = ready["observedGeneration"].as_i64().is_none_or(|seen| Some(seen) == object.metadata.generation);
        let said = ready["message"].as_str().unwrap_or_default();
        let as_wanted = ready["status"] == status && ready["reason"] == reason && said.contains(message) && newest;
        if as_wanted { Ok(ready) } else { Err(ready.to_string()) }
    })
    .await
}

/// Waits until an Event about the Mesh says this.
async fn told(cluster: &Cluster, mesh: &str, kind: &str, reason: &str, note: &str) {
    let events = Api::<Event>::namespaced(cluster.client().await, "default");
    eventually(&format!("an Event {kind} {reason}"), PATIENCE, async || {
        let all = events.list(&ListParams::default()).await.map_err(|error| error.to_string())?.items;
        let found = all.iter().any(|event| {
            event
                .regarding
                .as_ref()
                .is_some_and(|it| it.kind.as_deref() == Some("Mesh") && it.name.as_deref() == Some(mesh))
                && event.type_.as_deref() == Some(kind)
                && event.reason.as_deref() == Some(reason)
                && event.note.as_ref().is_some_and(|said| said.contains(note))
        });
        if found { Ok(()) } else { Err(format!("{all:?}")) }
    })
    .await;
}

/// Checks that nobody writes an object any more.
async fn settles(cluster: &Cluster, kind: &str, ns: Option<&str>, name: &str) {
    let version = async || {
        let object = cluster.get(API, kind, ns, name).await.expect("it is there");
        object.metadata.resource_version.expect("it has a version")
    };
    let before = version().await;
    throughout(&format!("{kind} {name} is left alone"), Duration::from_secs(4), async || {
        let now = version().await;
        if now == before { Ok(()) } else { Err(format!("{before}, then {now}")) }
    })
    .await;
}
