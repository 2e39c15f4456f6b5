//! Trust bundles: the CA certificates that a mesh's proxies are to trust. An empty one cannot be made.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

use super::bundle_set::BundleSet;
use super::certificate::{Certificate, CertificateError, full_digest};
use super::policy::MeshPolicy;

/// The most CA certificates that a bundle may have; more is a mistake, or someone else's root store.
const MAX_CERTIFICATES: usize = 256;

/// A non-empty set of CA certificates. Envoy turns verification off when it is sent an empty validation context, so
/// there is no way to build a bundle without a certificate in it, and no way to render anything else as one.
#[derive(Clone, PartialEq, Eq)]
pub struct Bundle {
    /// Distinct, in the order in which the sources list them.
    certificates: Vec<Certificate>,
    /// In full.
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
    /// CAs that are all over.
    #[error("it holds no CA certificate that is still valid: {subject} expired at {not_after}")]
    Expired {
        /// The first one's subject.
        subject: String,
        /// When.
        not_after: Timestamp,
    },
}

impl Bundle {
    /// Parses a PEM text in which every block must be a CA certificate. Those that have expired at `now` are left out: a
    /// bundle with an old CA and a new one must not break on the day that the old one ends. [`ParsedBundle::expired`] has them.
    ///
    /// # Errors
    /// [`BundleError`], naming the certificate that is wrong; also if all have expired.
    pub fn from_pem(pem: &[u8], now: Timestamp) -> Result<ParsedBundle, BundleError> {
        let certificates = Certificate::many_from_pem(pem)?;
        if let Some(position) = certificates.iter().position(|certificate| !certificate.is_ca()) {
            let subject = certificates[position].subject().to_owned();
            return Err(BundleError::NotCa { index: position + 1, subject });
        }
        let (good, expired): (Vec<_>, Vec<_>) =
            certificates.into_iter().partition(|certificate| certificate.validity().not_after >= now);
        if good.is_empty() {
            Self::from_certificates(expired)?.valid_at(now)?;
            return Err(BundleError::Empty);
        }
        Ok(ParsedBundle { bundle: Self::from_certificates(good)?, expired })
    }

    /// Whether one of them at least has not expired at `now`.
    ///
    /// # Errors
    /// [`BundleError::Expired`].
    pub fn valid_at(&self, now: Timestamp) -> Result<(), BundleError> {
        let is_over = |ca: &&Certificate| ca.validity().not_after < now;
        match self.certificates.first().filter(|_| self.certificates.iter().all(|ca| is_over(&ca))) {
            Some(first) => {
                Err(BundleError::Expired { subject: first.subject().to_owned(), not_after: first.validity().not_after })
            }
            None => Ok(()),
        }
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
            _ => Ok(Self { digest: full_digest(&distinct).into(), certificates: distinct }),
        }
    }

    /// All of the given bundles in one, however many certificates they have together: each was bounded when it was read, and a
    /// mesh with many sources is no mistake. `None` if there are none.
    pub fn union<'a>(bundles: impl IntoIterator<Item = &'a Self>) -> Option<Self> {
        let mut bundles = bundles.into_iter();
        Some(Self::union_of_all(bundles.next()?, bundles))
    }

    /// [`Bundle::union`] of at least one.
    pub(super) fn union_of_all<'a>(first: &'a Self, others: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut seen = BTreeSet::new();
        let all = std::iter::once(first).chain(others).flat_map(|bundle| &bundle.certificates);
        let distinct: Vec<_> = all.filter(|certificate| seen.insert(certificate.der().as_ref())).cloned().collect();
        Self { digest: full_digest(&distinct).into(), certificates: distinct }
    }

    /// The CA certificates; at least one.
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// The first 16 digits of [`Bundle::full_digest`], for people and versions.
    pub fn digest(&self) -> &str {
        &self.digest[..16]
    }

    /// SHA-256 of the content, in hex; equal content in another order is another digest, as it is another secret.
    pub fn full_digest(&self) -> &Arc<str> {
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

impl TrustSet {
    /// The CAs that peers accept SPIFFE IDs of `trust_domain` under which proxies of `mesh` have: what a leaf has to lead to.
    pub fn of(&self, mesh: &str, trust_domain: &str) -> Option<&Arc<Bundle>> {
        match self.domains.get(mesh) {
            Some(domains) => domains.get(trust_domain),
            None => self.meshes.get(mesh).filter(|_| mesh == trust_domain),
        }
    }

    /// What the mesh's own resources speak of: its own trust domains and those of its `MeshTrust` resources, by name, with the CAs
    /// of each. What its proxies know of all other meshes is told there.
    pub fn told_by<'a>(&'a self, policy: &MeshPolicy) -> Vec<(Arc<str>, &'a Bundle)> {
        let of_trusts = policy.trusts.iter().map(|trust| trust.trust_domain.clone());
        let names: BTreeSet<Arc<str>> = policy.own_trust_domains().into_iter().chain(of_trusts).collect();
        let known = self.domains.get(&policy.name);
        let told = names.into_iter().filter_map(|name| Some((known?.get(&name)?.as_ref(), name)));
        let told: Vec<(Arc<str>, &Bundle)> = told.map(|(bundle, name)| (name, bundle)).collect();
        match self.meshes.get(&policy.name) {
            Some(plain) if told.is_empty() => vec![(policy.name.clone(), plain.as_ref())],
            _ => told,
        }
    }
}

/// See [`Bundle::from_pem`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedBundle {
    /// Those that are valid, or will be.
    pub bundle: Bundle,
    /// Those that are over.
    pub expired: Vec<Certificate>,
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.certificates).finish()
    }
}

/// The trust bundle of every mesh whose trust is known.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TrustSet {
    /// By mesh name; a mesh is absent until each of its sources has given its CA at least once.
    pub meshes: BTreeMap<Arc<str>, Arc<Bundle>>,
    /// By mesh name: the trust domains that its proxies may know, and the CAs of each. Those of the mesh's own add up to its
    /// bundle in `meshes`.
    pub domains: BTreeMap<Arc<str>, Arc<BundleSet>>,
    /// The backends `(mesh, backend)` whose CA is known; only these can have their leaves checked.
    pub known: BTreeSet<(Arc<str>, Arc<str>)>,
    /// CAs that came into a bundle that was already being served, by mesh, and when: peers may not have them yet.
    pub added: BTreeMap<Arc<str>, Vec<(Certificate, Timestamp)>>,
}
