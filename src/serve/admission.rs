//! How many streams there may be: in total, and for one proxy (xds-conformance item 63).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;
use tonic::Status;

use crate::model::identity::ProxyKey;

/// Bounds on streams, both inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamLimits {
    /// Streams in total.
    pub streams: usize,
    /// Streams of one proxy. An Envoy opens one for each secret and use (xds-conformance B1).
    pub per_proxy: usize,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self { streams: 50_000, per_proxy: 64 }
    }
}

/// Admits streams; clones share their counts.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    limits: StreamLimits,
    total: Arc<AtomicUsize>,
    proxies: Arc<DashMap<ProxyKey, usize>>,
}

impl Admission {
    pub(crate) fn new(limits: StreamLimits) -> Self {
        Self { limits, total: Arc::default(), proxies: Arc::default() }
    }

    /// One place among all streams, before anything is known of the peer.
    pub(crate) fn enter(&self) -> Result<Place, Status> {
        let taken = self.total.fetch_add(1, Ordering::Relaxed);
        let place = Place(self.total.clone());
        if taken < self.limits.streams {
            Ok(place)
        } else {
            Err(Status::resource_exhausted("too many streams on this server"))
        }
    }

    /// One place among the streams of a proxy.
    pub(crate) fn enter_as(&self, proxy: ProxyKey) -> Result<ProxyPlace, Status> {
        let mut count = self.proxies.entry(proxy.clone()).or_default();
        *count += 1;
        let admitted = *count <= self.limits.per_proxy;
        drop(count);
        let place = ProxyPlace { proxies: self.proxies.clone(), proxy };
        if admitted { Ok(place) } else { Err(Status::resource_exhausted("too many streams of this proxy")) }
    }
}

/// Given back when dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Given back when dropped.
#[derive(Debug)]
pub(crate) struct ProxyPlace {
    proxies: Arc<DashMap<ProxyKey, usize>>,
    proxy: ProxyKey,
}

impl Drop for ProxyPlace {
    fn drop(&mut self) {
        self.proxies.remove_if_mut(&self.proxy, |_, count| {
            *count = count.saturating_sub(1);
            *count == 0
        });
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::serve::testing::identity;

    #[test]
    fn item_63_bounds_are_exact_and_places_come_back() {
        let admission = Admission::new(StreamLimits { streams: 2, per_proxy: 1 });
        let places = (admission.enter().unwrap(), admission.enter().unwrap());
        assert_eq!(admission.enter().unwrap_err().code(), Code::ResourceExhausted);
        drop(places);
        admission.enter().unwrap();

        let (web, api) = (identity("web").proxy_key(), identity("api").proxy_key());
        let place = admission.enter_as(web.clone()).unwrap();
        assert_eq!(admission.enter_as(web.clone()).unwrap_err().code(), Code::ResourceExhausted);
        let other = admission.enter_as(api).unwrap();
        drop(place);
        let again = admission.enter_as(web).unwrap();
        drop((other, again));
        assert!(admission.proxies.is_empty());
    }
}
