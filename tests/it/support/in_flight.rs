//! How many CertificateRequests of a namespace were without a certificate at one time, and in which order all of them came.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};

use kube::api::DynamicObject;
use kube::runtime::watcher::Event;
use tokio::task::JoinHandle;

use super::PATIENCE;
use super::cluster::Cluster;
use super::eventually::eventually;
use super::ledger::{spiffe_id, watch};

/// Ends when dropped.
#[derive(Debug)]
pub struct InFlight {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Seen {
    names: BTreeSet<String>,
    /// The SPIFFE IDs that they were created for.
    created: Vec<String>,
    /// Those that have no certificate yet, by name.
    in_flight: BTreeSet<String>,
    most: usize,
}

impl Seen {
    fn is_now(&mut self, object: &DynamicObject) {
        let name = object.metadata.name.clone().expect("it has a name");
        if self.names.insert(name.clone()) {
            self.created.push(spiffe_id(object).expect("it says whose it is").to_owned());
        }
        if object.data["status"]["certificate"].as_str().is_some_and(|certificate| !certificate.is_empty()) {
            self.in_flight.remove(&name);
        } else {
            self.in_flight.insert(name);
        }
        self.most = self.most.max(self.in_flight.len());
    }
}

impl InFlight {
    /// Begins to watch; outages of the API server are endured.
    pub async fn watch(cluster: &Cluster, ns: &str) -> Self {
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let record = seen.clone();
        let task = watch(cluster, ns, move |event| {
            let mut seen = record.lock().expect("not poisoned");
            match event {
                Event::Apply(object) | Event::InitApply(object) => seen.is_now(&object),
                Event::Delete(object) => {
                    seen.in_flight.remove(object.metadata.name.as_deref().unwrap_or_default());
                }
                Event::Init | Event::InitDone => {}
            }
        })
        .await;
        Self { seen, task }
    }

    /// How many there have been.
    pub fn len(&self) -> usize {
        self.seen().created.len()
    }

    /// The most that were without a certificate at one time.
    pub fn most(&self) -> usize {
        self.seen().most
    }

    /// The SPIFFE IDs of all that were created, in this order, when the watch has seen so many at least, and all answered.
    pub async fn created(&self, many: usize) -> Vec<String> {
        eventually("the watch has seen all requests", PATIENCE, async || {
            let seen = self.seen();
            let complete = seen.created.len() >= many && seen.in_flight.is_empty();
            if complete { Ok(seen.created.clone()) } else { Err(format!("{} of {many}", seen.created.len())) }
        })
        .await
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("not poisoned")
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.task.abort();
    }
}
