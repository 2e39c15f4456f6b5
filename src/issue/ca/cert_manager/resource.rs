//! The `CertificateRequest` resource, as much of it as is needed, and how ours look.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::CustomResource;
use kube::api::ObjectMeta;
use serde::{Deserialize, Serialize};

use crate::issue::ca::SigningRequest;
use crate::model::policy::IssuerRef;

/// Label on everything this program creates.
pub(super) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Its value.
pub(super) const MANAGER: &str = "envoy-sds";
/// Label: which server process created it. One watch per process selects by it, and the sweep asks whether it lives.
pub(super) const INSTANCE: &str = "envoy-sds.io/instance";
/// Annotation: which call of `sign` it belongs to, known before the object has a name.
pub(super) const ATTEMPT: &str = "envoy-sds.io/attempt";
const MESH: &str = "kuma.io/mesh";
const ZONE: &str = "kuma.io/zone";
const PROXY: &str = "envoy-sds.io/proxy";
const SPIFFE_ID: &str = "envoy-sds.io/spiffe-id";

/// The exact four that interface.md names. cert-manager's webhook refuses a CSR whose own usages differ.
const USAGES: [&str; 4] = ["digital signature", "key encipherment", "server auth", "client auth"];

/// `spec` of a CertificateRequest; immutable once created.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "cert-manager.io",
    version = "v1",
    kind = "CertificateRequest",
    status = "CertificateRequestStatus",
    schema = "disabled",
    doc = "cert-manager's CertificateRequest, v1. Reading is lenient: whatever is missing is empty.",
    namespaced
)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct CertificateRequestSpec {
    /// The CSR: base64 of PEM.
    pub(super) request: String,
    pub(super) issuer_ref: IssuerReference,
    /// A Go duration; absent leaves it to the issuer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) duration: Option<String>,
    pub(super) usages: Vec<String>,
    #[serde(rename = "isCA")]
    pub(super) is_ca: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct IssuerReference {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) group: String,
}

/// `status` of a CertificateRequest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct CertificateRequestStatus {
    pub(super) conditions: Option<Vec<Condition>>,
    /// base64 of PEM: the leaf, then intermediates.
    pub(super) certificate: Option<String>,
    /// base64 of PEM: the highest CA that the issuer knows, which may be an intermediate.
    pub(super) ca: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Condition {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) status: String,
    pub(super) reason: String,
    pub(super) message: String,
}

/// What all requests of this process have in common.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    pub(super) namespace: String,
    pub(super) instance: String,
    pub(super) zone: String,
}

impl Origin {
    /// Selects what this process has created.
    pub(super) fn own(&self) -> String {
        format!("{MANAGED_BY}={MANAGER},{INSTANCE}={}", self.instance)
    }

    /// Selects what other processes of this program have created.
    pub(super) fn foreign(&self) -> String {
        format!("{MANAGED_BY}={MANAGER},{INSTANCE}!={}", self.instance)
    }

    /// The object to POST; `csr` is the request (PKCS#10), DER.
    pub(super) fn request(
        &self,
        attempt: &str,
        issuer: &IssuerRef,
        asked: &SigningRequest,
        csr: Vec<u8>,
    ) -> CertificateRequest {
        let mut labels = BTreeMap::from([
            (MANAGED_BY.to_owned(), MANAGER.to_owned()),
            (INSTANCE.to_owned(), self.instance.clone()),
            (MESH.to_owned(), label_value(&asked.mesh)),
            (PROXY.to_owned(), label_value(&asked.proxy)),
        ]);
        if !self.zone.is_empty() {
            labels.insert(ZONE.to_owned(), label_value(&self.zone));
        }
        let annotations = BTreeMap::from([
            (SPIFFE_ID.to_owned(), asked.spiffe_id.to_string()),
            (ATTEMPT.to_owned(), attempt.to_owned()),
        ]);
        let csr = pem::encode_config(
            &pem::Pem::new("CERTIFICATE REQUEST", csr),
            pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
        );
        CertificateRequest {
            metadata: ObjectMeta {
                generate_name: Some(generate_name(&asked.mesh, &asked.proxy)),
                namespace: Some(self.namespace.clone()),
                labels: Some(labels),
                annotations: Some(annotations),
                ..ObjectMeta::default()
            },
            spec: CertificateRequestSpec {
                request: STANDARD.encode(csr),
                issuer_ref: IssuerReference {
                    name: issuer.name.clone(),
                    kind: issuer.kind.clone(),
                    group: issuer.group.clone(),
                },
                duration: asked.lifetime.map(go_duration),
                usages: USAGES.map(str::to_owned).to_vec(),
                is_ca: false,
            },
            status: None,
        }
    }
}

/// Which call of `sign` an object belongs to.
pub(super) fn attempt_of(metadata: &ObjectMeta) -> Option<&str> {
    metadata.annotations.as_ref()?.get(ATTEMPT).map(String::as_str)
}

