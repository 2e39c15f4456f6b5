//! No resource files are named, and the cluster has no mesh. What a server makes of that is its own: the next replica has another
//! CA, and the proxies of the two refuse each other. So with `kubernetes: on` nothing is made of it, where the cluster does not even
//! know the kind Mesh; with `auto` there is the embedded default, as `serve` with nothing at all has to work, and it is warned of.

use tokio::sync::watch;

use crate::mesh::WithoutMeshes;
use crate::observe::readiness::Readiness;
use crate::runtime::tasks::Tasks;

/// Of the reason not to be ready.
const NAME: &str = "meshes";

/// Nothing is served.
const NOTHING: &str = "no resource files are named, and the cluster does not know the kind Mesh, so there is nothing to serve, and \
     no CA is made up (each replica would have another): apply what envoy-sds crds prints, and a Mesh, to the cluster, or name files \
     under resources; if this server is the only one and is to have a CA of its own, say clusterResources: false";

/// The embedded default is.
const OWN_CA: &str = "no resource files are named, and the cluster has no Mesh, so the mesh default is served with a CA that this \
     server has made: another replica has another, and their proxies refuse each other; apply what envoy-sds crds prints, and a \
     Mesh, to the cluster, or name files under resources; if this server is the only one, say clusterResources: false";

/// Tells it for as long as it is so: in the log, and as a reason not to be ready, or else as a warning, which is given.
pub(super) fn start(
    readiness: &Readiness,
    mut without: watch::Receiver<Option<WithoutMeshes>>,
    tasks: &Tasks,
) -> watch::Receiver<Option<&'static str>> {
    let (readiness, (publish, warning)) = (readiness.clone(), watch::channel(None));
    tasks.spawn_essential("clusters without meshes", async move {
        let mut blocker = None;
        loop {
            let now = *without.borrow_and_update();
            let (reason, text) = match now {
                Some(WithoutMeshes::Nothing) => (Some(NOTHING), None),
                Some(WithoutMeshes::EmbeddedDefault) => (None, Some(OWN_CA)),
                None => (None, None),
            };
            if let Some(told) = reason.or(text) {
                tracing::warn!("{told}");
            }
            blocker = match (reason, blocker.take()) {
                (Some(reason), None) => Some(readiness.block(NAME, reason)),
                (Some(_), blocker) => blocker,
                (None, _) => None,
            };
            publish.send_replace(text);
            if without.changed().await.is_err() {
                return;
            }
        }
    });
    warning
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_ca_of_its_own_is_warned_of_and_no_mesh_at_all_is_not_ready() {
        let (tasks, _deaths) = Tasks::new();
        let readiness = Readiness::new();
        let mut ready = readiness.watch();
        let (publish, without) = watch::channel(None);
        let mut warning = start(&readiness, without, &tasks);

        publish.send_replace(Some(WithoutMeshes::Nothing));
        ready.wait_for(|ready| !*ready).await.unwrap();
        for told in ["envoy-sds crds", "resources", "clusterResources: false"] {
            assert!(readiness.reasons()["meshes"].contains(told) && OWN_CA.contains(told));
        }
        publish.send_replace(None);
        ready.wait_for(|ready| *ready).await.unwrap();
        assert_eq!(*warning.borrow(), None);

        publish.send_replace(Some(WithoutMeshes::EmbeddedDefault));
        warning.wait_for(|warning| *warning == Some(OWN_CA)).await.unwrap();
        assert!(*ready.borrow());
        publish.send_replace(None);
        warning.wait_for(Option::is_none).await.unwrap();
    }
}
