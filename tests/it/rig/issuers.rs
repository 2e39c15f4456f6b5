//! What cert-manager 1.21 really gives for the three ways in which a CA issuer's Secret can be filled:
//!
//! | `tls.crt` of the Secret | its `ca.crt` | `status.certificate` | `status.ca`      |
//! |-------------------------|--------------|----------------------|------------------|
//! | root                    | root         | leaf                 | root             |
//! | intermediate            | root         | leaf, intermediate   | root             |
//! | intermediate            | none         | leaf, intermediate   | the intermediate |

use crate::support::cluster::{Cluster, IssuerRef, Signed};
use crate::support::pki::{TestCa, certs, spiffe_csr};
use crate::support::wire::Certificate;

const ID: &str = "spiffe://example.org/ns/default/sa/app";

/// Has a CSR signed by this issuer, and checks the leaf, which is the same whatever the issuer.
async fn sign(ns: &str, kind: &str, name: &str) -> (Signed, Certificate) {
    let cluster = Cluster::shared();
    let (csr, key) = spiffe_csr(ID);
    let request = cluster.unique("app");
    cluster.request_certificate(ns, &request, &csr, IssuerRef { kind, name }).await;
    let signed = cluster.signed(ns, &request).await;
    let leaf = Certificate::parse_all(&signed.certificate).remove(0);
    assert_eq!(leaf.uris, [ID]);
    assert_eq!(leaf.subject, "");
    assert!(!leaf.is_ca && leaf.server_auth && leaf.client_auth, "{leaf:?}");
    assert_eq!(leaf.key_usages, ["Digital Signature"]);
    assert_eq!(leaf.not_after - leaf.not_before, 3600);
    assert!(leaf.der.windows(key.public_key_raw().len()).any(|part| part == key.public_key_raw()));
    (signed, leaf)
}

#[tokio::test]
async fn root_in_the_secret() {
    let cluster = Cluster::shared();
    let (ns, issuer) = (cluster.namespace("root").await, cluster.unique("root"));
    let ca = cluster.cluster_ca_issuer(&issuer).await;
    let (signed, leaf) = sign(&ns, "ClusterIssuer", &issuer).await;
    assert_eq!(leaf.issuer, format!("CN={issuer} root"));
    assert_eq!(certs(&signed.certificate).len(), 1);
    assert_eq!(certs(&signed.ca), certs(&ca.root_pem));
}

#[tokio::test]
async fn intermediate_and_root_in_the_secret() {
    let cluster = Cluster::shared();
    let ns = cluster.namespace("intermediate").await;
    let ca = cluster.ca_issuer_with_intermediate(&ns, "mesh").await;
    let (signed, leaf) = sign(&ns, "Issuer", "mesh").await;
    assert_eq!(leaf.issuer, "CN=mesh intermediate");
    assert_eq!(certs(&signed.certificate)[1..], certs(&ca.cert_pem));
    assert_eq!(certs(&signed.ca), certs(&ca.root_pem));
}

#[tokio::test]
async fn intermediate_alone_in_the_secret() {
    let cluster = Cluster::shared();
    let ns = cluster.namespace("intermediate-only").await;
    let ca = cluster.ca_issuer_with_intermediate_only(&ns, "mesh").await;
    let (signed, leaf) = sign(&ns, "Issuer", "mesh").await;
    assert_eq!(leaf.issuer, "CN=mesh intermediate");
    assert_eq!(certs(&signed.certificate)[1..], certs(&ca.cert_pem));
    assert_eq!(certs(&signed.ca), certs(&ca.cert_pem));
}

#[tokio::test]
async fn a_replaced_secret_signs_the_next_request() {
    let cluster = Cluster::shared();
    let ns = cluster.namespace("rotation").await;
    cluster.ca_issuer_with_intermediate(&ns, "mesh").await;
    sign(&ns, "Issuer", "mesh").await;
    let next = TestCa::root("next root").intermediate("next intermediate");
    cluster.ca_secret(&ns, "mesh", &next, true).await;
    let (signed, leaf) = sign(&ns, "Issuer", "mesh").await;
    assert_eq!(leaf.issuer, "CN=next intermediate");
    assert_eq!(certs(&signed.ca), certs(&next.root_pem));
}
