//! What the operator wants: meshes, their CA backends, and whom to trust. Compiled from resources, so always valid. What was
//! in force outlives the program: how it is written down, and that no private key is, see [`kept`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::bundle::Bundle;
use super::identity::Labels;
use super::kept;
use super::secrets::SecretBytes;
use super::template::PathTemplate;
use super::unserved::Unserved;

/// Lifetime of a leaf that this server signs itself and whose policy does not say one.
pub const DEFAULT_LEAF_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Every mesh that the server serves, by name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PolicySet {
    /// By mesh name.
    pub meshes: BTreeMap<Arc<str>, Arc<MeshPolicy>>,
    /// The meshes that there are, or may be, beside these. What was so when a server ended is nothing to keep.
    #[serde(skip)]
    pub unserved: Unserved,
}

impl PolicySet {
    /// Whether a backend names a mesh Secret as its CA, or as its key.
    pub fn names_secrets(&self) -> bool {
        self.meshes.values().flat_map(|mesh| &mesh.backends).any(|backend| backend.kind.names_secrets())
    }
}

/// One mesh's policy: who gets which identity, who signs it, whom to trust.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MeshPolicy {
    /// The mesh's name, which is also its default trust domain.
    pub name: Arc<str>,
    /// Name of the backend that signs for proxies that no identity policy selects; one of `backends` (the constructor in
    /// `mesh` guarantees it). `None` if `Mesh.mtls` is off: then only those who are selected are signed for.
    pub enabled_backend: Option<Arc<str>>,
    /// All CA backends, those of identity policies included: each one's CA is trusted. Never empty, names are unique.
    pub backends: Vec<Arc<Backend>>,
    /// Its `MeshIdentity` resources, by name.
    pub identities: Vec<Arc<IdentityPolicy>>,
    /// Its `MeshTrust` resources, by name.
    pub trusts: Vec<Arc<TrustAnchors>>,
    /// `mtls.skipValidation`: its backends are not tried out with a test certificate before they are used (S0-15).
    pub skip_validation: bool,
}

impl MeshPolicy {
    /// A mesh of classic `Mesh.mtls` alone.
    pub fn classic(name: Arc<str>, enabled_backend: Arc<str>, backends: Vec<Arc<Backend>>) -> Self {
        Self {
            name,
            enabled_backend: Some(enabled_backend),
            backends,
            identities: Vec::new(),
            trusts: Vec::new(),
            skip_validation: false,
        }
    }

    /// The backend that signs for proxies that no identity policy selects.
    pub fn enabled(&self) -> Option<&Arc<Backend>> {
        self.backend(self.enabled_backend.as_ref()?)
    }

    /// A backend by its name.
    pub fn backend(&self, name: &str) -> Option<&Arc<Backend>> {
        self.backends.iter().find(|backend| *backend.name == *name)
    }

    /// The backend that signs for a proxy: that of the identity policy of this name, or the enabled one.
    pub fn signer(&self, identity_policy: Option<&str>) -> Option<&Arc<Backend>> {
        match identity_policy {
            None => self.enabled(),
            Some(name) => {
                let identity = self.identities.iter().find(|identity| *identity.name == *name)?;
                self.backend(&identity.backend)
            }
        }
    }

    /// The identity policy for a proxy with these labels: of those that select it the one with the most labels, then the
    /// first by name, as Kuma has it (S4-6).
    pub fn identity_for(&self, labels: &Labels) -> Option<&Arc<IdentityPolicy>> {
        let selecting = self.identities.iter().filter(|identity| identity.selector.selects(labels));
        selecting.min_by_key(|identity| (std::cmp::Reverse(identity.selector.len()), identity.name.clone()))
    }

    /// The trust domains of its own proxies, by their bare names: its own name and those of its identity policies. No other
    /// mesh has one of them (the constructor in `mesh` guarantees it).
    pub fn own_trust_domains(&self) -> BTreeSet<Arc<str>> {
        let of_identities = self.identities.iter().map(|identity| identity.trust_domain.clone());
        std::iter::once(self.name.clone()).chain(of_identities).collect()
    }
}

