//! How many streams there may be: in total, of one proxy, of one identity, silent ones, and new ones a second
//! (xds-conformance items 63 and 97).
//!
//! A stream is admitted in two steps. When it opens, nothing is known of the peer but its connection and perhaps what it
//! has proven: [`Admission::enter`]. With its first request it is known which proxy it is: [`Admission::enter_as`].

use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;
use tokio::time::Instant;
use tonic::Status;

use super::bucket::Bucket;
use super::metrics::{Metrics, Refusal};
use crate::identify::node_id;
use crate::model::identity::{Identity, Instance, ProxyKey};

/// Streams of one connection that have not sent a request yet; those of a proven instance count on all its connections,
/// and are bounded like its other streams. An Envoy sends the first request with the headers, so it has none to speak of;
/// whoever opens streams and says nothing is cut off here, long before the total is used up.
pub(super) const SILENT: usize = 512;

/// Bounds on streams, all inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamLimits {
    /// Streams in total.
    pub streams: usize,
    /// Streams of one proxy. An Envoy opens one for each secret and use (xds-conformance B1).
    pub per_proxy: usize,
    /// Streams of all proxies of one identity whose credential names no instance: it is the client's own `node.id` that
    /// tells these apart, so without a bound one stolen token could open streams, and be given leaves, under any number
    /// of names. Pod-bound tokens name the pod. With `insecureNodeId` there is no credential to steal, and no bound.
    pub per_identity: usize,
    /// New streams a second; `None` for no bound.
    pub new_per_second: Option<u32>,
    /// Names on one stream, those that are withheld included. An Envoy on ADS has all its secrets on one stream.
    pub names: usize,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self { streams: 50_000, per_proxy: 64, per_identity: 4096, new_per_second: None, names: 256 }
    }
}

/// An identity in its mesh, whichever instance.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct IdentityKey {
    mesh: Arc<str>,
    spiffe_id: Arc<str>,
}

/// Admits streams; clones share their counts.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    limits: StreamLimits,
    metrics: Metrics,
    /// A lock, because it is held for some nanoseconds and never across an await.
    new: Option<Arc<std::sync::Mutex<Bucket>>>,
    total: Arc<AtomicUsize>,
    silent: Arc<DashMap<(&'static str, Arc<str>), usize>>,
    proxies: Arc<DashMap<ProxyKey, usize>>,
    identities: Arc<DashMap<IdentityKey, usize>>,
}

impl Admission {
    pub(crate) fn new(limits: StreamLimits, metrics: Metrics) -> Self {
        let bucket = |rate| Arc::new(std::sync::Mutex::new(Bucket::new(rate, Instant::now())));
        Self {
            limits,
            metrics,
            new: limits.new_per_second.map(bucket),
            total: Arc::default(),
            silent: Arc::default(),
            proxies: Arc::default(),
            identities: Arc::default(),
        }
    }

    /// One place among all streams and among the silent ones of its connection, of which `silent` is the count, before
    /// anything is known of the peer.
    pub(crate) fn enter(&self, silent: &Arc<AtomicUsize>) -> Result<Place, Status> {
        let silent = Place::take(silent, SILENT).ok_or_else(|| self.refuse(Refusal::SilentStreams))?;
        let total = Place::take(&self.total, self.limits.streams).ok_or_else(|| self.refuse(Refusal::Streams))?;
        if let Some(bucket) = &self.new
            && !bucket.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take(Instant::now())
        {
            return Err(self.refuse(Refusal::NewStreams));
        }
        Ok(Place { _total: total, silent: Some(silent), silent_instance: None })
    }

    /// For a place whose peer has proven to be the instance `instance`: its silent streams count on all its connections.
    pub(crate) fn prove(&self, place: &mut Place, method: &'static str, instance: &str) -> Result<(), Status> {
        let counted = Counted::take(&self.silent, (method, instance.into()), self.limits.per_proxy);
        place.silent_instance = Some(counted.ok_or_else(|| self.refuse(Refusal::SilentStreams))?);
        Ok(())
    }

