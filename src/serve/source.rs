//! Where the secrets come from: the seam between the protocol and the stages that issue and trust.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

use crate::model::bundle::Bundle;
use crate::model::bundle_set::BundleSet;
use crate::model::held::HeldLeaf;
use crate::model::identity::Identity;
use crate::model::svid::Svid;

/// Gives the two kinds of secret. They are different types all the way to the wire: there is no way to answer for a
/// validation context with anything but a trust bundle that has a CA in it (xds-conformance items 65 and 67).
pub trait SecretSource: fmt::Debug + Send + Sync + 'static {
    /// The certificate of a proxy: `None` until it is issued, then always the newest good one. Being subscribed is what
    /// causes issuance and renewal. `held` is the leaf that the proxy says it has on this subscription: if the server
    /// stands by it, nothing is issued before that leaf is due (xds-conformance item 107).
    fn certificate(&self, identity: &Identity, held: Option<&HeldLeaf>) -> CertificateWatch;

    /// The trust bundle of a mesh: `None` until it is known.
    fn trust_bundle(&self, mesh: &str) -> watch::Receiver<Option<Arc<Bundle>>>;

    /// The trust bundles of all trust domains that proxies of `mesh` may know: `None` while there is none. It changes only
    /// when one of the bundles does.
    fn trust_domains(&self, mesh: &str) -> watch::Receiver<Option<Arc<BundleSet>>>;

    /// Whether there is such a trust domain for proxies of `mesh` now, be its bundle known already or pending.
    fn has_trust_domain(&self, mesh: &str, trust_domain: &str) -> bool;
}

/// A subscription to one proxy's certificate; it is renewed for as long as somebody holds one of these.
pub struct CertificateWatch {
    /// The newest good certificate.
    pub current: watch::Receiver<Option<Arc<Svid>>>,
    /// What is there at first is not sent, only what comes later: the proxy says that it holds a newer one.
    pub shows_changes_only: bool,
    /// Dropped with the subscription, which is how the issuer knows that nobody wants it any more.
    pub interest: Box<dyn Any + Send + Sync>,
}

impl fmt::Debug for CertificateWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateWatch").field("current", &self.current).finish_non_exhaustive()
    }
}