/// A `MeshIdentity`: which SPIFFE ID proxies have that it selects, and who signs it (S4-6).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IdentityPolicy {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `spec.selector`.
    pub selector: Selector,
    /// `spec.spiffeID.trustDomain`, rendered; the mesh's name unless given.
    pub trust_domain: Arc<str>,
    /// `spec.spiffeID.path`; without it, the path of the default SPIFFE ID.
    #[serde(with = "kept::path_template")]
    pub path: Option<PathTemplate>,
    /// Name of the backend in [`MeshPolicy::backends`] that signs (`spec.provider`). In force it may be missing there, while
    /// nothing good of it is known at all: then nobody is issued anything by this policy.
    pub backend: Arc<str>,
}

/// Whom a `MeshIdentity` selects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Selector {
    /// `selector: {}`, or none: nobody. Its CA is trusted, so trust can be distributed before anything is issued.
    Nobody,
    /// `selector.dataplane.matchLabels`: proxies that have all of these; all proxies, if there are none.
    Labels(Labels),
}

impl Selector {
    /// Whether a proxy with these labels is selected.
    pub fn selects(&self, labels: &Labels) -> bool {
        match self {
            Self::Nobody => false,
            Self::Labels(wanted) => wanted.iter().all(|(key, value)| labels.get(key) == Some(value)),
        }
    }

    /// How many labels it asks for.
    pub fn len(&self) -> usize {
        match self {
            Self::Nobody => 0,
            Self::Labels(wanted) => wanted.len(),
        }
    }

    /// Whether it asks for no label at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A `MeshTrust`: CAs to be trusted for a trust domain (S4-10).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrustAnchors {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `spec.trustDomain`, the bare name. One of the mesh's own: its proxies trust these CAs as well, for everything that
    /// they trust the mesh's own for. Another: only who asks for that domain, or for all of them, is told.
    pub trust_domain: Arc<str>,
    /// `spec.caBundles`, all together.
    #[serde(with = "kept::bundle")]
    pub bundle: Arc<Bundle>,
}

/// A CA backend of a mesh.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    /// `backends[].name`.
    pub name: Arc<str>,
    /// Lifetime to ask for: `dpCert.rotation.expiration`. `None` leaves it to the CA.
    pub leaf_lifetime: Option<Duration>,
    /// Bound on each call to the CA's API, and after how long a pending request is called slow:
    /// `dpCert.requestTimeout`.
    pub request_timeout: Duration,
    /// The trust domain of the SPIFFE IDs that it signs, by its bare name: the mesh's, unless it is an identity policy's.
    pub trust_domain: Arc<str>,
    /// Which CA it is.
    pub kind: BackendKind,
}

impl Backend {
    /// How long a leaf lives that was issued now, at most: what it is asked for, or what such a CA gives unasked (this server
    /// itself a day, cert-manager 90 days).
    pub fn longest_leaf(&self) -> Duration {
        let unasked = match self.kind {
            BackendKind::CertManager { .. } => 90 * DEFAULT_LEAF_LIFETIME,
            BackendKind::Builtin(_) | BackendKind::Provided(_) | BackendKind::NotInProgram(_) => DEFAULT_LEAF_LIFETIME,
        };
        self.leaf_lifetime.unwrap_or(unasked)
    }
}

/// The kinds of CA backend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// A CA whose certificate and key the user has given to this server (`provided`, and `Bundled` with `ca`).
    Provided(ProvidedCa),
    /// A type that is known and was validated, but cannot be used because it is not in the program: the word that the
    /// resource has for it (`vault`, `acmpca`, …). Neither does it sign nor is its CA known.
    #[serde(with = "kept::not_in_program")]
    NotInProgram(kept::Word),
}

/// Where a provided CA's certificate and key are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvidedCa {
    /// PEM: the CA certificate; may be followed by those that lead to its root.
    #[serde(with = "kept::certificate_source")]
    pub certificate: DataSource,
    /// PEM: its private key.
    #[serde(with = "kept::key_source")]
    pub private_key: DataSource,
    /// Whether the CA certificate may be self-signed; `MeshIdentity` asks for `insecureAllowSelfSigned` (S4-6).
    pub allow_self_signed: bool,
}

/// Kuma's data source: where some bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataSource {
    /// In the resource itself.
    Inline(SecretBytes),
    /// A file, watched.
    File(PathBuf),
    /// A mesh Secret, by name; from a resource file or the cluster, watched.
    Secret(Arc<str>),
    /// An environment variable of the server, by name.
    EnvVar(Arc<str>),
    /// In the resource itself, as it was before the server was restarted: a private key, which is kept nowhere.
    NotKept,
}

