//! Tests of [`super`], with a fake API server that counts.

use std::collections::BTreeMap;
use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::StreamExt as _;
use serde_json::{Value, json};

use k8s_openapi::api::authentication::v1::{TokenReviewStatus, UserInfo};

mod again;

use super::claims::MAX_TOKEN_BYTES;
use super::review::{POD_NAME, POD_UID};
use super::*;
use crate::identify::standing::{Facts, Stands};
use crate::model::identity::Pod;

#[derive(Debug, Default)]
struct Fake {
    answer: Mutex<Option<TokenReviewStatus>>,
    calls: Mutex<usize>,
    answered: Mutex<usize>,
}

#[async_trait]
impl ReviewTokens for Fake {
    async fn review(&self, token: &str, _audiences: &[String]) -> Result<TokenReviewStatus, String> {
        *self.calls.lock().unwrap() += usize::from(token != reviewer::PROBE);
        tokio::time::sleep(Duration::from_millis(50)).await;
        *self.answered.lock().unwrap() += usize::from(token != reviewer::PROBE);
        self.answer.lock().unwrap().clone().ok_or_else(|| "down".to_owned())
    }
}

impl Fake {
    fn answer(&self, status: Option<TokenReviewStatus>) {
        *self.answer.lock().unwrap() = status;
    }

    fn calls(&self) -> usize {
        *self.calls.lock().unwrap()
    }

    /// Calls that have their answer: another one is for later calls.
    fn answered(&self) -> usize {
        *self.answered.lock().unwrap()
    }
}

/// All accounts and pods are there until told otherwise.
#[derive(Debug, Default)]
struct Accounts {
    asked: Mutex<Vec<Account>>,
    unknown: Mutex<bool>,
    gone: Arc<Mutex<bool>>,
}

#[async_trait]
impl KnowAccounts for Accounts {
    async fn ready(&self, method: &'static str) -> Result<(), IdentifyError> {
        let reason = "not listed".to_owned();
        if *self.unknown.lock().unwrap() { Err(IdentifyError::Unavailable { method, reason }) } else { Ok(()) }
    }

    async fn standing(&self, _method: &'static str, account: &Account) -> Result<Standing, IdentifyError> {
        self.asked.lock().unwrap().push(account.clone());
        let stands = Standing::on(Arc::new(UntilGone(self.gone.clone())));
        stands.facts().map(|_| stands)
    }
}

#[derive(Debug)]
struct UntilGone(Arc<Mutex<bool>>);

impl Stands for UntilGone {
    fn facts(&self) -> Result<Facts, IdentifyError> {
        if *self.0.lock().unwrap() { Err(refused("gone")) } else { Ok(Facts::default()) }
    }

    fn changes(&self) -> futures::stream::BoxStream<'static, ()> {
        Box::pin(futures::stream::pending())
    }
}

fn yes() -> TokenReviewStatus {
    let extra = [(POD_NAME, "web-0"), (POD_UID, "u1")];
    TokenReviewStatus {
        authenticated: Some(true),
        audiences: Some(vec!["envoy-sds".to_owned()]),
        error: None,
        user: Some(UserInfo {
            username: Some("system:serviceaccount:shop:web".to_owned()),
            uid: Some("a1".to_owned()),
            extra: Some(extra.map(|(key, value)| (key.to_owned(), vec![value.to_owned()])).into()),
            ..UserInfo::default()
        }),
    }
}

fn no() -> TokenReviewStatus {
    TokenReviewStatus { error: Some("invalid bearer token".to_owned()), ..TokenReviewStatus::default() }
}

fn rig(status: Option<TokenReviewStatus>) -> (Arc<Fake>, ServiceAccountTokens) {
    let (fake, _, method) = rig_with_accounts(status);
    (fake, method)
}

fn rig_with_accounts(status: Option<TokenReviewStatus>) -> (Arc<Fake>, Arc<Accounts>, ServiceAccountTokens) {
    let fake = Arc::new(Fake::default());
    fake.answer(status);
    let clock = Clock::simulated(Timestamp::UNIX_EPOCH);
    let audiences = vec!["other".to_owned(), "envoy-sds".to_owned()];
    let accounts = Arc::new(Accounts::default());
    let tasks = Tasks::new().0;
    let verifier = Verifier::Review(Reviewer::start(fake.clone(), audiences.clone(), clock.clone(), &tasks));
    let method = ServiceAccountTokens::new(verifier, accounts.clone(), audiences, clock, &tasks);
    (fake, accounts, method)
}

