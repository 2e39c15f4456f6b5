//! A CA certificate and its private key, as users give them (`provided`, and `Bundled` with `ca`; S4-6): everything that can
//! be known of them without signing anything. Pure, so the same for what is in a resource, a file or a Secret.

use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair,
};
use jiff::Timestamp;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::certificate::{Certificate, CertificateError};

/// The longest way from a CA to its root that makes sense, both included.
const MAX_CHAIN: usize = 10;

/// A CA certificate and its private key, to be checked together.
#[derive(Debug)]
pub struct CaPair;

/// The certificates of a CA that can sign leaves: in order, each one signed by the next, each one allowed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaChain {
    /// The CA that signs, then those towards the root; the last one is `anchor`.
    pub chain: Vec<Certificate>,
    /// Whom peers are to trust: the root, or what is nearest to it of what was given.
    pub anchor: Certificate,
}

/// The private key of a CA, of a kind that leaves can be signed with; redacted in `Debug`, wiped when dropped.
pub struct CaKey {
    der: PrivateKeyDer<'static>,
    public_key: Vec<u8>,
}

/// Why a certificate and a key are no CA. Never quotes what was given, except for subjects.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CaPairError {
    /// Not certificates.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// Too many of them.
    #[error("it holds {0} certificates; at most {MAX_CHAIN} lead from a CA to its root")]
    TooMany(usize),
    /// A leaf, or one that is not allowed to sign.
    #[error("certificate {index} ({subject}) is not a CA: its basic constraints do not say CA:TRUE")]
    NotCa {
        /// From 1.
        index: usize,
        /// Its subject.
        subject: String,
    },
    /// A CA, but not for certificates.
    #[error("certificate {index} ({subject}) may not sign certificates: its key usage lacks keyCertSign")]
    MayNotSign {
        /// From 1.
        index: usize,
        /// Its subject.
        subject: String,
    },
    /// Over.
    #[error("certificate {index} ({subject}) expired at {not_after}")]
    Expired {
        /// From 1.
        index: usize,
        /// Its subject.
        subject: String,
        /// When.
        not_after: Timestamp,
    },
    /// Too early.
    #[error("certificate {index} ({subject}) is not valid before {not_before}")]
    NotYetValid {
        /// From 1.
        index: usize,
        /// Its subject.
        subject: String,
        /// From when on it is.
        not_before: Timestamp,
    },
    /// Its path length forbids what is below it.
    #[error(
        "certificate {index} ({subject}) allows {allowed} CAs below it (pathLenConstraint), but {below} are there: peers \
         would refuse every leaf"
    )]
    PathTooLong {
        /// From 1.
        index: usize,
        /// Its subject.
        subject: String,
        /// What it allows.
        allowed: u32,
        /// How many there are.
        below: usize,
    },
    /// Not issued by the next one.
    #[error("certificate {index} ({subject}) was not issued by the one after it ({next})")]
    OutOfOrder {
        /// From 1.
        index: usize,
        /// Its subject.
        subject: String,
        /// The subject of the next one.
        next: String,
    },
    /// A self-signed CA where that has to be allowed.
    #[error("the CA ({0}) is self-signed")]
    SelfSigned(String),
    /// No private key in it.
    #[error("no PEM block with a private key in it")]
    NoKey,
    /// A key that needs a password.
    #[error("the private key is encrypted")]
    EncryptedKey,
    /// Not a key that leaves can be signed with.
    #[error("is no private key that certificates can be signed with here")]
    UnusableKey,
    /// The key of another certificate.
    #[error("is not the private key of the CA certificate ({0})")]
    Mismatch(String),
}

