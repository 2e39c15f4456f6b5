//! A fresh private key and its certificate signing request.

use std::sync::Arc;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType};
use zeroize::{Zeroize, Zeroizing};

use crate::model::key::PrivateKeyPem;

/// A key pair and the request to certify it.
#[derive(Debug)]
pub struct KeyAndRequest {
    /// The private key; stays with us until the proxy that it belongs to gets it.
    pub key: PrivateKeyPem,
    /// SubjectPublicKeyInfo of the key, DER: what the leaf has to carry.
    pub public_key: Vec<u8>,
    /// The request (PKCS#10), DER.
    pub request: Vec<u8>,
}

/// Makes an ECDSA P-256 key and a request for it: empty subject, exactly one URI SAN (critical, as RFC 5280 §4.2.1.6 wants
/// with an empty subject), and no key usages: cert-manager's webhook refuses a CSR whose usages differ from
/// `spec.usages`, and takes one that has none.
///
/// # Errors
/// A sentence, if `spiffe_id` is no IA5 text or the system has no randomness.
pub fn generate(spiffe_id: &str) -> Result<KeyAndRequest, String> {
    let wrong = |error: rcgen::Error| format!("cannot make a key and a signing request: {error}");
    let mut pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(wrong)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(spiffe_id.try_into().map_err(wrong)?)];
    let request = params.serialize_request(&pair).map_err(wrong)?.der().to_vec();
    let key = PrivateKeyPem::new(Zeroizing::new(pair.serialize_pem()));
    let public_key = pair.subject_public_key_info();
    pair.zeroize();
    Ok(KeyAndRequest { key, public_key, request })
}

/// [`generate`], off the threads that serve streams.
///
/// # Errors
/// Likewise; or that it died.
#[cfg(not(test))]
pub async fn generate_aside(spiffe_id: Arc<str>) -> Result<KeyAndRequest, String> {
    tokio::task::spawn_blocking(move || generate(&spiffe_id)).await.map_err(|error| error.to_string())?
}

/// In unit tests it is done at once: they count what other tasks do meanwhile, which must not depend on how fast another
/// thread is.
#[cfg(test)]
pub async fn generate_aside(spiffe_id: Arc<str>) -> Result<KeyAndRequest, String> {
    std::future::ready(generate(&spiffe_id)).await
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::{FromDer, ParsedExtension, X509CertificationRequest};

    use super::*;

    #[test]
    fn carries_one_critical_uri_and_nothing_else() {
        let made = generate("spiffe://default/ns/shop/sa/web").unwrap();
        let (_, parsed) = X509CertificationRequest::from_der(&made.request).unwrap();
        parsed.verify_signature().unwrap();
        assert_eq!(parsed.certification_request_info.subject.to_string(), "");
        assert_eq!(parsed.certification_request_info.subject_pki.raw, made.public_key);
        let extensions: Vec<_> = parsed.requested_extensions().unwrap().collect();
        let [ParsedExtension::SubjectAlternativeName(names)] = extensions.as_slice() else {
            panic!("expected one SAN extension, got {extensions:?}");
        };
        assert_eq!(names.general_names.len(), 1);
        assert_eq!(names.general_names[0].to_string(), "URI(spiffe://default/ns/shop/sa/web)");
        assert!(made.key.expose().starts_with("-----BEGIN PRIVATE KEY-----"));
    }
}
