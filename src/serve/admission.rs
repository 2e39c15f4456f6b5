//! How many streams there may be: in total, of one proxy, of one identity, silent ones, and new ones a second
//! (xds-conformance items 63 and 97).
//!
//! A stream is admitted in three steps, so that those of whom less is known cannot take the places of the others. When it
//! opens, nothing is known of the peer but its connection: [`Admission::enter`], and [`Admission::verify`] while its proof
//! is looked at. Who has proven something takes one of the places of the server: [`Admission::admit`]. With its first
//! request it is known which proxy it is: [`Admission::enter_as`].

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Status;

use super::bucket::Bucket;
use super::counts::{Counted, One};
use super::instances::{IdentityKey, KnownInstances, Present};
use super::metrics::Metrics;
use super::refusal::Refusal;
use crate::identify::{Proof, node_id};
use crate::model::identity::{Identity, Instance, ProxyKey};

/// Streams of one connection that have not sent a request yet; those of a proven instance count on all its connections,
/// and are bounded like its other streams, as are those of an identity whose proof names none. An Envoy sends the first
/// request with the headers, so it has none to speak of; whoever opens streams and says nothing is cut off here, long before
/// the total is used up.
pub(super) const SILENT: usize = 512;
/// … but no more than a quarter of the server's streams, where that is not less than this.
const SILENT_AT_LEAST: usize = 64;

/// Streams of one connection whose proof is being verified, if that takes more than a look: the verdict on a token is
/// remembered.
pub(super) const VERIFYING: usize = 128;

/// Bounds on streams, all inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamLimits {
    /// Streams in total, of peers that have proven who they are; and, apart from these, so many whose proof is verified.
    pub streams: usize,
    /// Streams of one proxy. An Envoy opens one for each secret and use (xds-conformance B1).
    pub per_proxy: usize,
    /// Streams of all proxies of one identity whose credential names no instance, and how many such proxies there may be, those
    /// that are remembered included: it is the client's own `node.id` that tells these apart, so without a bound one stolen
    /// token could open streams, and be given leaves, under any number of names. Pod-bound tokens name the pod. With
    /// `insecureNodeId` there is no credential to steal, and no bound.
    pub per_identity: usize,
    /// For how long such a proxy counts after its last stream: as long as its certificate is kept.
    pub remembered: Duration,
    /// New streams a second; `None` for no bound.
    pub new_per_second: Option<u32>,
    /// Names on one stream, those that are withheld included. An Envoy on ADS has all its secrets on one stream.
    pub names: usize,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self {
            streams: 50_000,
            per_proxy: 64,
            per_identity: 4096,
            remembered: Duration::from_secs(600),
            new_per_second: None,
            names: 256,
        }
    }
}

/// Admits streams; clones share their counts.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    limits: StreamLimits,
    metrics: Metrics,
    /// A lock, because it is held for some nanoseconds and never across an await.
    new: Option<Arc<std::sync::Mutex<Bucket>>>,
    total: Arc<AtomicUsize>,
    verifying: Arc<AtomicUsize>,
    silent: Arc<DashMap<SilentKey, usize>>,
    proxies: Arc<DashMap<ProxyKey, usize>>,
    identities: Arc<DashMap<IdentityKey, usize>>,
    instances: KnownInstances,
}

