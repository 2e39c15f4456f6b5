//! A proxy's certificate with its private key, as it is served.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

use super::certificate::{Certificate, Validity, short_digest};
use super::key::PrivateKeyPem;

/// An X.509 SVID (SPIFFE X509-SVID §2): leaf, intermediates, private key. Only `issue::verify` makes one, so it has been
/// checked: the key belongs to the leaf, and the chain leads to the mesh's trust bundle.
#[derive(Clone)]
pub struct Svid {
    /// The SPIFFE ID in the leaf.
    pub spiffe_id: Arc<str>,
    /// The leaf.
    pub leaf: Certificate,
    /// What leads from the leaf towards the anchor, in order; no root, and not the anchor itself.
    pub intermediates: Vec<Certificate>,
    /// The leaf's private key.
    pub key: PrivateKeyPem,
    /// The CA certificate of the trust bundle that the chain leads to.
    pub anchor: Certificate,
    /// Digest of what it was issued for: identity and policy. See `issue::issuer`.
    pub policy_digest: Arc<str>,
    /// When it was received from the CA and verified.
    pub received: Timestamp,
}

impl Svid {
    /// When the leaf is valid.
    pub fn validity(&self) -> Validity {
        self.leaf.validity()
    }

    /// The end of the first certificate of the chain that ends, the anchor included: nobody accepts the leaf after that.
    pub fn usable_until(&self) -> Timestamp {
        let others = self.intermediates.iter().chain([&self.anchor]);
        others.map(|certificate| certificate.validity().not_after).fold(self.validity().not_after, Timestamp::min)
    }

    /// When it is of use: from when it was received, as CAs date leaves back, some by an hour, and until
    /// [`Self::usable_until`].
    pub fn life(&self) -> Validity {
        Validity { not_before: self.validity().not_before.max(self.received), not_after: self.usable_until() }
    }

    /// The digest of the chain, 16 hex digits: which leaf it is. Its version carries it, and its renewal is dated by it.
    pub fn content_digest(&self) -> String {
        short_digest(std::iter::once(&self.leaf).chain(&self.intermediates))
    }

    /// The chain as PEM blocks, leaf first.
    pub fn chain_pem(&self) -> String {
        std::iter::once(&self.leaf).chain(&self.intermediates).map(Certificate::pem).collect()
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("spiffe_id", &self.spiffe_id)
            .field("serial", &self.leaf.serial())
            .field("validity", &self.validity())
            .finish_non_exhaustive()
    }
}
