//! The mesh Secrets of resource files and of the cluster, in one place for all who look some up.

use std::sync::Arc;

use tokio::sync::watch;

use crate::model::secrets::{ClusterSecrets, KnownSecrets, MeshSecrets};
use crate::runtime::publish;
use crate::runtime::tasks::Tasks;

type FromCluster = watch::Receiver<Option<Arc<MeshSecrets>>>;

pub(super) fn start(
    mut files: watch::Receiver<Arc<MeshSecrets>>,
    mut cluster: Option<FromCluster>,
    tasks: &Tasks,
) -> watch::Receiver<Arc<KnownSecrets>> {
    let (publish, known) = watch::channel(Arc::new(look(&mut files, &mut cluster)));
    tasks.spawn_essential("known mesh Secrets", async move {
        loop {
            let from_cluster = async {
                match &mut cluster {
                    Some(cluster) => cluster.changed().await,
                    None => std::future::pending().await,
                }
            };
            let changed = tokio::select! {
                changed = files.changed() => changed,
                changed = from_cluster => changed,
            };
            if changed.is_err() {
                return;
            }
            publish::if_changed(&publish, look(&mut files, &mut cluster));
        }
    });
    known
}

fn look(files: &mut watch::Receiver<Arc<MeshSecrets>>, cluster: &mut Option<FromCluster>) -> KnownSecrets {
    let cluster = match cluster {
        None => ClusterSecrets::NoCluster,
        Some(cluster) => cluster
            .borrow_and_update()
            .as_ref()
            .map_or(ClusterSecrets::Pending, |all| ClusterSecrets::Listed(all.clone())),
    };
    KnownSecrets { files: files.borrow_and_update().clone(), cluster }
}
