//! The task with a CA that does what the test says, in paused time: what is asked for, when, and what comes of it.

use std::sync::Mutex;

use async_trait::async_trait;

use super::*;
use crate::issue::ca::{CaError, CertificateAuthority, IssuedChain, Signed, SigningRequest};
use crate::issue::csr::SubjectKey;
use crate::model::certificate::Certificate;
use crate::model::policy::{BackendKind, CaSource, DataSource, IssuerRef, MeshPolicy, ProvidedCa};
use crate::model::preflight::Verdict;
use crate::model::secrets::{MeshSecrets, SecretBytes};
use crate::testing::certs::{LeafOptions, TestCa, timestamp};

/// Signs with the CA that the test has put in place; without one it is away, and with the name `silent` it says nothing.
#[derive(Clone, Default)]
struct FakeCa {
    signer: Arc<Mutex<Option<TestCa>>>,
    asked: Arc<Mutex<Vec<String>>>,
    is_silent: bool,
}

impl std::fmt::Debug for FakeCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FakeCa")
    }
}

#[async_trait]
impl CertificateAuthority for FakeCa {
    async fn sign(&self, request: SigningRequest) -> Result<Signed, CaError> {
        self.asked.lock().unwrap().push(request.spiffe_id.to_string());
        if self.is_silent {
            std::future::pending::<()>().await;
        }
        let Some(signer) = self.signer.lock().unwrap().clone() else {
            return Err(CaError::Unavailable("away".into()));
        };
        let key = SubjectKey::generate().unwrap();
        let leaf = signer.sign(&key.request(&request.spiffe_id).unwrap(), &LeafOptions::default());
        let authority = vec![signer.certificate().clone()];
        Ok(Signed { key, chain: IssuedChain { certificates: vec![leaf], authority, signed_here: None } })
    }
}

impl AuthoritySource for FakeCa {
    fn of(&self, _: &str, backend: &Backend) -> Result<Arc<dyn CertificateAuthority>, String> {
        Ok(Arc::new(Self { is_silent: *backend.name == *"silent", ..self.clone() }))
    }

    fn own_root(&self, _: &str, _: &Backend) -> Result<Option<Certificate>, String> {
        Ok(None)
    }
}

struct Rig {
    ca: FakeCa,
    wanted: watch::Sender<Arc<PolicySet>>,
    known: watch::Sender<bool>,
    secrets: watch::Sender<Arc<KnownSecrets>>,
    preflight: Preflight,
    registry: Registry,
    _tasks: Tasks,
}

/// The mesh `default` with one backend.
fn mesh(backend: &str, trust: CaSource) -> Arc<PolicySet> {
    let issuer = IssuerRef { name: backend.into(), kind: "Issuer".into(), group: "cert-manager.io".into() };
    let backend = Arc::new(Backend {
        name: backend.into(),
        leaf_lifetime: None,
        request_timeout: Duration::from_secs(10),
        trust_domain: "default".into(),
        kind: BackendKind::CertManager { issuer, trust },
    });
    let policy = MeshPolicy::classic("default".into(), backend.name.clone(), vec![backend]);
    Arc::new(PolicySet { meshes: [("default".into(), Arc::new(policy))].into(), ..PolicySet::default() })
}

impl Rig {
    fn start(state_dir: &std::path::Path, first: Arc<PolicySet>, signer: Option<TestCa>) -> Self {
        Self::start_knowing(state_dir, first, signer, true)
    }

    fn start_knowing(state_dir: &std::path::Path, first: Arc<PolicySet>, signer: Option<TestCa>, known: bool) -> Self {
        let ca = FakeCa { signer: Arc::new(Mutex::new(signer)), ..FakeCa::default() };
        let (wanted, wanted_rx) = watch::channel(first);
        let (secrets, secrets_rx) = watch::channel(Arc::default());
        let (known, known_rx) = watch::channel(known);
        let (tasks, _) = Tasks::new();
        let settings = Settings {
            wanted: wanted_rx,
            known: known_rx,
            secrets: secrets_rx,
            authorities: Arc::new(ca.clone()),
            pending: None,
            rules: Rules::default(),
            state_dir: StateDir::new(state_dir),
            clock: Clock::simulated(timestamp(1_800_000_000)),
        };
        let mut registry = Registry::default();
        let preflight = Preflight::start(settings, &mut registry, &tasks);
        Self { ca, wanted, known, secrets, preflight, registry, _tasks: tasks }
    }

