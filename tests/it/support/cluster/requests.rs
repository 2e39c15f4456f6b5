//! CertificateRequests, from the administrator's side.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::Cluster;
use crate::support::PATIENCE;
use crate::support::eventually::eventually;

/// Which issuer is to sign.
#[derive(Debug, Clone, Copy)]
pub struct IssuerRef<'a> {
    /// `Issuer` or `ClusterIssuer`.
    pub kind: &'a str,
    pub name: &'a str,
}

/// What a signed request's status has, as PEM.
#[derive(Debug)]
pub struct Signed {
    pub certificate: String,
    /// Empty if the issuer does not tell.
    pub ca: String,
}

impl Cluster {
    pub async fn certificate_requests(&self, ns: &str) -> Vec<DynamicObject> {
        self.requests(ns).await.list(&ListParams::default()).await.expect("requests can be listed").items
    }

    /// Asks for a certificate for this signing request, as a workload's client and server certificate.
    pub async fn request_certificate(&self, ns: &str, name: &str, csr_pem: &str, issuer: IssuerRef<'_>) {
        self.apply(json!({
            "apiVersion": "cert-manager.io/v1",
            "kind": "CertificateRequest",
            "metadata": {"name": name, "namespace": ns},
            "spec": {
                "request": STANDARD.encode(csr_pem),
                "duration": "1h",
                "usages": ["digital signature", "server auth", "client auth"],
                "issuerRef": {"group": "cert-manager.io", "kind": issuer.kind, "name": issuer.name},
            },
        }))
        .await;
    }

    /// Waits until the request is signed; fails the test at once if it is denied or fails.
    pub async fn signed(&self, ns: &str, name: &str) -> Signed {
        let api = self.requests(ns).await;
        eventually(&format!("CertificateRequest {name} is signed"), PATIENCE, async || {
            let request = api.get(name).await.map_err(|error| error.to_string())?;
            let status = &request.data["status"];
            let refused = |reason: &str| matches!(reason, "Denied" | "Failed");
            let reasons = status["conditions"].as_array().into_iter().flatten().filter_map(|c| c["reason"].as_str());
            assert!(!reasons.clone().any(refused), "{status}");
            let text = |field: &str| {
                let bytes = STANDARD.decode(status[field].as_str().unwrap_or_default()).expect("it is base64");
                String::from_utf8(bytes).expect("it is PEM")
            };
            let signed = Signed { certificate: text("certificate"), ca: text("ca") };
            if signed.certificate.is_empty() { Err(status.to_string()) } else { Ok(signed) }
        })
        .await
    }

    /// Waits until the request's condition of that type has that status, and gives the condition.
    pub async fn request_condition(&self, ns: &str, name: &str, condition: &str, status: &str) -> Value {
        let api = self.requests(ns).await;
        eventually(&format!("CertificateRequest {name} has {condition}={status}"), PATIENCE, async || {
            let request = api.get(name).await.map_err(|error| error.to_string())?;
            let conditions = request.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let found = conditions.iter().find(|found| found["type"] == condition && found["status"] == status);
            found.cloned().ok_or_else(|| format!("{conditions:?}"))
        })
        .await
    }

    /// Approves a request, as another approver than cert-manager's own would.
    pub async fn approve(&self, ns: &str, name: &str) {
        self.judge(ns, name, "Approved").await;
    }

    /// Denies a request: nobody will ever sign it.
    pub async fn deny(&self, ns: &str, name: &str) {
        self.judge(ns, name, "Denied").await;
    }

    async fn judge(&self, ns: &str, name: &str, verdict: &str) {
        // An applied list of conditions is merged by type, so this sets one and leaves cert-manager's alone.
        let status = json!({
            "apiVersion": "cert-manager.io/v1",
            "kind": "CertificateRequest",
            "status": {"conditions": [{
                "type": verdict,
                "status": "True",
                "reason": "test",
                "message": "the test said so",
                "lastTransitionTime": "2020-01-01T00:00:00Z",
            }]},
        });
        self.requests(ns)
            .await
            .patch_status(name, &PatchParams::apply("test-approver").force(), &Patch::Apply(&status))
            .await
            .expect("the status can be set");
    }

    async fn requests(&self, ns: &str) -> Api<DynamicObject> {
        let gvk = GroupVersionKind::gvk("cert-manager.io", "v1", "CertificateRequest");
        Api::namespaced_with(self.client().await, ns, &ApiResource::from_gvk(&gvk))
    }
}
