//! The backend against the API server in memory, in simulated time.

use std::sync::Arc;
use std::time::Duration;

use axum::http::Method;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::issue::ca::{CaError, CertificateAuthority, IssuedChain, SigningRequest};
use crate::runtime::tasks::Deaths;
use crate::testing::fake_cluster::{FakeApi, Fault};

const REQUESTS: &str = "certificaterequests";
const TIMEOUT: Duration = Duration::from_secs(10);

struct Rig {
    api: FakeApi,
    manager: CertManager,
    authority: CertManagerAuthority,
    _tasks: Tasks,
    _deaths: Deaths,
}

type Signing = JoinHandle<Result<IssuedChain, CaError>>;

fn rig() -> Rig {
    rig_of(&FakeApi::default())
}

fn rig_of(api: &FakeApi) -> Rig {
    let (tasks, deaths) = Tasks::new();
    let settings =
        Settings { system_namespace: "kong-mesh-system".into(), zone: String::new(), timing: Timing::default() };
    let manager = CertManager::new(api.client(), settings, Clock::simulated(Timestamp::UNIX_EPOCH), &tasks);
    let issuer = IssuerRef { name: "ca".into(), kind: "Issuer".into(), group: "cert-manager.io".into() };
    let authority = manager.authority(issuer);
    Rig { api: api.clone(), manager, authority, _tasks: tasks, _deaths: deaths }
}

impl Rig {
    #[expect(clippy::disallowed_methods, reason = "a test's own task")]
    fn sign(&self) -> Signing {
        let authority = self.authority.clone();
        tokio::spawn(async move { authority.sign(asked()).await.map(|signed| signed.chain) })
    }

    /// Signs, and waits until the API server has the request; gives its name.
    async fn pending(&self) -> (Signing, String) {
        let signing = self.sign();
        let objects = self.api.until_count(REQUESTS, 1).await;
        (signing, objects[0]["metadata"]["name"].as_str().unwrap().to_owned())
    }

    fn issue(&self, name: &str) {
        self.api.merge(REQUESTS, name, &json!({"status": issued()}));
    }

    fn decide(&self, name: &str, kind: &str, status: &str, reason: &str) {
        self.api.merge(REQUESTS, name, &json!({"status": {"conditions": [condition(kind, status, reason)]}}));
    }
}

fn asked() -> SigningRequest {
    SigningRequest {
        mesh: "default".into(),
        proxy: "web-0".into(),
        spiffe_id: "spiffe://default/web".into(),
        lifetime: Some(Duration::from_secs(3600)),
        request_timeout: TIMEOUT,
    }
}

fn condition(kind: &str, status: &str, reason: &str) -> Value {
    json!({"type": kind, "status": status, "reason": reason, "message": format!("because {reason}")})
}

fn issued() -> Value {
    let certificate = rcgen::generate_simple_self_signed(["web".to_owned()]).unwrap().cert.pem();
    let encoded = STANDARD.encode(certificate);
    json!({"conditions": [condition("Ready", "True", "Issued")], "certificate": encoded, "ca": encoded})
}

