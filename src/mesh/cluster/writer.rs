//! Writes the status of objects, and Events on changes of it. Nothing depends on it: what fails is told once, and tried
//! again later.
//!
//! A replica writes an object when what it has to say of it changes, or the object does, and then only if that is not
//! there already. So several replicas, which all say the same, do not fight; and a definition without a status subresource,
//! where each write makes a new generation of the object, does not make this a loop. Who changes a status also makes the
//! Event: one for all replicas.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::condition::{Condition, Transition, Wanted, merge, says, shortened};
use super::object::{Object, ObjectKind, ObjectRef};
use super::objects::ClusterObjects;
use super::report::Report;
use super::status::{BackendTroubles, wanted};
use crate::model::preflight::Verdicts;
use crate::runtime::clock::Clock;
use crate::runtime::cluster::explain;

/// Who the API server notes as the writer.
pub(super) const MANAGER: &str = "envoy-sds";
/// How long changes are gathered before they are written: so often is one object written at most.
const SETTLE: Duration = Duration::from_secs(1);
/// Between two writes: with a thousand objects, the API server has other things to do.
const PAUSE: Duration = Duration::from_millis(50);
/// When what could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(60);
/// Attempts to write one object while others write it too.
const ATTEMPTS: usize = 4;
/// Bytes of an Event's note; more is refused.
const MAX_NOTE: usize = 1000;

/// What is written about.
#[derive(Debug)]
pub struct Sources {
    /// How the objects fare.
    pub reports: watch::Receiver<Arc<Report>>,
    /// The objects as they are now, with their statuses.
    pub objects: watch::Receiver<Arc<ClusterObjects>>,
    /// Whether backends work.
    pub verdicts: watch::Receiver<Arc<Verdicts>>,
    /// Backends whose CA certificate cannot be learned.
    pub troubles: watch::Receiver<Arc<BackendTroubles>>,
}

/// The one that writes.
pub struct StatusWriter {
    client: Client,
    recorder: Recorder,
    sources: Sources,
    clock: Clock,
    said: BTreeMap<ObjectRef, Said>,
    /// What is known of each kind's definition.
    definitions: BTreeMap<ObjectKind, Definition>,
    /// What has been told of failures.
    told: BTreeSet<String>,
}

/// What was last said of an object, to be compared with what there is to say now.
struct Said {
    object: Arc<Object>,
    wanted: Vec<(&'static str, Wanted)>,
}

/// How a kind keeps a status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Definition {
    /// As a subresource, until the API server says otherwise.
    #[default]
    Subresource,
    /// As a field like any other.
    Field,
    /// Not at all: its definition has no such field.
    Nowhere,
}

/// Why nothing was written.
enum Unwritten {
    /// The object is gone.
    Gone,
    /// The API server, or the way to it.
    Failed(kube::Error),
    /// Others wrote it each time.
    Contended,
}

