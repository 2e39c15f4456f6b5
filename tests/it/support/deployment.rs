//! A server in a cluster as an operator would deploy it: under its own service account, with no more rights than
//! `deploy/rbac.yaml` gives; and the workloads around it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::proxy::{Login, Proxy};
use super::server::{Kubernetes, Server, Settings};

/// The audience of the tokens that proxies present.
pub const AUDIENCE: &str = "envoy-sds";
/// How long a token of a test lives.
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);

const RBAC: &str = include_str!("../../../deploy/rbac.yaml");

/// The place of a server in a cluster, and of the workloads that it serves.
#[derive(Debug)]
pub struct Deployment<'a> {
    pub cluster: &'a Cluster,
    /// The system namespace: where requests, namespaced issuers and mesh Secrets are.
    pub system: String,
    /// The workloads' namespace.
    pub apps: String,
    kubeconfig: PathBuf,
}

impl<'a> Deployment<'a> {
    pub async fn new(cluster: &'a Cluster, name: &str) -> Self {
        let system = cluster.namespace(name).await;
        let apps = cluster.namespace(&format!("{name}-apps")).await;
        apply_rbac(cluster, &system).await;
        let kubeconfig = cluster.kubeconfig_for(&system, "envoy-sds").await;
        Self { cluster, system, apps, kubeconfig }
    }

    /// Starts a server that identifies proxies by their service account tokens.
    pub async fn serve(&self, mesh: &str) -> Server {
        self.serve_with(mesh, "").await
    }

    /// The same, with further lines of configuration.
    pub async fn serve_with(&self, mesh: &str, more: &str) -> Server {
        let identify = format!("{{serviceAccountToken: {{audiences: [{AUDIENCE}]}}}}");
        Server::start(Settings { mesh, identify: &identify, kubernetes: Some(self.kubernetes()), more }).await
    }

    /// For a server that is configured otherwise.
    pub fn kubernetes(&self) -> Kubernetes<'_> {
        Kubernetes { kubeconfig: &self.kubeconfig, system_namespace: &self.system }
    }

    /// A pod with a service account, both of that name; gives a token that is bound to the pod.
    pub async fn workload(&self, name: &str) -> String {
        self.cluster.service_account(&self.apps, name).await;
        self.pod(name, name).await
    }

    /// A further pod of a service account; gives a token that is bound to the pod.
    pub async fn pod(&self, name: &str, account: &str) -> String {
        self.cluster.pod(&self.apps, name, account).await;
        self.token(account, Some(name), AUDIENCE).await
    }

    pub async fn token(&self, account: &str, pod: Option<&str>, audience: &str) -> String {
        self.cluster.service_account_token(&self.apps, account, pod, &[audience], TOKEN_LIFETIME).await
    }

    /// The SPIFFE ID of a workload in the mesh `default`.
    pub fn spiffe_id(&self, account: &str) -> String {
        format!("spiffe://default/ns/{}/sa/{account}", self.apps)
    }

    /// Two workloads, `web` and `api`, each with an Envoy that calls the other's; one proves who it is by Google's gRPC
    /// client, the other by Envoy's.
    pub async fn pair(&self, server: &Server) -> (Proxy, Proxy) {
        let (web, api) = (self.workload("web").await, self.workload("api").await);
        Proxy::pair(server, ("web", Login::GoogleGrpc { token: &web }), ("api", Login::EnvoyGrpc { token: &api })).await
    }

    /// Makes or replaces a mesh Secret of the mesh `default`.
    pub async fn mesh_secret(&self, name: &str, value: &str) {
        self.secret(name, "system.kuma.io/secret", value).await;
    }

    /// Makes or replaces a Secret of the mesh `default` that looks like a mesh Secret but for its type.
    pub async fn secret(&self, name: &str, kind: &str, value: &str) {
        self.secret_of("default", name, kind, value).await;
    }

    /// Makes or replaces a Secret with the label of this mesh.
    pub async fn secret_of(&self, mesh: &str, name: &str, kind: &str, value: &str) {
        let metadata = json!({"name": name, "namespace": self.system, "labels": {"kuma.io/mesh": mesh}});
        let data = json!({"value": STANDARD.encode(value)});
        self.cluster
            .apply(json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": kind, "data": data}))
            .await;
    }

    pub async fn delete_secret(&self, name: &str) {
        self.cluster.delete("v1", "Secret", Some(&self.system), name).await;
    }

    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }
}

/// Applies `deploy/rbac.yaml` to another namespace. What is outside of it gets a name of its own, since the cluster may
/// have several such servers.
async fn apply_rbac(cluster: &Cluster, system: &str) {
    let text = RBAC.replace("kong-mesh-system", system);
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).expect("deploy/rbac.yaml is YAML");
    let own = |name: &mut Value| *name = json!(format!("{}-{system}", name.as_str().unwrap_or_default()));
    for mut object in objects {
        if object["metadata"]["namespace"] != system {
            own(&mut object["metadata"]["name"]);
            if object["roleRef"].is_object() {
                own(&mut object["roleRef"]["name"]);
            }
        }
        cluster.apply(object).await;
    }
}
