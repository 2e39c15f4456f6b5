//! Deletes requests in the background, until each is gone.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use tokio::sync::mpsc;

use super::resource::CertificateRequest;
use super::{ObjectRef, Timing};
use crate::runtime::cluster::{explain, is_not_found};

/// How many deletions are under way at once: enough to keep pace with 64 issuances in flight (a DELETE takes a third of
/// the time of a POST and its answer), few enough not to crowd out new requests.
const AT_ONCE: usize = 16;

/// Takes orders to delete. Cheap to clone.
#[derive(Clone)]
pub(super) struct Cleaner {
    orders: mpsc::UnboundedSender<ObjectRef>,
    /// Uids ordered and not gone yet: every event of an unwanted object orders it anew.
    known: Arc<Mutex<HashSet<String>>>,
}

/// The orders, for the task that carries them out.
#[derive(Debug)]
pub(super) struct Orders {
    orders: mpsc::UnboundedReceiver<ObjectRef>,
    known: Arc<Mutex<HashSet<String>>>,
}

impl Cleaner {
    pub(super) fn new() -> (Self, Orders) {
        // Unbounded, but no larger than the number of requests in the cluster: an order is a name and a uid.
        let (send, orders) = mpsc::unbounded_channel();
        let known = Arc::<Mutex<HashSet<String>>>::default();
        (Self { orders: send, known: known.clone() }, Orders { orders, known })
    }

    /// Deletes `object` soon, and surely as long as the process lives.
    pub(super) fn delete(&self, object: ObjectRef) {
        let new = self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(object.uid.clone());
        if new {
            // No receiver: shutdown has begun, which deletes everything itself.
            let _ = self.orders.send(object);
        }
    }
}

impl fmt::Debug for Cleaner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cleaner").finish_non_exhaustive()
    }
}

impl Orders {
    /// Carries out orders for ever.
    pub(super) async fn run(self, api: Api<CertificateRequest>, timing: Timing) {
        let Self { orders, known } = self;
        let orders = futures::stream::unfold(orders, |mut orders| async { Some((orders.recv().await?, orders)) });
        orders
            .for_each_concurrent(AT_ONCE, |object| {
                let (api, known) = (&api, &known);
                async move {
                    until_gone(api, &object, timing).await;
                    known.lock().unwrap_or_else(PoisonError::into_inner).remove(&object.uid);
                }
            })
            .await;
    }
}

async fn until_gone(api: &Api<CertificateRequest>, object: &ObjectRef, timing: Timing) {
    let mut pause = timing.delete_retry;
    loop {
        let Err(error) = delete_once(api, object, timing.api_call).await else { return };
        tracing::debug!(request = %object.name, error, "cannot delete the CertificateRequest yet");
        tokio::time::sleep(pause.mul_f64(0.8 + 0.4 * fastrand::f64())).await;
        pause = (pause * 2).min(timing.delete_retry_at_most);
    }
}

/// One DELETE of exactly this object; `Ok` once it is gone.
pub(super) async fn delete_once(
    api: &Api<CertificateRequest>,
    object: &ObjectRef,
    timeout: Duration,
) -> Result<(), String> {
    let same = Preconditions { uid: Some(object.uid.clone()), resource_version: None };
    let params = DeleteParams::default().preconditions(same);
    match tokio::time::timeout(timeout, Box::pin(api.delete(&object.name, &params))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) if is_not_found(&error) => Ok(()),
        // The precondition: another object has the name now, so this one is gone.
        Ok(Err(kube::Error::Api(status))) if status.is_conflict() => Ok(()),
        Ok(Err(error)) => Err(explain(&error)),
        Err(_elapsed) => Err("no answer".to_owned()),
    }
}
