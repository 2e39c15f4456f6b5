//! A leaf that a proxy says it holds.

use std::sync::Arc;

use jiff::Timestamp;

/// What the version of a certificate that a proxy reports says about the leaf it was sent with (versions are
/// readable so that a server which lost the key can tell whether the proxy has what it needs).
///
/// It is the proxy's word and proves nothing: whoever decides by it may spare itself work for that proxy, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldLeaf {
    /// Begin of the leaf's validity.
    pub not_before: Timestamp,
    /// End of the leaf's validity.
    pub not_after: Timestamp,
    /// What it was issued for; compare `issue::issuer::policy_digest`.
    pub policy_digest: Arc<str>,
    /// The first 16 hex digits of the fingerprint of the CA in the trust bundle that it leads to.
    pub anchor: Arc<str>,
    /// The digest of its chain, 16 hex digits.
    pub content: Arc<str>,
}
