//! The manifests, and a cluster that they are applied to.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::SYSTEM;
use crate::support::PATIENCE;
use crate::support::cluster::{Cluster, ClusterOptions};
use crate::support::eventually::eventually;

/// A cluster that has cert-manager, and what was applied to it.
pub(super) struct Applied {
    pub(super) cluster: Cluster,
    objects: Vec<Value>,
}

impl Applied {
    /// `kubectl apply -k deploy/` and `kubectl apply -f deploy/example.yaml`, in a namespace with the level that
    /// docs/kubernetes.md gives one of the server's own. A field that the API server does not know is an error.
    pub(super) async fn all() -> Self {
        let cluster = Cluster::start(ClusterOptions::default()).await;
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let metadata = json!({"name": SYSTEM, "labels": labels});
        cluster.apply(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})).await;
        let mut objects = kustomized();
        objects.extend(documents("example.yaml"));
        for object in &objects {
            cluster.apply_strictly(object.clone()).await;
        }
        Self { cluster, objects }
    }

    pub(super) fn the(&self, kind: &str, namespace: &str, name: &str) -> &Value {
        let is_it = |object: &&Value| {
            let metadata = &object["metadata"];
            object["kind"] == kind && metadata["name"] == name && metadata["namespace"] == namespace
        };
        self.objects.iter().find(is_it).unwrap_or_else(|| panic!("there is no {kind} {namespace}/{name}"))
    }

    pub(super) async fn config_map(&self, namespace: &str, name: &str) -> Value {
        let found = self.cluster.get("v1", "ConfigMap", Some(namespace), name).await;
        found.unwrap_or_else(|| panic!("there is no ConfigMap {name}")).data["data"].take()
    }

    /// Changes a text of a ConfigMap in the cluster.
    pub(super) async fn edit(&self, namespace: &str, name: &str, key: &str, change: impl Fn(&str) -> String) {
        let mut data = self.config_map(namespace, name).await;
        data[key] = json!(change(data[key].as_str().expect("it is text")));
        let metadata = json!({"name": name, "namespace": namespace});
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data});
        self.cluster.apply_strictly(map).await;
    }

    /// What is in a Secret, once cert-manager has made it.
    pub(super) async fn secret(&self, namespace: &str, name: &str, key: &str) -> Vec<u8> {
        eventually(&format!("the Secret {name} has {key}"), PATIENCE, async || {
            let secret = self.cluster.get("v1", "Secret", Some(namespace), name).await;
            let secret = secret.ok_or("it is not there")?;
            let text = secret.data["data"][key].as_str().filter(|text| !text.is_empty());
            STANDARD.decode(text.ok_or("the key is not there")?).map_err(|error| error.to_string())
        })
        .await
    }
}

/// What `kubectl kustomize deploy` makes: of kustomize, this is what kustomization.yaml uses.
pub(super) fn kustomized() -> Vec<Value> {
    let [kustomization] = documents("kustomization.yaml").try_into().expect("it is one document");
    let list = |key: &str| kustomization[key].as_array().cloned().unwrap_or_default();
    // What it has replaced is as it was, as long as the namespace is: `policies` has it changed.
    let known = ["apiVersion", "kind", "images", "resources", "patches", "replacements"];
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

pub(super) fn documents(file: &str) -> Vec<Value> {
    parsed(file, &read(&folder().join(file)))
}

pub(super) fn parsed(what: &str, text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{what}: {error}"))
}

pub(super) fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// `deploy/`.
pub(super) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}
