//! The whole stage with a CA that does what the test says, in paused time: who is asked for what, in which order, when.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use prometheus_client::registry::Registry;
use tempfile::TempDir;
use tokio::sync::{Semaphore, mpsc};

use super::*;
use crate::issue::ca::{CaError, CertificateAuthority, IssuedChain, Signed, SigningRequest};
use crate::issue::csr::SubjectKey;
use crate::issue::manager::Subscription;
use crate::model::bundle::Bundle;
use crate::model::certificate::Certificate;
use crate::model::held::HeldLeaf;
use crate::model::identity::{Identity, Instance, Workload};
use crate::model::policy::{BackendKind, BuiltinSettings, MeshPolicy};
use crate::model::roots::RootNews;
use crate::testing::certs::{LeafOptions, TestCa, timestamp};

const START: i64 = 1_800_000_000;

/// A CA that answers when the test lets it, with what the test says, and tells what it was asked.
#[derive(Debug)]
struct FakeCa {
    asked: mpsc::UnboundedSender<String>,
    gate: Semaphore,
    next: Mutex<Vec<CaError>>,
    signer: Mutex<Arc<TestCaBox>>,
    clock: Clock,
    panics: AtomicBool,
}

struct TestCaBox(TestCa);

impl std::fmt::Debug for TestCaBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TestCa")
    }
}

#[async_trait]
impl CertificateAuthority for FakeCa {
    async fn sign(&self, request: SigningRequest) -> Result<Signed, CaError> {
        self.asked.send(request.proxy.to_string()).unwrap();
        self.gate.acquire().await.unwrap().forget();
        assert!(!self.panics.swap(false, Ordering::Relaxed), "as the test wants it");
        if let Some(error) = self.next.lock().unwrap().pop() {
            return Err(error);
        }
        let now = self.clock.now();
        let validity = Some((now, now + request.lifetime.unwrap()));
        let signer = self.signer.lock().unwrap().clone();
        let key = SubjectKey::generate().unwrap();
        let options = LeafOptions { validity, ..LeafOptions::default() };
        let leaf = signer.0.sign(&key.request(&request.spiffe_id).unwrap(), &options);
        let authority = vec![signer.0.certificate().clone()];
        Ok(Signed { key, chain: IssuedChain { certificates: vec![leaf], authority, signed_here: None } })
    }
}

/// The same CA for every backend, unless the test says that one cannot be used.
#[derive(Debug)]
struct OneCa {
    ca: Arc<FakeCa>,
    unusable: Mutex<Vec<&'static str>>,
}

impl AuthoritySource for OneCa {
    fn of(&self, _: &str, backend: &Backend) -> Result<Arc<dyn CertificateAuthority>, String> {
        if self.unusable.lock().unwrap().contains(&&*backend.name) { Err("no".into()) } else { Ok(self.ca.clone()) }
    }

    fn own_root(&self, _: &str, _: &Backend) -> Result<Option<Certificate>, String> {
        Ok(None)
    }
}

#[derive(Debug)]
struct NoSink;

impl RootSink for NoSink {
    fn publish(&self, _: &Arc<str>, _: &Arc<Backend>, _: RootNews) {}

    fn has_learned(&self, _: &Arc<str>, _: &Backend) -> bool {
        false
    }
}

fn identity(name: &str) -> Identity {
    Identity {
        mesh: "default".into(),
        spiffe_id: format!("spiffe://default/{name}").parse().unwrap(),
        identity_policy: None,
        instance: Instance::Proven(name.into()),
        workload: Workload::default(),
        method: "test",
        proven_until: None,
    }
}

struct Rig {
    manager: Manager,
    ca: Arc<FakeCa>,
    authorities: Arc<OneCa>,
    asked: mpsc::UnboundedReceiver<String>,
    policies: watch::Sender<Arc<PolicySet>>,
    trust: watch::Sender<Arc<TrustSet>>,
    clock: Clock,
    root: TestCa,
    registry: Registry,
    state: Arc<TempDir>,
    _tasks: Tasks,
}

fn policy(lifetime: u64) -> Arc<PolicySet> {
    let backend = Arc::new(Backend {
        name: "ca".into(),
        leaf_lifetime: Some(Duration::from_secs(lifetime)),
        request_timeout: Duration::from_secs(10),
        trust_domain: "default".into(),
        kind: BackendKind::Builtin(BuiltinSettings::default()),
    });
    let policy = MeshPolicy::classic("default".into(), "ca".into(), vec![backend]);
    Arc::new(PolicySet { meshes: BTreeMap::from([("default".into(), Arc::new(policy))]), ..PolicySet::default() })
}

