//! The end: what this process has created is deleted.

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{ListParams, PartialObjectMeta};
use tokio::time::Instant;

use super::cleanup::delete_once;
use super::resource::CertificateRequest;
use super::{ObjectRef, Shared, lease};

/// Deletions under way at once. Nobody waits for a certificate any more, so more than in normal operation.
const AT_ONCE: usize = 64;

/// Pause before looking again for what is left.
const PAUSE: Duration = Duration::from_millis(100);

/// See [`super::CertManager::shutdown`]. It asks the API server what there is instead of trusting what this process
/// remembers: a POST may have been carried out whose answer nobody has heard.
pub(super) async fn run(shared: &Shared, deadline: Duration) -> bool {
    shared.closing.cancel();
    if !shared.start.is_completed() {
        return true;
    }
    let deadline = Instant::now() + deadline;
    let requests = Api::namespaced(shared.client.clone(), &shared.origin.namespace);
    let metadata = Api::namespaced(shared.client.clone(), &shared.origin.namespace);
    let emptied = tokio::time::timeout_at(deadline, Box::pin(delete_all(shared, &requests, &metadata))).await.is_ok();
    // The lease goes in any case: without it, others sweep the rest as soon as they may.
    let leases: Api<Lease> = Api::namespaced(shared.client.clone(), &shared.origin.namespace);
    let give_up = lease::give_up(&leases, &shared.origin.instance);
    let given_up = tokio::time::timeout(PAUSE.max(deadline - Instant::now()), Box::pin(give_up)).await;
    let clean = emptied && matches!(given_up, Ok(Ok(())));
    if !clean {
        tracing::warn!(
            "not all CertificateRequests could be deleted before the deadline; other servers will, or `kubectl delete \
             certificaterequests --selector {}`",
            shared.origin.own()
        );
    }
    clean
}

async fn delete_all(
    shared: &Shared,
    requests: &Api<CertificateRequest>,
    metadata: &Api<PartialObjectMeta<CertificateRequest>>,
) {
    if !shared.attempts.is_empty() {
        // A POST that has just been cut off may still be carried out.
        tokio::time::sleep(PAUSE).await;
    }
    let own = ListParams::default().labels(&shared.origin.own());
    loop {
        let listed = tokio::time::timeout(shared.timing.api_call, Box::pin(metadata.list(&own))).await;
        if let Ok(Ok(list)) = listed {
            let left: Vec<_> = list.items.iter().filter_map(|item| ObjectRef::of(&item.metadata)).collect();
            if left.is_empty() {
                return;
            }
            futures::stream::iter(left)
                .for_each_concurrent(AT_ONCE, |object| async move {
                    // What fails is found again by the next list.
                    let _ = delete_once(requests, &object, shared.timing.api_call).await;
                })
                .await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
