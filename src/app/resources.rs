//! The mesh resources, loaded and watched.

use std::sync::Arc;

use tokio::sync::watch;

use super::StartError;
use crate::config::Config;
use crate::mesh::{ResourceFiles, Settings as ResourceSettings};
use crate::model::diagnostic::Problem;
use crate::model::policy::PolicySet;
use crate::model::secrets::MeshSecrets;
use crate::runtime::clock::Clock;
use crate::runtime::tasks::Tasks;

/// The mesh resources, loaded and watched.
pub(super) struct Resources {
    pub(super) policies: watch::Receiver<Arc<PolicySet>>,
    pub(super) secrets: watch::Receiver<Arc<MeshSecrets>>,
    pub(super) problems: watch::Receiver<Arc<Vec<Problem>>>,
}

impl Resources {
    pub(super) fn start(config: &Config, has_cluster: bool, clock: &Clock, tasks: &Tasks) -> Result<Self, StartError> {
        let settings = ResourceSettings {
            paths: config.resources.clone(),
            kubernetes_available: has_cluster,
            system_namespace: config.system_namespace.clone(),
            zone: config.zone.clone(),
        };
        let mut files = ResourceFiles::new(settings, clock.clone());
        let compiled = files.load();
        // One team's mistake must not keep a server from coming back for the others.
        if !compiled.problems.is_empty() && compiled.resources.policies.meshes.is_empty() {
            return Err(StartError::Configuration(compiled.problems));
        }
        for problem in &compiled.problems {
            tracing::warn!("{problem}; it is not served until this is mended");
        }
        for notice in &compiled.notices {
            tracing::info!("{notice}");
        }
        let (publish_policies, policies) = watch::channel(Arc::new(compiled.resources.policies.clone()));
        let (publish_secrets, secrets) = watch::channel(Arc::new(compiled.resources.secrets.clone()));
        let (publish_problems, problems) = watch::channel(Arc::new(compiled.problems));
        let (publish, mut loaded) = watch::channel(Arc::new(compiled.resources));
        loaded.mark_unchanged();
        tasks.spawn_essential("resource files", files.run(publish, publish_problems));
        tasks.spawn_essential("resource split", async move {
            while loaded.changed().await.is_ok() {
                let resources = loaded.borrow_and_update().clone();
                // Secrets first: a policy that refers to a new one finds it.
                send_if_changed(&publish_secrets, &resources.secrets);
                send_if_changed(&publish_policies, &resources.policies);
            }
        });
        Ok(Self { policies, secrets, problems })
    }
}

fn send_if_changed<T: Clone + PartialEq>(publish: &watch::Sender<Arc<T>>, value: &T) {
    publish.send_if_modified(|current| {
        let changed = **current != *value;
        if changed {
            *current = Arc::new(value.clone());
        }
        changed
    });
}
