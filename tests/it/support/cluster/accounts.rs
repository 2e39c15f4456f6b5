//! Service accounts, their pods and their tokens.

use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;

use super::Cluster;

impl Cluster {
    pub async fn service_account(&self, ns: &str, name: &str) {
        let metadata = json!({"name": name, "namespace": ns});
        self.apply(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})).await;
    }

    /// A Pod object, for tokens to be bound to: there is no node to run it. The account must exist for that.
    pub async fn pod(&self, ns: &str, name: &str, service_account: &str) -> Pod {
        let object = self
            .apply(json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": ns},
                "spec": {"serviceAccountName": service_account, "containers": [{"name": "app", "image": "app"}]},
            }))
            .await;
        object.try_parse().expect("the API server gives a Pod for a Pod")
    }

    /// Deletes a pod without the grace in which its kubelet would stop it.
    pub async fn delete_pod_now(&self, ns: &str, name: &str) {
        let api = Api::<Pod>::namespaced(self.client().await, ns);
        api.delete(name, &DeleteParams::default().grace_period(0)).await.expect("the pod can be deleted");
    }

    /// A token as a kubelet gets it for a pod (or, without a pod, as `kubectl create token` does). No audience means
    /// the API server's own. The API server gives none for less than 10 minutes.
    pub async fn service_account_token(
        &self,
        ns: &str,
        name: &str,
        pod: Option<&str>,
        audiences: &[&str],
        ttl: Duration,
    ) -> String {
        let client = self.client().await;
        let bound_object_ref = match pod {
            None => None,
            Some(pod) => {
                let found = Api::<Pod>::namespaced(client.clone(), ns).get(pod).await.expect("the pod is there");
                Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: Some(pod.into()),
                    uid: found.metadata.uid,
                })
            }
        };
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(audiences.iter().map(ToString::to_string).collect()),
                bound_object_ref,
                expiration_seconds: Some(ttl.as_secs().try_into().expect("a time of this century")),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let answer = Api::<ServiceAccount>::namespaced(client, ns)
            .create_token_request(name, &PostParams::default(), &request)
            .await
            .expect("the API server gives a token");
        answer.status.and_then(|status| status.token).expect("with the token in its status")
    }

    /// A kubeconfig that is this service account, for a server that is to have no more rights than it.
    pub async fn kubeconfig_for(&self, ns: &str, name: &str) -> PathBuf {
        let token = self.service_account_token(ns, name, None, &[], Duration::from_secs(24 * 3600)).await;
        self.write_kubeconfig(&format!("{ns}-{name}"), &token)
    }
}