    fn signs(&self) -> String {
        let policies = self.preflight.in_force.borrow();
        policies.meshes["default"].enabled().unwrap().name.to_string()
    }

    fn asked(&self) -> usize {
        self.ca.asked.lock().unwrap().len()
    }

    /// Waits for a verdict on the backend, and gives it.
    async fn verdict(&mut self, backend: &str, wanted: impl Fn(&Outcome) -> bool) -> Verdict {
        let key = (Arc::from("default"), Arc::from(backend));
        let is_wanted = |verdicts: &Arc<Verdicts>| verdicts.get(&key).is_some_and(|verdict| wanted(&verdict.outcome));
        let waiting = self.preflight.verdicts.wait_for(is_wanted);
        let verdicts = tokio::time::timeout(Duration::from_secs(300), waiting).await.expect("a verdict").unwrap();
        verdicts[&key].clone()
    }

    async fn fails(&mut self, backend: &str) -> Verdict {
        self.verdict(backend, |outcome| matches!(outcome, Outcome::Failed(_))).await
    }

    async fn passes(&mut self, backend: &str) -> Verdict {
        self.verdict(backend, |outcome| *outcome == Outcome::Passed).await
    }
}

#[tokio::test(start_paused = true)]
async fn the_old_policy_stays_until_the_new_signer_has_passed() {
    let (folder, ca) = (tempfile::tempdir().unwrap(), TestCa::root("CA"));
    let mut rig = Rig::start(folder.path(), mesh("one", CaSource::Issuer), Some(ca.clone()));
    assert!(!rig.passes("one").await.holds_back);
    assert_eq!(*rig.ca.asked.lock().unwrap(), ["spiffe://default/envoy-sds/preflight"]);
    *rig.ca.signer.lock().unwrap() = None;
    rig.wanted.send_replace(mesh("two", CaSource::Issuer));
    let verdict = rig.fails("two").await;
    assert_eq!((rig.signs().as_str(), verdict.holds_back), ("one", true));
    assert_eq!(verdict.outcome, Outcome::Failed("the CA cannot be reached: away".into()));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &rig.registry).unwrap();
    assert!(text.contains("preflight_held_back{mesh=\"default\"} 1"), "{text}");
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let asked = rig.asked();
    assert!((60..=200).contains(&asked), "asked {asked} times in an hour");
    assert_eq!(rig.signs(), "one");
    *rig.ca.signer.lock().unwrap() = Some(ca);
    assert!(!rig.passes("two").await.holds_back);
    assert_eq!(rig.signs(), "two");
}

#[tokio::test(start_paused = true)]
async fn a_restart_asks_nobody_and_a_change_while_no_server_ran_is_tested() {
    let (folder, ca) = (tempfile::tempdir().unwrap(), TestCa::root("CA"));
    let mut rig = Rig::start(folder.path(), mesh("one", CaSource::Issuer), Some(ca.clone()));
    rig.passes("one").await;
    drop(rig);
    let mut rig = Rig::start(folder.path(), mesh("one", CaSource::Issuer), Some(ca.clone()));
    rig.passes("one").await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(rig.asked(), 0);
    drop(rig);
    let mut rig = Rig::start(folder.path(), mesh("two", CaSource::Issuer), Some(ca));
    assert_eq!(rig.signs(), "one", "as if it had been changed while the server ran");
    rig.passes("two").await;
    assert_eq!((rig.asked(), rig.signs().as_str()), (1, "two"));
}