impl CaPairError {
    /// What to do about it, if that is not plain.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotCa { .. } => Some("a CA certificate is needed, not that of a server or client"),
            Self::MayNotSign { .. } => Some("have it issued with the usages cert sign and crl sign"),
            Self::OutOfOrder { .. } => Some("the CA that signs comes first, then each one's issuer, the root last"),
            Self::SelfSigned(_) => {
                Some("set insecureAllowSelfSigned: true if that is meant, or have the CA signed by another one")
            }
            Self::EncryptedKey => Some("decrypt it: openssl pkey -in FILE -out DECRYPTED"),
            Self::NoKey | Self::UnusableKey => {
                Some("ECDSA P-256 or P-384, RSA with 2048 bits or more, or Ed25519; PKCS#8, SEC1 or PKCS#1 in PEM")
            }
            _ => None,
        }
    }

    /// Whether it is about the private key rather than the certificate.
    pub fn is_about_key(&self) -> bool {
        matches!(self, Self::NoKey | Self::EncryptedKey | Self::UnusableKey | Self::Mismatch(_))
    }
}

impl CaPair {
    /// Checks a CA certificate, which may be followed by those that lead to its root, together with its key.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(
        certificate_pem: &[u8],
        key_pem: &[u8],
        allow_self_signed: bool,
        now: Timestamp,
    ) -> Result<CaChain, CaPairError> {
        let chain = CaChain::from_pem(certificate_pem, allow_self_signed, now)?;
        CaKey::from_pem(key_pem)?.check_belongs_to(&chain)?;
        Ok(chain)
    }
}

impl CaChain {
    /// Parses and checks the certificates alone.
    ///
    /// # Errors
    /// [`CaPairError`], naming the certificate that is wrong.
    pub fn from_pem(pem: &[u8], allow_self_signed: bool, now: Timestamp) -> Result<Self, CaPairError> {
        let chain = Certificate::many_from_pem(pem)?;
        if chain.len() > MAX_CHAIN {
            return Err(CaPairError::TooMany(chain.len()));
        }
        for (position, certificate) in chain.iter().enumerate() {
            check_one(certificate, position, &chain[..position], now)?;
        }
        for (position, pair) in chain.windows(2).enumerate() {
            let [certificate, next] = pair else { continue };
            if !is_issued_by(certificate, next) {
                return Err(CaPairError::OutOfOrder {
                    index: position + 1,
                    subject: certificate.subject().to_owned(),
                    next: next.subject().to_owned(),
                });
            }
        }
        let (Some(ca), Some(anchor)) = (chain.first(), chain.last()) else {
            return Err(CertificateError::NoPem.into());
        };
        if !allow_self_signed && ca.is_self_signed() {
            return Err(CaPairError::SelfSigned(ca.subject().to_owned()));
        }
        Ok(Self { anchor: anchor.clone(), chain })
    }

    /// The CA that signs.
    pub fn ca(&self) -> &Certificate {
        self.chain.first().unwrap_or(&self.anchor)
    }

    /// What has to be sent with a leaf so that it leads to the anchor: all but a self-signed root, which peers must have
    /// anyway.
    pub fn intermediates(&self) -> &[Certificate] {
        match self.chain.split_last() {
            Some((last, others)) if last.is_self_signed() => others,
            _ => &self.chain,
        }
    }

    /// When the first of its certificates ends: no leaf may live longer.
    pub fn not_after(&self) -> Timestamp {
        let ends = self.chain.iter().map(|certificate| certificate.validity().not_after);
        ends.min().unwrap_or_else(|| self.anchor.validity().not_after)
    }
}

impl CaKey {
    /// Parses the first private key of a PEM text; other blocks, such as `EC PARAMETERS`, are skipped.
    ///
    /// # Errors
    /// [`CaPairError`]; the parsers' own errors are dropped, as they must not quote a key.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CaPairError> {
        let Ok(der) = PrivateKeyDer::from_pem_slice(pem) else {
            let is_encrypted = Zeroizing::new(String::from_utf8_lossy(pem).into_owned()).contains("ENCRYPTED");
            return Err(if is_encrypted { CaPairError::EncryptedKey } else { CaPairError::NoKey });
        };
        let public_key = public_key(&der).ok_or(CaPairError::UnusableKey)?;
        Ok(Self { der, public_key })
    }

    /// The key itself.
    pub fn der(&self) -> &PrivateKeyDer<'static> {
        &self.der
    }

    /// Whether it is the key of the CA that signs.
    ///
    /// # Errors
    /// [`CaPairError::Mismatch`].
    pub fn check_belongs_to(&self, chain: &CaChain) -> Result<(), CaPairError> {
        let ca = chain.ca();
        let belongs = X509Certificate::from_der(ca.der())
            .is_ok_and(|(_, parsed)| *parsed.public_key().subject_public_key.data == *self.public_key);
        if belongs { Ok(()) } else { Err(CaPairError::Mismatch(ca.subject().to_owned())) }
    }
}

