//! What a name stands for, whoever asks; and whether this proxy may have it.
//!
//! The two are apart so that the kind of a name cannot depend on the proxy: a profile sees the name only.

use super::{SecretKind, SecretRef};
use crate::model::identity::Identity;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning<'n> {
    /// A proxy's certificate.
    Certificate(Owner<'n>),
    /// The CAs of a proxy's mesh.
    TrustBundle(Owner<'n>),
    /// Every trust domain's CAs.
    AllTrustDomains,
    /// The CAs of one trust domain, by its bare name.
    TrustDomain(&'n str),
}

/// Which proxies a name is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner<'n> {
    /// Whoever asks.
    Asker,
    /// The proxy with this SPIFFE ID.
    SpiffeId(&'n str),
    /// The proxies of this mesh.
    Mesh(&'n str),
    /// The proxies of this Kubernetes namespace.
    Namespace(&'n str),
    /// The proxies with this Kubernetes service account.
    ServiceAccount { namespace: &'n str, name: &'n str },
    /// The proxies of this Kubernetes namespace whose service account or workload has this name.
    Workload { namespace: &'n str, name: &'n str },
    /// Known to be something that this server does not have.
    Nobody,
}

impl Meaning<'_> {
    pub(super) fn kind(self) -> SecretKind {
        match self {
            Self::Certificate(_) => SecretKind::Certificate,
            Self::TrustBundle(_) | Self::AllTrustDomains | Self::TrustDomain(_) => SecretKind::Bundle,
        }
    }

    /// The secret, if the proxy may have it. Every trust domain's CAs are public, so anybody may have those.
    pub(super) fn secret_for(self, identity: &Identity) -> Option<SecretRef> {
        match self {
            Self::Certificate(owner) => owner.is(identity).then_some(SecretRef::Certificate),
            Self::TrustBundle(owner) => owner.is(identity).then_some(SecretRef::TrustBundle),
            Self::AllTrustDomains => Some(SecretRef::AllTrustDomains),
            Self::TrustDomain(name) if name == identity.spiffe_id.trust_domain_name() => Some(SecretRef::TrustBundle),
            Self::TrustDomain(name) => Some(SecretRef::TrustDomain(name.into())),
        }
    }
}

impl Owner<'_> {
    fn is(self, identity: &Identity) -> bool {
        let workload = &identity.workload;
        let in_namespace = |namespace| workload.namespace.as_deref() == Some(namespace);
        let has_account = |name| workload.service_account.as_deref() == Some(name);
        match self {
            Self::Asker => true,
            Self::Nobody => false,
            Self::SpiffeId(id) => identity.spiffe_id.to_string() == id,
            Self::Mesh(mesh) => *identity.mesh == *mesh,
            Self::Namespace(namespace) => in_namespace(namespace),
            Self::ServiceAccount { namespace, name } => in_namespace(namespace) && has_account(name),
            Self::Workload { namespace, name } => {
                in_namespace(namespace) && (has_account(name) || workload.name.as_deref() == Some(name))
            }
        }
    }
}
