//! Finds pods for who knows their uid only, by asking the API server each time.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod as PodObject;
use kube::api::ListParams;
use kube::{Api, Client};

use crate::identify::pods::{FindPods, FoundPod};
use crate::identify::standing::Standing;
use crate::model::identity::{Pod, Workload};

/// See the module.
#[derive(Clone)]
pub(super) struct PodsByUid(Client);

impl PodsByUid {
    pub(super) fn new(client: Client) -> Self {
        Self(client)
    }
}

impl std::fmt::Debug for PodsByUid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PodsByUid")
    }
}

#[async_trait]
impl FindPods for PodsByUid {
    async fn by_uid(&self, uid: &str) -> Result<Option<FoundPod>, String> {
        // The API server has no selector for it.
        let pods = Api::<PodObject>::all(self.0.clone()).list(&ListParams::default()).await;
        let pods = pods.map_err(|error| format!("the API server does not list pods: {error}"))?;
        let found = pods.items.into_iter().find(|pod| pod.metadata.uid.as_deref() == Some(uid));
        Ok(found.and_then(|pod| {
            let workload = Workload {
                namespace: Some(pod.metadata.namespace?.into()),
                service_account: Some(pod.spec?.service_account_name?.into()),
                pod: Some(Pod { name: pod.metadata.name?.into(), uid: uid.into() }),
                name: None,
            };
            Some(FoundPod { workload, standing: Standing::default() })
        }))
    }
}