/// `<mesh>-<proxy>-` as DNS-1123 has it. The API server adds five characters and cuts the rest to 58; it is cut here so
/// that it ends well, and so that a long mesh name leaves room for the proxy's.
fn generate_name(mesh: &str, proxy: &str) -> String {
    let mut parts = [dns_label(mesh, 24), dns_label(proxy, 32)].to_vec();
    parts.retain(|part| !part.is_empty());
    if parts.is_empty() { format!("{MANAGER}-") } else { parts.join("-") + "-" }
}

fn dns_label(text: &str, length: usize) -> String {
    let mut label = String::new();
    for c in text.chars().map(|c| c.to_ascii_lowercase()) {
        let c = if c.is_ascii_alphanumeric() { c } else { '-' };
        if label.len() < length && !(c == '-' && (label.is_empty() || label.ends_with('-'))) {
            label.push(c);
        }
    }
    label.trim_end_matches('-').to_owned()
}

/// `text` if it can be a label's value, else a hash of it.
fn label_value(text: &str) -> String {
    let alphanumeric = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    let fits = text.len() <= 63
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && alphanumeric(text.chars().next())
        && alphanumeric(text.chars().next_back());
    if fits {
        return text.to_owned();
    }
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    format!("sha256-{}", hex::encode(&hash.as_ref()[..16]))
}

fn go_duration(lifetime: Duration) -> String {
    match lifetime.subsec_millis() {
        0 => format!("{}s", lifetime.as_secs()),
        _ => format!("{}ms", lifetime.as_millis()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names() {
        for (mesh, proxy, expected) in [
            ("default", "web-0", "default-web-0-"),
            ("Default_Mesh", "ns/web.0/uid", "default-mesh-ns-web-0-uid-"),
            ("", "", "envoy-sds-"),
            ("--", "web", "web-"),
            (&"m".repeat(80), &"p".repeat(80), &format!("{}-{}-", "m".repeat(24), "p".repeat(32))),
        ] {
            assert_eq!(generate_name(mesh, proxy), expected);
        }
    }

    #[test]
    fn labels() {
        assert_eq!(label_value("web-0.a_b"), "web-0.a_b");
        assert_eq!(label_value(""), "");
        for odd in ["ns/web", "-web", "web-", "ü", &"x".repeat(64)] {
            assert!(label_value(odd).starts_with("sha256-"), "{odd}");
            assert_eq!(label_value(odd).len(), 39);
        }
        assert_ne!(label_value("a/b"), label_value("a/c"));
    }

    #[test]
    fn durations() {
        assert_eq!(go_duration(Duration::from_secs(86_400)), "86400s");
        assert_eq!(go_duration(Duration::from_millis(90_500)), "90500ms");
    }

    #[test]
    fn the_object_is_what_interface_md_says() {
        let origin = Origin { namespace: "kong-mesh-system".into(), instance: "i1".into(), zone: "east".into() };
        let issuer = IssuerRef { name: "ca".into(), kind: "Issuer".into(), group: "cert-manager.io".into() };
        let asked = SigningRequest {
            mesh: "default".into(),
            proxy: "web-0".into(),
            spiffe_id: "spiffe://default/web".into(),
            lifetime: None,
            request_timeout: Duration::from_secs(10),
        };
        let object = serde_json::to_value(origin.request("a1", &issuer, &asked, vec![0x30, 0])).unwrap();
        assert_eq!(
            object,
            serde_json::json!({
                "apiVersion": "cert-manager.io/v1",
                "kind": "CertificateRequest",
                "metadata": {
                    "generateName": "default-web-0-",
                    "namespace": "kong-mesh-system",
                    "labels": {
                        "app.kubernetes.io/managed-by": "envoy-sds",
                        "envoy-sds.io/instance": "i1",
                        "envoy-sds.io/proxy": "web-0",
                        "kuma.io/mesh": "default",
                        "kuma.io/zone": "east",
                    },
                    "annotations": {"envoy-sds.io/spiffe-id": "spiffe://default/web", "envoy-sds.io/attempt": "a1"},
                },
                "spec": {
                    "request": STANDARD.encode("-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n"),
                    "issuerRef": {"name": "ca", "kind": "Issuer", "group": "cert-manager.io"},
                    "usages": ["digital signature", "key encipherment", "server auth", "client auth"],
                    "isCA": false,
                },
            })
        );
    }

    proptest! {
        #[test]
        fn any_name_is_usable(mesh in ".{0,100}", proxy in ".{0,100}") {
            let name = generate_name(&mesh, &proxy);
            prop_assert!(name.len() <= 58);
            prop_assert!(name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()));
            prop_assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
            prop_assert!(label_value(&proxy).len() <= 63);
        }
    }
}
