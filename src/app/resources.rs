//! The mesh resources, of files and of the cluster: loaded, watched, and published in one place.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use super::StartError;
use crate::config::Config;
use crate::mesh::cluster::{ClusterObjects, ObjectRef, Report, Standing};
use crate::mesh::{Compiled, LiveResources, Settings as ResourceSettings, WithoutMeshes};
use crate::model::diagnostic::Problem;
use crate::model::policy::PolicySet;
use crate::model::secrets::MeshSecrets;
use crate::runtime::clock::Clock;
use crate::runtime::publish;
use crate::runtime::state_dir::StateDir;
use crate::runtime::tasks::Tasks;

/// The objects of the cluster, as they are watched.
pub(super) type Objects = watch::Receiver<Arc<ClusterObjects>>;

/// What is known of the objects that the cluster has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known {
    /// Not which there are of some kind, and why.
    Unknown(String),
    /// Which there were when the server ran before.
    Remembered,
    /// All of them.
    Listed,
}

impl Known {
    fn of(objects: &ClusterObjects) -> Self {
        match objects.unknown() {
            _ if objects.is_complete() => Self::Listed,
            None => Self::Remembered,
            Some((kind, is_forbidden)) => {
                let plural = kind.plural();
                Self::Unknown(match is_forbidden {
                    true => format!(
                        "this server may not list the cluster's {plural}: it needs list and watch for {plural}.kuma.io \
                         (deploy/rbac.yaml)"
                    ),
                    false => format!("the cluster has not listed its {plural} yet"),
                })
            }
        }
    }
}

/// The mesh resources, loaded and watched.
pub(super) struct Resources {
    pub(super) policies: watch::Receiver<Arc<PolicySet>>,
    pub(super) secrets: watch::Receiver<Arc<MeshSecrets>>,
    pub(super) problems: watch::Receiver<Arc<Vec<Problem>>>,
    /// How the cluster's objects fare.
    pub(super) reports: watch::Receiver<Arc<Report>>,
    /// Whether what the cluster has is among them; at once, if nothing of it counts.
    pub(super) complete: watch::Receiver<bool>,
    /// What is known of the cluster's objects.
    pub(super) objects: watch::Receiver<Known>,
    /// What there is in place of meshes, if the cluster has none.
    pub(super) without_meshes: watch::Receiver<Option<WithoutMeshes>>,
}

impl Resources {
    /// Loads what is in files, and publishes from then on what is there and in the cluster.
    pub(super) fn start(
        config: &Config,
        kubernetes_available: bool,
        objects: Option<Objects>,
        state_dir: &StateDir,
        clock: &Clock,
        tasks: &Tasks,
    ) -> Result<Self, StartError> {
        let in_cluster = objects.is_some();
        let settings = ResourceSettings {
            paths: config.resources.clone(),
            kubernetes_available,
            system_namespace: config.system_namespace.clone(),
            zone: config.zone.clone(),
            read_file: None,
            state_dir: Some(state_dir.clone()),
        };
        let (publish_complete, complete) = watch::channel(!in_cluster);
        let unknown = || Known::of(&ClusterObjects::default());
        let (publish_objects, known_objects) = watch::channel(if in_cluster { unknown() } else { Known::Listed });
        let mut live = LiveResources::new(settings, objects, clock.clone()).remembering(state_dir);
        if config.has_meshes_of_the_cluster_alone() {
            live = live.with_meshes_of_the_cluster();
        }
        let compiled = live.load();
        // One team's mistake must not keep a server from coming back for the others; and the cluster may have meshes, which
        // it has not told of yet.
        if !in_cluster && !compiled.problems.is_empty() && compiled.resources.policies.meshes.is_empty() {
            return Err(StartError::Configuration(compiled.problems));
        }
        for problem in &compiled.problems {
            tracing::warn!("{problem}; what was good of it before stays, if anything was");
        }
        for notice in &compiled.notices {
            tracing::info!("{notice}");
        }
        let (publish_policies, policies) = watch::channel(Arc::new(compiled.resources.policies.clone()));
        let (publish_secrets, secrets) = watch::channel(Arc::new(compiled.resources.secrets));
        let (publish_problems, problems) = watch::channel(Arc::new(compiled.problems));
        let (publish_reports, reports) = watch::channel(Arc::default());
        let (publish_without_meshes, without_meshes) = watch::channel(live.without_meshes());
        let publisher = Publisher {
            policies: publish_policies,
            secrets: publish_secrets,
            problems: publish_problems,
            reports: publish_reports,
            complete: publish_complete,
            objects: publish_objects,
            without_meshes: publish_without_meshes,
        };
        publisher.report(live.objects(), compiled.standings, compiled.resources.policies);
        tasks.spawn_essential("resources", publisher.run(live));
        Ok(Self { policies, secrets, problems, reports, complete, objects: known_objects, without_meshes })
    }
}

