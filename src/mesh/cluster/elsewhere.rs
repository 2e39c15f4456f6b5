//! MeshIdentity and MeshTrust objects that are in another namespace than the system namespace: they do not count, and whoever
//! made one does not see that it was never looked at. So it is told, where this server may list them; it need not, since
//! nothing else depends on it (`deploy/rbac.yaml`).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{DynamicObject, ListParams};
use kube::core::{ObjectMeta, PartialObjectMeta};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::watcher::{self, Event as WatchEvent};
use kube::{Api, Client};

use super::object::ObjectKind;
use super::writer::MANAGER;
use crate::runtime::cluster::{MetadataWatch, explain};
use crate::runtime::tasks::Tasks;

/// The reason of the Event.
const REASON: &str = "NotInSystemNamespace";

type Partial = PartialObjectMeta<DynamicObject>;

/// Tells, in the log and by Events, of objects that are not in the `system` namespace. `replica` is noted in the Events.
pub fn tell_of_objects_elsewhere(client: &Client, system: &str, replica: &str, tasks: &Tasks) {
    for kind in [ObjectKind::MeshIdentity, ObjectKind::MeshTrust] {
        let (client, system, replica) = (client.clone(), system.to_owned(), replica.to_owned());
        tasks.spawn(async move { tell(kind, client, &system, replica).await });
    }
}

async fn tell(kind: ObjectKind, client: Client, system: &str, replica: String) {
    let api: Api<Partial> = Api::all_with(client.clone(), &kind.resource());
    let selected = format!("metadata.namespace!={system}");
    // A permission that this server is not meant to have is no trouble of the watch.
    if let Err(kube::Error::Api(status)) = api.list(&ListParams::default().fields(&selected).limit(1)).await
        && status.code == 403
    {
        tracing::info!(kind = kind.plural(), "those outside of the system namespace, which do not count, are not seen");
        return;
    }
    let recorder = Recorder::new(client, Reporter { controller: MANAGER.to_owned(), instance: Some(replica) });
    let config = watcher::Config::default().fields(&selected);
    let mut events = MetadataWatch::<DynamicObject>::of_metadata(kind.plural(), api, config);
    let mut told = BTreeSet::new();
    loop {
        let Ok(WatchEvent::Apply(object) | WatchEvent::InitApply(object)) = events.next_if_any().await else {
            continue;
        };
        let ObjectMeta { name: Some(name), namespace: Some(namespace), uid: Some(uid), .. } = object.metadata else {
            continue;
        };
        if namespace == system || !told.insert(uid.clone()) {
            continue;
        }
        let what = format!("it does not count: a {} has to be in the system namespace, {system}", kind.name());
        tracing::warn!(kind = kind.name(), namespace, name, "{what}");
        let regarding = ObjectReference {
            api_version: Some(kind.group_version()),
            kind: Some(kind.name().to_owned()),
            name: Some(name),
            namespace: Some(namespace),
            uid: Some(uid),
            ..ObjectReference::default()
        };
        let event = Event {
            type_: EventType::Warning,
            reason: REASON.to_owned(),
            note: Some(what),
            action: "Ready".to_owned(),
            secondary: None,
        };
        if let Err(error) = recorder.publish(&event, &regarding).await {
            tracing::debug!(error = explain(&error), "this can only be told in the log");
        }
    }
}