/// Whose silent streams are counted together on all connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum SilentKey {
    /// The method that proved the instance, and what it says of the mesh.
    Instance(&'static str, MeshKey, Arc<str>),
    /// The method, and what it says of the mesh and of the workload: its namespace and service account, or its name.
    Workload(&'static str, MeshKey, [Option<Arc<str>>; 3]),
}

/// The mesh that a proof names, and the trust domain: names count within them.
type MeshKey = (Option<String>, Option<Arc<str>>);

impl Admission {
    pub(crate) fn new(limits: StreamLimits, metrics: Metrics) -> Self {
        let bucket = |rate| Arc::new(std::sync::Mutex::new(Bucket::new(rate, Instant::now())));
        Self {
            limits,
            metrics,
            new: limits.new_per_second.map(bucket),
            total: Arc::default(),
            verifying: Arc::default(),
            silent: Arc::default(),
            proxies: Arc::default(),
            identities: Arc::default(),
            instances: KnownInstances::default(),
        }
    }

    /// One place among the silent streams of its connection, of which `silent` is the count, before anything is known of the
    /// peer.
    pub(crate) fn enter(&self, silent: &Arc<AtomicUsize>) -> Result<Place, Status> {
        // Where there is no proof to count by, one connection must not be enough to take all.
        let most = (self.limits.streams / 4).clamp(SILENT_AT_LEAST, SILENT);
        let silent = One::take(silent, most).ok_or_else(|| self.refuse(Refusal::SilentStreams))?;
        Ok(Place { total: None, silent: Some(silent), silent_key: None, of_connection: None })
    }

    /// One place among those whose proof is being verified, on its connection, of which `verifying` is the count, and in all.
    pub(crate) fn verify(&self, verifying: &Arc<AtomicUsize>) -> Result<Verifying, Status> {
        let of_connection = One::take(verifying, VERIFYING);
        let of_connection = of_connection.ok_or_else(|| self.refuse(Refusal::Verifying))?;
        let of_all = One::take(&self.verifying, self.limits.streams);
        let of_all = of_all.ok_or_else(|| self.refuse(Refusal::Verifying))?;
        Ok(Verifying { _of_connection: of_connection, _of_all: of_all })
    }

    /// One place among all streams, for a peer that has given `proof`, or that needs none.
    pub(crate) fn admit(&self, place: &mut Place, proof: Option<&Proof>) -> Result<(), Status> {
        if let Some(proof) = proof {
            let mesh = (proof.mesh.clone(), proof.trust_domain.clone());
            let (key, limit) = match &proof.instance {
                Some(instance) => {
                    (SilentKey::Instance(proof.method, mesh, instance.as_str().into()), self.limits.per_proxy)
                }
                None => {
                    let workload = &proof.workload;
                    let names = [&workload.namespace, &workload.service_account, &workload.name].map(Clone::clone);
                    (SilentKey::Workload(proof.method, mesh, names), self.limits.per_identity)
                }
            };
            let counted = Counted::take(&self.silent, key, limit);
            place.silent_key = Some(counted.ok_or_else(|| self.refuse(Refusal::SilentStreams))?);
        }
        let total = One::take(&self.total, self.limits.streams);
        place.total = Some(total.ok_or_else(|| self.refuse(Refusal::Streams))?);
        if let Some(bucket) = &self.new
            && !bucket.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take(Instant::now())
        {
            return Err(self.refuse(Refusal::NewStreams));
        }
        Ok(())
    }

    /// One place among the streams of a proxy, and of its identity where the proof names no instance.
    pub(crate) fn enter_as(&self, identity: &Identity) -> Result<ProxyPlace, Status> {
        let key = identity.proxy_key();
        let limits = &self.limits;
        let shared = match &key.instance {
            Instance::Node(node) if identity.method != node_id::METHOD => {
                let whole = IdentityKey { mesh: key.mesh.clone(), spiffe_id: key.spiffe_id.clone() };
                let counted = Counted::take(&self.identities, whole.clone(), limits.per_identity);
                let counted = counted.ok_or_else(|| self.refuse(Refusal::StreamsPerIdentity))?;
                let present = self.instances.enter(whole, node.clone(), limits.per_identity, limits.remembered);
                let present = present.ok_or_else(|| self.refuse(Refusal::ProxiesPerIdentity))?;
                Some((counted, present))
            }
            Instance::Node(_) | Instance::Proven(_) => None,
        };
        let proxy = Counted::take(&self.proxies, key, limits.per_proxy);
        let proxy = proxy.ok_or_else(|| self.refuse(Refusal::StreamsPerProxy))?;
        Ok(ProxyPlace { _proxy: proxy, _shared: shared })
    }

    /// Counts it, and tells the client as much as it may know.
    pub(crate) fn refuse(&self, refusal: Refusal) -> Status {
        self.metrics.refused(refusal);
        tracing::debug!(?refusal, "refused");
        refusal.status()
    }

    /// Streams, silent instances, proxies and identities that are counted at the moment.
    #[cfg(test)]
    pub(crate) fn counts(&self) -> [usize; 4] {
        let total = self.total.load(std::sync::atomic::Ordering::Relaxed);
        [total, self.silent.len(), self.proxies.len(), self.identities.len()]
    }
}

/// The places of a stream that has opened; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    total: Option<One>,
    silent: Option<One>,
    silent_key: Option<Counted<SilentKey>>,
    of_connection: Option<OfConnection>,
}

impl Place {
    /// Counts it among the calls of its connection that were let in.
    pub(crate) fn let_in(&mut self, streams: &Arc<watch::Sender<usize>>) {
        streams.send_modify(|count| *count += 1);
        self.of_connection = Some(OfConnection(streams.clone()));
    }

    /// The stream has sent its first request. Until this is said, it counts among the silent ones.
    pub(crate) fn heard(&mut self) {
        self.silent = None;
        self.silent_key = None;
    }
}

/// One of the calls of a connection that were let in, until dropped.
#[derive(Debug)]
struct OfConnection(Arc<watch::Sender<usize>>);

impl Drop for OfConnection {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

/// The places of a stream whose proof is being verified; given back when dropped.
#[derive(Debug)]
pub(crate) struct Verifying {
    _of_connection: One,
    _of_all: One,
}

/// The places of a stream whose proxy is known; given back when dropped.
#[derive(Debug)]
pub(crate) struct ProxyPlace {
    _proxy: Counted<ProxyKey>,
    _shared: Option<(Counted<IdentityKey>, Present)>,
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
