//! Objects from an API server in memory, through the watches, to what is in force and to their statuses.

use std::path::PathBuf;
use std::time::Duration;

use axum::http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::*;
use crate::mesh::{Compiled, LiveResources, Settings};
use crate::model::preflight::{Outcome, Verdict, Verdicts};
use crate::runtime::clock::Clock;
use crate::runtime::tasks::{Deaths, Tasks};
use crate::testing::fake_cluster::{Definition, FakeApi, Fault};

/// Longer than the pause between two attempts to list.
pub(super) const LONG: Duration = Duration::from_secs(120);

pub(super) fn mesh(name: &str, enabled: &str) -> Value {
    let mtls = json!({"enabledBackend": enabled, "backends": [{"name": "ca-1", "type": "builtin"}]});
    json!({"metadata": {"name": name, "generation": 1}, "spec": {"mtls": mtls}})
}

/// A cluster, and what a server makes of it.
pub(super) struct Scene {
    pub(super) api: FakeApi,
    tasks: Tasks,
    _deaths: Deaths,
    pub(super) folder: tempfile::TempDir,
}

impl Scene {
    pub(super) fn new() -> Self {
        let (tasks, deaths) = Tasks::new();
        Self { api: FakeApi::default(), tasks, _deaths: deaths, folder: tempfile::tempdir().unwrap() }
    }

    pub(super) fn watch(&self) -> watch::Receiver<Arc<ClusterObjects>> {
        let board = WatchBoard::new(Clock::system());
        let state_dir = StateDir::new(self.folder.path().join("state"));
        watch_objects(&self.api.client(), "system", &state_dir, &board, &self.tasks)
    }

    pub(super) fn live(&self, paths: Vec<PathBuf>) -> LiveResources {
        let settings = Settings {
            paths,
            kubernetes_available: true,
            system_namespace: "system".to_owned(),
            zone: String::new(),
            read_file: None,
            state_dir: Some(StateDir::new(self.folder.path().join("state"))),
        };
        LiveResources::new(settings, Some(self.watch()), clock())
    }

