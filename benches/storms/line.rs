//! Who waits for cert-manager, seen from both ends: what the server says of itself, and what the API server is asked for.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::{WatchStreamExt, watcher};
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval};

use crate::support::cluster::Cluster;
use crate::support::http;

/// The requests that there were. Ends when dropped.
pub(crate) struct Requests {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Seen {
    names: BTreeSet<String>,
    unanswered: BTreeSet<String>,
    most_unanswered: usize,
}

impl Requests {
    pub(crate) async fn watch(cluster: &Cluster, namespace: &str) -> Self {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("cert-manager.io", "v1", "CertificateRequest"));
        let api: Api<DynamicObject> = Api::namespaced_with(cluster.client().await, namespace, &kind);
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let record = seen.clone();
        let task = tokio::spawn(async move {
            let mut events = pin!(watcher(api, watcher::Config::default()).default_backoff());
            while let Some(event) = events.next().await {
                let mut seen = record.lock().expect("not poisoned");
                match event {
                    Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => seen.is_now(&object),
                    Ok(watcher::Event::Delete(object)) => {
                        seen.unanswered.remove(object.metadata.name.as_deref().unwrap_or_default());
                    }
                    _ => {}
                }
            }
        });
        Self { seen, task }
    }

    /// How many there were, and how many were without an answer at one time.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let seen = self.seen.lock().expect("not poisoned");
        (seen.names.len(), seen.most_unanswered)
    }
}

impl Seen {
    fn is_now(&mut self, object: &DynamicObject) {
        let name = object.metadata.name.clone().unwrap_or_default();
        if object.data["status"]["certificate"].as_str().is_some_and(|certificate| !certificate.is_empty()) {
            self.unanswered.remove(&name);
        } else {
            self.unanswered.insert(name.clone());
        }
        self.names.insert(name);
        self.most_unanswered = self.most_unanswered.max(self.unanswered.len());
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Prints what `/readyz` says of who waits, every ten seconds, for ever.
pub(crate) async fn follow(admin: SocketAddr) {
    let (mut ticks, began) = (interval(Duration::from_secs(10)), Instant::now());
    loop {
        ticks.tick().await;
        let Ok(readyz) = http::get_json(admin, "/readyz").await else { continue };
        if let Some(outlook) = readyz["issuing"]["default"].as_str() {
            println!("  {:>4} s  {outlook}", began.elapsed().as_secs());
        }
    }
}
