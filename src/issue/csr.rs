//! A fresh private key, and its certificate signing request for CAs that want one.

use std::fmt;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType};
use zeroize::{Zeroize, Zeroizing};

use crate::model::key::PrivateKeyPem;

/// An ECDSA P-256 key that a leaf is to be for. Wiped when dropped, and never shown.
pub struct SubjectKey {
    pair: KeyPair,
    public_key: Vec<u8>,
}

impl SubjectKey {
    /// Makes one.
    ///
    /// # Errors
    /// A sentence, if the system has no randomness.
    pub fn generate() -> Result<Self, String> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| cannot("a key", &error))?;
        let public_key = pair.subject_public_key_info();
        Ok(Self { pair, public_key })
    }

    /// SubjectPublicKeyInfo, DER: what the leaf has to carry.
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// The public key, for a CA whose key is here: it need not be shown that the private one is ours.
    pub(super) fn for_certificate(&self) -> &impl PublicKeyData {
        &self.pair
    }

    /// The private key; stays with us until the proxy that it belongs to gets it.
    pub fn pem(&self) -> PrivateKeyPem {
        PrivateKeyPem::new(Zeroizing::new(self.pair.serialize_pem()))
    }

    /// A request (PKCS#10), DER: empty subject, exactly one URI SAN (critical, as RFC 5280 §4.2.1.6 wants with an empty
    /// subject), and no key usages: cert-manager's webhook refuses a CSR whose usages differ from `spec.usages`, and takes
    /// one that has none.
    ///
    /// # Errors
    /// A sentence, if `spiffe_id` is no IA5 text.
    pub fn request(&self, spiffe_id: &str) -> Result<Vec<u8>, String> {
        let params = params(spiffe_id).map_err(|error| cannot("a signing request", &error))?;
        let request = params.serialize_request(&self.pair).map_err(|error| cannot("a signing request", &error))?;
        Ok(request.der().to_vec())
    }
}

/// What a request, and a leaf that is signed here, have of their own: no subject, and the SPIFFE ID as the only name.
pub(super) fn params(spiffe_id: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(spiffe_id.try_into()?)];
    Ok(params)
}

fn cannot(make: &str, error: &rcgen::Error) -> String {
    format!("cannot make {make}: {error}")
}

impl Drop for SubjectKey {
    fn drop(&mut self) {
        self.pair.zeroize();
    }
}

impl fmt::Debug for SubjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SubjectKey([redacted])")
    }
}

/// What tests work with: a key, and a request for CAs that are not ours.
#[cfg(test)]
pub(crate) struct KeyAndRequest {
    pub(crate) key: PrivateKeyPem,
    pub(crate) public_key: Vec<u8>,
    pub(crate) request: Vec<u8>,
}

#[cfg(test)]
pub(crate) fn generate(spiffe_id: &str) -> Result<KeyAndRequest, String> {
    let key = SubjectKey::generate()?;
    let request = key.request(spiffe_id)?;
    Ok(KeyAndRequest { key: key.pem(), public_key: key.public_key().to_vec(), request })
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::{FromDer, ParsedExtension, X509CertificationRequest};

    use super::*;

    #[test]
    fn carries_one_critical_uri_and_nothing_else() {
        let key = SubjectKey::generate().unwrap();
        let request = key.request("spiffe://default/ns/shop/sa/web").unwrap();
        let (_, parsed) = X509CertificationRequest::from_der(&request).unwrap();
        parsed.verify_signature().unwrap();
        assert_eq!(parsed.certification_request_info.subject.to_string(), "");
        assert_eq!(parsed.certification_request_info.subject_pki.raw, key.public_key());
        let extensions: Vec<_> = parsed.requested_extensions().unwrap().collect();
        let [ParsedExtension::SubjectAlternativeName(names)] = extensions.as_slice() else {
            panic!("expected one SAN extension, got {extensions:?}");
        };
        assert_eq!(names.general_names.len(), 1);
        assert_eq!(names.general_names[0].to_string(), "URI(spiffe://default/ns/shop/sa/web)");
        assert!(key.pem().expose().starts_with("-----BEGIN PRIVATE KEY-----"));
        assert_eq!(format!("{key:?}"), "SubjectKey([redacted])");
    }
}
