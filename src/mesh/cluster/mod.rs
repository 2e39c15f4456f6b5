//! Mesh, MeshIdentity and MeshTrust objects of the cluster (`kuma.io/v1alpha1`): watched, compiled together with the
//! resource files, and told how they fare, in their status and by Events.
//!
//! The definitions are this program's (`envoy-sds crds`) or those of an installed Kuma. MeshIdentity and MeshTrust count in
//! the system namespace only: whoever may write there is who may say which identities are given out.

mod condition;
mod elsewhere;
mod memory;
mod object;
mod objects;
mod report;
mod status;
mod without_keys;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

pub use elsewhere::tell_of_objects_elsewhere;
pub use object::{Object, ObjectKind, ObjectRef, in_cluster};
pub use objects::{ClusterObjects, Listing};
pub use report::{Acceptance, Report, Standing};
pub use status::BackendTroubles;
pub use writer::{Sources, StatusWriter};

use crate::runtime::cluster::{Refused, Watch, is_installed};
use crate::runtime::state_dir::StateDir;
use crate::runtime::tasks::Tasks;
use crate::runtime::watch_board::WatchBoard;
use memory::Memory;
use objects::Store;

/// The CustomResourceDefinitions of the three kinds, as YAML.
pub const DEFINITIONS: &str = include_str!("../../../deploy/crds.yaml");

/// The pause after which it is tried again to write down what could not be.
const WRITE_AGAIN: Duration = Duration::from_secs(60);

/// Watches the objects; those that have a namespace in `namespace`. The receiver shows always the last that was known: at
/// first what is remembered in `state_dir`. `board` is told whether the API server lists them.
pub fn watch_objects(
    client: &Client,
    namespace: &str,
    state_dir: &StateDir,
    board: &WatchBoard,
    tasks: &Tasks,
) -> watch::Receiver<Arc<ClusterObjects>> {
    let (publish, published) = watch::channel(Arc::new(ClusterObjects::default()));
    let publish = Arc::new(publish);
    for kind in ObjectKind::ALL {
        let resource = kind.resource();
        let api = match kind {
            ObjectKind::Mesh => Api::all_with(client.clone(), &resource),
            ObjectKind::MeshIdentity | ObjectKind::MeshTrust => {
                Api::namespaced_with(client.clone(), namespace, &resource)
            }
        };
        let mut events = Watch::new(kind.plural(), api, watcher::Config::default()).reporting(board);
        let mut memory = Memory::open(kind, state_dir);
        let tell = move |publish: &watch::Sender<Arc<ClusterObjects>>, listing| {
            publish.send_modify(|known| drop(Arc::make_mut(known).kinds.insert(kind, listing)));
        };
        if let Some(objects) = memory.recalled().cloned() {
            tracing::info!(
                kind = kind.plural(),
                objects = objects.len(),
                "remembered until the cluster has listed them"
            );
            tell(&publish, Listing::Remembered(objects));
        }
        let (mut store, publish) = (Store::new(kind, memory.recalled().cloned()), publish.clone());
        let client = client.clone();
        tasks.spawn_essential("mesh object watch", async move {
            let mut is_kept = false;
            loop {
                let event = match memory.is_behind() {
                    false => events.next_if_any().await,
                    true => match timeout(WRITE_AGAIN, events.next_if_any()).await {
                        Ok(event) => event,
                        Err(_elapsed) => {
                            memory.write();
                            continue;
                        }
                    },
                };
                let event = match event {
                    Ok(event) => Ok(event),
                    Err(refused) => match confirmed(&client, kind, refused).await {
                        Some(refused) => {
                            if refused == Refused::NotInstalled {
                                events.is_known_to_be_absent();
                            }
                            Err(refused)
                        }
                        None => continue,
                    },
                };
                let is_absent = matches!(event, Err(Refused::NotInstalled));
                let Some(listing) = store.after(event, Instant::now()) else { continue };
                let keeps = is_absent && !matches!(listing, Listing::NotInstalled);
                if keeps && !is_kept {
                    tracing::warn!(
                        kind = kind.plural(),
                        "the API server says that there is no such kind; its objects stay in force for 10 minutes, and are \
                         given up if it says nothing else until then"
                    );
                }
                is_kept = keeps || is_kept && !matches!(listing, Listing::Listed(_));
                memory.keep(&listing);
                tell(&publish, listing);
            }
        });
    }
    published
}

/// What an answer to a list means: that there is no such kind has to be the word of discovery as well, which is also asked
/// when this server may not list, as that is said of kinds too that are not there. `None` if nobody knows.
async fn confirmed(client: &Client, kind: ObjectKind, refused: Refused) -> Option<Refused> {
    match (is_installed(client, &kind.group_version(), kind.plural()).await, refused) {
        (Some(false), _) => Some(Refused::NotInstalled),
        (_, Refused::Forbidden) => Some(Refused::Forbidden),
        (_, Refused::NotInstalled) => None,
    }
}

#[cfg(test)]
mod absence_tests;
#[cfg(test)]
mod arrival_tests;
#[cfg(test)]
mod memory_tests;
#[cfg(test)]
mod tests;