impl Drop for CaKey {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.der);
    }
}

impl fmt::Debug for CaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CaKey([redacted])")
    }
}

/// The subjectPublicKey of a private key, if it is of a kind that is supported.
fn public_key(der: &PrivateKeyDer<'_>) -> Option<Vec<u8>> {
    let bytes = der.secret_der();
    let rsa = match der {
        PrivateKeyDer::Pkcs8(_) => RsaKeyPair::from_pkcs8(bytes),
        _ => RsaKeyPair::from_der(bytes),
    };
    if let Ok(rsa) = rsa {
        return Some(rsa.public_key().as_ref().to_vec());
    }
    for curve in [&ECDSA_P256_SHA256_ASN1_SIGNING, &ECDSA_P384_SHA384_ASN1_SIGNING] {
        if let Ok(ecdsa) = EcdsaKeyPair::from_private_key_der(curve, bytes) {
            return Some(ecdsa.public_key().as_ref().to_vec());
        }
    }
    let ed25519 = Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes).ok()?;
    Some(ed25519.public_key().as_ref().to_vec())
}

/// What each certificate must be for itself, with the CAs `below` it.
fn check_one(
    certificate: &Certificate,
    position: usize,
    below: &[Certificate],
    now: Timestamp,
) -> Result<(), CaPairError> {
    let (index, subject) = (position + 1, certificate.subject().to_owned());
    if !certificate.is_ca() {
        return Err(CaPairError::NotCa { index, subject });
    }
    let broken = |reason: String| CaPairError::Certificate(CertificateError::Der { index, reason });
    let (_, parsed) = X509Certificate::from_der(certificate.der()).map_err(|error| broken(error.to_string()))?;
    let usage = parsed.key_usage().map_err(|error| broken(error.to_string()))?;
    if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(CaPairError::MayNotSign { index, subject });
    }
    let validity = certificate.validity();
    if validity.not_after < now {
        return Err(CaPairError::Expired { index, subject, not_after: validity.not_after });
    }
    if validity.not_before > now {
        return Err(CaPairError::NotYetValid { index, subject, not_before: validity.not_before });
    }
    let constraints = parsed.basic_constraints().map_err(|error| broken(error.to_string()))?;
    // Self-issued ones do not count (RFC 5280 §4.2.1.9), and neither does the leaf.
    let below = below.iter().filter(|certificate| !certificate.is_self_issued()).count();
    match constraints.and_then(|constraints| constraints.value.path_len_constraint) {
        Some(allowed) if below > usize::try_from(allowed).unwrap_or(usize::MAX) => {
            Err(CaPairError::PathTooLong { index, subject, allowed, below })
        }
        _ => Ok(()),
    }
}

/// By name and by signature.
fn is_issued_by(certificate: &Certificate, issuer: &Certificate) -> bool {
    let parsed = (X509Certificate::from_der(certificate.der()), X509Certificate::from_der(issuer.der()));
    let (Ok((_, parsed)), Ok((_, parsed_issuer))) = parsed else { return false };
    // What follows a root was issued by nobody in particular, and is no way to anywhere.
    certificate.names_issuer(issuer)
        && !certificate.is_self_signed()
        && parsed.verify_signature(Some(parsed_issuer.public_key())).is_ok()
}

#[cfg(test)]
#[path = "ca_pair_tests.rs"]
mod tests;
