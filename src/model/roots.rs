//! How a CA backend tells which CA certificate it issues under: from the stage that issues to the stage that trusts,
//! without either knowing the other.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

use super::certificate::Certificate;
use super::policy::{Backend, BackendKind};

/// What a backend has to say about its own CA certificate.
#[derive(Debug, Clone, PartialEq)]
pub enum RootNews {
    /// This is it, and no other: the backend's key is ours.
    Own(Certificate),
    /// An issuer named it as its own (`status.ca`), for a leaf that is good until `needed_until`. Roots named before stay
    /// trusted for as long as a leaf under them may be in use.
    Learned {
        /// The root.
        root: Certificate,
        /// End of the leaf that it was named with.
        needed_until: Timestamp,
    },
    /// It is not known, and this is why.
    Missing(String),
}

/// Who names the CA of a backend of this kind, where that is the issuer itself: a cert-manager issuer by group, kind and
/// name, and one word for all provided CAs. What one issuer has named is no news of another.
pub fn root_issuer(kind: &BackendKind) -> Option<Arc<str>> {
    match kind {
        _ if !kind.takes_trust_from_issuer() => None,
        BackendKind::CertManager { issuer, .. } => {
            Some(format!("{}/{}/{}", issuer.group, issuer.kind, issuer.name).into())
        }
        _ => Some(kind.label().into()),
    }
}

/// Takes the news. Implemented by the trust store.
pub trait RootSink: fmt::Debug + Send + Sync + 'static {
    /// News of a backend of a mesh; what was said before and is said again changes nothing. `backend` is as the policy had it
    /// when it was asked: what is told of one that is another kind of CA now, or another issuer, is not heard.
    fn publish(&self, mesh: &Arc<str>, backend: &Arc<Backend>, news: RootNews);

    /// Whether it knows a root that the backend's issuer named before, maybe to the program that ran before this one.
    fn has_learned(&self, mesh: &Arc<str>, backend: &Backend) -> bool;
}
