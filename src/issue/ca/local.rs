//! Signing with a CA key that this server holds: what the `builtin` and the `provided` backend share.

use std::fmt;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData, SignatureAlgorithm, SigningKey,
};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};
use zeroize::Zeroize;

use super::der::with_issuer;
use super::{CaError, IssuedChain, Signed, SignedHere, SigningRequest};
use crate::issue::csr::{self, SubjectKey};
use crate::model::certificate::{Certificate, Validity};
use crate::model::policy::DEFAULT_LEAF_LIFETIME;
use crate::runtime::compute;

/// Leaves are dated back a little, as other CAs do: a peer's clock may be behind.
pub(super) const DATED_BACK: SignedDuration = SignedDuration::from_secs(30);

/// A CA with its key. Cheap to clone; the key is wiped with the last clone.
#[derive(Clone)]
pub(super) struct LocalCa(Arc<Inner>);

struct Inner {
    issuer: Issuer<'static, CaKey>,
    /// The CA's name, as its certificate has it.
    name: Vec<u8>,
    has_key_id: bool,
    /// An RSA signature takes milliseconds.
    signs_briefly: bool,
    /// What goes with a leaf.
    intermediates: Vec<Certificate>,
    anchor: Certificate,
    /// That of all certificates of the chain together.
    validity: Validity,
}

impl LocalCa {
    /// The CA that `chain` begins with, and that it leads to the last of; `key` is its key.
    ///
    /// # Errors
    /// The CA certificate is none, or there is none.
    pub(super) fn new(chain: &[Certificate], key: KeyPair) -> Result<Self, rcgen::Error> {
        let broken = || rcgen::Error::CouldNotParseCertificate;
        let key = CaKey(key);
        let (ca, anchor) = chain.first().zip(chain.last()).ok_or_else(broken)?;
        let Ok((_, parsed)) = X509Certificate::from_der(ca.der()) else { return Err(broken()) };
        let key_id = parsed.iter_extensions().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let has_key_id = key_id.is_some();
        if let Some(key_id) = key_id {
            params.key_identifier_method = KeyIdMethod::PreSpecified(key_id);
        }
        let validity = chain.iter().map(Certificate::validity).fold(anchor.validity(), |all, one| Validity {
            not_before: all.not_before.max(one.not_before),
            not_after: all.not_after.min(one.not_after),
        });
        let signs_briefly = [&PKCS_ECDSA_P256_SHA256, &PKCS_ED25519].contains(&key.0.algorithm());
        Ok(Self(Arc::new(Inner {
            name: parsed.subject().as_raw().to_vec(),
            issuer: Issuer::new(params, key),
            has_key_id,
            signs_briefly,
            intermediates: chain.iter().filter(|certificate| *certificate != anchor).cloned().collect(),
            anchor: anchor.clone(),
            validity,
        })))
    }

    /// Whom peers are to trust: the last of the chain.
    pub(super) fn anchor(&self) -> &Certificate {
        &self.0.anchor
    }

    /// When the first certificate of the chain ends.
    pub(super) fn not_after(&self) -> Timestamp {
        self.0.validity.not_after
    }

    /// Makes a key and signs its leaf at `now`.
    pub(super) async fn sign(&self, request: SigningRequest, now: Timestamp) -> Result<Signed, CaError> {
        let ca = self.0.clone();
        let sign = move || {
            let key = SubjectKey::generate().map_err(CaError::Unavailable)?;
            let chain = ca.sign(&request, &key, now)?;
            Ok(Signed { key, chain })
        };
        let signed = if self.0.signs_briefly { compute::brief(sign).await } else { compute::aside(sign).await };
        signed.map_err(CaError::Unavailable)?
    }
}

impl fmt::Debug for LocalCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalCa").field("anchor", &self.0.anchor).finish_non_exhaustive()
    }
}

impl Inner {
    fn sign(&self, request: &SigningRequest, key: &SubjectKey, now: Timestamp) -> Result<IssuedChain, CaError> {
        let invalid = |error: rcgen::Error| CaError::Invalid(error.to_string());
        let mut params = csr::params(&request.spiffe_id).map_err(invalid)?;
        let wanted = now.saturating_add(request.lifetime.unwrap_or(DEFAULT_LEAF_LIFETIME)).unwrap_or(Timestamp::MAX);
        let until = wanted.min(self.validity.not_after); // nobody accepts a leaf that outlives its CA
        let from = now.saturating_sub(DATED_BACK).unwrap_or(now).max(self.validity.not_before);
        if until <= now {
            return Err(CaError::Failed(format!("the CA certificate, or one above it, ended at {until}")));
        }
        (params.not_before, params.not_after) = (offset(from), offset(until));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = self.has_key_id;
        let unsigned = params.signed_by(key.for_certificate(), &self.issuer).map_err(invalid)?;
        // The name of a CA that was made elsewhere is not always one that rcgen can write; its bytes are copied.
        let mut signed_here = None;
        let key = &self.issuer.key().0;
        let sign = |content: &[u8]| {
            let signature = key.sign(content)?;
            let (public_key, content) = (key.der_bytes().to_vec(), content.to_vec());
            signed_here = Some(SignedHere { public_key, content, signature: signature.clone() });
            Ok(signature)
        };
        let leaf = with_issuer(unsigned.der(), &self.name, sign)
            .ok_or_else(|| CaError::BadAnswer("the leaf cannot be put together".to_owned()))?
            .map_err(|error: rcgen::Error| CaError::Failed(error.to_string()))?;
        let leaf =
            Certificate::from_der(CertificateDer::from(leaf)).map_err(|error| CaError::BadAnswer(error.to_string()))?;
        let certificates = std::iter::once(leaf).chain(self.intermediates.iter().cloned()).collect();
        Ok(IssuedChain { certificates, authority: vec![self.anchor.clone()], signed_here })
    }
}

/// A key that leaves what it is given unsigned, because that is not complete: see [`with_issuer`].
struct CaKey(KeyPair);

impl PublicKeyData for CaKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for CaKey {
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(Vec::new())
    }
}

impl Drop for CaKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

pub(super) fn offset(timestamp: Timestamp) -> OffsetDateTime {
    // X.509 has no times after the year 9999, and neither has jiff.
    OffsetDateTime::from_unix_timestamp(timestamp.as_second()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
