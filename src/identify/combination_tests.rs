//! Proofs of several methods together: the real ones of the transport, and a token.

use super::super::client_ca::ClientCa;
use super::super::client_certificate::{ClientCertificates, ClientChain};
use super::super::membership::Rules;
use super::super::membership::tests::policies;
use super::super::unix_peer::{Behind, Rule, UnixPeers};
use super::super::{BearerToken, UnixPeer};
use super::*;
use crate::model::certificate::Certificate;
use crate::model::identity::{Labels, Pod};
use crate::runtime::clock::Clock;
use crate::testing::certs::{LeafOptions, TestCa, timestamp};

const NOW: i64 = 1_800_000_000;

/// Says what the token is.
#[derive(Debug)]
struct Tokens;

fn workload(namespace: &str, account: &str) -> Workload {
    Workload { namespace: Some(namespace.into()), service_account: Some(account.into()), ..Workload::default() }
}

#[async_trait]
impl Identify for Tokens {
    fn method(&self) -> &'static str {
        "token"
    }

    async fn identify(&self, evidence: &Evidence) -> Result<Option<Proof>, IdentifyError> {
        let Some(token) = &evidence.bearer_token else { return Ok(None) };
        let workload = match token.expose() {
            "web of a pod" => {
                Workload { pod: Some(Pod { name: "web-0".into(), uid: "1".into() }), ..workload("shop", "web") }
            }
            name => Workload { name: Some(name.into()), ..Workload::default() },
        };
        let labels = Labels::from([("app".into(), "web".into()), ("version".into(), "1".into())]);
        Ok(Some(Proof { method: "token", workload, labels, ..Proof::default() }))
    }
}

/// A token, a client certificate and a unix peer are accepted; `insecureNodeId` is on, as the weakest of all.
fn everything(app: &str) -> Identifiers {
    let labels = Labels::from([("app".into(), app.into()), ("zone".into(), "a".into())]);
    let is = Behind::Proxy { mesh: "prod".to_owned(), name: "web-0".to_owned(), workload: "web".into(), labels };
    let methods: Vec<Arc<dyn Identify>> = vec![
        Arc::new(Tokens),
        Arc::new(ClientCertificates::new(Clock::fixed(timestamp(NOW)), None)),
        Arc::new(UnixPeers::new(vec![Rule { uid: Some(7), gid: None, is }], None)),
    ];
    let (_, meshes) = watch::channel(Arc::new(policies(&["default", "prod"])));
    Identifiers::new(methods, true, meshes, Rules::default(), "".into())
}

struct Client<'a> {
    token: Option<&'a str>,
    certificate: Option<&'a Certificate>,
    user: Option<u32>,
}

impl Client<'_> {
    fn evidence(&self, client_ca: &watch::Sender<Arc<ClientCa>>) -> Evidence {
        Evidence {
            bearer_token: self.token.map(|token| BearerToken::new(token.to_owned())),
            client_certificate: self
                .certificate
                .map(|certificate| Arc::new(ClientChain::new(vec![certificate.der().clone()], client_ca.subscribe()))),
            unix_peer: self.user.map(|uid| UnixPeer { uid, gid: 0, pid: None, started: None }),
            ..Evidence::default()
        }
    }
}

fn judge(ca: &TestCa, crl: Option<&str>) -> watch::Sender<Arc<ClientCa>> {
    let judge = ClientCa::from_pem(ca.certificate().pem().as_bytes(), crl.map(str::as_bytes)).unwrap();
    watch::Sender::new(Arc::new(judge))
}

fn leaf(ca: &TestCa, id: &str) -> Certificate {
    ca.leaf(&LeafOptions { uris: Some(vec![id.to_owned()]), ..LeafOptions::default() })
}

#[tokio::test]
async fn a_certificate_and_a_token_of_one_workload_agree_and_of_two_do_not() {
    let ca = TestCa::root("clients");
    let judge = judge(&ca, None);
    for (id, token, agree) in [
        ("spiffe://prod/web", "web", true),
        ("spiffe://prod/db", "web", false),
        ("spiffe://prod/ns/shop/sa/web", "web of a pod", true),
        ("spiffe://prod/ns/shop/sa/db", "web of a pod", false),
        ("spiffe://prod/ns/other/sa/web", "web of a pod", false),
        ("spiffe://prod/web", "web of a pod", false),
    ] {
        let certificate = leaf(&ca, id);
        let evidence = Client { token: Some(token), certificate: Some(&certificate), user: None }.evidence(&judge);
        match everything("web").open(&evidence).await {
            Ok(proof) => {
                let proof = proof.unwrap();
                assert!(agree, "{id} {token}");
                assert_eq!((proof.method, proof.trust_domain.as_deref()), ("token", Some("prod")));
                assert!(proof.until.is_some() && proof.labels.len() == 2, "each adds what it knows: {proof:?}");
                assert_eq!(proof.workload.pod.is_some(), token == "web of a pod");
                // What the certificate depends on, the whole depends on.
                let other = TestCa::root("another");
                judge.send_replace(judge_of(&other));
                assert!(proof.standing.facts().is_err());
                judge.send_replace(judge_of(&ca));
            }
            Err(error) => assert!(!agree && error.to_string().contains("another identity"), "{id} {token}: {error}"),
        }
    }
}

