//! Keys: ECDSA with P-256, named by what they are.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, ParsedPublicKey,
};
use jsonwebtoken::{DecodingKey, EncodingKey};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use zeroize::Zeroizing;

/// Bytes of the digest in a key's id: enough to tell keys of one server apart, and short enough that no redaction of logs
/// takes it for a secret.
const KID_BYTES: usize = 7;

/// What is before the point in a SubjectPublicKeyInfo with id-ecPublicKey and prime256v1 (RFC 5480 §2.1.1).
const SPKI_OF_P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// What verifies tokens.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct VerifyingKey {
    kid: Arc<str>,
    /// The point, uncompressed.
    point: Arc<[u8]>,
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VerifyingKey").field(&self.kid).finish()
    }
}

impl VerifyingKey {
    /// Reads a public key (PEM, SubjectPublicKeyInfo) that is called `kid`.
    ///
    /// # Errors
    /// What was expected.
    pub(super) fn from_pem(kid: &str, pem: &[u8]) -> Result<Self, String> {
        const EXPECTED: &str =
            "expected one public key in PEM (BEGIN PUBLIC KEY) on the curve P-256, as `openssl pkey -pubout` writes it";
        let spki = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_error| EXPECTED)?;
        let point = spki.strip_prefix(&SPKI_OF_P256).ok_or(EXPECTED)?;
        // On the curve?
        ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).map_err(|_error| EXPECTED)?;
        Ok(Self { kid: kid.into(), point: point.into() })
    }

    /// What tokens call it by.
    pub(super) fn kid(&self) -> &Arc<str> {
        &self.kid
    }

    pub(super) fn decoding(&self) -> DecodingKey {
        DecodingKey::from_ec_der(&self.point)
    }
}

/// What signs tokens. Its id is made of the digest of its public key, so that it names that key and no other.
pub struct SigningKey {
    pkcs8: Zeroizing<Vec<u8>>,
    public: VerifyingKey,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.public.kid).finish()
    }
}

impl SigningKey {
    /// A new one.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub(super) fn generate() -> Result<Self, String> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        let document = document.map_err(|_error| "the system has no randomness for a key")?;
        Self::from_pkcs8(document.as_ref()).ok_or_else(|| "a key that was just made cannot be read".to_owned())
    }

    /// Reads a private key (PEM, PKCS#8).
    ///
    /// # Errors
    /// What was expected; nothing of what is there.
    pub fn from_pem(pem: &[u8]) -> Result<Self, &'static str> {
        const EXPECTED: &str = "expected one private key in PEM, PKCS#8 (BEGIN PRIVATE KEY) on the curve P-256, as `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256` writes it";
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_error| EXPECTED)?;
        Self::from_pkcs8(key.secret_pkcs8_der()).ok_or(EXPECTED)
    }

    fn from_pkcs8(pkcs8: &[u8]) -> Option<Self> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).ok()?;
        let point: Arc<[u8]> = pair.public_key().as_ref().into();
        let digest = digest::digest(&digest::SHA256, &point);
        let kid = hex::encode(&digest.as_ref()[..KID_BYTES]).into();
        Some(Self { pkcs8: Zeroizing::new(pkcs8.to_vec()), public: VerifyingKey { kid, point } })
    }

    /// The private key in PEM (PKCS#8).
    pub(super) fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(pem::encode(&pem::Pem::new("PRIVATE KEY", self.pkcs8.as_slice())))
    }

    /// What tokens call it by: the beginning of the SHA-256 of its public key's point, in hex.
    pub fn kid(&self) -> &str {
        &self.public.kid
    }

    /// What verifies its signatures.
    pub(super) fn public(&self) -> &VerifyingKey {
        &self.public
    }

    pub(super) fn encoding(&self) -> EncodingKey {
        EncodingKey::from_ec_der(&self.pkcs8)
    }
}

/// Whether `text` looks like the id of a key, and so may be repeated in a log.
pub(super) fn is_kid(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

#[cfg(test)]
#[path = "key_tests.rs"]
mod tests;
