//! Kubernetes service account tokens, verified by the API server (TokenReview).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::digest;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo};
use kube::api::PostParams;
use kube::{Api, Client};
use moka::Expiry;
use moka::future::Cache;
use serde::Deserialize;
use tokio::sync::{Semaphore, oneshot};

use super::{BearerToken, Evidence, Identify, IdentifyError, Proof};
use crate::model::identity::{Pod, Workload};
use crate::runtime::clock::Clock;
use crate::runtime::cluster::explain;
use crate::runtime::tasks::Tasks;

/// The name of the method, as configured.
pub const METHOD: &str = "serviceAccountToken";

/// A bound token has about 1 KiB; the largest that anyone may have the API server look at.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// How long a "no" is remembered: long enough that a proxy which retries every second costs little, short enough that a
/// service account which was just created is soon let in.
const REFUSAL_LASTS: SignedDuration = SignedDuration::from_secs(10);

/// How many verdicts are remembered, half a KiB each: as many as there may be streams (`limits.streams`).
const MAX_VERDICTS: u64 = 50_000;

/// Reviews under way at once. When hundreds of pods start together, the API server throttles whoever asks for all at
/// once (istio#27945: 24 s for one review).
const AT_ONCE: usize = 32;

/// Bound on one review, and on the wait for its turn.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(10);

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Who verifies tokens: the API server, or a fake.
#[async_trait]
pub trait ReviewTokens: fmt::Debug + Send + Sync + 'static {
    /// Whose token it is, if it is one for any of `audiences`.
    ///
    /// # Errors
    /// Why it could not be found out.
    async fn review(&self, token: &str, audiences: &[String]) -> Result<TokenReviewStatus, String>;
}

/// The API server.
pub struct ApiServer(Api<TokenReview>);

impl ApiServer {
    /// Asks the API server behind `client`, which must allow `create` on `tokenreviews`.
    pub fn new(client: Client) -> Self {
        Self(Api::all(client))
    }
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiServer")
    }
}

#[async_trait]
impl ReviewTokens for ApiServer {
    async fn review(&self, token: &str, audiences: &[String]) -> Result<TokenReviewStatus, String> {
        let spec = TokenReviewSpec { token: token.to_owned(), audiences: Some(audiences.to_vec()) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let params = PostParams::default();
        match tokio::time::timeout(REVIEW_TIMEOUT, Box::pin(self.0.create(&params, &review))).await {
            Ok(Ok(review)) => review.status.ok_or_else(|| "the API server's answer has no status".to_owned()),
            Ok(Err(error)) => Err(explain(&error)),
            Err(_elapsed) => Err(format!("the API server did not answer within {REVIEW_TIMEOUT:?}")),
        }
    }
}

/// Identifies pods by their service account's token.
///
/// A verdict is remembered until the token expires, so that a fleet which reconnects while the API server is away is
/// let in all the same. It also means that a token which was revoked (its pod deleted) is good to the end of its
/// lifetime: keep `expirationSeconds` of the projected token short.
#[derive(Debug)]
pub struct ServiceAccountTokens {
    judge: Arc<Judge>,
    tasks: Tasks,
}

/// What outlives a call: a review goes on when whoever asked for it has given up, because the next one asks again.
#[derive(Debug)]
struct Judge {
    reviewer: Arc<dyn ReviewTokens>,
    audiences: Vec<String>,
    clock: Clock,
    /// By SHA-256 of the token, so that no token is kept.
    verdicts: Cache<[u8; 32], Arc<Verdict>>,
    slots: Semaphore,
}

#[derive(Debug)]
struct Verdict {
    outcome: Result<Proof, IdentifyError>,
    /// From this moment on it counts no more.
    until: Timestamp,
}

/// Verdicts are kept for as long as they count, asked for or not: whoever reconnects after a day of quiet has to be let
/// in while the API server is away.
#[derive(Debug)]
struct Lifetime(Clock);

impl Lifetime {
    fn left(&self, verdict: &Verdict) -> Option<Duration> {
        let left = verdict.until.duration_since(self.0.now()).max(SignedDuration::ZERO);
        Some(left.unsigned_abs())
    }
}

#[expect(clippy::disallowed_types, reason = "the interface is moka's")]
impl Expiry<[u8; 32], Arc<Verdict>> for Lifetime {
    fn expire_after_create(&self, _: &[u8; 32], verdict: &Arc<Verdict>, _: std::time::Instant) -> Option<Duration> {
        self.left(verdict)
    }

