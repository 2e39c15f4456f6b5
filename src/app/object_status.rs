//! The statuses of the cluster's mesh objects: joins what there is to say of them with the one who writes it.

use std::sync::Arc;

use kube::Client;
use tokio::sync::watch;

use super::resources::{Objects, Resources};
use crate::mesh::cluster::{BackendTroubles, Sources, StatusWriter};
use crate::model::preflight::Verdicts;
use crate::runtime::clock::Clock;
use crate::runtime::tasks::Tasks;
use crate::trust::store::TrustStore;

pub(super) fn start(
    client: Client,
    objects: Objects,
    resources: &Resources,
    verdicts: watch::Receiver<Arc<Verdicts>>,
    trust: &TrustStore,
    clock: &Clock,
    tasks: &Tasks,
) {
    let sources = Sources { reports: resources.reports.clone(), objects, verdicts, troubles: troubles(trust, tasks) };
    tasks.spawn(StatusWriter::new(client, super::replica(), sources, clock.clone()).run());
}

fn troubles(trust: &TrustStore, tasks: &Tasks) -> watch::Receiver<Arc<BackendTroubles>> {
    let mut troubles = trust.troubles();
    let (publish, published) = watch::channel(Arc::default());
    tasks.spawn(async move {
        loop {
            let now: BackendTroubles = troubles
                .borrow_and_update()
                .iter()
                .map(|(key, trouble)| (key.clone(), trouble.reason.clone()))
                .collect();
            publish.send_replace(Arc::new(now));
            if troubles.changed().await.is_err() {
                return;
            }
        }
    });
    published
}
