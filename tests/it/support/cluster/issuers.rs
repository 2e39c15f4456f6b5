//! cert-manager's CA issuers, over authorities that the test made.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::{CERT_MANAGER_NAMESPACE, Cluster};
use crate::support::pki::TestCa;

const API_VERSION: &str = "cert-manager.io/v1";

impl Cluster {
    /// A ClusterIssuer over a new root, ready to sign. Its Secret has the same name.
    pub async fn cluster_ca_issuer(&self, name: &str) -> TestCa {
        let root = TestCa::root(&format!("{name} root"));
        self.ca_secret(CERT_MANAGER_NAMESPACE, name, &root, true).await;
        self.apply(json!({
            "apiVersion": API_VERSION,
            "kind": "ClusterIssuer",
            "metadata": {"name": name},
            "spec": {"ca": {"secretName": name}},
        }))
        .await;
        self.condition(API_VERSION, "ClusterIssuer", None, name, "Ready").await;
        root
    }

    /// An Issuer over a new intermediate, whose Secret also has the root (in `ca.crt`). Gives the intermediate.
    pub async fn ca_issuer_with_intermediate(&self, ns: &str, name: &str) -> TestCa {
        self.intermediate_issuer(ns, name, true).await
    }

    /// An Issuer over a new intermediate, whose Secret does not say what is above it. Gives the intermediate.
    pub async fn ca_issuer_with_intermediate_only(&self, ns: &str, name: &str) -> TestCa {
        self.intermediate_issuer(ns, name, false).await
    }

    async fn intermediate_issuer(&self, ns: &str, name: &str, with_root: bool) -> TestCa {
        let ca = TestCa::root(&format!("{name} root")).intermediate(&format!("{name} intermediate"));
        self.ca_secret(ns, name, &ca, with_root).await;
        self.apply(json!({
            "apiVersion": API_VERSION,
            "kind": "Issuer",
            "metadata": {"name": name, "namespace": ns},
            "spec": {"ca": {"secretName": name}},
        }))
        .await;
        self.condition(API_VERSION, "Issuer", Some(ns), name, "Ready").await;
        ca
    }

    /// Makes or replaces the Secret of a CA issuer: replacing it is how a CA is rotated.
    pub async fn ca_secret(&self, ns: &str, name: &str, ca: &TestCa, with_root: bool) {
        let mut data = json!({"tls.crt": STANDARD.encode(&ca.cert_pem), "tls.key": STANDARD.encode(ca.key_pem())});
        if with_root {
            data["ca.crt"] = json!(STANDARD.encode(&ca.root_pem));
        }
        self.apply(json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": ns},
            "type": "kubernetes.io/tls",
            "data": data,
        }))
        .await;
    }
}