    fn expire_after_update(
        &self,
        _: &[u8; 32],
        verdict: &Arc<Verdict>,
        _: std::time::Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        self.left(verdict)
    }
}

/// What a token says of itself. Not believed, except that a token cannot be good for more than it claims itself.
#[derive(Debug, Deserialize)]
struct Claims {
    #[serde(default)]
    aud: Audiences,
    exp: Option<i64>,
    /// In every token that the API server has issued for a service account since Kubernetes 1.21.
    #[serde(rename = "kubernetes.io")]
    kubernetes: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Many(Vec<String>),
}

impl Default for Audiences {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl Audiences {
    fn as_slice(&self) -> &[String] {
        match self {
            Self::One(audience) => std::slice::from_ref(audience),
            Self::Many(audiences) => audiences,
        }
    }
}

/// What a token says of itself.
fn claims(token: &str) -> Result<Claims, IdentifyError> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(refused(format!("the token has {} bytes; at most {MAX_TOKEN_BYTES} make sense", token.len())));
    }
    jsonwebtoken::dangerous::insecure_decode_claims(token)
        .map_err(|error| refused(format!("the bearer token is not a JWT: {error}")))
}

/// Reads a token as far as that is done before anybody verifies it, for fuzzing: its end and how many audiences it has.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn read_unverified(token: &str) -> Option<(Option<Timestamp>, usize)> {
    let claims = claims(token).ok()?;
    Some((claims.exp.and_then(|exp| Timestamp::from_second(exp).ok()), claims.aud.as_slice().len()))
}

#[async_trait]
impl Identify for ServiceAccountTokens {
    fn method(&self) -> &'static str {
        METHOD
    }

    async fn identify(&self, evidence: &Evidence) -> Result<Option<Proof>, IdentifyError> {
        let Some(token) = &evidence.bearer_token else { return Ok(None) };
        let Some(expires) = self.judge.preview(token.expose())? else { return Ok(None) };
        let mut key = [0; 32];
        key.copy_from_slice(digest::digest(&digest::SHA256, token.expose().as_bytes()).as_ref());
        if let Some(known) = self.judge.verdicts.get(&key).await
            && known.until > self.judge.clock.now()
        {
            return known.outcome.clone().map(Some);
        }
        let (tell, told) = oneshot::channel();
        let (judge, token) = (self.judge.clone(), token.clone());
        self.tasks.spawn(async move {
            // Nobody may be waiting for it any more; it is remembered all the same.
            let _ = tell.send(judge.verdict(key, token, expires).await);
        });
        let verdict = told.await.map_err(|_ended| {
            let reason = "the server is shutting down".to_owned();
            IdentifyError::Unavailable { method: METHOD, reason }
        })?;
        verdict.outcome.clone().map(Some)
    }
}

impl ServiceAccountTokens {
    /// Accepts tokens for any of `audiences`; reviews run as `tasks`.
    pub fn new(reviewer: Arc<dyn ReviewTokens>, audiences: Vec<String>, clock: Clock, tasks: &Tasks) -> Self {
        let verdicts = Cache::builder().max_capacity(MAX_VERDICTS).expire_after(Lifetime(clock.clone())).build();
        let judge = Judge { reviewer, audiences, clock, verdicts, slots: Semaphore::new(AT_ONCE) };
        Self { judge: Arc::new(judge), tasks: tasks.clone() }
    }
}

impl Judge {
    /// The verdict on a token. One review per token at a time, however many streams bring it; the others wait for it.
    async fn verdict(&self, key: [u8; 32], token: BearerToken, expires: Timestamp) -> Arc<Verdict> {
        let review = Box::pin(self.review(token.expose(), expires));
        let ended = |old: &Arc<Verdict>| old.until <= self.clock.now();
        self.verdicts.entry(key).or_insert_with_if(review, ended).await.into_value()
    }

