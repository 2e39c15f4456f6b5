//! Trust bundles: the CA certificates that a mesh's proxies are to trust. An empty one cannot be made.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use jiff::Timestamp;

use super::certificate::{Certificate, CertificateError};

/// The most CA certificates that a bundle may have; more is a mistake, or someone else's root store.
const MAX_CERTIFICATES: usize = 256;

/// A non-empty set of CA certificates. Envoy turns verification off when it is sent an empty validation context, so
/// there is no way to build a bundle without a certificate in it, and no way to render anything else as one.
#[derive(Clone, PartialEq, Eq)]
pub struct Bundle {
    /// Distinct, in the order in which the sources list them.
    certificates: Vec<Certificate>,
    digest: Arc<str>,
}

/// Why something is no trust bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// Not certificates.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// Nothing in it.
    #[error("it holds no CA certificate")]
    Empty,
    /// Too much in it.
    #[error("it holds {0} certificates; at most {MAX_CERTIFICATES} make sense")]
    TooMany(usize),
    /// A leaf among the CAs: Envoy would accept it as a trust anchor, which nobody means.
    #[error("certificate {index} ({subject}) is not a CA: its basic constraints do not say CA:TRUE")]
    NotCa {
        /// From 1.
        index: usize,
        /// Its subject.
        subject: String,
    },
    /// A CA that is over.
    #[error("CA certificate {index} ({subject}) expired at {not_after}")]
    Expired {
        /// From 1.
        index: usize,
        /// Its subject.
        subject: String,
        /// When.
        not_after: Timestamp,
    },
}

impl Bundle {
    /// Parses a PEM text in which every block must be a CA certificate that has not expired at `now`.
    ///
    /// # Errors
    /// [`BundleError`], naming the certificate that is wrong.
    pub fn from_pem(pem: &[u8], now: Timestamp) -> Result<Self, BundleError> {
        let certificates = Certificate::many_from_pem(pem)?;
        for (position, certificate) in certificates.iter().enumerate() {
            let (index, subject) = (position + 1, || certificate.subject().to_owned());
            if !certificate.is_ca() {
                return Err(BundleError::NotCa { index, subject: subject() });
            }
            let not_after = certificate.validity().not_after;
            if not_after < now {
                return Err(BundleError::Expired { index, subject: subject(), not_after });
            }
        }
        Self::from_certificates(certificates)
    }

    /// A bundle of certificates that were checked before; duplicates are dropped, order is kept.
    ///
    /// # Errors
    /// [`BundleError::Empty`] and [`BundleError::TooMany`].
    pub fn from_certificates(certificates: impl IntoIterator<Item = Certificate>) -> Result<Self, BundleError> {
        let mut distinct: Vec<Certificate> = Vec::new();
        for certificate in certificates {
            if !distinct.contains(&certificate) {
                distinct.push(certificate);
            }
        }
        match distinct.len() {
            0 => Err(BundleError::Empty),
            count if count > MAX_CERTIFICATES => Err(BundleError::TooMany(count)),
            _ => Ok(Self { digest: digest_of(&distinct), certificates: distinct }),
        }
    }

    /// All of the given bundles in one; `None` if there are none, or if they are absurdly large together.
    pub fn union<'a>(bundles: impl IntoIterator<Item = &'a Self>) -> Option<Self> {
        Self::from_certificates(bundles.into_iter().flat_map(|bundle| bundle.certificates.iter().cloned())).ok()
    }

    /// The CA certificates; at least one.
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// Digest of the content, in hex; equal content in another order is another digest, as it is another secret.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// All certificates as PEM blocks.
    pub fn pem(&self) -> String {
        self.certificates.iter().map(Certificate::pem).collect()
    }

    /// Whether `certificate` is one of them.
    pub fn contains(&self, certificate: &Certificate) -> bool {
        self.certificates.contains(certificate)
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.certificates).finish()
    }
}

fn digest_of(certificates: &[Certificate]) -> Arc<str> {
    let mut context = digest::Context::new(&digest::SHA256);
    for certificate in certificates {
        context.update(certificate.der());
    }
    hex::encode(&context.finish().as_ref()[..8]).into()
}

/// The trust bundle of every mesh whose trust is known.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TrustSet {
    /// By mesh name; a mesh is absent until each of its sources has given its CA at least once.
    pub meshes: BTreeMap<Arc<str>, Arc<Bundle>>,
}
