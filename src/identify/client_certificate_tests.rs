use futures::FutureExt;
use tokio::sync::watch;

use super::*;
use crate::testing::certs::{LeafOptions, TestCa, timestamp};

const NOW: i64 = 1_800_000_000;
const LATER: i64 = 1_800_050_000;

fn client_ca(ca: &TestCa, crl: Option<&str>) -> Arc<ClientCa> {
    let pem = ca.certificate().pem();
    Arc::new(ClientCa::from_pem(pem.as_bytes(), crl.map(str::as_bytes)).unwrap())
}

fn evidence(chain: &[&Certificate], client_ca: &watch::Sender<Arc<ClientCa>>) -> Evidence {
    let certificates = chain.iter().map(|certificate| certificate.der().clone()).collect();
    let client_certificate = Some(Arc::new(ClientChain::new(certificates, client_ca.subscribe())));
    Evidence { client_certificate, ..Evidence::default() }
}

fn leaf(uris: &[&str]) -> LeafOptions {
    LeafOptions { uris: Some(uris.iter().map(ToString::to_string).collect()), ..LeafOptions::default() }
}

fn method() -> ClientCertificates {
    ClientCertificates::new(Clock::fixed(timestamp(NOW)), None)
}

async fn proof(ca: &TestCa, options: &LeafOptions) -> Result<Option<Proof>, IdentifyError> {
    let (judges, _) = watch::channel(client_ca(ca, None));
    method().identify(&evidence(&[&ca.leaf(options)], &judges)).await
}

#[tokio::test]
async fn a_spiffe_id_says_trust_domain_and_workload() {
    let ca = TestCa::root("clients");
    let proven = proof(&ca, &leaf(&["spiffe://prod/ns/shop/sa/web"])).await.unwrap().unwrap();
    assert_eq!((proven.method, proven.trust_domain.as_deref(), proven.mesh), (METHOD, Some("prod"), None));
    let (namespace, account) = (proven.workload.namespace.as_deref(), proven.workload.service_account.as_deref());
    assert_eq!((namespace, account), (Some("shop"), Some("web")));
    assert_eq!((proven.workload.name, proven.instance), (None, None));

    let with_dns = LeafOptions { dns: vec!["web.shop".to_owned()], ..leaf(&["spiffe://prod/web"]) };
    let proven = proof(&ca, &with_dns).await.unwrap().unwrap();
    assert_eq!((proven.workload.name.as_deref(), proven.workload.namespace), (Some("web"), None));
}

#[tokio::test]
async fn the_proof_ends_with_the_first_certificate_of_the_chain() {
    let root = TestCa::root("clients");
    let (judges, _) = watch::channel(client_ca(&root, None));
    for (intermediate, end) in
        [(root.intermediate("long"), 1_800_086_400), (root.intermediate_until("short", timestamp(LATER)), LATER)]
    {
        let leaf = intermediate.leaf(&leaf(&["spiffe://prod/web"]));
        let proven =
            method().identify(&evidence(&[&leaf, intermediate.certificate()], &judges)).await.unwrap().unwrap();
        assert_eq!(proven.until, Some(timestamp(end)));
    }
}

#[tokio::test]
async fn what_is_no_svid_is_refused() {
    let ca = TestCa::root("clients");
    let of_ca = LeafOptions { is_ca: true, ..leaf(&["spiffe://prod/web"]) };
    let server_only = LeafOptions { client_auth: false, ..leaf(&["spiffe://prod/web"]) };
    let ended =
        LeafOptions { validity: Some((timestamp(NOW - 9000), timestamp(NOW - 1))), ..leaf(&["spiffe://prod/web"]) };
    for (options, reason) in [
        (leaf(&[]), "0 URI names"),
        (leaf(&["spiffe://prod/web", "spiffe://prod/db"]), "2 URI names"),
        (leaf(&["https://prod/web"]), "no SPIFFE ID"),
        (leaf(&["spiffe://PROD/web"]), "no SPIFFE ID"),
        (leaf(&["spiffe://prod/web/"]), "no SPIFFE ID"),
        (leaf(&["spiffe://prod/../db"]), "no SPIFFE ID"),
        (leaf(&["spiffe://prod"]), "understood are /ns/<namespace>/sa/<service account> and /<workload>"),
        (leaf(&["spiffe://prod/ns/shop/sa"]), "understood are"),
        (leaf(&["spiffe://prod/ns/shop/sa/web/0"]), "understood are"),
        (leaf(&["spiffe://prod/sa/web/ns/shop"]), "understood are"),
        (of_ca, "CA"),
        (server_only, "does not accept it"),
        (ended, "does not accept it"),
    ] {
        let error = proof(&ca, &options).await.unwrap_err();
        assert!(matches!(&error, IdentifyError::Refused { .. }) && error.to_string().contains(reason), "{error}");
    }
}

#[tokio::test]
async fn without_a_certificate_nothing_is_proven_and_a_foreign_one_is_refused() {
    assert_eq!(method().identify(&Evidence::default()).await, Ok(None));
    let (judges, _) = watch::channel(client_ca(&TestCa::root("clients"), None));
    let foreign = TestCa::root("clients").leaf(&leaf(&["spiffe://prod/web"]));
    let error = method().identify(&evidence(&[&foreign], &judges)).await.unwrap_err();
    assert!(matches!(error, IdentifyError::Refused { .. }), "{error}");
}