/// What is told of resources.
struct Publisher {
    policies: watch::Sender<Arc<PolicySet>>,
    secrets: watch::Sender<Arc<MeshSecrets>>,
    problems: watch::Sender<Arc<Vec<Problem>>>,
    reports: watch::Sender<Arc<Report>>,
    complete: watch::Sender<bool>,
    /// `Listed` from the start, and never anything else, if no cluster is watched.
    objects: watch::Sender<Known>,
    without_meshes: watch::Sender<Option<WithoutMeshes>>,
}

impl Publisher {
    async fn run(self, mut live: LiveResources) {
        loop {
            live.changed().await;
            // Files may be on a slow or dead network file system.
            let loaded = tokio::task::spawn_blocking(move || {
                let compiled = live.load();
                (live, compiled)
            });
            let Ok((loaded, compiled)) = loaded.await else { return };
            live = loaded;
            let without_meshes = live.without_meshes();
            self.without_meshes.send_if_modified(|told| std::mem::replace(told, without_meshes) != without_meshes);
            self.publish(compiled, live.objects());
        }
    }

    fn publish(&self, compiled: Compiled, objects: &Arc<ClusterObjects>) {
        let Compiled { resources, problems, notices, standings } = compiled;
        // Secrets first: a policy that refers to a new one finds it.
        let secrets_changed = publish::if_changed(&self.secrets, resources.secrets);
        if publish::if_changed(&self.policies, resources.policies.clone()) || secrets_changed {
            tracing::info!(meshes = resources.policies.meshes.len(), "resources have changed");
            for notice in &notices {
                tracing::info!("{notice}");
            }
        }
        let before = self.problems.borrow().clone();
        for problem in problems.iter().filter(|problem| !before.contains(problem)) {
            tracing::warn!("{problem}; what was good of it before stays, if anything was");
        }
        if problems.is_empty() && !before.is_empty() {
            tracing::info!("resources have recovered: nothing is wrong with them any more");
        }
        publish::if_changed(&self.problems, problems);
        self.report(objects, standings, resources.policies);
    }

    /// Comes last: who waits for it finds everything.
    fn report(&self, objects: &Arc<ClusterObjects>, standings: BTreeMap<ObjectRef, Standing>, policies: PolicySet) {
        self.reports.send_replace(Arc::new(Report { objects: objects.clone(), standings, policies }));
        if objects.is_complete() {
            self.complete.send_if_modified(|complete| !std::mem::replace(complete, true));
        }
        if *self.objects.borrow() != Known::Listed {
            let now = Known::of(objects);
            self.objects.send_if_modified(|known| *known != now && std::mem::replace(known, now) != Known::Listed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Overrides, Surroundings};

    #[tokio::test]
    async fn a_start_without_a_good_resource_ends_unless_the_cluster_may_have_some() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mesh.yaml");
        std::fs::write(&file, "{type: Mesh, name: default, mtls: {enabledBackend: nonsense}}").unwrap();
        let overrides = Overrides { resources: vec![file.clone()], ..Overrides::default() };
        let (config, _) = Config::inspect(None, overrides, &Surroundings::default());
        let (tasks, _deaths) = Tasks::new();
        let state_dir = StateDir::new(folder.path().join("state"));
        let start = |objects| Resources::start(&config, false, objects, &state_dir, &Clock::system(), &tasks);
        assert!(matches!(start(None), Err(StartError::Configuration(problems)) if problems.len() == 1));
        // What was good before the last start is what is served.
        let broken = std::fs::read(&file).unwrap();
        std::fs::write(
            &file,
            "{type: Mesh, name: default, mtls: {enabledBackend: b, backends: [{name: b, type: builtin}]}}",
        )
        .unwrap();
        assert!(start(None).is_ok());
        std::fs::write(&file, broken).unwrap();
        assert_eq!(start(None).unwrap().policies.borrow().meshes.len(), 1);
        let (_cluster, objects) = watch::channel(Arc::default());
        let resources = start(Some(objects)).unwrap();
        assert_eq!(resources.problems.borrow().len(), 1);
    }
}