fn trusting(cas: &[&TestCa]) -> Arc<TrustSet> {
    let bundle = Bundle::from_certificates(cas.iter().map(|ca| ca.certificate().clone())).unwrap();
    Arc::new(TrustSet {
        domains: BTreeMap::new(),
        meshes: BTreeMap::from([("default".into(), Arc::new(bundle))]),
        known: [("default".into(), "ca".into())].into(),
        added: BTreeMap::new(),
    })
}

/// The trust with `added` in it since now, beside the root that was there.
fn trusting_newly(rig: &Rig, cas: &[&TestCa], added: &TestCa) -> Arc<TrustSet> {
    let mut set = trusting(cas);
    let news = vec![(added.certificate().clone(), rig.clock.now())];
    Arc::make_mut(&mut set).added.insert("default".into(), news);
    set
}

impl Rig {
    fn new(limit: usize) -> Self {
        let state = Arc::new(tempfile::tempdir().unwrap());
        Self::start(limit, TestCa::root("Root"), Clock::simulated(timestamp(START)), state)
    }

    /// Another server with the same CA, which knows nothing of what this one did but what is in the state directory.
    fn restarted(&self, limit: usize) -> Self {
        Self::start(limit, self.root.clone(), self.clock.clone(), self.state.clone())
    }

    fn start(limit: usize, root: TestCa, clock: Clock, state: Arc<TempDir>) -> Self {
        let (asked_tx, asked) = mpsc::unbounded_channel();
        let ca = Arc::new(FakeCa {
            asked: asked_tx,
            gate: Semaphore::new(Semaphore::MAX_PERMITS / 2),
            next: Mutex::default(),
            signer: Mutex::new(Arc::new(TestCaBox(root.clone()))),
            clock: clock.clone(),
            panics: AtomicBool::new(false),
        });
        let (policies, policies_rx) = watch::channel(policy(100));
        let (trust, trust_rx) = watch::channel(trusting(&[&root]));
        let (tasks, _) = Tasks::new();
        let authorities = Arc::new(OneCa { ca: ca.clone(), unusable: Mutex::default() });
        let mut registry = Registry::default();
        let settings = ManagerSettings {
            in_flight_limit: limit,
            policies: policies_rx,
            trust: trust_rx,
            authorities: authorities.clone(),
            roots: Arc::new(NoSink),
            state_dir: StateDir::new(state.path()),
            clock: clock.clone(),
            metrics: Metrics::new(&mut registry),
        };
        let manager = Manager::start(settings, &tasks);
        manager.register(&mut registry, policies.subscribe(), clock.clone());
        Self { manager, ca, authorities, asked, policies, trust, clock, root, registry, state, _tasks: tasks }
    }

    fn hold(&self) {
        self.ca.gate.forget_permits(usize::MAX);
    }

    fn release(&self, count: usize) {
        self.ca.gate.add_permits(count);
    }

    fn fail_with(&self, error: CaError) {
        self.ca.next.lock().unwrap().push(error);
    }

    fn subscribe(&self, name: &str) -> Subscription {
        self.subscribe_with(name, None)
    }

    fn subscribe_with(&self, name: &str, held: Option<&HeldLeaf>) -> Subscription {
        self.manager.subscribe(&identity(name), held)
    }

    /// Waits until the CA is asked; says for whom, and after how many seconds since the start.
    async fn asked(&mut self) -> (String, i64) {
        let name = self.asked.recv().await.unwrap();
        (name, self.clock.now().as_second() - START)
    }

    fn nothing_asked(&mut self) -> bool {
        self.asked.try_recv().is_err()
    }
}

#[path = "worker_flood_tests.rs"]
mod flood;
#[path = "held_tests.rs"]
mod held;
#[path = "worker_signers_tests.rs"]
mod signers;
#[path = "worker_trust_tests.rs"]
mod trust;

