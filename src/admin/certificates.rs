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
    /// What there is now of the proxies that are wanted.
    fn select(&self, wanted: &dyn Fn(&ProxyKey) -> bool) -> Held;

    /// Renews the certificates of these proxies now.
    fn rotate(&self, proxies: Vec<ProxyKey>);
}

impl Certificates for Manager {
    fn select(&self, wanted: &dyn Fn(&ProxyKey) -> bool) -> Held {
        Self::select(self, wanted)
    }

    fn rotate(&self, proxies: Vec<ProxyKey>) {
        Self::rotate(self, proxies);
    }
}
