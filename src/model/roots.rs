//! How a CA backend tells which CA certificate it issues under: from the stage that issues to the stage that trusts,
//! without either knowing the other.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

use super::certificate::Certificate;

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

/// Takes the news. Implemented by the trust store.
pub trait RootSink: fmt::Debug + Send + Sync + 'static {
    /// News of a backend of a mesh; what was said before and is said again changes nothing.
    fn publish(&self, mesh: &Arc<str>, backend: &Arc<str>, news: RootNews);

    /// Whether it knows a root that the backend's issuer named before, maybe to the program that ran before this one.
    fn has_learned(&self, mesh: &Arc<str>, backend: &Arc<str>) -> bool;
}
