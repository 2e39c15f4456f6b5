//! The whole stage with a CA that does what the test says, in paused time: who is asked for what, in which order, when.

use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;
use prometheus_client::registry::Registry;
use tokio::sync::{Semaphore, mpsc};

use super::*;
use crate::issue::ca::{CaError, CertificateAuthority, IssuedChain, SigningRequest};
use crate::issue::manager::Subscription;
use crate::model::bundle::Bundle;
use crate::model::certificate::Certificate;
use crate::model::held::HeldLeaf;
use crate::model::identity::{Identity, Instance, Workload};
use crate::model::policy::{BackendKind, BuiltinSettings, CaSource, IssuerRef, MeshPolicy};
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
}

struct TestCaBox(TestCa);

impl std::fmt::Debug for TestCaBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TestCa")
    }
}

#[async_trait]
impl CertificateAuthority for FakeCa {
    async fn sign(&self, request: SigningRequest) -> Result<IssuedChain, CaError> {
        self.asked.send(request.proxy.to_string()).unwrap();
        self.gate.acquire().await.unwrap().forget();
        if let Some(error) = self.next.lock().unwrap().pop() {
            return Err(error);
        }
        let now = self.clock.now();
        let validity = Some((now, now + request.lifetime.unwrap()));
        let signer = self.signer.lock().unwrap().clone();
        let leaf = signer.0.sign(&request.csr, &LeafOptions { validity, ..LeafOptions::default() });
        Ok(IssuedChain { certificates: vec![leaf], authority: Vec::new() })
    }
}

#[derive(Debug)]
struct OneCa(Arc<FakeCa>);

impl AuthoritySource for OneCa {
    fn of(&self, _: &str, _: &Backend) -> Result<Arc<dyn CertificateAuthority>, String> {
        Ok(self.0.clone())
    }

    fn own_root(&self, _: &str, _: &Backend) -> Result<Option<Certificate>, String> {
        Ok(None)
    }
}

#[derive(Debug)]
struct NoSink;

impl RootSink for NoSink {
    fn publish(&self, _: &Arc<str>, _: &Arc<str>, _: RootNews) {}

    fn has_learned(&self, _: &Arc<str>, _: &Arc<str>) -> bool {
        false
    }
}

struct Rig {
    manager: Manager,
    ca: Arc<FakeCa>,
    asked: mpsc::UnboundedReceiver<String>,
    policies: watch::Sender<Arc<PolicySet>>,
    trust: watch::Sender<Arc<TrustSet>>,
    clock: Clock,
    root: TestCa,
    registry: Registry,
    _tasks: Tasks,
}

fn policy(lifetime: u64) -> Arc<PolicySet> {
    let backend = Arc::new(Backend {
        name: "ca".into(),
        leaf_lifetime: Some(Duration::from_secs(lifetime)),
        request_timeout: Duration::from_secs(10),
        kind: BackendKind::Builtin(BuiltinSettings::default()),
    });
    let policy = MeshPolicy { name: "default".into(), enabled_backend: "ca".into(), backends: vec![backend] };
    Arc::new(PolicySet { meshes: BTreeMap::from([("default".into(), Arc::new(policy))]) })
}

/// One backend of cert-manager that takes its trust from there.
fn trust_from(trust: CaSource) -> Arc<PolicySet> {
    let issuer = IssuerRef { name: "ca".into(), kind: "Issuer".into(), group: "cert-manager.io".into() };
    let mut policies = policy(100);
    let mesh = Arc::make_mut(Arc::make_mut(&mut policies).meshes.get_mut("default").unwrap());
    Arc::make_mut(&mut mesh.backends[0]).kind = BackendKind::CertManager { issuer, trust };
    policies
}

fn trusting(cas: &[&TestCa]) -> Arc<TrustSet> {
    let bundle = Bundle::from_certificates(cas.iter().map(|ca| ca.certificate().clone())).unwrap();
    Arc::new(TrustSet {
        meshes: BTreeMap::from([("default".into(), Arc::new(bundle))]),
        known: [("default".into(), "ca".into())].into(),
        added: BTreeMap::new(),
    })
}

impl Rig {
    fn new(limit: usize) -> Self {
        Self::start(limit, TestCa::root("Root"), Clock::simulated(timestamp(START)))
    }

    /// Another server with the same CA, which knows nothing of what this one did.
    fn restarted(&self, limit: usize) -> Self {
        Self::start(limit, self.root.clone(), self.clock.clone())
    }