async fn answer(signing: Signing) -> Result<IssuedChain, CaError> {
    timeout(Duration::from_secs(600), signing).await.expect("sign answers").unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_issued_request_is_answered_and_deleted() {
    let rig = rig();
    let (signing, name) = rig.pending().await;
    rig.issue(&name);
    let chain = answer(signing).await.unwrap();
    assert_eq!((chain.certificates.len(), chain.authority.len()), (1, 1));
    rig.api.until_count(REQUESTS, 0).await;
    assert_eq!(rig.api.count("POST certificaterequests"), 1);
    assert_eq!(rig.api.count("WATCH certificaterequests"), 1);
    assert_eq!(rig.api.objects("leases").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn many_share_one_watch() {
    let rig = rig();
    let signings: Vec<_> = (0..20).map(|_| rig.sign()).collect();
    for object in rig.api.until_count(REQUESTS, 20).await {
        rig.issue(object["metadata"]["name"].as_str().unwrap());
    }
    for signing in signings {
        answer(signing).await.unwrap();
    }
    rig.api.until_count(REQUESTS, 0).await;
    assert_eq!(rig.api.count("WATCH certificaterequests"), 1);
    assert!(rig.api.calls().iter().filter(|call| *call == "GET certificaterequests").count() < 5);
}

#[tokio::test(start_paused = true)]
async fn a_final_state_without_certificate_is_told() {
    for (kind, status, reason, label) in [
        ("Denied", "True", "policy", "denied"),
        ("Ready", "False", "Denied", "denied"),
        ("Ready", "False", "Failed", "failed"),
        ("InvalidRequest", "True", "BadCsr", "invalid"),
    ] {
        let rig = rig();
        let (signing, name) = rig.pending().await;
        rig.decide(&name, kind, status, reason);
        let error = answer(signing).await.unwrap_err();
        assert_eq!(error.label(), label);
        assert!(error.to_string().contains(reason), "{error}");
        rig.api.until_count(REQUESTS, 0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn garbage_for_a_certificate_is_a_bad_answer() {
    let rig = rig();
    let (signing, name) = rig.pending().await;
    let garbage = json!({"conditions": [condition("Ready", "True", "Issued")], "certificate": "Z2FyYmFnZQ=="});
    rig.api.merge(REQUESTS, &name, &json!({"status": garbage}));
    assert_eq!(answer(signing).await.unwrap_err().label(), "bad_answer");
    rig.api.until_count(REQUESTS, 0).await;
}

#[tokio::test(start_paused = true)]
async fn an_object_that_does_not_parse_spoils_only_itself() {
    let rig = rig();
    let (signing, name) = rig.pending().await;
    rig.api.merge(REQUESTS, &name, &json!({"status": {"conditions": "none"}}));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(rig.manager.pending().snapshot()[0].reason, "Unreadable");
    rig.issue(&name);
    answer(signing).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn deleted_by_someone_else() {
    let rig = rig();
    let (signing, name) = rig.pending().await;
    sleep(Duration::from_secs(1)).await;
    rig.api.remove(REQUESTS, &name);
    assert_eq!(answer(signing).await.unwrap_err(), CaError::Deleted);
    assert_eq!(rig.api.count("DELETE certificaterequests"), 0);
}

#[tokio::test(start_paused = true)]
async fn deleted_while_nobody_could_watch() {
    let rig = rig();
    let (signing, name) = rig.pending().await;
    sleep(Duration::from_secs(1)).await;
    rig.api.watch_error(410);
    rig.api.remove(REQUESTS, &name);
    assert_eq!(answer(signing).await.unwrap_err(), CaError::Deleted);
}

#[tokio::test(start_paused = true)]
async fn the_event_may_overtake_the_answer() {
    let rig = rig();
    rig.api.fault(Method::POST, REQUESTS, Fault::AnswerLate(Duration::from_secs(3)));
    let (signing, name) = rig.pending().await;
    rig.issue(&name);
    answer(signing).await.unwrap();
    rig.api.until_count(REQUESTS, 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_loses_and_duplicates_nothing() {
    for fault in [Fault::BreakAfter, Fault::AnswerLate(Duration::from_secs(3600))] {
        let rig = rig();
        rig.api.fault(Method::POST, REQUESTS, fault);
        let (signing, name) = rig.pending().await;
        sleep(Duration::from_secs(120)).await;
        rig.issue(&name);
        answer(signing).await.unwrap();
        rig.api.until_count(REQUESTS, 0).await;
        assert_eq!(rig.api.count("POST certificaterequests"), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_post_is_unavailable_once_that_is_certain() {
    let faults =
        [Fault::BreakBefore, Fault::Refuse(500, "etcd"), Fault::Refuse(504, "timeout"), Fault::Refuse(503, "no")];
    for fault in faults {
        let rig = rig();
        rig.api.fault(Method::POST, REQUESTS, fault);
        let began = Instant::now();
        assert_eq!(answer(rig.sign()).await.unwrap_err().label(), "unavailable");
        assert!(began.elapsed() >= TIMEOUT && began.elapsed() < 2 * TIMEOUT, "{:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_post_is_told_at_once() {
    for (code, label) in [(429, "unavailable"), (409, "unavailable"), (403, "unavailable"), (422, "invalid")] {
        let rig = rig();
        rig.api.fault(Method::POST, REQUESTS, Fault::Refuse(code, "no"));
        let began = Instant::now();
        assert_eq!(answer(rig.sign()).await.unwrap_err().label(), label);
        assert!(began.elapsed() < Duration::from_secs(1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_post_that_is_carried_out_when_nobody_waits_any_more_is_deleted() {
    let rig = rig();
    rig.api.fault(Method::POST, REQUESTS, Fault::AnswerLate(Duration::from_secs(3600)));
    let (signing, _) = rig.pending().await;
    // Dropped while the POST is still unanswered.
    signing.abort();
    rig.api.until_count(REQUESTS, 0).await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_api_server_costs_nothing() {
    let rig = rig();
    let (signing, name) = rig.pending().await;
    rig.api.set_down(true);
    sleep(Duration::from_secs(300)).await;
    rig.issue(&name);
    sleep(Duration::from_secs(300)).await;
    assert!(!signing.is_finished());
    rig.api.set_down(false);
    answer(signing).await.unwrap();
    rig.api.until_count(REQUESTS, 0).await;
    assert_eq!(rig.api.count("POST certificaterequests"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_fails_or_falls_silent_is_begun_anew() {
    for code in [410, 504] {
        let rig = rig();
        let (signing, name) = rig.pending().await;
        sleep(Duration::from_secs(1)).await;
        rig.api.watch_error(code);
        rig.issue(&name);
        let began = Instant::now();
        answer(signing).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_is_resumed_without_a_list() {
    let rig = rig();
    let (signing, name) = rig.pending().await;
    sleep(Duration::from_secs(1)).await;
    let lists = rig.api.count("GET certificaterequests");
    rig.api.end_watches();
    rig.issue(&name);
    answer(signing).await.unwrap();
    // The sweep's list aside.
    assert!(rig.api.count("GET certificaterequests") <= lists + 1);
}

#[tokio::test(start_paused = true)]
async fn a_pending_request_is_kept_and_shown() {
    let rig = rig();
    let (signing, name) = rig.pending().await;
    let board = rig.manager.pending();
    let message = "Referenced \"Issuer\" not found: issuer.cert-manager.io \"ca\" not found";
    let waits = json!([{"type": "Ready", "status": "False", "reason": "Pending", "message": message}]);
    rig.api.merge(REQUESTS, &name, &json!({"status": {"conditions": waits}}));
    sleep(Duration::from_secs(1)).await;
    let shown = &board.snapshot()[0];
    assert_eq!((shown.reason.as_str(), shown.slow), ("IssuerNotFound", false));
    assert!(shown.hint.as_ref().unwrap().contains("system namespace kong-mesh-system"));
    sleep(Duration::from_secs(24 * 3600)).await;
    assert!(board.snapshot()[0].slow);
    assert_eq!(rig.api.count("POST certificaterequests"), 1);
    rig.issue(&name);
    answer(signing).await.unwrap();
    assert!(board.snapshot().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_nobody_wants_any_more_is_deleted() {
    let rig = rig();
    let (signing, _) = rig.pending().await;
    sleep(Duration::from_secs(1)).await;
    signing.abort();
    rig.api.until_count(REQUESTS, 0).await;
    assert!(rig.manager.pending().snapshot().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_deletion_is_tried_until_it_succeeds() {
    let rig = rig();
    let (signing, name) = rig.pending().await;
    for fault in [Fault::Refuse(500, "x"), Fault::BreakBefore, Fault::Refuse(429, "x"), Fault::BreakAfter] {
        rig.api.fault(Method::DELETE, REQUESTS, fault);
    }
    rig.issue(&name);
    answer(signing).await.unwrap();
    rig.api.until_count(REQUESTS, 0).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(rig.api.count("DELETE certificaterequests"), 5);
}

#[tokio::test(start_paused = true)]
async fn shutdown_leaves_nothing_behind() {
    let rig = rig();
    let signings: Vec<_> = (0..5).map(|_| rig.sign()).collect();
    rig.api.until_count(REQUESTS, 5).await;
    assert!(rig.manager.shutdown(Duration::from_secs(5)).await);
    assert!(rig.api.objects(REQUESTS).is_empty());
    for signing in signings {
        assert_eq!(answer(signing).await.unwrap_err().label(), "unavailable");
    }
}

#[tokio::test(start_paused = true)]
async fn shutdown_ends_at_its_deadline() {
    let rig = rig();
    let (_signing, _) = rig.pending().await;
    rig.api.set_down(true);
    let began = Instant::now();
    assert!(!rig.manager.shutdown(Duration::from_secs(5)).await);
    assert!(began.elapsed() < Duration::from_secs(6));
}

#[tokio::test(start_paused = true)]
async fn no_request_is_made_without_a_lease() {
    let rig = rig();
    for _ in 0..100 {
        rig.api.fault(Method::PATCH, "leases", Fault::Refuse(403, "leases is forbidden"));
    }
    let error = answer(rig.sign()).await.unwrap_err();
    assert!(error.to_string().contains("leases is forbidden"), "{error}");
    assert_eq!(rig.api.count("POST certificaterequests"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_live_server_sweeps_a_dead_one_and_spares_a_live_one() {
    let api = FakeApi::default();
    let (live, other) = (rig_of(&api), rig_of(&api));
    let (_signing, _) = other.pending().await;
    let labels = json!({"app.kubernetes.io/managed-by": "envoy-sds", "envoy-sds.io/instance": "dead"});
    let foreign = json!({"app.kubernetes.io/managed-by": "somebody"});
    api.put(REQUESTS, json!({"metadata": {"name": "orphan", "labels": labels}, "spec": {}}));
    api.put(REQUESTS, json!({"metadata": {"name": "foreign", "labels": foreign}, "spec": {}}));
    let spec = json!({"renewTime": "2024-01-01T00:00:00.000000Z"});
    api.put("leases", json!({"metadata": {"name": "envoy-sds-dead", "labels": labels}, "spec": spec}));
    let names = |plural: &str| -> Vec<String> {
        api.objects(plural).iter().map(|object| object["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    sleep(Duration::from_secs(20)).await;
    assert!(names(REQUESTS).contains(&"orphan".to_owned()));
    sleep(Duration::from_secs(100)).await;
    assert!(!names(REQUESTS).contains(&"orphan".to_owned()));
    assert!(!names("leases").contains(&"envoy-sds-dead".to_owned()));
    // An outage of the API server makes nobody look dead.
    api.set_down(true);
    sleep(Duration::from_secs(600)).await;
    api.set_down(false);
    sleep(Duration::from_secs(600)).await;
    assert_eq!(names(REQUESTS).len(), 2, "{:?}", names(REQUESTS));
    assert!(names("leases").contains(&format!("envoy-sds-{}", live.manager.instance())));
    assert!(names("leases").contains(&format!("envoy-sds-{}", other.manager.instance())));
    drop((Arc::new(live), other));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_called_before_there_is_a_backend() {
    let api = FakeApi::default();
    let (tasks, _deaths) = Tasks::new();
    let settings = Settings { system_namespace: "n".into(), zone: String::new(), timing: Timing::default() };
    let manager = CertManager::new(api.client(), settings, Clock::system(), &tasks);
    sleep(Duration::from_secs(60)).await;
    assert!(manager.shutdown(Duration::from_secs(1)).await);
    assert!(api.calls().is_empty());
}