#[tokio::test]
async fn it_stands_until_the_newest_client_ca_does_not_accept_it() {
    let (ca, other) = (TestCa::root("clients"), TestCa::root("others"));
    let [web, db] = ["spiffe://prod/web", "spiffe://prod/db"].map(|id| ca.leaf(&leaf(&[id])));
    let next = timestamp(LATER);
    let without = client_ca(&ca, Some(&ca.crl(&[], next)));
    let with = client_ca(&ca, Some(&ca.crl(&[&web], next)));
    for (judge, stands) in
        [(client_ca(&ca, None), [true, true]), (with, [false, true]), (client_ca(&other, None), [false, false])]
    {
        let (judges, _) = watch::channel(without.clone());
        for (certificate, stands) in [&web, &db].into_iter().zip(stands) {
            judges.send_replace(without.clone());
            let evidence = evidence(&[certificate], &judges);
            let proven = method().identify(&evidence).await.unwrap().unwrap();
            let mut changes = proven.standing.changes();
            assert_eq!(changes.next().now_or_never(), None);
            assert_eq!(proven.standing.facts(), Ok(Facts::default()));
            judges.send_replace(judge.clone());
            assert_eq!(changes.next().now_or_never(), Some(Some(())));
            assert_eq!(proven.standing.facts().is_ok(), stands);
            // A further stream of the same connection.
            assert_eq!(method().identify(&evidence).await.is_ok(), stands);
        }
    }
}

/// A fleet of connections with hundreds of streams each is judged once for each connection.
#[tokio::test]
async fn the_streams_of_a_connection_share_a_verdict_and_each_sees_the_end() {
    let ca = TestCa::root("clients");
    let (judges, _) = watch::channel(client_ca(&ca, None));
    let evidence = evidence(&[&ca.leaf(&leaf(&["spiffe://prod/web"]))], &judges);
    let chain = evidence.client_certificate.clone().unwrap();
    method().identify(&evidence).await.unwrap().unwrap();
    // The verdict of this judge is known: whatever it would say now.
    chain.judged.lock().unwrap().as_mut().unwrap().1 = Err(refused("remembered"));
    assert_eq!(method().identify(&evidence.clone()).await, Err(refused("remembered")));
    judges.send_replace(client_ca(&ca, None));
    let proven = method().identify(&evidence).await.unwrap().unwrap();
    let later = ClientCertificates::new(Clock::fixed(proven.until.unwrap()), None);
    assert_eq!(later.identify(&evidence).await, Err(refused("it has expired since it was shown")));
}

/// Knows `shop/web`, in a mesh, for as long as it is there.
#[derive(Debug)]
struct OneAccount(watch::Sender<bool>);

#[derive(Debug)]
struct IsThere(watch::Receiver<bool>);

impl Stands for IsThere {
    fn facts(&self) -> Result<Facts, IdentifyError> {
        let facts = Facts { mesh: Some("prod".into()), ..Facts::default() };
        if *self.0.borrow() { Ok(facts) } else { Err(refused("the service account is gone")) }
    }

    fn changes(&self) -> BoxStream<'static, ()> {
        WatchStream::from_changes(self.0.clone()).map(drop).boxed()
    }
}

#[async_trait]
impl KnowAccounts for OneAccount {
    async fn ready(&self, _method: &'static str) -> Result<(), IdentifyError> {
        Ok(())
    }

    async fn standing(&self, method: &'static str, account: &Account) -> Result<Standing, IdentifyError> {
        let Account { namespace, name, uid: None, pod: None } = account else { panic!("{account:?}") };
        if (&**namespace, &**name, method) == ("shop", "web", METHOD) {
            Ok(Standing::on(Arc::new(IsThere(self.0.subscribe()))))
        } else {
            Err(refused("there is no such service account"))
        }
    }
}

#[tokio::test]
async fn a_service_account_in_it_has_to_be_there_and_has_the_mesh_of_its_namespace() {
    let ca = TestCa::root("clients");
    let (judges, _) = watch::channel(client_ca(&ca, None));
    let is_there = watch::Sender::new(true);
    let method = ClientCertificates::new(Clock::fixed(timestamp(NOW)), Some(Arc::new(OneAccount(is_there.clone()))));
    let identify = async |id: &str| method.identify(&evidence(&[&ca.leaf(&leaf(&[id]))], &judges)).await;
    let proven = identify("spiffe://prod/ns/shop/sa/web").await.unwrap().unwrap();
    assert_eq!(proven.standing.facts().unwrap().mesh.as_deref(), Some("prod"));
    let mut changes = proven.standing.changes();
    is_there.send_replace(false);
    assert_eq!(changes.next().now_or_never(), Some(Some(())));
    assert_eq!(proven.standing.facts(), Err(refused("the service account is gone")));
    assert_eq!(identify("spiffe://prod/ns/shop/sa/db").await, Err(refused("there is no such service account")));
    // Outside of Kubernetes there are none.
    assert_eq!(identify("spiffe://prod/web").await.unwrap().unwrap().standing.facts(), Ok(Facts::default()));
}

#[test]
fn it_prints_no_certificate() {
    let ca = TestCa::root("clients");
    let (_, client_ca) = watch::channel(client_ca(&ca, None));
    let chain = vec![ca.certificate().der().clone()];
    let shown = ClientChain::new(chain, client_ca);
    assert_eq!(format!("{shown:?}"), "ClientChain { certificates: 1, .. }");
}