async fn next(subscription: &mut Subscription) -> Arc<Svid> {
    subscription.current.changed().await.unwrap();
    subscription.current.borrow_and_update().clone().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_leaf_is_issued_and_renewed_at_two_thirds_of_its_life() {
    let mut rig = Rig::new(8);
    let mut web = rig.subscribe("web");
    assert_eq!(rig.asked().await, ("web".into(), 0));
    let first = next(&mut web).await;
    let (name, at) = rig.asked().await;
    assert_eq!(name, "web");
    assert!((60..=74).contains(&at), "renewed after {at} s of 100");
    let second = next(&mut web).await;
    assert_ne!(first.leaf.serial(), second.leaf.serial());
    assert_ne!(first.key.expose(), second.key.expose(), "a new key each time");
}

#[tokio::test(start_paused = true)]
async fn one_at_a_time_is_one_after_the_other() {
    let rig = Rig::new(1);
    let mut proxies: Vec<_> = (0..20).map(|number| rig.subscribe(&format!("web-{number}"))).collect();
    for proxy in &mut proxies {
        next(proxy).await;
    }
    assert_eq!(rig.clock.now(), timestamp(START), "nobody has waited for a timer");
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_issuing_costs_one_attempt() {
    let mut rig = Rig::new(8);
    rig.ca.panics.store(true, Ordering::Relaxed);
    let mut web = rig.subscribe("web");
    assert_eq!(rig.asked().await.0, "web");
    assert_eq!(rig.asked().await.0, "web", "it is tried again");
    next(&mut web).await;
}

#[tokio::test(start_paused = true)]
async fn two_streams_of_a_proxy_share_one_leaf() {
    let mut rig = Rig::new(8);
    let (mut one, mut two) = (rig.subscribe("web"), rig.subscribe("web"));
    let (first, second) = (next(&mut one).await, next(&mut two).await);
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(rig.asked().await.0, "web");
    assert!(rig.nothing_asked());
}

#[tokio::test(start_paused = true)]
async fn a_failed_renewal_keeps_the_old_leaf_and_backs_off() {
    let mut rig = Rig::new(8);
    let mut web = rig.subscribe("web");
    next(&mut web).await;
    rig.asked().await;
    for _ in 0..2 {
        rig.fail_with(CaError::Failed("no".into()));
    }
    let (_, first) = rig.asked().await;
    let (_, second) = rig.asked().await;
    assert!((2..=6).contains(&(second - first)), "the first retry came after {} s", second - first);
    assert!(!web.current.has_changed().unwrap(), "the old leaf stays");
    let (_, third) = rig.asked().await;
    assert!(third >= second + 2 && third < 100);
    next(&mut web).await;
    let status = rig.manager.snapshot().into_values().next().unwrap().1;
    assert_eq!(status.error, None);
}

#[tokio::test(start_paused = true)]
async fn the_in_flight_limit_holds_and_newcomers_overtake_renewals() {
    let mut rig = Rig::new(1);
    let mut old = rig.subscribe("old");
    next(&mut old).await;
    rig.asked().await;
    rig.hold();
    assert_eq!(rig.asked().await.0, "old", "its renewal is in flight, and stuck");
    let mut new = rig.subscribe("new");
    let _other = rig.subscribe("other");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(rig.nothing_asked(), "one at a time");
    rig.release(1);
    next(&mut old).await;
    assert_eq!(rig.asked().await.0, "new");
    rig.release(1);
    next(&mut new).await;
    assert_eq!(rig.asked().await.0, "other");
}

#[tokio::test(start_paused = true)]
async fn a_pending_request_survives_a_reconnect() {
    let mut rig = Rig::new(8);
    rig.hold();
    let first = rig.subscribe("web");
    rig.asked().await;
    drop(first);
    tokio::time::sleep(Duration::from_secs(120)).await;
    let mut again = rig.subscribe("web");
    rig.release(1);
    next(&mut again).await;
    assert!(rig.nothing_asked(), "the CA was asked once");
}

#[tokio::test(start_paused = true)]
async fn an_operator_renews_a_leaf_before_it_is_due() {
    let mut rig = Rig::new(8);
    let (mut web, mut api) = (rig.subscribe("web"), rig.subscribe("api"));
    let old = next(&mut web).await;
    next(&mut api).await;
    rig.asked().await;
    rig.asked().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let web_key = rig.manager.snapshot().into_keys().find(|key| key.instance.name() == "web").unwrap();
    rig.manager.rotate(vec![web_key]);
    assert_eq!(rig.asked().await, ("web".into(), 10));
    assert_ne!(next(&mut web).await.leaf.serial(), old.leaf.serial());
    assert!(rig.nothing_asked(), "and no other");
}

#[tokio::test(start_paused = true)]
async fn who_is_gone_is_not_renewed_and_forgotten() {
    let mut rig = Rig::new(8);
    let mut web = rig.subscribe("web");
    next(&mut web).await;
    rig.asked().await;
    drop(web);
    tokio::time::sleep(Duration::from_secs(1_000)).await;
    assert!(rig.nothing_asked());
    assert!(rig.manager.snapshot().is_empty());
}
