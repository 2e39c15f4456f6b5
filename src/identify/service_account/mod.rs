//! Kubernetes service account tokens, verified by the API server (TokenReview) or here, with the cluster's public keys.

mod claims;
mod jwks;
mod keys;
mod queue;
mod review;
mod reviewer;
mod turns;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::digest;
use jiff::{SignedDuration, Timestamp};
use moka::Expiry;
use moka::future::Cache;
use tokio::sync::watch;

pub use self::keys::{FileError, Keys};
use self::queue::{Client, Entered, Place, Queue};
pub use self::review::{ApiServer, ReviewTokens};
pub use self::reviewer::Reviewer;
use super::directory::{Account, KnowAccounts};
use super::standing::Standing;
use super::{BearerToken, Evidence, Identify, IdentifyError, Proof};
use crate::model::diagnostic::Problem;
use crate::model::identity::Workload;
use crate::runtime::clock::Clock;
use crate::runtime::publish;
use crate::runtime::tasks::Tasks;

/// The name of the method, as configured.
pub const METHOD: &str = "serviceAccountToken";

/// How long a "no" is remembered: long enough that a proxy which retries every second costs little, short enough that a
/// service account which was just created is soon let in.
const REFUSAL_LASTS: SignedDuration = SignedDuration::from_secs(10);

/// How many good tokens are remembered, half a KiB each: as many as there may be streams (`limits.streams`).
const MAX_VERDICTS: u64 = 50_000;

/// How many bad ones: strangers can make any number of them, so they are kept apart, where they push out no good one.
const MAX_REFUSALS: u64 = 2_000;

/// Tokens that are verified at once. When hundreds of pods start together, the API server throttles whoever asks for all at
/// once (istio#27945: 24 s for one review).
const AT_ONCE: usize = 32;

/// Bound on one review, and on the wait for its turn.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(10);

/// SHA-256 of a token.
type TokenDigest = [u8; 32];

/// Who verifies tokens.
#[derive(Debug)]
pub enum Verifier {
    /// The API server, for each of them.
    Review(Arc<Reviewer>),
    /// This server, with the cluster's keys.
    Keys(Keys),
}

/// Whose token it is.
#[derive(Debug)]
struct Verified {
    account: Account,
    /// What of the verification may cease to hold.
    standing: Standing,
}

/// Why a token proves nothing.
#[derive(Debug, PartialEq, Eq)]
enum Unverified {
    /// It is no good.
    Refused(String),
    /// That cannot be told now.
    Unavailable(String),
}

/// Identifies pods by their service account's token.
///
/// A verdict is remembered until the token expires, or until what it depends on is gone (its pod, its account, the API
/// server's word, the key that signed it), so that a fleet which reconnects while the API server is away is let in all the
/// same.
#[derive(Debug)]
pub struct ServiceAccountTokens {
    judge: Arc<Judge>,
    tasks: Tasks,
}

/// What outlives a call: a review goes on when whoever asked for it has given up, because the next one asks again.
#[derive(Debug)]
struct Judge {
    verifier: Verifier,
    accounts: Arc<dyn KnowAccounts>,
    audiences: Vec<String>,
    clock: Clock,
    /// The good ones.
    verdicts: Cache<TokenDigest, Arc<Verdict>>,
    /// The bad ones.
    refusals: Cache<TokenDigest, Arc<Verdict>>,
    queue: Queue,
}

#[derive(Debug)]
struct Verdict {
    outcome: Result<Proof, IdentifyError>,
    /// From this moment on it counts no more.
    until: Timestamp,
}

impl Verdict {
    /// Whether it counts. If a pod is gone by what is known of it, the token is verified anew, which finds out whether
    /// that is so.
    fn counts(&self, now: Timestamp) -> bool {
        self.until > now && self.outcome.as_ref().map_or(true, |proof| proof.standing.facts().is_ok())
    }
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
impl Expiry<TokenDigest, Arc<Verdict>> for Lifetime {
    fn expire_after_create(&self, _: &TokenDigest, verdict: &Arc<Verdict>, _: std::time::Instant) -> Option<Duration> {
        self.left(verdict)
    }

    fn expire_after_update(
        &self,
        _: &TokenDigest,
        verdict: &Arc<Verdict>,
        _: std::time::Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        self.left(verdict)
    }
}

/// Reads a token as far as that is done before anybody verifies it, for fuzzing: its end and how many audiences it has.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn read_unverified(token: &str) -> Option<(Option<Timestamp>, usize)> {
    claims::read_unverified(token)
}

#[async_trait]
impl Identify for ServiceAccountTokens {
    fn method(&self) -> &'static str {
        METHOD
    }

    async fn identify(&self, evidence: &Evidence) -> Result<Option<Proof>, IdentifyError> {
        let Some(token) = &evidence.bearer_token else { return Ok(None) };
        let Some(expires) = claims::preview(token.expose(), &self.judge.audiences, self.judge.clock.now())? else {
            return Ok(None);
        };
        let mut key = [0; 32];
        key.copy_from_slice(digest::digest(&digest::SHA256, token.expose().as_bytes()).as_ref());
        if let Some(known) = self.judge.known(&key).await {
            return known.outcome.clone().map(Some);
        }
        let unavailable = |reason: &str| IdentifyError::Unavailable { method: METHOD, reason: reason.to_owned() };
        let mut told = match self.judge.queue.enter(key, Client::of(evidence)) {
            None => return Err(unavailable("too many tokens wait to be verified")),
            Some(Entered::Other(told)) => told,
            Some(Entered::First(place, told)) => {
                let (judge, token) = (self.judge.clone(), token.clone());
                // Nobody may be waiting for it any more; it is remembered all the same.
                self.tasks.spawn(async move {
                    let verdict = judge.verdict(&place, token, expires).await;
                    place.tell(verdict);
                });
                told
            }
        };
        let verdict = told.wait_for(Option::is_some).await.ok().and_then(|verdict| verdict.clone());
        let verdict = verdict.ok_or_else(|| unavailable("the server is shutting down"))?;
        verdict.outcome.clone().map(Some)
    }
}