    /// What can be told without the API server: `None` if it is another method's token, else when it expires. Whoever
    /// sends rubbish must not be able to make us send it on.
    fn preview(&self, token: &str) -> Result<Option<Timestamp>, IdentifyError> {
        let claims = claims(token)?;
        if claims.kubernetes.is_none() {
            return Ok(None);
        }
        let audiences = claims.aud.as_slice();
        if !audiences.iter().any(|audience| self.audiences.contains(audience)) {
            return Err(refused(format!(
                "the token is for {audiences:?}, not for {:?}; set `audience` of the projected serviceAccountToken volume",
                self.audiences
            )));
        }
        let expires = claims.exp.and_then(|exp| Timestamp::from_second(exp).ok());
        let expires = expires.ok_or_else(|| refused("the token has no end (exp)"))?;
        if expires <= self.clock.now() {
            return Err(refused(format!("the token expired at {expires}")));
        }
        Ok(Some(expires))
    }

    async fn review(&self, token: &str, expires: Timestamp) -> Arc<Verdict> {
        // Whoever asks gives up after some seconds, so there is no point in a longer queue.
        let reviewed = match tokio::time::timeout(REVIEW_TIMEOUT, self.slots.acquire()).await {
            Ok(Ok(_slot)) => self.reviewer.review(token, &self.audiences).await,
            Ok(Err(closed)) => Err(closed.to_string()),
            Err(_elapsed) => Err("too many tokens wait for the API server".to_owned()),
        };
        let verdict = match reviewed {
            // Not remembered: it says nothing about the token.
            Err(reason) => {
                Verdict { outcome: Err(IdentifyError::Unavailable { method: METHOD, reason }), until: Timestamp::MIN }
            }
            Ok(status) => match self.read(&status) {
                Ok(proof) => Verdict { outcome: Ok(Proof { until: Some(expires), ..proof }), until: expires },
                Err(reason) => {
                    let until = self.clock.now().saturating_add(REFUSAL_LASTS).unwrap_or(Timestamp::MAX);
                    Verdict { outcome: Err(refused(reason)), until }
                }
            },
        };
        Arc::new(verdict)
    }

    /// What the API server's verdict proves.
    fn read(&self, status: &TokenReviewStatus) -> Result<Proof, String> {
        if status.authenticated != Some(true) {
            let why = status.error.as_deref().unwrap_or("no reason was given");
            return Err(format!("the API server does not accept the token: {why}"));
        }
        // An authenticator that knows no audiences says yes to any token and names none.
        if !status.audiences.iter().flatten().any(|audience| self.audiences.contains(audience)) {
            return Err(format!(
                "the API server says the token is for {:?}, not for {:?}",
                status.audiences.as_deref().unwrap_or_default(),
                self.audiences
            ));
        }
        let user = status.user.as_ref().ok_or("the API server names no user")?;
        let name = user.username.as_deref().unwrap_or_default();
        let (namespace, account) = service_account(name).ok_or_else(|| format!("{name:?} is no service account"))?;
        let pod = pod(user)?;
        Ok(Proof {
            method: METHOD,
            instance: pod.as_ref().map(|pod| format!("{namespace}/{}/{}", pod.name, pod.uid)),
            workload: Workload {
                namespace: Some(namespace.into()),
                service_account: Some(account.into()),
                pod,
                name: None,
            },
            ..Proof::default()
        })
    }
}

/// `system:serviceaccount:<namespace>:<name>`, exactly.
fn service_account(username: &str) -> Option<(&str, &str)> {
    let (namespace, account) = username.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (!namespace.is_empty() && !account.is_empty() && !account.contains(':')).then_some((namespace, account))
}

fn pod(user: &UserInfo) -> Result<Option<Pod>, String> {
    let extra = |key: &str| match user.extra.as_ref().and_then(|extra| extra.get(key)).map(Vec::as_slice) {
        None | Some([]) => Ok(None),
        Some([value]) => Ok(Some(Arc::from(value.as_str()))),
        Some(values) => Err(format!("the API server names {} values for {key}", values.len())),
    };
    Ok(extra(POD_NAME)?.zip(extra(POD_UID)?).map(|(name, uid)| Pod { name, uid }))
}

fn refused(reason: impl Into<String>) -> IdentifyError {
    IdentifyError::Refused { method: METHOD, reason: reason.into() }
}

#[cfg(test)]
#[path = "service_account_tests.rs"]
mod tests;