#[tokio::test(start_paused = true)]
async fn the_certificate_has_to_lead_to_the_ca_that_the_policy_says() {
    let (folder, ca) = (tempfile::tempdir().unwrap(), TestCa::root("CA"));
    let mut rig = Rig::start(folder.path(), mesh("one", CaSource::Issuer), Some(ca.clone()));
    rig.passes("one").await;
    let stranger = Arc::new(TestCa::root("Stranger").bundle());
    rig.wanted.send_replace(mesh("two", CaSource::Inline(stranger)));
    let verdict = rig.fails("two").await;
    let Outcome::Failed(reason) = verdict.outcome else { panic!("it has failed") };
    assert!(reason.contains("CN=Stranger"), "{reason}");
    rig.wanted.send_replace(mesh("two", CaSource::Inline(Arc::new(ca.bundle()))));
    rig.passes("two").await;

    // Where the CA is not known, nobody is asked.
    let asked = rig.asked();
    rig.wanted.send_replace(mesh("three", CaSource::Secret("mesh-ca".into())));
    let verdict = rig.fails("three").await;
    assert!(matches!(&verdict.outcome, Outcome::Failed(reason) if reason.contains("mesh-ca")), "{verdict:?}");
    assert_eq!((rig.asked(), rig.signs().as_str()), (asked, "two"));
    let pem = SecretBytes::new(ca.certificate().pem().into_bytes());
    let files = MeshSecrets::from_iter([(("default".into(), "mesh-ca".into()), pem)]);
    let before = Instant::now();
    rig.secrets.send_replace(Arc::new(KnownSecrets { files: Arc::new(files), ..KnownSecrets::default() }));
    rig.passes("three").await;
    assert_eq!(before.elapsed(), Duration::ZERO, "not at the next attempt, but at once");
    assert_eq!((rig.asked(), rig.signs().as_str()), (asked + 1, "three"));
}

fn tester(signer: Option<TestCa>, secrets: watch::Receiver<Arc<KnownSecrets>>) -> Tester {
    Tester {
        authorities: Arc::new(FakeCa { signer: Arc::new(Mutex::new(signer)), ..FakeCa::default() }),
        secrets,
        pending: None,
        files: Arc::default(),
        clock: Clock::simulated(timestamp(1_800_000_000)),
    }
}

/// Whatever the next attempt would have been put off to.
#[tokio::test]
async fn what_is_put_into_a_file_is_noticed_though_its_folder_is_made_later() {
    let (folder, ca, stranger) = (tempfile::tempdir().unwrap(), TestCa::root("CA"), TestCa::root("Stranger"));
    let file = folder.path().join("mounted/later/ca.pem");
    let policies = mesh("one", CaSource::File(file.clone()));
    let (mesh, policy) = policies.meshes.first_key_value().unwrap();
    let backend = policy.enabled().unwrap();
    let (_secrets, secrets) = watch::channel(Arc::default());
    let mut tester = tester(Some(ca.clone()), secrets);
    let _held = tester.files.hold(files_of(backend));
    let mut files = tester.files.changes();
    let put = |ca: &TestCa| {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(folder.path().join("next"), ca.certificate().pem()).unwrap();
        std::fs::rename(folder.path().join("next"), &file).unwrap();
    };
    for (fails_because, next) in [("No such file", &stranger), ("CN=Stranger", &ca)] {
        let mut went_by = WentBy::default();
        let error = tester.attempt(mesh, backend, &mut went_by, |_| {}).await.unwrap_err().to_string();
        assert!(error.contains(fails_because), "{error}");
        put(next);
        let mended = tester.mended(mesh, backend, &went_by, &mut files);
        // Without an event it would be a minute.
        tokio::time::timeout(Duration::from_secs(20), mended).await.expect("it is noticed");
    }
    tester.attempt(mesh, backend, &mut WentBy::default(), |_| {}).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_given_ca_is_tried_again_when_another_is_put_in_its_place_and_for_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    let policies = mesh("one", CaSource::Issuer);
    let (mesh, policy) = policies.meshes.first_key_value().unwrap();
    let (certificate, private_key) = (DataSource::File(file.clone()), DataSource::Secret("key".into()));
    let given = ProvidedCa { certificate, private_key, allow_self_signed: true };
    let backend = Backend { kind: BackendKind::Provided(given), ..(**policy.enabled().unwrap()).clone() };
    let known = |secrets: &[(&str, &str)]| {
        let secret = |(name, content): &(&str, &str)| {
            (("default".into(), (*name).into()), SecretBytes::new(content.as_bytes().to_vec()))
        };
        Arc::new(KnownSecrets { files: Arc::new(secrets.iter().map(secret).collect()), ..KnownSecrets::default() })
    };
    let (put, secrets) = watch::channel(known(&[("key", "one")]));
    let mut tester = tester(None, secrets);
    let _held = tester.files.hold(files_of(&backend));
    let mut files = tester.files.changes();
    let mut went_by = WentBy::default();
    let in_an_hour = Duration::from_secs(3600);
    tester.attempt(mesh, &backend, &mut went_by, |_| {}).await.unwrap_err();
    put.send_replace(known(&[("key", "one"), ("of another", "two")]));
    let mended = tester.mended(mesh, &backend, &went_by, &mut files);
    assert!(tokio::time::timeout(in_an_hour, mended).await.is_err(), "it is another's");
    std::fs::write(&file, "one").unwrap();
    let mended = tester.mended(mesh, &backend, &went_by, &mut files);
    tokio::time::timeout(in_an_hour, mended).await.expect("it is there");
    tester.attempt(mesh, &backend, &mut went_by, |_| {}).await.unwrap_err();
    let mended = tester.mended(mesh, &backend, &went_by, &mut files);
    assert!(tokio::time::timeout(in_an_hour, mended).await.is_err(), "it has been tried");
    put.send_replace(known(&[("key", "two")]));
    let mended = tester.mended(mesh, &backend, &went_by, &mut files);
    tokio::time::timeout(in_an_hour, mended).await.expect("it is another");
}

