//! What the admin API needs of the certificate manager.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::issue::manager::{Manager, Status};
use crate::model::identity::ProxyKey;
use crate::model::svid::Svid;

/// Every proxy's certificate and how it is doing, ordered.
pub(super) type Held = BTreeMap<ProxyKey, (Option<Arc<Svid>>, Status)>;

/// The certificates, and a way to have them renewed.
pub(super) trait Certificates: fmt::Debug + Send + Sync + 'static {
    /// What there is now.
    fn snapshot(&self) -> Held;

    /// Renews the certificates of these proxies now.
    fn rotate(&self, proxies: Vec<ProxyKey>);
}

impl Certificates for Manager {
    fn snapshot(&self) -> Held {
        Self::snapshot(self)
    }

    fn rotate(&self, proxies: Vec<ProxyKey>) {
        Self::rotate(self, proxies);
    }
}