    /// One place among the streams of a proxy, and of its identity where the proof names no instance.
    pub(crate) fn enter_as(&self, identity: &Identity) -> Result<ProxyPlace, Status> {
        let key = identity.proxy_key();
        let shared = matches!(key.instance, Instance::Node(_)) && identity.method != node_id::METHOD;
        let whole = IdentityKey { mesh: key.mesh.clone(), spiffe_id: key.spiffe_id.clone() };
        let proxy = Counted::take(&self.proxies, key, self.limits.per_proxy);
        let proxy = proxy.ok_or_else(|| self.refuse(Refusal::StreamsPerProxy))?;
        let identity = shared.then(|| {
            let counted = Counted::take(&self.identities, whole, self.limits.per_identity);
            counted.ok_or_else(|| self.refuse(Refusal::StreamsPerIdentity))
        });
        Ok(ProxyPlace { _proxy: proxy, _identity: identity.transpose()? })
    }

    /// Counts it, and tells the client as much as it may know.
    pub(crate) fn refuse(&self, refusal: Refusal) -> Status {
        self.metrics.refused(refusal);
        tracing::debug!(?refusal, "refused");
        match refusal {
            Refusal::NotReady => Status::unavailable("not ready yet"),
            Refusal::ShuttingDown => Status::unavailable("shutting down"),
            Refusal::Unproven => Status::unauthenticated("no proof of identity"),
            Refusal::Streams => Status::resource_exhausted("too many streams on this server"),
            Refusal::NewStreams => Status::resource_exhausted("too many new streams at the moment"),
            Refusal::SilentStreams => Status::resource_exhausted("too many streams without a request"),
            Refusal::StreamsPerProxy => Status::resource_exhausted("too many streams of this proxy"),
            Refusal::StreamsPerIdentity => Status::resource_exhausted("too many streams of this identity"),
        }
    }

    /// Streams, silent instances, proxies and identities that are counted at the moment.
    #[cfg(test)]
    pub(crate) fn counts(&self) -> [usize; 4] {
        let total = self.total.load(Ordering::Relaxed);
        [total, self.silent.len(), self.proxies.len(), self.identities.len()]
    }
}

/// The places of a stream that has opened; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _total: One,
    silent: Option<One>,
    silent_instance: Option<Counted<(&'static str, Arc<str>)>>,
}

impl Place {
    /// The stream has sent its first request. Until this is said, it counts among the silent ones.
    pub(crate) fn heard(&mut self) {
        self.silent = None;
        self.silent_instance = None;
    }

    fn take(count: &Arc<AtomicUsize>, limit: usize) -> Option<One> {
        let taken = count.fetch_add(1, Ordering::Relaxed);
        let one = One(count.clone());
        (taken < limit).then_some(one)
    }
}

/// The places of a stream whose proxy is known; given back when dropped.
#[derive(Debug)]
pub(crate) struct ProxyPlace {
    _proxy: Counted<ProxyKey>,
    _identity: Option<Counted<IdentityKey>>,
}

/// One in a count, until dropped.
#[derive(Debug)]
struct One(Arc<AtomicUsize>);

