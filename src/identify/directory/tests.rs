//! Tests of [`super`], with an API server in memory.

use axum::http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::timeout;

use std::fmt;

use super::*;
use crate::identify::pods::{FindPods, FoundPod};
use crate::runtime::tasks::Deaths;
use crate::testing::fake_cluster::{FakeApi, Fault};

struct Rig {
    api: FakeApi,
    directory: Directory,
    _tasks: (Tasks, Deaths),
}

fn object(namespace: Option<&str>, name: &str, uid: &str, labels: Value) -> Value {
    json!({"metadata": {"namespace": namespace, "name": name, "uid": uid, "labels": labels}})
}

fn pod(name: &str, uid: &str, labels: Value) -> Value {
    let mut pod = object(Some("shop"), name, uid, labels);
    pod["spec"] = json!({"serviceAccountName": "web", "containers": []});
    pod
}

fn account_of(pod: &str, uid: &str) -> Account {
    let pod = Some(Pod { name: pod.into(), uid: uid.into() });
    Account { namespace: "shop".into(), name: "web".into(), uid: Some("a1".into()), pod }
}

/// The namespace `shop`, its account `web`, and two pods.
fn cluster() -> FakeApi {
    let api = FakeApi::default();
    api.put("namespaces", object(None, "shop", "n1", json!({"kuma.io/mesh": "prod", "team": "a"})));
    api.put("serviceaccounts", object(Some("shop"), "web", "a1", json!({})));
    api.put("pods", pod("web-0", "u1", json!({"app": "web"})));
    api.put("pods", pod("web-1", "u2", json!({"app": "web", "kuma.io/mesh": "prod"})));
    api
}

fn start(api: FakeApi) -> Rig {
    let tasks = Tasks::new();
    let directory = Directory::start(
        api.client(),
        Clock::simulated(Timestamp::UNIX_EPOCH),
        &WatchBoard::new(Clock::system()),
        &tasks.0,
    );
    Rig { api, directory, _tasks: tasks }
}

async fn rig() -> Rig {
    let rig = start(cluster());
    rig.directory.ready("test").await.unwrap();
    rig
}

impl Rig {
    /// Waits until the watch has told of it.
    async fn standing_soon(&self, account: &Account) {
        let stands = async { while self.directory.standing("test", account).await.is_err() {} };
        timeout(Duration::from_secs(60), stands).await.expect("it is known in time");
    }

    async fn standing(&self, pod: &str, uid: &str) -> Result<Standing, IdentifyError> {
        self.directory.standing("test", &account_of(pod, uid)).await
    }
}

async fn wakes(changes: &mut BoxStream<'static, ()>) {
    timeout(Duration::from_secs(60), changes.next()).await.expect("it wakes in time").expect("it goes on");
}

async fn sleeps(changes: &mut BoxStream<'static, ()>) {
    assert!(timeout(Duration::from_secs(5), changes.next()).await.is_err(), "woken for nothing");
}

fn is_gone(result: Result<impl fmt::Debug, IdentifyError>) {
    assert!(matches!(&result, Err(IdentifyError::Refused { reason, .. }) if reason.contains("gone")), "{result:?}");
}

/// The kinds that the operator is told of.
fn warnings(rig: &Rig) -> Vec<String> {
    let problems = rig.directory.problems().borrow().clone();
    let text = |problem: &Problem| problem.to_string();
    let kinds = Kind::ALL.map(Kind::plural);
    let of = |text: String| {
        kinds.iter().find(|kind| text.starts_with(&format!("the cluster's {kind}: "))).unwrap().to_string()
    };
    problems.iter().map(text).map(of).collect()
}