    fn start(limit: usize, root: TestCa, clock: Clock) -> Self {
        let (asked_tx, asked) = mpsc::unbounded_channel();
        let ca = Arc::new(FakeCa {
            asked: asked_tx,
            gate: Semaphore::new(Semaphore::MAX_PERMITS / 2),
            next: Mutex::default(),
            signer: Mutex::new(Arc::new(TestCaBox(root.clone()))),
            clock: clock.clone(),
        });
        let (policies, policies_rx) = watch::channel(policy(100));
        let (trust, trust_rx) = watch::channel(trusting(&[&root]));
        let (tasks, _) = Tasks::new();
        let mut registry = Registry::default();
        let settings = ManagerSettings {
            in_flight_limit: limit,
            policies: policies_rx,
            trust: trust_rx,
            authorities: Arc::new(OneCa(ca.clone())),
            roots: Arc::new(NoSink),
            clock: clock.clone(),
            metrics: Metrics::new(&mut registry),
        };
        let manager = Manager::start(settings, &tasks);
        manager.register(&mut registry, clock.clone());
        Self { manager, ca, asked, policies, trust, clock, root, registry, _tasks: tasks }
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
        self.manager.subscribe(
            &Identity {
                mesh: "default".into(),
                spiffe_id: format!("spiffe://default/{name}").parse().unwrap(),
                instance: Instance::Proven(name.into()),
                workload: Workload::default(),
                method: "test",
                proven_until: None,
            },
            held,
        )
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

#[path = "held_tests.rs"]
mod held;

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
async fn nothing_is_asked_while_the_trust_is_unknown() {
    let mut rig = Rig::new(8);
    rig.trust.send_replace(Arc::default());
    tokio::task::yield_now().await;
    let mut web = rig.subscribe("web");
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(rig.nothing_asked());
    rig.trust.send_replace(trusting(&[&rig.root]));
    next(&mut web).await;
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
async fn a_leaf_of_an_untrusted_ca_is_never_published() {
    let mut rig = Rig::new(8);
    *rig.ca.signer.lock().unwrap() = Arc::new(TestCaBox(TestCa::root("Stranger")));
    let web = rig.subscribe("web");
    rig.asked().await;
    rig.asked().await;
    assert!(web.current.borrow().is_none());
    let (_, status) = rig.manager.snapshot().into_values().next().unwrap();
    assert!(status.error.unwrap().contains("proxies of the mesh would refuse the leaf"));
}

#[tokio::test(start_paused = true)]
async fn whoever_failed_for_lack_of_trust_tries_again_when_it_changes() {
    let mut rig = Rig::new(8);
    let mut old = rig.subscribe("old");
    next(&mut old).await;
    rig.asked().await;
    let other = TestCa::root("Other");
    *rig.ca.signer.lock().unwrap() = Arc::new(TestCaBox(other.clone()));
    let mut new = rig.subscribe("new");
    assert_eq!(rig.asked().await, ("new".into(), 0));
    rig.policies.send_replace(policy(10_000)); // old asks for another leaf, which is refused too
    // Right after a failure: by now the next attempt of either is minutes away, and must not be what is seen below.
    while !matches!(rig.asked().await, (name, at) if name == "old" && at > 1000) {}
    tokio::time::sleep(Duration::from_secs(1)).await;
    while !rig.nothing_asked() {}

    let changed = rig.clock.now().as_second() - START;
    rig.trust.send_replace(trusting(&[&rig.root, &other]));
    assert_eq!(rig.asked().await, ("new".into(), changed), "nothing to lose, and nothing to wait for");
    // Times are cut to seconds, and `changed` is not a whole one.
    let (name, at) = rig.asked().await;
    assert_eq!(name, "old");
    assert!((changed + 5..=changed + 6).contains(&at), "peers have time to learn of the new CA: {changed}, {at}");
    assert_eq!(next(&mut new).await.anchor, *other.certificate());
    assert_eq!(next(&mut old).await.anchor, *other.certificate());
}

#[tokio::test(start_paused = true)]
async fn a_signing_that_began_under_another_source_of_trust_begins_again() {
    let mut rig = Rig::new(8);
    rig.policies.send_replace(trust_from(CaSource::Issuer));
    rig.hold();
    let mut web = rig.subscribe("web");
    assert_eq!(rig.asked().await, ("web".into(), 0));
    let inline = |cas: &[&TestCa]| {
        let bundle = Bundle::from_certificates(cas.iter().map(|ca| ca.certificate().clone()));
        trust_from(CaSource::Inline(Arc::new(bundle.unwrap())))
    };
    rig.policies.send_replace(inline(&[&rig.root]));
    assert_eq!(rig.asked().await, ("web".into(), 0), "the issuer's word does not count any more");
    rig.policies.send_replace(inline(&[&rig.root, &TestCa::root("Other")]));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(rig.nothing_asked(), "one CA more is no reason to ask again");
    rig.release(1);
    next(&mut web).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_policy_issues_anew_after_the_trust_had_time_to_spread() {
    let mut rig = Rig::new(8);
    let mut web = rig.subscribe("web");
    next(&mut web).await;
    rig.asked().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    rig.policies.send_replace(policy(200));
    assert_eq!(rig.asked().await, ("web".into(), 15));
    let renewed = next(&mut web).await;
    assert_eq!(renewed.validity().not_after, timestamp(START + 215));
}

#[tokio::test(start_paused = true)]
async fn a_change_of_another_mesh_cuts_no_backoff_short() {
    let mut rig = Rig::new(8);
    rig.fail_with(CaError::Failed("no".into()));
    let mut web = rig.subscribe("web");
    rig.asked().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut policies = policy(100);
    let mut other = (*policies.meshes["default"]).clone();
    other.name = "other".into();
    Arc::make_mut(&mut policies).meshes.insert("other".into(), Arc::new(other));
    rig.policies.send_replace(policies);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(rig.nothing_asked());
    next(&mut web).await;
}

#[tokio::test(start_paused = true)]
async fn a_leaf_that_lost_its_trust_is_replaced_at_once() {
    let mut rig = Rig::new(8);
    let mut web = rig.subscribe("web");
    next(&mut web).await;
    rig.asked().await;
    let other = TestCa::root("Other");
    *rig.ca.signer.lock().unwrap() = Arc::new(TestCaBox(other.clone()));
    rig.trust.send_replace(trusting(&[&other]));
    assert_eq!(rig.asked().await, ("web".into(), 0));
    assert_eq!(next(&mut web).await.anchor, *other.certificate());
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_is_not_given_a_leaf_that_lost_its_trust() {
    let mut rig = Rig::new(8);
    let mut web = rig.subscribe("web");
    next(&mut web).await;
    rig.asked().await;
    drop(web);
    // The worker hears of it before the trust changes.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let other = TestCa::root("Other");
    *rig.ca.signer.lock().unwrap() = Arc::new(TestCaBox(other.clone()));
    rig.trust.send_replace(trusting(&[&other]));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut again = rig.subscribe("web");
    assert!(again.current.borrow_and_update().is_none());
    assert_eq!(next(&mut again).await.anchor, *other.certificate());
}

/// The trust with `added` in it since now, beside the root that was there.
fn trusting_newly(rig: &Rig, cas: &[&TestCa], added: &TestCa) -> Arc<TrustSet> {
    let mut set = trusting(cas);
    let news = vec![(added.certificate().clone(), rig.clock.now())];
    Arc::make_mut(&mut set).added.insert("default".into(), news);
    set
}

#[tokio::test(start_paused = true)]
async fn a_leaf_under_a_ca_that_was_just_added_waits_only_where_the_old_one_is_good() {
    for (keeps_the_old_ca, expected) in [(true, 5), (false, 0)] {
        let mut rig = Rig::new(8);
        let mut web = rig.subscribe("web");
        next(&mut web).await;
        rig.asked().await;
        let new = TestCa::root("New");
        *rig.ca.signer.lock().unwrap() = Arc::new(TestCaBox(new.clone()));
        let cas = if keeps_the_old_ca { vec![&rig.root, &new] } else { vec![&new] };
        let trust = trusting_newly(&rig, &cas, &new);
        rig.trust.send_replace(trust);
        tokio::task::yield_now().await;
        let asked = if keeps_the_old_ca {
            // Nothing is due; an operator switches to it a moment later.
            rig.policies.send_replace(policy(200));
            rig.asked().await.1 - 5
        } else {
            rig.asked().await.1
        };
        assert_eq!(asked, 0);
        assert_eq!(next(&mut web).await.anchor, *new.certificate());
        assert_eq!(rig.clock.now().as_second() - START, expected);
    }
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