fn jwt(claims: &Value) -> String {
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256"}"#);
    format!("{header}.{}.c2lnbmF0dXJl", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

fn token(exp: i64) -> String {
    jwt(&json!({"aud": ["envoy-sds"], "exp": exp, "kubernetes.io": {"namespace": "shop"}}))
}

async fn identify(method: &ServiceAccountTokens, token: impl Into<String>) -> Result<Option<Proof>, IdentifyError> {
    let evidence = Evidence { bearer_token: Some(BearerToken::new(token.into())), ..Evidence::default() };
    method.identify(&evidence).await
}

#[tokio::test(start_paused = true)]
async fn a_good_token_proves_account_and_pod() {
    let (_, method) = rig(Some(yes()));
    let proof = identify(&method, token(3600)).await.unwrap().unwrap();
    assert_eq!(proof.instance.as_deref(), Some("shop/web-0/u1"));
    assert_eq!(proof.workload.namespace.as_deref(), Some("shop"));
    assert_eq!(proof.workload.service_account.as_deref(), Some("web"));
    assert_eq!(proof.workload.pod, Some(Pod { name: "web-0".into(), uid: "u1".into() }));
    assert_eq!(proof.until, Some(Timestamp::from_second(3600).unwrap()));
}

#[tokio::test(start_paused = true)]
async fn a_token_without_a_pod_proves_no_instance() {
    let mut status = yes();
    status.user.as_mut().unwrap().extra = None;
    let (_, method) = rig(Some(status));
    assert_eq!(identify(&method, token(3600)).await.unwrap().unwrap().instance, None);
}

#[tokio::test(start_paused = true)]
async fn what_the_api_server_says_is_read_strictly() {
    let user = |name: &str| TokenReviewStatus {
        user: Some(UserInfo { username: Some(name.to_owned()), ..UserInfo::default() }),
        ..yes()
    };
    let two_pods = UserInfo {
        extra: Some(BTreeMap::from([(POD_NAME.to_owned(), vec!["a".to_owned(), "b".to_owned()])])),
        ..yes().user.unwrap()
    };
    for status in [
        no(),
        TokenReviewStatus { authenticated: None, ..yes() },
        TokenReviewStatus { authenticated: Some(false), ..yes() },
        TokenReviewStatus { audiences: None, ..yes() },
        TokenReviewStatus { audiences: Some(vec!["https://kubernetes".to_owned()]), ..yes() },
        TokenReviewStatus { user: None, ..yes() },
        TokenReviewStatus { user: Some(two_pods), ..yes() },
        user("system:node:n1"),
        user("system:serviceaccount:shop"),
        user("system:serviceaccount:shop:"),
        user("system:serviceaccount::web"),
        user("system:serviceaccount:shop:web:x"),
        user("x:system:serviceaccount:shop:web"),
    ] {
        let (_, method) = rig(Some(status.clone()));
        let outcome = identify(&method, token(3600)).await;
        assert!(matches!(outcome, Err(IdentifyError::Refused { .. })), "{status:?}: {outcome:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn rubbish_is_refused_without_a_review() {
    let (fake, method) = rig(Some(yes()));
    let kubernetes = json!({});
    for bad in [
        String::new(),
        "opaque".to_owned(),
        "a.b".to_owned(),
        "a.b.c".to_owned(),
        format!("{}.x.y", "a".repeat(MAX_TOKEN_BYTES)),
        token(-1),
        jwt(&json!({"aud": ["https://kubernetes"], "exp": 3600, "kubernetes.io": kubernetes})),
        jwt(&json!({"aud": "vault", "exp": 3600, "kubernetes.io": kubernetes})),
        jwt(&json!({"exp": 3600, "kubernetes.io": kubernetes})),
        jwt(&json!({"aud": "envoy-sds", "kubernetes.io": kubernetes})),
    ] {
        let outcome = identify(&method, bad.clone()).await;
        assert!(matches!(outcome, Err(IdentifyError::Refused { .. })), "{bad}: {outcome:?}");
    }
    assert_eq!(fake.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn another_methods_token_is_left_to_it() {
    let (fake, method) = rig(Some(yes()));
    assert_eq!(identify(&method, jwt(&json!({"aud": "envoy-sds", "exp": 3600, "mesh": "default"}))).await, Ok(None));
    assert_eq!(method.identify(&Evidence::default()).await, Ok(None));
    assert_eq!(fake.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_review_serves_all_until_the_token_expires() {
    let (fake, method) = rig(Some(yes()));
    let outcomes = futures::future::join_all((0..100).map(|_| identify(&method, token(3600)))).await;
    assert!(outcomes.iter().all(Result::is_ok));
    assert_eq!(fake.calls(), 1);
    tokio::time::sleep(Duration::from_secs(3590)).await;
    assert!(identify(&method, token(3600)).await.is_ok());
    assert_eq!(fake.calls(), 1);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(matches!(identify(&method, token(3600)).await, Err(IdentifyError::Refused { .. })));
    assert_eq!(fake.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_remembered_for_ten_seconds() {
    let (fake, method) = rig(Some(no()));
    for _ in 0..3 {
        assert!(identify(&method, token(3600)).await.is_err());
    }
    assert_eq!(fake.calls(), 1);
    fake.answer(Some(yes()));
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert!(identify(&method, token(3600)).await.is_ok());
    assert_eq!(fake.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_not_remembered_and_known_tokens_survive_it() {
    let (fake, method) = rig(None);
    for _ in 0..2 {
        assert!(matches!(identify(&method, token(3600)).await, Err(IdentifyError::Unavailable { .. })));
    }
    assert_eq!(fake.calls(), 2);
    fake.answer(Some(yes()));
    assert!(identify(&method, token(3600)).await.is_ok());
    fake.answer(None);
    assert!(identify(&method, token(3600)).await.is_ok());
    assert_eq!(fake.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn verdicts_are_kept_for_as_long_as_they_count() {
    let (_, method) = rig(Some(yes()));
    assert_eq!(method.judge.verdicts.policy().time_to_idle(), None);
    let lifetime = Lifetime(method.judge.clock.clone());
    tokio::time::advance(Duration::from_secs(100)).await;
    for (until, left) in [(86_400, 86_300), (0, 0)] {
        let until = Timestamp::from_second(until).unwrap();
        let verdict = Verdict { outcome: Err(refused("")), until };
        assert_eq!(lifetime.left(&verdict).unwrap().as_secs(), left);
    }
}

#[tokio::test(start_paused = true)]
async fn a_review_goes_on_when_whoever_asked_has_given_up() {
    let (fake, method) = rig(Some(yes()));
    for _ in 0..2 {
        let hasty = tokio::time::timeout(Duration::from_millis(20), identify(&method, token(3600))).await;
        assert!(hasty.is_err());
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(identify(&method, token(3600)).await.is_ok());
    assert_eq!(fake.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_the_token_names_must_stand() {
    let (fake, accounts, method) = rig_with_accounts(Some(yes()));
    let proof = identify(&method, token(3600)).await.unwrap().unwrap();
    let pod = Some(Pod { name: "web-0".into(), uid: "u1".into() });
    let account = Account { namespace: "shop".into(), name: "web".into(), uid: Some("a1".into()), pod };
    assert_eq!(*accounts.asked.lock().unwrap(), [account]);
    assert!(proof.standing.facts().is_ok());
    // It is gone: the verdict that is remembered counts no more, and the next one is no.
    *accounts.gone.lock().unwrap() = true;
    for _ in 0..3 {
        assert!(matches!(identify(&method, token(3600)).await, Err(IdentifyError::Refused { .. })));
    }
    assert_eq!(fake.calls(), 2);
    // A mistake heals.
    *accounts.gone.lock().unwrap() = false;
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert!(identify(&method, token(3600)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn while_pods_are_not_known_nobody_is_asked() {
    let (fake, accounts, method) = rig_with_accounts(Some(yes()));
    *accounts.unknown.lock().unwrap() = true;
    assert!(matches!(identify(&method, token(3600)).await, Err(IdentifyError::Unavailable { .. })));
    assert_eq!(fake.calls(), 0);
    *accounts.unknown.lock().unwrap() = false;
    assert!(identify(&method, token(3600)).await.is_ok());
}

async fn identify_from(host: u8, method: &ServiceAccountTokens, token: String) -> Result<Option<Proof>, IdentifyError> {
    let address = Some(([10, 0, 0, host], 4711).into());
    let bearer_token = Some(BearerToken::new(token));
    method.identify(&Evidence { address, bearer_token, ..Evidence::default() }).await
}

#[tokio::test(start_paused = true)]
async fn a_strangers_tokens_do_not_keep_others_waiting_and_are_not_verified_without_bound() {
    let (fake, method) = rig(Some(yes()));
    let mut full = 0;
    for number in 0..1000 {
        // A stream that is reset at once: nobody waits for the answer any more.
        let mut hasty = Box::pin(identify_from(1, &method, token(4000 + number)));
        full += usize::from(matches!(futures::poll!(&mut hasty), std::task::Poll::Ready(Err(_))));
    }
    assert_eq!((method.judge.queue.len(), full), (queue::OF_CLIENT, 1000 - queue::OF_CLIENT));
    // Somebody else's is verified at once, which takes the API server 50 ms.
    let other = identify_from(2, &method, token(3600));
    assert!(tokio::time::timeout(Duration::from_millis(60), other).await.expect("it waits for nobody").is_ok());
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!((method.judge.queue.len(), fake.calls()), (0, queue::OF_CLIENT + 1));
    assert!(identify_from(1, &method, token(3601)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn bad_tokens_push_out_no_good_ones() {
    let (fake, method) = rig(Some(yes()));
    assert!(identify(&method, token(3600)).await.is_ok());
    fake.answer(Some(no()));
    for number in 0..10 {
        assert!(identify(&method, token(4000 + number)).await.is_err());
    }
    method.judge.verdicts.run_pending_tasks().await;
    method.judge.refusals.run_pending_tasks().await;
    assert_eq!((method.judge.verdicts.entry_count(), method.judge.refusals.entry_count()), (1, 10));
    assert_eq!(method.judge.refusals.policy().max_capacity(), Some(MAX_REFUSALS));
}