impl BackendKind {
    /// The type's name in a Mesh resource and in metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Builtin(_) => "builtin",
            Self::CertManager { .. } => "certmanager",
            Self::Provided(_) => "provided",
            Self::NotInProgram(name) => name,
        }
    }

    /// Whether the CA to trust is what came with the certificates that it signed: what an issuer says of itself, or a
    /// provided CA, which may be replaced where it lies. Roots that were trusted before stay for as long as leaves under
    /// them may be in use.
    pub fn takes_trust_from_issuer(&self) -> bool {
        matches!(self, Self::CertManager { trust: CaSource::Issuer, .. } | Self::Provided(_))
    }

    /// Whether it needs a mesh Secret.
    pub fn names_secrets(&self) -> bool {
        match self {
            Self::CertManager { trust, .. } => matches!(trust, CaSource::Secret(_)),
            Self::Provided(ca) => {
                [&ca.certificate, &ca.private_key].into_iter().any(|source| matches!(source, DataSource::Secret(_)))
            }
            Self::Builtin(_) | Self::NotInProgram(_) => false,
        }
    }
}

/// `conf.caCert` of a builtin backend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IssuerRef {
    /// The issuer's name.
    pub name: String,
    /// `Issuer` unless given.
    pub kind: String,
    /// `cert-manager.io` unless given.
    pub group: String,
}

/// Where the CA certificates of a cert-manager backend come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum CaSource {
    /// `conf.caCert.inlineString` or `.inline`: parsed when the resource was read.
    #[serde(with = "kept::bundle")]
    Inline(Arc<Bundle>),
    /// `conf.caCert.file`: a PEM file, watched.
    File(PathBuf),
    /// `conf.caCert.secret`: name of a mesh Secret, from a resource file or the cluster, watched.
    Secret(Arc<str>),
    /// No `conf.caCert`: `status.ca` of the CertificateRequests.
    Issuer,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(labels: &[(&str, &str)]) -> Labels {
        labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    }

    fn mesh(identities: &[(&str, Selector)]) -> MeshPolicy {
        let identity = |(name, selector): &(&str, Selector)| IdentityPolicy {
            name: (*name).into(),
            selector: selector.clone(),
            trust_domain: format!("{name}.example").into(),
            path: None,
            backend: "ca".into(),
        };
        let identities = identities.iter().map(|listed| Arc::new(identity(listed))).collect();
        MeshPolicy { identities, ..MeshPolicy::classic("default".into(), "ca".into(), Vec::new()) }
    }

    #[test]
    fn the_most_labels_win_and_then_the_name() {
        let of = |pairs: &[(&str, &str)]| Selector::Labels(labels(pairs));
        let mesh = mesh(&[
            ("z-all", of(&[])),
            ("a-all", of(&[])),
            ("nobody", Selector::Nobody),
            ("b-web", of(&[("app", "web")])),
            ("c-front", of(&[("tier", "front")])),
            ("z-web-front", of(&[("app", "web"), ("tier", "front")])),
        ]);
        let chosen =
            |pairs: &[(&str, &str)]| mesh.identity_for(&labels(pairs)).map(|identity| identity.name.to_string());
        for (pairs, expected) in [
            (&[][..], "a-all"),
            (&[("app", "db")], "a-all"),
            (&[("app", "web"), ("x", "y")], "b-web"),
            (&[("tier", "front")], "c-front"),
            (&[("app", "web"), ("tier", "front")], "z-web-front"),
            (&[("app", "web"), ("tier", "back")], "b-web"),
        ] {
            assert_eq!(chosen(pairs).as_deref(), Some(expected), "{pairs:?}");
        }
    }

    #[test]
    fn a_selector_without_labels_may_mean_nobody_or_everybody() {
        let none = Labels::new();
        assert_eq!(mesh(&[("id", Selector::Nobody)]).identity_for(&none), None);
        assert!(mesh(&[("id", Selector::Labels(Labels::new()))]).identity_for(&none).is_some());
        let web = Selector::Labels(labels(&[("app", "web")]));
        assert_eq!(mesh(&[("id", web)]).identity_for(&none), None);
    }

    #[test]
    fn a_mesh_has_its_own_trust_domain_and_those_of_its_identities() {
        let domains = mesh(&[("front", Selector::Nobody)]).own_trust_domains();
        assert_eq!(domains.iter().map(AsRef::as_ref).collect::<Vec<&str>>(), ["default", "front.example"]);
    }
}
