//! A leaf that a proxy says it holds.

use std::sync::Arc;

use jiff::Timestamp;

use super::svid::Svid;

/// What the version of a certificate that a proxy reports says about the leaf it was sent with (versions are
/// readable so that a server which lost the key can tell whether the proxy has what it needs).
///
/// It is the proxy's word and proves nothing: whoever decides by it may spare itself work for that proxy, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldLeaf {
    /// Begin of the leaf's validity.
    pub not_before: Timestamp,
    /// Until when it is good: the end of the first certificate of its chain that ends, the anchor included
    /// ([`Svid::usable_until`]). Mostly that is the leaf, but not every CA shortens a leaf to its issuer's end, and who reads
    /// the report has neither the intermediates nor, maybe, the anchor's end to go by.
    pub not_after: Timestamp,
    /// What it was issued for; compare `issue::issuer::policy_digest`.
    pub policy_digest: Arc<str>,
    /// The CA in the trust bundle that it leads to; compare [`Certificate::short_digest`](super::certificate::Certificate::short_digest).
    pub anchor: Arc<str>,
    /// The digest of its chain, 16 hex digits; compare [`Svid::content_digest`](super::svid::Svid::content_digest).
    pub content: Arc<str>,
}

impl HeldLeaf {
    /// Whether it was issued after `svid`.
    pub fn is_newer_than(&self, svid: &Svid) -> bool {
        self.not_before > svid.validity().not_before
    }
}

/// What a proxy reports that was sent `svid`.
impl From<&Svid> for HeldLeaf {
    fn from(svid: &Svid) -> Self {
        Self {
            not_before: svid.validity().not_before,
            not_after: svid.usable_until(),
            policy_digest: svid.policy_digest.clone(),
            anchor: svid.anchor.short_digest().into(),
            content: svid.content_digest().into(),
        }
    }
}