impl StatusWriter {
    /// A writer that has written nothing yet. `replica` is noted in Events.
    pub fn new(client: Client, replica: String, sources: Sources, clock: Clock) -> Self {
        let reporter = Reporter { controller: MANAGER.to_owned(), instance: Some(replica) };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            sources,
            clock,
            said: BTreeMap::new(),
            definitions: BTreeMap::new(),
            told: BTreeSet::new(),
        }
    }

    /// Writes for as long as there are reports.
    pub async fn run(mut self) {
        loop {
            let complete = self.round().await;
            let again = Instant::now() + AGAIN;
            let Sources { reports, verdicts, troubles, objects: _ } = &mut self.sources;
            // Whoever is to say one of them may have nothing more to say, and still be there.
            let changed = tokio::select! {
                changed = reports.changed() => changed,
                Ok(()) = verdicts.changed() => Ok(()),
                Ok(()) = troubles.changed() => Ok(()),
                () = sleep_until(again), if !complete => Ok(()),
            };
            if changed.is_err() {
                return;
            }
            sleep(SETTLE).await;
        }
    }

    /// Writes all that has changed. Says whether nothing is left.
    async fn round(&mut self) -> bool {
        let report = self.sources.reports.borrow_and_update().clone();
        let verdicts = self.sources.verdicts.borrow_and_update().clone();
        let troubles = self.sources.troubles.borrow_and_update().clone();
        self.said.retain(|at, _| report.standings.contains_key(at));
        let mut complete = true;
        for (at, standing) in &report.standings {
            // One that is only remembered has no version, and nobody knows what is written in it now.
            let found = report.objects.get(at).filter(|object| object.resource_version.is_some());
            let Some(object) = found else { continue };
            let wanted = wanted(object, standing, &report.policies, &verdicts, &troubles);
            let said = self.said.get(at);
            if said.is_some_and(|said| said.object.says_the_same(object) && said.wanted == wanted) {
                continue;
            }
            let before = said.map(|said| said.wanted.clone());
            let is_same_object = said.is_some_and(|said| said.object.says_the_same(object));
            let news = news(before.as_deref().filter(|_| is_same_object), &wanted);
            match self.write(object, &news, before.as_deref()).await {
                Ok(()) | Err(Unwritten::Gone) => {
                    self.said.insert(at.clone(), Said { object: object.clone(), wanted });
                }
                Err(Unwritten::Contended) => complete = false,
                Err(Unwritten::Failed(error)) => {
                    self.tell(format!("the status of {} cannot be written", at.kind.name()), &error);
                    complete = false;
                }
            }
        }
        complete
    }

    /// Writes one object's status, unless it says all of it already, and the Events of what has changed by that.
    async fn write(
        &mut self,
        object: &Arc<Object>,
        wanted: &[(&'static str, Wanted)],
        before: Option<&[(&'static str, Wanted)]>,
    ) -> Result<(), Unwritten> {
        if self.definition(object) == Definition::Nowhere {
            self.publish(object, transitions(before, wanted)).await;
            return Ok(());
        }
        let newest = self.sources.objects.borrow().get(&object.at).cloned();
        let mut current = newest.filter(|newest| newest.uid == object.uid).unwrap_or_else(|| object.clone());
        for _ in 0..ATTEMPTS {
            let definition = self.definition(object);
            // Where each write makes a new generation, the one that was observed is never the newest.
            let generation = object.generation.filter(|_| definition == Definition::Subresource);
            let Some((conditions, transitions)) = merge(&current.conditions, wanted, generation, self.clock.now())
            else {
                return Ok(());
            };
            sleep(PAUSE).await;
            match self.patch(&current, definition, &conditions).await {
                Ok(written) => {
                    if !kept(&written, wanted) {
                        self.give_up(object.at.kind, "its definition keeps no such status");
                    }
                    self.publish(&current, transitions).await;
                    return Ok(());
                }
                Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {
                    let found = self.api(object).get_opt(&object.at.name).await.map_err(Unwritten::Failed)?;
                    let found = found.and_then(|found| Object::new(object.at.kind, Ok(found)));
                    let Some(found) = found.filter(|found| found.uid == object.uid) else {
                        return Err(Unwritten::Gone);
                    };
                    // It is there, so what is not there is the subresource.
                    if status.code == 404 && definition == Definition::Subresource {
                        self.definitions.insert(object.at.kind, Definition::Field);
                    }
                    current = Arc::new(found);
                }
                Err(kube::Error::Api(status)) if status.code == 403 && definition == Definition::Field => {
                    let why =
                        "its definition has no status subresource, and this server may not patch the object itself";
                    self.give_up(object.at.kind, why);
                    self.publish(&current, transitions).await;
                    return Ok(());
                }
                Err(error) => return Err(Unwritten::Failed(error)),
            }
        }
        Err(Unwritten::Contended)
    }

    fn give_up(&mut self, kind: ObjectKind, why: &str) {
        tracing::info!(kind = kind.name(), "no status is written: {why}; look at /readyz, or at Events");
        self.definitions.insert(kind, Definition::Nowhere);
    }

    fn definition(&self, object: &Object) -> Definition {
        self.definitions.get(&object.at.kind).copied().unwrap_or_default()
    }

    fn api(&self, object: &Object) -> Api<DynamicObject> {
        let resource = object.at.kind.resource();
        match &object.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    /// Replaces the conditions of what was read, unless it has changed since.
    async fn patch(
        &self,
        read: &Object,
        definition: Definition,
        conditions: &[Value],
    ) -> Result<DynamicObject, kube::Error> {
        let patch = Patch::Merge(json!({
            "metadata": {"resourceVersion": read.resource_version},
            "status": {"conditions": conditions},
        }));
        let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let api = self.api(read);
        match definition {
            Definition::Subresource => api.patch_status(&read.at.name, &parameters, &patch).await,
            Definition::Field | Definition::Nowhere => api.patch(&read.at.name, &parameters, &patch).await,
        }
    }

    async fn publish(&mut self, object: &Object, transitions: Vec<Transition>) {
        let regarding = ObjectReference {
            api_version: Some(object.at.kind.resource().api_version),
            kind: Some(object.at.kind.name().to_owned()),
            name: Some(object.at.name.to_string()),
            namespace: object.namespace.clone(),
            uid: Some(object.uid.clone()),
            resource_version: object.resource_version.clone(),
            ..ObjectReference::default()
        };
        for Transition { condition: Condition { holds, reason, message, .. }, of } in transitions {
            let event = Event {
                type_: if holds == Some(true) { EventType::Normal } else { EventType::Warning },
                reason: reason.to_owned(),
                note: Some(shortened(&message, MAX_NOTE)),
                action: of.to_owned(),
                secondary: None,
            };
            if let Err(error) = self.recorder.publish(&event, &regarding).await {
                self.tell("Events cannot be written".to_owned(), &error);
            }
        }
    }

    fn tell(&mut self, what: String, error: &kube::Error) {
        let error = explain(error);
        if self.told.insert(what.clone()) {
            tracing::warn!(error, "{what}; this changes nothing else, and is not told again");
        } else {
            tracing::debug!(error, "{what}");
        }
    }
}

impl std::fmt::Debug for StatusWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StatusWriter").field("definitions", &self.definitions).finish_non_exhaustive()
    }
}

/// Whether what was written is there: a definition without the field drops it without a word.
fn kept(written: &DynamicObject, wanted: &[(&'static str, Wanted)]) -> bool {
    let conditions = written.data.pointer("/status/conditions").and_then(Value::as_array);
    wanted.iter().all(|(of, wanted)| match wanted {
        Wanted::Say(condition) => {
            conditions.into_iter().flatten().any(|found| found["type"] == *of && says(found, condition, None))
        }
        Wanted::Await(_) | Wanted::Keep | Wanted::Remove => true,
    })
}

/// What there is to say that has not been said of this object. What another replica has put in its place since is its own:
/// whose view has not changed does not insist.
fn news(said: Option<&[(&'static str, Wanted)]>, wanted: &[(&'static str, Wanted)]) -> Vec<(&'static str, Wanted)> {
    let is_said = |wanted: &(&'static str, Wanted)| said.is_some_and(|said| said.contains(wanted));
    wanted.iter().filter(|wanted| !is_said(wanted)).cloned().collect()
}

/// The changes of state between what was said and what is to be said, where the object does not keep it.
fn transitions(before: Option<&[(&'static str, Wanted)]>, now: &[(&'static str, Wanted)]) -> Vec<Transition> {
    let state = |wanted: &Wanted| match wanted {
        Wanted::Say(condition) => Some((condition.holds, condition.reason)),
        Wanted::Await(_) | Wanted::Keep | Wanted::Remove => None,
    };
    let said = |of: &str| before?.iter().find(|(known, _)| *known == of).and_then(|(_, wanted)| state(wanted));
    now.iter()
        .filter_map(|(of, wanted)| {
            let Wanted::Say(condition) = wanted else { return None };
            // What is good from the start is no news to anybody.
            let news = said(of).map_or(condition.holds == Some(false), |said| Some(said) != state(wanted));
            news.then(|| Transition { condition: condition.clone(), of })
        })
        .collect()
}
