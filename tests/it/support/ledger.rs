//! Every CertificateRequest that there ever was in a namespace: they are deleted as soon as they are finished, so only a
//! watch sees them.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, watcher};
use tokio::task::JoinHandle;

use super::PATIENCE;
use super::cluster::Cluster;
use super::eventually::eventually;

/// Ends when dropped.
#[derive(Debug)]
pub struct Ledger {
    seen: Arc<Mutex<BTreeMap<String, DynamicObject>>>,
    task: JoinHandle<()>,
}

impl Ledger {
    /// Begins to watch; outages of the API server are endured.
    pub async fn open(cluster: &Cluster, ns: &str) -> Self {
        let seen: Arc<Mutex<BTreeMap<String, DynamicObject>>> = Arc::default();
        let record = seen.clone();
        let task = watch(cluster, ns, move |event| {
            if let Event::Apply(object) | Event::InitApply(object) = event {
                let name = object.metadata.name.clone().unwrap_or_default();
                record.lock().expect("not poisoned").insert(name, object);
            }
        })
        .await;
        Self { seen, task }
    }

    /// How many there have been.
    pub fn len(&self) -> usize {
        self.seen.lock().expect("not poisoned").len()
    }

    /// Those for this SPIFFE ID, as they last were.
    pub fn of(&self, spiffe_id: &str) -> Vec<DynamicObject> {
        let seen = self.seen.lock().expect("not poisoned");
        seen.values().filter(|object| asks_for(object, |id| id == spiffe_id)).cloned().collect()
    }

    /// How many there have been for SPIFFE IDs as wanted.
    pub fn count(&self, wanted: impl Fn(&str) -> bool) -> usize {
        let seen = self.seen.lock().expect("not poisoned");
        seen.values().filter(|object| asks_for(object, &wanted)).count()
    }

    /// What all of them are for, by name.
    pub fn summary(&self) -> String {
        let seen = self.seen.lock().expect("not poisoned");
        let line = |object: &DynamicObject| format!("{:?} {}", object.metadata.annotations, object.data["status"]);
        seen.iter().map(|(name, object)| format!("{name}: {}\n", line(object))).collect()
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn asks_for(object: &DynamicObject, wanted: impl Fn(&str) -> bool) -> bool {
    spiffe_id(object).is_some_and(wanted)
}

/// Whom a request of our server's is for.
pub(super) fn spiffe_id(object: &DynamicObject) -> Option<&str> {
    object.metadata.annotations.as_ref()?.get("envoy-sds.io/spiffe-id").map(String::as_str)
}

/// Has `note` told what happens to the CertificateRequests of a namespace, from what there is on, until the task is aborted. When this
/// returns, it has begun.
pub(super) async fn watch(
    cluster: &Cluster,
    ns: &str,
    mut note: impl FnMut(Event<DynamicObject>) + Send + 'static,
) -> JoinHandle<()> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("cert-manager.io", "v1", "CertificateRequest"));
    let api: Api<DynamicObject> = Api::namespaced_with(cluster.client().await, ns, &resource);
    let (begun, beginning) = tokio::sync::oneshot::channel();
    let task = tokio::spawn(async move {
        let mut begun = Some(begun);
        let mut events = pin!(watcher(api, watcher::Config::default()).default_backoff());
        while let Some(event) = events.next().await {
            let Ok(event) = event else { continue };
            let is_begun = matches!(event, Event::InitDone);
            note(event);
            if let Some(begun) = begun.take_if(|_| is_begun) {
                let _ = begun.send(());
            }
        }
    });
    tokio::time::timeout(PATIENCE, beginning).await.expect("the watch begins").expect("the watch goes on");
    task
}

/// Waits until no request is left in the namespace.
pub async fn no_requests_left(cluster: &Cluster, ns: &str) {
    eventually("no CertificateRequest is left behind", PATIENCE, async || {
        let left = cluster.certificate_requests(ns).await;
        let names: Vec<_> = left.iter().map(|request| (&request.metadata.name, &request.data["status"])).collect();
        if names.is_empty() { Ok(()) } else { Err(format!("{names:?}")) }
    })
    .await;
}