fn why_unknown(result: Result<impl fmt::Debug, IdentifyError>) -> String {
    match result {
        Err(IdentifyError::Unavailable { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn facts_are_the_pods_labels_and_its_mesh_or_its_namespaces() {
    let rig = rig().await;
    let facts = rig.standing("web-0", "u1").await.unwrap().facts().unwrap();
    assert_eq!(facts.mesh.as_deref(), Some("prod"));
    assert_eq!(*facts.labels, [("app".into(), "web".into())].into());
    assert_eq!(rig.standing("web-1", "u2").await.unwrap().facts().unwrap().mesh.as_deref(), Some("prod"));
    let unbound = Account { pod: None, ..account_of("", "") };
    let facts = rig.directory.standing("test", &unbound).await.unwrap().facts().unwrap();
    assert_eq!((facts.mesh.as_deref(), facts.labels.is_empty()), (Some("prod"), true));
    assert_eq!(rig.api.calls().iter().filter(|call| **call == "GET pods").count(), 1, "only the list");
}

#[tokio::test(start_paused = true)]
async fn a_pod_does_not_label_itself_out_of_the_mesh_of_its_namespace() {
    let rig = rig().await;
    let standing = rig.standing("web-1", "u2").await.unwrap();
    let mut changes = standing.changes();
    rig.api.merge("pods", "web-1", &json!({"metadata": {"labels": {"kuma.io/mesh": "test"}}}));
    wakes(&mut changes).await;
    let told = "the label kuma.io/mesh of its pod is \"test\", but that of its namespace is \"prod\"";
    assert_eq!(standing.facts(), Err(IdentifyError::Forbidden(told.to_owned())));
    rig.api.merge("namespaces", "shop", &json!({"metadata": {"labels": {"kuma.io/mesh": ""}}}));
    wakes(&mut changes).await;
    assert_eq!(standing.facts().unwrap().mesh.as_deref(), Some("test"), "its namespace assigns it to none");
}

#[tokio::test(start_paused = true)]
async fn only_the_streams_of_what_changes_wake() {
    let rig = rig().await;
    let (one, other) = (rig.standing("web-0", "u1").await.unwrap(), rig.standing("web-1", "u2").await.unwrap());
    let (mut ones, mut others) = (one.changes(), other.changes());
    rig.api.merge("pods", "web-0", &json!({"metadata": {"labels": {"app": "api"}}}));
    wakes(&mut ones).await;
    assert_eq!(one.facts().unwrap().labels["app"].as_ref(), "api");
    sleeps(&mut others).await;
    // What does not count wakes nobody.
    rig.api.merge("pods", "web-0", &json!({"status": {"phase": "Running"}}));
    rig.api.merge("namespaces", "shop", &json!({"metadata": {"labels": {"team": "b"}}}));
    sleeps(&mut ones).await;
    // The namespace is of both.
    rig.api.merge("namespaces", "shop", &json!({"metadata": {"labels": {"kuma.io/mesh": "next"}}}));
    wakes(&mut ones).await;
    wakes(&mut others).await;
    assert_eq!(one.facts().unwrap().mesh.as_deref(), Some("next"));
    rig.api.remove("pods", "web-0");
    wakes(&mut ones).await;
    is_gone(one.facts());
    sleeps(&mut others).await;
    is_gone(rig.standing("web-0", "u1").await);
    // And who looks only now is told at once.
    wakes(&mut one.changes()).await;
}

#[tokio::test(start_paused = true)]
async fn an_account_or_namespace_that_goes_takes_its_pods_with_it() {
    for (plural, name) in [("serviceaccounts", "web"), ("namespaces", "shop")] {
        let rig = rig().await;
        let standing = rig.standing("web-0", "u1").await.unwrap();
        let mut changes = standing.changes();
        rig.api.remove(plural, name);
        wakes(&mut changes).await;
        is_gone(standing.facts());
        is_gone(rig.standing("web-0", "u1").await);
    }
    // Made anew is another account.
    let rig = rig().await;
    let standing = rig.standing("web-0", "u1").await.unwrap();
    let mut changes = standing.changes();
    rig.api.put("serviceaccounts", object(Some("shop"), "web", "a2", json!({})));
    wakes(&mut changes).await;
    is_gone(standing.facts());
    is_gone(rig.standing("web-0", "u1").await);
}

/// Both before whoever follows it has had a look.
#[tokio::test(start_paused = true)]
async fn what_is_deleted_and_made_anew_at_once_may_be_deleted_again() {
    let rig = rig().await;
    let unbound = Account { pod: None, uid: None, ..account_of("", "") };
    for (plural, again) in [
        ("namespaces", object(None, "shop", "n2", json!({}))),
        ("serviceaccounts", object(Some("shop"), "web", "a2", json!({}))),
    ] {
        let standing = rig.directory.standing("test", &unbound).await.unwrap();
        let mut changes = standing.changes();
        let name = again["metadata"]["name"].as_str().unwrap().to_owned();
        rig.api.remove(plural, &name);
        rig.api.put(plural, again.clone());
        wakes(&mut changes).await;
        // Whatever came together is heard of.
        while timeout(Duration::from_secs(5), changes.next()).await.is_ok() {}
        assert!(standing.facts().is_ok(), "it goes by the name alone");
        rig.api.remove(plural, &name);
        wakes(&mut changes).await;
        is_gone(standing.facts());
        rig.api.put(plural, again);
        rig.standing_soon(&unbound).await;
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_of_what_is_gone_and_followed_by_nobody() {
    let rig = rig().await;
    let standing = rig.standing("web-0", "u1").await.unwrap();
    let mut changes = standing.changes();
    rig.api.remove("pods", "web-0");
    wakes(&mut changes).await;
    let bells = || rig.directory.0.pods.lock().bells.len();
    assert_eq!(bells(), 1);
    drop((changes, standing.changes()));
    assert_eq!(bells(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_a_finalizer_keeps_is_gone_a_minute_after_its_deletion() {
    for (plural, name) in [("pods", "web-0"), ("serviceaccounts", "web")] {
        let rig = rig().await;
        let standing = rig.standing("web-0", "u1").await.unwrap();
        let mut changes = standing.changes();
        // By pods it is said in advance: at the end of their grace period.
        rig.api.merge(plural, name, &json!({"metadata": {"deletionTimestamp": "1970-01-01T00:02:00Z"}}));
        wakes(&mut changes).await;
        assert!(standing.facts().is_ok());
        assert!(timeout(Duration::from_secs(150), changes.next()).await.is_err(), "{plural}: too early");
        wakes(&mut changes).await;
        is_gone(standing.facts());
        is_gone(rig.standing("web-0", "u1").await);
        sleeps(&mut changes).await;
        assert_eq!(rig.api.count(&format!("GET {plural}")), 1, "only the list");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_the_watch_has_not_told_of_is_asked_for() {
    let rig = rig().await;
    is_gone(rig.standing("web-2", "u3").await);
    // The watch is late: its connection hangs, and nothing comes by it.
    rig.api.watch_error(500);
    rig.api.put("pods", pod("web-2", "u3", json!({"app": "web"})));
    assert!(rig.standing("web-2", "u3").await.unwrap().facts().is_ok());
    is_gone(rig.standing("web-2", "u4").await);
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_read_is_told_and_a_start_is_waited_for() {
    let api = cluster();
    for _ in 0..2 {
        api.fault(Method::GET, "pods", Fault::Refuse(403, "pods is forbidden: User \"sds\" cannot list resource"));
    }
    let rig = start(api);
    let reason = why_unknown(rig.directory.ready("test").await);
    assert!(reason.contains("pods is forbidden") && reason.contains("rbac.yaml"), "{reason}");
    // In what the log keeps of it.
    assert!(reason.find("rbac.yaml").is_some_and(|at| at < 100), "{reason}");
    assert_eq!(warnings(&rig), ["pods"]);
    tokio::time::sleep(Duration::from_secs(120)).await;
    rig.directory.ready("test").await.unwrap();
    assert_eq!(warnings(&rig), [""; 0]);
    assert!(rig.standing("web-0", "u1").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_is_known_counts_while_the_api_server_is_away() {
    let rig = rig().await;
    let standing = rig.standing("web-0", "u1").await.unwrap();
    let mut changes = standing.changes();
    rig.api.set_down(true);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(standing.facts().is_ok());
    assert_eq!(warnings(&rig), ["namespaces", "serviceaccounts", "pods"]);
    assert!(rig.standing("web-1", "u2").await.is_ok());
    why_unknown(rig.standing("web-2", "u3").await);
    sleeps(&mut changes).await;
    // What happened meanwhile shows in the next list.
    rig.api.remove("pods", "web-0");
    rig.api.set_down(false);
    wakes(&mut changes).await;
    is_gone(standing.facts());
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_found_by_its_uid() {
    let rig = rig().await;
    let found = rig.directory.by_uid("u2").await.unwrap().unwrap();
    assert_eq!(found.workload.namespace.as_deref(), Some("shop"));
    assert_eq!(found.workload.service_account.as_deref(), Some("web"));
    assert_eq!(found.workload.pod, Some(Pod { name: "web-1".into(), uid: "u2".into() }));
    assert_eq!(found.standing.facts().unwrap().mesh.as_deref(), Some("prod"));
    assert!(rig.directory.by_uid("u9").await.unwrap().is_none());
    // It has not to be asked for again, and is known while the API server is away.
    let asked = rig.api.calls().len();
    assert!(rig.directory.by_uid("u2").await.unwrap().is_some());
    assert_eq!(rig.api.calls().len(), asked);
    rig.api.set_down(true);
    assert!(rig.directory.by_uid("u2").await.unwrap().is_some());
    assert!(rig.directory.by_uid("u1").await.is_err(), "nobody has asked for its account");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_the_watch_has_not_told_of_is_found_by_its_uid_in_a_list_for_all_who_wait() {
    let rig = rig().await;
    rig.api.watch_error(500);
    rig.api.put("pods", pod("web-2", "u3", json!({"app": "web"})));
    let asks = || rig.api.count("GET pods");
    let before = asks();
    let found = futures::future::join_all((0..20).map(|_| rig.directory.by_uid("u3"))).await;
    assert!(found.iter().all(|found| found.as_ref().is_ok_and(Option::is_some)), "{found:?}");
    // One list, and for each at most the pod itself and its account.
    let asked = asks() - before;
    assert!(asked <= 41, "{asked}");
    // Who is not there either may try again, until there may be another list.
    why_not(rig.directory.by_uid("u9").await);
    assert_eq!(asks() - before, asked);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(rig.directory.by_uid("u9").await.unwrap().is_none());
}

fn why_not(found: Result<Option<FoundPod>, String>) {
    assert!(found.as_ref().is_err_and(|reason| reason.contains("was not known")), "{found:?}");
}
