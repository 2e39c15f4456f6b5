//! The watch of the cluster's mesh Secrets, begun when a policy first names one, or at once if a proof of identity needs
//! them: a server that needs none neither reads Secrets nor needs the permission to.

use std::sync::Arc;

use kube::Client;
use tokio::sync::watch;

use crate::model::policy::PolicySet;
use crate::model::secrets::MeshSecrets;
use crate::runtime::tasks::Tasks;
use crate::runtime::watch_board::WatchBoard;
use crate::trust::source::mesh_secret::watch_mesh_secrets;

pub(super) fn start(
    client: Client,
    namespace: &str,
    mut policies: watch::Receiver<Arc<PolicySet>>,
    needed: bool,
    board: WatchBoard,
    tasks: &Tasks,
) -> watch::Receiver<Option<Arc<MeshSecrets>>> {
    let (publish, published) = watch::channel(None);
    let (namespace, inner) = (namespace.to_owned(), tasks.clone());
    tasks.spawn_essential("mesh Secrets", async move {
        if policies.wait_for(|policies| needed || policies.names_secrets()).await.is_err() {
            return;
        }
        let mut secrets = watch_mesh_secrets(client, &namespace, &board, &inner);
        while secrets.changed().await.is_ok() {
            publish.send_replace(secrets.borrow_and_update().clone());
        }
    });
    published
}