impl Drop for One {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One in the count of `key`, until dropped.
#[derive(Debug)]
struct Counted<K: Hash + Eq> {
    counts: Arc<DashMap<K, usize>>,
    key: K,
}

impl<K: Hash + Eq + Clone> Counted<K> {
    fn take(counts: &Arc<DashMap<K, usize>>, key: K, limit: usize) -> Option<Self> {
        let mut count = counts.entry(key.clone()).or_default();
        *count += 1;
        let admitted = *count <= limit;
        drop(count);
        let counted = Self { counts: counts.clone(), key };
        admitted.then_some(counted)
    }
}

impl<K: Hash + Eq> Drop for Counted<K> {
    fn drop(&mut self) {
        self.counts.remove_if_mut(&self.key, |_, count| {
            *count = count.saturating_sub(1);
            *count == 0
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus_client::registry::Registry;
    use tonic::Code;

    use super::*;
    use crate::serve::testing::identity;

    fn admission(limits: StreamLimits) -> Admission {
        Admission::new(limits, Metrics::new(&mut Registry::default()))
    }

    fn exhausted<T>(result: Result<T, Status>) {
        assert_eq!(result.map(|_| ()).unwrap_err().code(), Code::ResourceExhausted);
    }

    #[tokio::test]
    async fn item_63_bounds_are_exact_and_places_come_back() {
        let admission = admission(StreamLimits { streams: 2, per_proxy: 1, ..StreamLimits::default() });
        let connection = Arc::default();
        let places = (admission.enter(&connection).unwrap(), admission.enter(&connection).unwrap());
        exhausted(admission.enter(&connection));
        drop(places);
        admission.enter(&connection).unwrap();

        let (web, api) = (identity("web"), identity("api"));
        let place = admission.enter_as(&web).unwrap();
        exhausted(admission.enter_as(&web));
        let other = admission.enter_as(&api).unwrap();
        drop(place);
        let again = admission.enter_as(&web).unwrap();
        drop((other, again));
        assert_eq!(admission.counts(), [0; 4]);
        assert_eq!(connection.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn item_63_one_credential_under_many_node_ids() {
        let admission = admission(StreamLimits { per_identity: 3, ..StreamLimits::default() });
        let named = |node: usize, method| Identity {
            instance: Instance::Node(node.to_string().into()),
            method,
            ..identity("web")
        };
        let mut places: Vec<_> = (0..3).map(|node| admission.enter_as(&named(node, "proxyToken")).unwrap()).collect();
        exhausted(admission.enter_as(&named(3, "proxyToken")));
        // Neither another identity nor a proven instance is any worse off for it, and a refusal leaves nothing behind.
        let other = Identity { spiffe_id: "spiffe://default/api".parse().unwrap(), ..named(0, "proxyToken") };
        places.push(admission.enter_as(&other).unwrap());
        places.push(admission.enter_as(&identity("web")).unwrap());
        assert_eq!(admission.counts(), [0, 0, 5, 2]);
        // Whoever may say anything of itself may say another identity as well.
        places.extend((0..100).map(|node| admission.enter_as(&named(node, node_id::METHOD)).unwrap()));
        drop(places);
        assert_eq!(admission.counts(), [0; 4]);
    }

    #[tokio::test]
    async fn item_63_silent_streams_of_a_connection_and_of_an_instance() {
        let admission = admission(StreamLimits::default());
        let (one, two) = (Arc::default(), Arc::default());
        let mut silent: Vec<_> = (0..SILENT).map(|_| admission.enter(&one).unwrap()).collect();
        exhausted(admission.enter(&one));
        // Another connection is another matter, unless the same instance is behind it.
        for place in silent.iter_mut().take(StreamLimits::default().per_proxy) {
            admission.prove(place, "test", "web").unwrap();
        }
        let mut further = admission.enter(&two).unwrap();
        exhausted(admission.prove(&mut further, "test", "web"));
        admission.prove(&mut further, "test", "api").unwrap();
        silent[0].heard();
        silent.push(admission.enter(&one).unwrap());
        exhausted(admission.enter(&one));
        drop((silent, further));
        assert_eq!(admission.counts(), [0; 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn item_97_new_streams_a_second() {
        let admission = admission(StreamLimits { new_per_second: Some(5), ..StreamLimits::default() });
        let connection = Arc::default();
        let admitted = || (0..50).filter(|_| admission.enter(&connection).is_ok()).count();
        assert_eq!(admitted(), 5);
        assert_eq!(admitted(), 0);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(admitted(), 5);
        assert_eq!(admission.counts(), [0; 4]);
    }
}