#[tokio::test(start_paused = true)]
async fn a_file_is_watched_for_as_long_as_a_test_goes_by_it() {
    let (folder, ca) = (tempfile::tempdir().unwrap(), TestCa::root("CA"));
    let file = folder.path().join("ca.pem");
    let policies = mesh("one", CaSource::File(file.clone()));
    let (mesh, policy) = policies.meshes.first_key_value().unwrap();
    let backend = policy.enabled().unwrap();
    let (_secrets, secrets) = watch::channel(Arc::default());
    let tester = tester(Some(ca.clone()), secrets);
    let ((tell, mut told), mut tests) = (mpsc::unbounded_channel(), JoinSet::new());
    let begun = || keep_testing(tester.clone(), Test::of(mesh, backend), backend.clone(), tell.clone());
    let given_up = tests.spawn(begun());
    assert!(matches!(told.recv().await, Some((_, Outcome::Failed(_)))));
    assert_eq!(tester.files.held(), [file.as_path()]);
    given_up.abort();
    tests.join_next().await.unwrap().unwrap_err();
    assert!(tester.files.held().is_empty(), "it is tested no more");

    std::fs::write(&file, ca.certificate().pem()).unwrap();
    tests.spawn(begun());
    tests.join_next().await.unwrap().unwrap();
    assert!(tester.files.held().is_empty(), "it has passed");
}

#[tokio::test(start_paused = true)]
async fn a_ca_that_does_not_answer_is_told_of_and_waited_for() {
    let (folder, ca) = (tempfile::tempdir().unwrap(), TestCa::root("CA"));
    let mut rig = Rig::start(folder.path(), mesh("one", CaSource::Issuer), Some(ca));
    rig.passes("one").await;
    rig.wanted.send_replace(mesh("silent", CaSource::Issuer));
    assert!(rig.fails("silent").await.holds_back);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!((rig.asked(), rig.signs().as_str()), (2, "one"), "a request that is pending is not asked twice");
    // Taken back, it is as if it had never been.
    rig.wanted.send_replace(mesh("one", CaSource::Issuer));
    assert!(!rig.passes("one").await.holds_back);
    assert_eq!(rig.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_in_force_before_all_is_known_and_then_all_at_once() {
    let (folder, ca) = (tempfile::tempdir().unwrap(), TestCa::root("CA"));
    let mut rig = Rig::start_knowing(folder.path(), Arc::default(), Some(ca), false);
    rig.wanted.send_replace(mesh("one", CaSource::Issuer));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((rig.asked(), rig.preflight.in_force.borrow().meshes.len()), (0, 0));
    assert!(!*rig.preflight.decided.borrow());
    // In one breath, as the resources publish it.
    rig.wanted.send_replace(mesh("two", CaSource::Issuer));
    rig.known.send_replace(true);
    rig.preflight.decided.wait_for(|decided| *decided).await.unwrap();
    assert_eq!(rig.signs(), "two");
    assert!(!rig.passes("two").await.holds_back);
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_written_is_written_later_though_nothing_happens() {
    let folder = tempfile::tempdir().unwrap();
    let in_the_way = folder.path().join("preflight");
    std::fs::write(&in_the_way, "").unwrap();
    let mut rig = Rig::start(folder.path(), mesh("one", CaSource::Issuer), Some(TestCa::root("CA")));
    rig.verdict("one", Outcome::is_good).await;
    let kept = || recall(&StateDir::new(folder.path())).meshes.len();
    assert_eq!(kept(), 0);
    std::fs::remove_file(&in_the_way).unwrap();
    tokio::time::sleep(WRITE_AGAIN + Duration::from_secs(1)).await;
    assert_eq!(kept(), 1);
}