    /// A resource file with these documents.
    fn file(&self, text: &str) -> PathBuf {
        let path = self.folder.path().join("mesh.yaml");
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Loads, publishes and writes statuses for ever, as the server does.
    fn serve(&self, mut live: LiveResources) -> watch::Sender<Arc<Verdicts>> {
        let (publish, reports) = watch::channel(Arc::default());
        let (tell, verdicts) = watch::channel(Arc::default());
        let (_, troubles) = watch::channel(Arc::default());
        let sources = Sources { reports, objects: self.watch(), verdicts, troubles };
        self.tasks.spawn(StatusWriter::new(self.api.client(), "one".to_owned(), sources, clock()).run());
        self.tasks.spawn(async move {
            loop {
                let Compiled { standings, resources, .. } = live.load();
                let objects = live.objects().clone();
                publish.send_replace(Arc::new(Report { objects, standings, policies: resources.policies }));
                live.changed().await;
            }
        });
        tell
    }

    fn condition(&self, plural: &str, name: &str, of: &str) -> Value {
        let object = self.api.objects(plural).into_iter().find(|object| object["metadata"]["name"] == name).unwrap();
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.into_iter().find(|condition| condition["type"] == of).unwrap_or_default()
    }

    async fn reason_becomes(&self, plural: &str, name: &str, of: &str, reason: &str) -> Value {
        let becomes = async {
            while self.condition(plural, name, of)["reason"] != reason {
                sleep(Duration::from_millis(100)).await;
            }
        };
        let became = timeout(LONG, becomes).await;
        let condition = self.condition(plural, name, of);
        assert!(became.is_ok(), "{of} is {condition}");
        condition
    }
}

fn clock() -> Clock {
    Clock::simulated(Timestamp::from_second(1_800_000_000).unwrap())
}

/// Loads until the meshes in force and the number of problems are these.
pub(super) async fn becomes(live: &mut LiveResources, meshes: &str, problems: usize) -> Compiled {
    let becomes = async {
        loop {
            let compiled = live.load();
            let names: Vec<_> = compiled.resources.policies.meshes.keys().map(|name| &**name).collect();
            if names.join(" ") == meshes && compiled.problems.len() == problems {
                return compiled;
            }
            live.changed().await;
        }
    };
    timeout(LONG, becomes).await.unwrap_or_else(|_| panic!("it never is {meshes:?}: {:?}", live.load()))
}

#[tokio::test(start_paused = true)]
async fn objects_that_cannot_be_seen_after_a_restart_are_what_was_good_of_them() {
    let scene = Scene::new();
    let state = StateDir::new(scene.folder.path().join("state"));
    scene.api.put("meshes", mesh("one", "ca-1"));
    scene.api.put("meshes", mesh("two", "ca-1"));
    let mut live = scene.live(vec![]).remembering(&state);
    becomes(&mut live, "one two", 0).await;
    scene.api.merge("meshes", "two", &json!({"spec": {"mtls": {"enabledBackend": "nonsense"}}}));
    becomes(&mut live, "one two", 1).await;
    // Whether the objects are remembered as they were, or only what was good of them.
    for is_remembered in [true, false] {
        if !is_remembered {
            std::fs::remove_dir_all(state.path().join("objects")).unwrap();
        }
        scene.api.set_down(true);
        let mut live = scene.live(vec![]).remembering(&state);
        becomes(&mut live, "one two", usize::from(is_remembered)).await;
        scene.api.set_down(false);
        becomes(&mut live, "one two", 1).await;
    }
    scene.api.remove("meshes", "two");
    let mut live = scene.live(vec![]).remembering(&state);
    becomes(&mut live, "one", 0).await;
}

#[tokio::test(start_paused = true)]
async fn objects_are_compiled_like_files_and_each_keeps_its_own_last_good() {
    let scene = Scene::new();
    scene.api.put("meshes", mesh("one", "ca-1"));
    scene.api.put("meshes", mesh("two", "ca-1"));
    scene.api.put("meshes", mesh("broken", "nonsense"));
    let mut live = scene.live(vec![]);
    assert!(live.load().resources.policies.meshes.is_empty(), "nothing is served before the cluster has answered");
    let compiled = becomes(&mut live, "one two", 1).await;
    let told = compiled.problems[0].to_string();
    assert!(told.starts_with("Mesh broken (cluster): spec.mtls.enabledBackend: "), "{told}");
    assert_eq!(compiled.problems[0].at.file, None);

    scene.api.merge("meshes", "one", &json!({"spec": {"mtls": {"enabledBackend": "nonsense"}}}));
    let compiled = becomes(&mut live, "one two", 2).await;
    let one = &compiled.standings[&ObjectRef { kind: ObjectKind::Mesh, name: "one".into() }];
    assert_eq!((one.acceptance, one.in_force), (Acceptance::Invalid, true));
    scene.api.set_down(true);
    sleep(LONG).await;
    scene.api.set_down(false);
    scene.api.remove("meshes", "one");
    scene.api.merge("meshes", "broken", &json!({"spec": {"mtls": {"enabledBackend": "ca-1"}}}));
    becomes(&mut live, "broken two", 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_file_wins_also_while_it_cannot_be_understood() {
    let scene = Scene::new();
    let in_file = "{type: Mesh, name: one, mtls: {enabledBackend: f, backends: [{name: f, type: builtin}]}}";
    let path = scene.file(in_file);
    scene.api.put("meshes", mesh("one", "ca-1"));
    scene.api.put("meshes", mesh("two", "ca-1"));
    let mut live = scene.live(vec![path.clone()]);
    let signer = |compiled: &Compiled| compiled.resources.policies.meshes["one"].enabled_backend.clone().unwrap();
    let compiled = becomes(&mut live, "one two", 1).await;
    assert_eq!(&*signer(&compiled), "f");
    let told = compiled.problems[0].to_string();
    assert!(told.starts_with("Mesh one (cluster): the resource file ") && told.contains("mesh.yaml"), "{told}");
    let one = ObjectRef { kind: ObjectKind::Mesh, name: "one".into() };
    assert_eq!(compiled.standings[&one].acceptance, Acceptance::ShadowedByFile);

    scene.file("{type: Mesh");
    let compiled = live.load();
    assert_eq!(&*signer(&compiled), "f", "{:?}", compiled.problems);
    assert_eq!(compiled.standings[&one].acceptance, Acceptance::ShadowedByFile);
    scene.file("{type: Mesh, name: other}");
    let compiled = live.load();
    assert_eq!(&*signer(&compiled), "ca-1");
    assert_eq!(compiled.standings[&one].acceptance, Acceptance::Accepted);
}

#[tokio::test(start_paused = true)]
async fn statuses_follow_and_others_conditions_stay() {
    let scene = Scene::new();
    let others = json!({"type": "Other", "status": "True", "reason": "R", "message": ""});
    let mut object = mesh("one", "ca-1");
    object["status"] = json!({"conditions": [others]});
    scene.api.put("meshes", object);
    let tell = scene.serve(scene.live(vec![]));
    let ready = scene.reason_becomes("meshes", "one", "Ready", "Accepted").await;
    assert_eq!((&ready["status"], &ready["observedGeneration"]), (&json!("True"), &json!(1)));
    assert_eq!(scene.condition("meshes", "one", "BackendReady"), Value::Null, "nobody knows yet");
    assert_eq!(scene.condition("meshes", "one", "Other"), others);

    let verdict = |outcome| {
        let verdict =
            Verdict { outcome, since: Timestamp::UNIX_EPOCH, holds_back: false, conflict: None, unlisted: None };
        Arc::new(Verdicts::from([(("one".into(), "ca-1".into()), verdict)]))
    };
    tell.send_replace(verdict(Outcome::Failed("no such issuer".to_owned())));
    let backend = scene.reason_becomes("meshes", "one", "BackendReady", "BackendFailed").await;
    assert_eq!(backend["message"], "backend ca-1: no such issuer");
    tell.send_replace(verdict(Outcome::Passed));
    scene.reason_becomes("meshes", "one", "BackendReady", "BackendReady").await;

    let nonsense = json!({"metadata": {"generation": 2}, "spec": {"mtls": {"enabledBackend": "nonsense"}}});
    scene.api.merge("meshes", "one", &nonsense);
    let ready = scene.reason_becomes("meshes", "one", "Ready", "Invalid").await;
    let message = ready["message"].as_str().unwrap();
    assert!(message.starts_with("spec.mtls.enabledBackend: ") && message.contains("stays in force"), "{message}");
    assert_eq!(ready["observedGeneration"], 2);

    // One Event for each change of state, and no write without one.
    let events = scene.api.objects("events");
    let reasons: Vec<_> = events.iter().map(|event| event["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["Accepted", "BackendFailed", "BackendReady", "Invalid"]);
    let written = scene.api.count("PATCH meshes");
    sleep(LONG).await;
    assert_eq!((scene.api.count("PATCH meshes"), written), (written, 4));
}

#[tokio::test(start_paused = true)]
async fn two_replicas_do_not_fight() {
    let scene = Scene::new();
    scene.api.put("meshes", mesh("one", "ca-1"));
    let _tell = [scene.serve(scene.live(vec![])), scene.serve(scene.live(vec![]))];
    scene.reason_becomes("meshes", "one", "Ready", "Accepted").await;
    sleep(LONG).await;
    assert_eq!(scene.api.objects("events").len(), 1);
    // Somebody says otherwise: that is his.
    let conditions = json!([{"type": "Ready", "status": "False", "reason": "Theirs", "message": "m"}]);
    scene.api.merge("meshes", "one", &json!({"status": {"conditions": conditions}}));
    sleep(LONG).await;
    assert_eq!(scene.condition("meshes", "one", "Ready")["reason"], "Theirs");
}

#[tokio::test(start_paused = true)]
async fn a_condition_is_of_the_version_that_it_names_and_written_when_it_changes() {
    let scene = Scene::new();
    scene.api.put("meshes", mesh("one", "ca-1"));
    let tell = scene.serve(scene.live(vec![]));
    let verdict = |outcome, holds_back| {
        let verdict = Verdict { outcome, since: Timestamp::UNIX_EPOCH, holds_back, conflict: None, unlisted: None };
        Arc::new(Verdicts::from([(("one".into(), "ca-1".into()), verdict)]))
    };
    scene.reason_becomes("meshes", "one", "Ready", "Accepted").await;
    // Another replica sees it otherwise: what this one has said before is not repeated with what is new.
    let conditions = json!([{"type": "Ready", "status": "False", "reason": "Theirs", "message": "m"}]);
    scene.api.merge("meshes", "one", &json!({"status": {"conditions": conditions}}));
    sleep(LONG).await;
    tell.send_replace(verdict(Outcome::Passed, false));
    scene.reason_becomes("meshes", "one", "BackendReady", "BackendReady").await;
    assert_eq!(scene.condition("meshes", "one", "Ready")["reason"], "Theirs");

    // That the backend before has been good says nothing of the one that is wanted now.
    tell.send_replace(verdict(Outcome::Pending, true));
    let backends = json!([{"name": "ca-1", "type": "builtin", "conf": {"caCert": {"expiration": "1d"}}}]);
    scene.api.merge("meshes", "one", &json!({"metadata": {"generation": 2}, "spec": {"mtls": {"backends": backends}}}));
    let backend = scene.reason_becomes("meshes", "one", "BackendReady", "Pending").await;
    assert_eq!((&backend["status"], &backend["observedGeneration"]), (&json!("Unknown"), &json!(2)));
    let ready = scene.reason_becomes("meshes", "one", "Ready", "HeldBack").await;
    assert!(ready["message"].as_str().unwrap().contains("the version before, if there is one, stays"), "{ready}");
    // One that is broken now has that as its last good version, which is not in force.
    scene.api.merge("meshes", "one", &json!({"spec": {"mtls": {"enabledBackend": "nonsense"}}}));
    let ready = scene.reason_becomes("meshes", "one", "Ready", "Invalid").await;
    let message = ready["message"].as_str().unwrap();
    assert!(message.contains("its last good version is not in force until backend ca-1 has issued"), "{message}");
    assert!(!message.contains("the last good version stays in force"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn definitions_without_a_status_subresource_are_coped_with() {
    let scene = Scene::new();
    scene.api.define("meshes", Some(Definition::WithoutSubresource));
    scene.api.put("meshes", mesh("one", "ca-1"));
    let _tell = scene.serve(scene.live(vec![]));
    let ready = scene.reason_becomes("meshes", "one", "Ready", "Accepted").await;
    assert_eq!(ready["observedGeneration"], Value::Null);
    sleep(LONG).await;
    assert_eq!(scene.api.count("PATCH meshes"), 2, "the status, which is not there, and the object");

    let scene = Scene::new();
    scene.api.define("meshes", Some(Definition::WithoutStatus));
    scene.api.put("meshes", mesh("one", "ca-1"));
    scene.api.put("meshes", mesh("two", "ca-1"));
    let _tell = scene.serve(scene.live(vec![]));
    sleep(LONG).await;
    assert_eq!(scene.api.count("PATCH meshes"), 2, "given up after the first");
    scene.api.merge("meshes", "one", &json!({"spec": {"mtls": {"enabledBackend": "nonsense"}}}));
    sleep(LONG).await;
    assert_eq!(scene.api.count("PATCH meshes"), 2);
    let events = scene.api.objects("events");
    assert!(events.iter().any(|event| event["reason"] == "Invalid" && event["type"] == "Warning"), "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_written_is_tried_again() {
    let scene = Scene::new();
    scene.api.put("meshes", mesh("one", "ca-1"));
    scene.api.fault(Method::PATCH, "meshes", Fault::Refuse(403, "may not"));
    scene.api.fault(Method::POST, "events", Fault::Refuse(403, "may not"));
    let _tell = scene.serve(scene.live(vec![]));
    scene.reason_becomes("meshes", "one", "Ready", "Accepted").await;
    assert_eq!(scene.api.count("PATCH meshes"), 2);
}

#[test]
fn the_definitions_are_of_the_kinds_that_are_watched() {
    for kind in ObjectKind::ALL {
        let name = format!("name: {}.kuma.io\n", kind.plural());
        assert!(DEFINITIONS.contains(&name) && DEFINITIONS.contains(&format!("kind: {}\n", kind.name())));
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_without_the_cluster_goes_by_what_was_listed_before() {
    let scene = Scene::new();
    scene.api.put("meshes", mesh("one", "ca-1"));
    let selector = json!({"dataplane": {"matchLabels": {"app": "web"}}});
    let bundled = json!({"autogenerate": {"enabled": true}, "insecureAllowSelfSigned": true});
    let spec = json!({"selector": selector, "provider": {"type": "Bundled", "bundled": bundled}});
    let metadata = json!({"name": "web", "namespace": "system", "labels": {"kuma.io/mesh": "one"}});
    scene.api.put("meshidentities", json!({"metadata": metadata, "spec": spec}));
    let all = |objects: &Arc<ClusterObjects>| objects.is_complete();
    timeout(LONG, scene.watch().wait_for(all)).await.unwrap().unwrap();
    let before = scene.live(vec![]).load().resources;

    // The next server: at once, and it is known not to be the cluster's word.
    scene.api.set_down(true);
    let mut live = scene.live(vec![]);
    let compiled = live.load();
    assert_eq!(compiled.resources, before);
    assert_eq!(compiled.resources.policies.meshes["one"].identities.len(), 1);
    assert!(!live.objects().is_complete());
    sleep(LONG).await;
    assert_eq!(live.load().resources, before);
    assert!(!live.objects().is_complete());
    // What was removed meanwhile is gone with the list.
    scene.api.remove("meshidentities", "web");
    scene.api.set_down(false);
    let identities = |compiled: &Compiled| compiled.resources.policies.meshes["one"].identities.len();
    let becomes_none = async {
        while identities(&live.load()) != 0 {
            live.changed().await;
        }
    };
    timeout(LONG, becomes_none).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_only_remembered_is_given_no_status() {
    let scene = Scene::new();
    scene.api.put("meshes", mesh("one", "ca-1"));
    timeout(LONG, scene.watch().wait_for(|objects| objects.is_complete())).await.unwrap().unwrap();
    for _ in 0..20 {
        scene.api.fault(Method::GET, "meshes", Fault::Refuse(403, "may not"));
    }
    let _tell = scene.serve(scene.live(vec![]));
    sleep(Duration::from_secs(20)).await;
    assert_eq!(scene.api.count("PATCH meshes"), 0);
}
