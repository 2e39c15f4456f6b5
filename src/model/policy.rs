//! What the operator wants: meshes, their CA backends, and whom to trust. Compiled from resources, so always valid.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::bundle::Bundle;

/// Every mesh that the server serves, by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PolicySet {
    /// By mesh name.
    pub meshes: BTreeMap<Arc<str>, Arc<MeshPolicy>>,
}

impl PolicySet {
    /// Whether a backend names a mesh Secret as its CA.
    pub fn names_secrets(&self) -> bool {
        let backends = self.meshes.values().flat_map(|mesh| &mesh.backends);
        let trusts = backends.map(|backend| &backend.kind);
        trusts.into_iter().any(|kind| matches!(kind, BackendKind::CertManager { trust: CaSource::Secret(_), .. }))
    }
}

/// One mesh's mTLS policy.
#[derive(Debug, Clone, PartialEq)]
pub struct MeshPolicy {
    /// The mesh's name, which is also its default trust domain.
    pub name: Arc<str>,
    /// Name of the backend that signs; one of `backends` (the constructor in `mesh` guarantees it).
    pub enabled_backend: Arc<str>,
    /// All listed backends: each one's CA is trusted. Never empty, names are unique.
    pub backends: Vec<Arc<Backend>>,
}

impl MeshPolicy {
    /// The backend that signs.
    pub fn enabled(&self) -> Option<&Arc<Backend>> {
        self.backends.iter().find(|backend| backend.name == self.enabled_backend)
    }
}

/// A CA backend of a mesh.
#[derive(Debug, Clone, PartialEq)]
pub struct Backend {
    /// `backends[].name`.
    pub name: Arc<str>,
    /// Lifetime to ask for: `dpCert.rotation.expiration`. `None` leaves it to the CA.
    pub leaf_lifetime: Option<Duration>,
    /// Bound on each call to the CA's API, and after how long a pending request is called slow:
    /// `dpCert.requestTimeout`.
    pub request_timeout: Duration,
    /// Which CA it is.
    pub kind: BackendKind,
}

/// The kinds of CA backend.
#[derive(Debug, Clone, PartialEq)]
pub enum BackendKind {
    /// A root that this server makes and keeps in its state directory.
    Builtin(BuiltinSettings),
    /// cert-manager, by `CertificateRequest`s.
    CertManager {
        /// Who signs.
        issuer: IssuerRef,
        /// Whom to trust.
        trust: CaSource,
    },
}

impl BackendKind {
    /// The type's name in a Mesh resource and in metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Builtin(_) => "builtin",
            Self::CertManager { .. } => "certmanager",
        }
    }

    /// Whether the CA to trust is what the issuer says of itself.
    pub fn takes_trust_from_issuer(&self) -> bool {
        matches!(self, Self::CertManager { trust: CaSource::Issuer, .. })
    }
}

/// `conf.caCert` of a builtin backend.
#[derive(Debug, Clone, PartialEq)]
pub struct BuiltinSettings {
    /// Lifetime of the root: `conf.caCert.expiration`, 10 years by default.
    pub root_lifetime: Duration,
}

impl Default for BuiltinSettings {
    fn default() -> Self {
        Self { root_lifetime: Duration::from_secs(10 * 365 * 24 * 3600) }
    }
}

/// cert-manager's `issuerRef`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IssuerRef {
    /// The issuer's name.
    pub name: String,
    /// `Issuer` unless given.
    pub kind: String,
    /// `cert-manager.io` unless given.
    pub group: String,
}

/// Where the CA certificates of a cert-manager backend come from.
#[derive(Debug, Clone, PartialEq)]
pub enum CaSource {
    /// `conf.caCert.inlineString` or `.inline`: parsed when the resource was read.
    Inline(Arc<Bundle>),
    /// `conf.caCert.file`: a PEM file, watched.
    File(PathBuf),
    /// `conf.caCert.secret`: name of a mesh Secret, from a resource file or the cluster, watched.
    Secret(Arc<str>),
    /// No `conf.caCert`: `status.ca` of the CertificateRequests.
    Issuer,
}
