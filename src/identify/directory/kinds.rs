//! The three kinds of objects, and how each is asked for. Only their metadata is: of a pod that is a twentieth.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use kube::api::{ListParams, ObjectMeta};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{Config, Event};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

use super::Directory;
use super::table::{Key, Object};
use crate::runtime::cluster::{MetadataWatch, explain};
use crate::runtime::tasks::Tasks;
use crate::runtime::watch_board::WatchBoard;

/// Label of pods and namespaces: the mesh that they are assigned to.
pub(super) const MESH: &str = "kuma.io/mesh";

/// How long after its deletion an object that a finalizer keeps is still good: as long as the API server itself accepts
/// tokens that are bound to it.
const LEEWAY: SignedDuration = SignedDuration::from_secs(60);

/// Objects that are asked for at once, of many.
const PAGE: u32 = 500;

/// The account of a pod that names none.
const DEFAULT_ACCOUNT: &str = "default";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Namespace,
    ServiceAccount,
    Pod,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Namespace, Self::ServiceAccount, Self::Pod];

    pub(super) fn noun(self) -> &'static str {
        match self {
            Self::Namespace => "namespace",
            Self::ServiceAccount => "service account",
            Self::Pod => "pod",
        }
    }

    /// As in RBAC rules.
    pub(super) fn plural(self) -> &'static str {
        match self {
            Self::Namespace => "namespaces",
            Self::ServiceAccount => "serviceaccounts",
            Self::Pod => "pods",
        }
    }

    /// What counts: all labels of a pod, of a namespace only its mesh, of an account none, so that changes of others wake
    /// nobody and take no room; and that a pod or account is being deleted.
    fn keep(self, metadata: ObjectMeta) -> Object {
        let labels = metadata.labels.unwrap_or_default().into_iter().filter(|(key, _)| match self {
            Self::Namespace => key == MESH,
            Self::ServiceAccount => false,
            Self::Pod => true,
        });
        let labels = labels.map(|(key, value)| (key.into(), value.into())).collect();
        // A namespace ends its accounts before itself.
        let deleted = metadata.deletion_timestamp.filter(|_| self != Self::Namespace);
        let ends = deleted.map(|at| at.0.saturating_add(LEEWAY).unwrap_or(Timestamp::MAX));
        Object { uid: metadata.uid.unwrap_or_default(), labels, ends }
    }

    /// Asks for one object.
    pub(super) async fn ask(self, client: &Client, key: &Key) -> Result<Option<Object>, String> {
        let metadata = match self {
            Self::Namespace => metadata(Api::<Namespace>::all(client.clone()), key).await,
            Self::ServiceAccount => metadata(in_namespace::<ServiceAccount>(client, key), key).await,
            Self::Pod => metadata(in_namespace::<Pod>(client, key), key).await,
        };
        Ok(metadata?.map(|metadata| self.keep(metadata)))
    }
}

fn in_namespace<K>(client: &Client, key: &Key) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    Api::namespaced(client.clone(), &key.namespace)
}

async fn metadata<K>(api: Api<K>, key: &Key) -> Result<Option<ObjectMeta>, String>
where
    K: Clone + DeserializeOwned + fmt::Debug,
{
    let object = api.get_metadata_opt(&key.name).await.map_err(|error| explain(&error))?;
    Ok(object.map(|object| object.metadata))
}

/// The service account of a pod, if it still has that uid. This is not in its metadata.
pub(super) async fn account_of(client: &Client, key: &Key, uid: &str) -> Result<Option<Arc<str>>, String> {
    let pod = in_namespace::<Pod>(client, key).get_opt(&key.name).await.map_err(|error| explain(&error))?;
    let pod = pod.filter(|pod| pod.metadata.uid.as_deref() == Some(uid));
    let account = |pod: Pod| pod.spec.and_then(|spec| spec.service_account_name).filter(|name| !name.is_empty());
    Ok(pod.map(|pod| account(pod).map_or(DEFAULT_ACCOUNT.into(), Arc::from)))
}

/// All pods there are, by uid.
pub(super) async fn list_pods(client: &Client) -> Result<HashMap<String, Key>, String> {
    let (api, mut params) = (Api::<Pod>::all(client.clone()), ListParams::default().limit(PAGE));
    let mut pods = HashMap::new();
    loop {
        let page = api.list_metadata(&params).await.map_err(|error| explain(&error))?;
        pods.extend(page.items.iter().filter_map(|pod| Some((pod.metadata.uid.clone()?, key_of(&pod.metadata)))));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(pods),
        }
    }
}

pub(super) fn watch_all(directory: &Directory, client: Client, board: &WatchBoard, tasks: &Tasks) {
    watch::<Namespace>(Kind::Namespace, directory, &client, board, tasks);
    watch::<ServiceAccount>(Kind::ServiceAccount, directory, &client, board, tasks);
    watch::<Pod>(Kind::Pod, directory, &client, board, tasks);
}

fn watch<K>(kind: Kind, directory: &Directory, client: &Client, board: &WatchBoard, tasks: &Tasks)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + fmt::Debug + Send + 'static,
{
    let mut events =
        MetadataWatch::<K>::of_metadata(kind.plural(), Api::all(client.clone()), Config::default()).reporting(board);
    let directory = directory.clone();
    tasks.spawn_essential("directory watch", async move {
        loop {
            match events.attempt().await {
                Ok(event) => directory.on_event(kind, event),
                Err(reason) => directory.on_failure(kind, reason),
            }
        }
    });
}

impl Directory {
    fn on_event<K>(&self, kind: Kind, event: Event<PartialObjectMeta<K>>) {
        let shelf = self.0.shelf(kind);
        let mut state = shelf.lock();
        match event {
            Event::Init => state.table.begin(),
            Event::InitApply(object) | Event::Apply(object) => {
                let key = key_of(&object.metadata);
                if state.table.apply(key.clone(), kind.keep(object.metadata)) {
                    state.ring(&key);
                }
                return;
            }
            Event::Delete(object) => {
                let key = key_of(&object.metadata);
                if state.table.delete(&key, object.metadata.uid.as_deref().unwrap_or_default()) {
                    state.ring(&key);
                }
                return;
            }
            Event::InitDone => {
                for key in state.table.complete() {
                    state.ring(&key);
                }
            }
        }
        drop(state);
        self.0.report();
        shelf.told.send_modify(|count| *count += 1);
    }

    fn on_failure(&self, kind: Kind, reason: String) {
        let shelf = self.0.shelf(kind);
        shelf.lock().table.fails(reason);
        self.0.report();
        shelf.told.send_modify(|count| *count += 1);
    }
}

fn key_of(metadata: &ObjectMeta) -> Key {
    let text = |text: &Option<String>| Arc::from(text.as_deref().unwrap_or_default());
    Key { namespace: text(&metadata.namespace), name: text(&metadata.name) }
}