impl ServiceAccountTokens {
    /// Accepts tokens for any of `audiences`, of accounts and pods that `accounts` knows; verifying them runs as `tasks`.
    pub fn new(
        verifier: Verifier,
        accounts: Arc<dyn KnowAccounts>,
        audiences: Vec<String>,
        clock: Clock,
        tasks: &Tasks,
    ) -> Self {
        let verdicts = Cache::builder().max_capacity(MAX_VERDICTS).expire_after(Lifetime(clock.clone())).build();
        let refusals = Cache::builder().max_capacity(MAX_REFUSALS).time_to_live(REFUSAL_LASTS.unsigned_abs()).build();
        let judge = Judge { verifier, accounts, audiences, clock, verdicts, refusals, queue: Queue::default() };
        Self { judge: Arc::new(judge), tasks: tasks.clone() }
    }
}

impl ServiceAccountTokens {
    /// Why tokens cannot be verified at the moment, or whether what they are verified with is not of now.
    pub fn problems(&self) -> watch::Receiver<Arc<Vec<Problem>>> {
        match &self.judge.verifier {
            Verifier::Review(reviewer) => reviewer.problems(),
            Verifier::Keys(keys) => keys.problems(),
        }
    }
}

impl Judge {
    /// What is remembered of a token.
    async fn known(&self, token: &TokenDigest) -> Option<Arc<Verdict>> {
        let now = self.clock.now();
        let good = self.verdicts.get(token).await.filter(|verdict| verdict.counts(now));
        if good.is_some() {
            return good;
        }
        self.refusals.get(token).await.filter(|verdict| verdict.counts(now))
    }

    /// The verdict on a token, which is remembered.
    async fn verdict(&self, place: &Place, token: BearerToken, expires: Timestamp) -> Arc<Verdict> {
        let outcome = self.proof(place, &token, expires).await;
        let until = match &outcome {
            Ok(_) => expires,
            Err(_) => self.clock.now().saturating_add(REFUSAL_LASTS).unwrap_or(Timestamp::MAX),
        };
        let verdict = Arc::new(Verdict { outcome, until });
        match &verdict.outcome {
            Ok(_) => self.verdicts.insert(place.token, verdict.clone()).await,
            // Not remembered: it says nothing about the token.
            Err(IdentifyError::Unavailable { .. }) => {}
            Err(_) => {
                self.verdicts.invalidate(&place.token).await;
                self.refusals.insert(place.token, verdict.clone()).await;
            }
        }
        verdict
    }

    /// What a token proves.
    async fn proof(&self, place: &Place, token: &BearerToken, expires: Timestamp) -> Result<Proof, IdentifyError> {
        let unavailable = |reason: String| IdentifyError::Unavailable { method: METHOD, reason };
        // Whoever asks gives up after some seconds, so there is no point in a longer wait.
        let turn = tokio::time::timeout(REVIEW_TIMEOUT, place.turn()).await;
        let _turn = turn.map_err(|_elapsed| unavailable("too many tokens wait to be verified".to_owned()))?;
        // Before anybody is asked: without it the answer would be of no use.
        self.accounts.ready(METHOD).await?;
        let verified = match &self.verifier {
            Verifier::Review(reviewer) => reviewer.verify(token, expires).await,
            Verifier::Keys(keys) => keys.verify(token.expose(), &self.audiences, self.clock.now()).await,
        };
        let Verified { account, standing } = verified.map_err(|unverified| match unverified {
            Unverified::Refused(reason) => refused(reason),
            Unverified::Unavailable(reason) => unavailable(reason),
        })?;
        let standing = standing.and(self.accounts.standing(METHOD, &account).await?);
        let Account { namespace, name, pod, .. } = account;
        Ok(Proof {
            method: METHOD,
            instance: pod.as_ref().map(|pod| format!("{namespace}/{}/{}", pod.name, pod.uid)),
            workload: Workload { namespace: Some(namespace), service_account: Some(name), pod, name: None },
            until: Some(expires),
            standing,
            ..Proof::default()
        })
    }
}

/// Publishes what is wrong now, if anything, and logs it if it is new.
fn tell(problems: &watch::Sender<Arc<Vec<Problem>>>, problem: Option<Problem>) {
    if publish::if_changed(problems, problem.into_iter().collect()) {
        problems.borrow().iter().for_each(|problem| tracing::warn!("{problem}"));
    }
}

fn refused(reason: impl Into<String>) -> IdentifyError {
    IdentifyError::Refused { method: METHOD, reason: reason.into() }
}

#[cfg(test)]
mod tests;