fn judge_of(ca: &TestCa) -> Arc<ClientCa> {
    Arc::new(ClientCa::from_pem(ca.certificate().pem().as_bytes(), None).unwrap())
}

#[tokio::test]
async fn a_bad_certificate_falls_through_to_nothing() {
    let ca = TestCa::root("clients");
    let foreign = leaf(&TestCa::root("clients"), "spiffe://prod/web");
    let revoked = leaf(&ca, "spiffe://prod/web");
    let no_svid = leaf(&ca, "https://prod/web");
    let judge = judge(&ca, Some(&ca.crl(&[&revoked], timestamp(NOW + 1000))));
    for certificate in [&foreign, &revoked, &no_svid] {
        for (token, user) in [(None, None), (Some("web"), None), (None, Some(7))] {
            let evidence = Client { token, certificate: Some(certificate), user }.evidence(&judge);
            let error = everything("web").open(&evidence).await.unwrap_err();
            assert!(matches!(error, IdentifyError::Refused { method: "clientCertificate", .. }), "{error}");
        }
    }
    // Where nobody looks at certificates, one proves nothing, and spoils nothing.
    let (_, meshes) = watch::channel(Arc::new(policies(&["default"])));
    let tokens_only = Identifiers::new(vec![Arc::new(Tokens)], false, meshes, Rules::default(), "".into());
    let with_token = Client { token: Some("web"), certificate: Some(&foreign), user: None }.evidence(&judge);
    assert_eq!(tokens_only.open(&with_token).await.unwrap().unwrap().method, "token");
    let without = Client { token: None, certificate: Some(&no_svid), user: None }.evidence(&judge);
    assert!(matches!(tokens_only.open(&without).await, Err(IdentifyError::NoEvidence(_))));
}

#[tokio::test]
async fn a_unix_peer_and_a_token_agree_or_are_refused() {
    let judge = judge(&TestCa::root("clients"), None);
    let open = async |app: &str, token: &str, uid: u32| {
        let evidence = Client { token: Some(token), certificate: None, user: Some(uid) }.evidence(&judge);
        everything(app)
            .open(&evidence)
            .await
            .map(|proof| proof.map(|proof| (proof.mesh, proof.instance, proof.labels.len())))
    };
    let both = Some((Some("prod".to_owned()), Some("web-0".to_owned()), 3));
    assert_eq!(open("web", "web", 7).await, Ok(both));
    for (app, token) in [("web", "db"), ("another", "web"), ("web", "web of a pod")] {
        let error = open(app, token, 7).await.unwrap_err();
        assert!(error.to_string().contains("another identity"), "{app} {token}: {error}");
    }
    // Whom no rule names has only the token.
    assert_eq!(open("web", "db", 8).await, Ok(Some((None, None, 2))));
}

#[test]
fn two_proofs_that_disagree_in_anything_are_refused() {
    let proof = || Proof { method: "a", ..Proof::default() };
    let label = |value: &str| Labels::from([("app".into(), value.into())]);
    let domain = |name: &str| Proof { trust_domain: Some(name.into()), ..proof() };
    let named = |name: &str| Proof { instance: Some(name.into()), ..proof() };
    let labelled = |value: &str| Proof { labels: label(value), ..proof() };
    for (first, second, what) in [
        (domain("a"), domain("b"), "the trust domain differs"),
        (named("a"), named("b"), "the name of the proxy differs"),
        (labelled("a"), labelled("b"), "the value of a label differs"),
    ] {
        let error = agreed(first.clone(), second.clone()).unwrap_err();
        assert!(error.to_string().ends_with(what), "{error}");
        assert_eq!(agreed(first.clone(), first.clone()), Ok(first.clone()));
        assert_eq!(agreed(first.clone(), proof()), Ok(first.clone()));
        assert_eq!(agreed(proof(), first.clone()), Ok(first));
    }
}

#[tokio::test]
async fn a_trust_domain_says_the_mesh() {
    let identifiers = everything("web");
    let node = NodeClaim { id: "web-0".to_owned(), ..NodeClaim::default() };
    let named = Workload { name: Some("web".into()), ..Workload::default() };
    let complete = |mesh: Option<&str>, domain: &str| {
        let mesh = mesh.map(str::to_owned);
        let proof = Proof { mesh, trust_domain: Some(domain.into()), workload: named.clone(), ..Proof::default() };
        identifiers.complete(Some(&proof), &node).map(|identity| identity.spiffe_id.to_string())
    };
    assert_eq!(complete(None, "prod").as_deref(), Ok("spiffe://prod/web"));
    assert_eq!(complete(Some("prod"), "prod").as_deref(), Ok("spiffe://prod/web"));
    assert!(complete(None, "nobody").unwrap_err().to_string().contains("nobody"));
    assert!(complete(Some("default"), "prod").is_err());
}
