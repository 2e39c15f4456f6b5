//! Mesh, MeshIdentity and MeshTrust objects of the cluster (`kuma.io/v1alpha1`): watched, compiled together with the
//! resource files, and told how they fare, in their status and by Events.
//!
//! The definitions are this program's (`envoy-sds crds`) or those of an installed Kuma. MeshIdentity and MeshTrust count in
//! the system namespace only: whoever may write there is who may say which identities are given out.

mod condition;
mod memory;
mod object;
mod objects;
mod report;
mod status;
mod writer;

use std::sync::Arc;

use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::watch;

pub use object::{Object, ObjectKind, ObjectRef};
pub use objects::{ClusterObjects, Listing};
pub use report::{Acceptance, Report, Standing};
pub use status::BackendTroubles;
pub use writer::{Sources, StatusWriter};

use crate::runtime::cluster::Watch;
use crate::runtime::state_dir::StateDir;
use crate::runtime::tasks::Tasks;
use memory::Memory;
use objects::Store;

/// The CustomResourceDefinitions of the three kinds, as YAML.
pub const DEFINITIONS: &str = include_str!("../../../deploy/crds.yaml");

/// Watches the objects; those that have a namespace in `namespace`. The receiver shows always the last that was known: at
/// first what is remembered in `state_dir`.
pub fn watch_objects(
    client: &Client,
    namespace: &str,
    state_dir: &StateDir,
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
        let mut events = Watch::new(kind.plural(), api, watcher::Config::default());
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
        tasks.spawn_essential("mesh object watch", async move {
            loop {
                let Some(listing) = store.after(events.next_if_any().await) else { continue };
                memory.keep(&listing);
                tell(&publish, listing);
            }
        });
    }
    published
}

#[cfg(test)]
mod tests;
