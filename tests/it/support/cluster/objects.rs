//! Making and waiting for objects of any kind.

use std::sync::atomic::{AtomicU32, Ordering};

use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::discovery::{Scope, pinned_kind};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::Cluster;
use crate::support::PATIENCE;
use crate::support::eventually::eventually;

/// The field manager of what tests apply.
const MANAGER: &str = "test";

impl Cluster {
    /// Makes a namespace that no other test has, and gives its name.
    pub async fn namespace(&self, prefix: &str) -> String {
        let name = self.unique(prefix);
        self.apply(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})).await;
        name
    }

    /// A name that nothing else in this test run has, for objects without a namespace.
    pub fn unique(&self, prefix: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        format!("{prefix}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Applies every document of a YAML text, in its order; a namespaced object without a namespace goes to `default`.
    pub async fn apply_yaml(&self, text: &str) -> Vec<DynamicObject> {
        let documents: Vec<Value> = serde_saphyr::from_multiple(text).expect("the text is YAML");
        let client = self.client().await;
        let mut applied = Vec::new();
        for document in documents {
            if !document.is_null() {
                applied.push(apply(&client, document, &forced()).await);
            }
        }
        applied
    }

    /// Applies one object (server-side), and fails the test if the API server refuses it.
    pub async fn apply(&self, object: Value) -> DynamicObject {
        apply(&self.client().await, object, &forced()).await
    }

    /// The same, and a field that the API server does not know is refused, too.
    pub async fn apply_strictly(&self, object: Value) -> DynamicObject {
        apply(&self.client().await, object, &forced().validation_strict()).await
    }

    /// An object by its kind; `None` if it is not there. No namespace for what has none.
    pub async fn get(&self, api_version: &str, kind: &str, ns: Option<&str>, name: &str) -> Option<DynamicObject> {
        let client = self.client().await;
        let (resource, _) = resource(&client, api_version, kind).await;
        api(client, &resource, ns).get_opt(name).await.expect("the API server answers")
    }

    /// Deletes an object by its kind; it need not be there.
    pub async fn delete(&self, api_version: &str, kind: &str, ns: Option<&str>, name: &str) {
        let client = self.client().await;
        let (resource, _) = resource(&client, api_version, kind).await;
        match api(client, &resource, ns).delete(name, &Default::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            result => drop(result.expect("the object can be deleted")),
        }
    }

    /// Waits until the object's condition of that type is `True`.
    pub async fn condition(&self, api_version: &str, kind: &str, ns: Option<&str>, name: &str, condition: &str) {
        let client = self.client().await;
        let (resource, _) = resource(&client, api_version, kind).await;
        let api = api(client, &resource, ns);
        eventually(&format!("{kind} {name} is {condition}"), PATIENCE, async || {
            let object = api.get(name).await.map_err(|error| error.to_string())?;
            let conditions = object.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
            match conditions.iter().find(|found| found["type"] == condition) {
                Some(found) if found["status"] == "True" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
}

fn forced() -> PatchParams {
    PatchParams::apply(MANAGER).force()
}

async fn apply(client: &Client, object: Value, how: &PatchParams) -> DynamicObject {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (api_version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
    let name = text(&object["metadata"]["name"]);
    let (resource, scope) = resource(client, &api_version, &kind).await;
    let namespace = match scope {
        Scope::Cluster => None,
        Scope::Namespaced => Some(object["metadata"]["namespace"].as_str().unwrap_or("default")),
    };
    api(client.clone(), &resource, namespace)
        .patch(&name, how, &Patch::Apply(&object))
        .await
        .unwrap_or_else(|error| panic!("{kind} {name} cannot be applied: {error}"))
}

/// What the API server calls a kind; waits for it, as a new kind is served a moment after its definition is there.
async fn resource(client: &Client, api_version: &str, kind: &str) -> (ApiResource, Scope) {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let gvk = GroupVersionKind::gvk(group, version, kind);
    eventually(&format!("the API server knows {api_version} {kind}"), PATIENCE, async || {
        let (resource, capabilities) = pinned_kind(client, &gvk).await.map_err(|error| error.to_string())?;
        Ok((resource, capabilities.scope))
    })
    .await
}

fn api(client: Client, resource: &ApiResource, namespace: Option<&str>) -> Api<DynamicObject> {
    match namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, resource),
        None => Api::all_with(client, resource),
    }
}
