//! The API server's word on tokens does not last: it is asked again while a token is in use, and is asked at the start
//! whether it would answer at all.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{BoxStream, StreamExt};
use jiff::Timestamp;
use tokio::sync::{Semaphore, watch};
use tokio_stream::wrappers::WatchStream;

use super::review::{self, No, ReviewTokens};
use super::{Account, METHOD, Unverified, Verified};
use crate::identify::standing::{Facts, Standing, Stands};
use crate::identify::{BearerToken, IdentifyError};
use crate::model::diagnostic::{Location, Problem};
use crate::runtime::clock::Clock;
use crate::runtime::tasks::Tasks;

/// How often it is asked about a token that is bound to no pod. Its end may be that of a Secret or a node, which nothing
/// else here tells of.
const UNBOUND: Duration = Duration::from_secs(300);

/// How often about one that is bound to a pod, whose end is seen at once: what is left is a signing key that is withdrawn.
const BOUND: Duration = Duration::from_secs(3600);

/// How soon again if it did not answer. Until it does, its last word counts.
const RETRY: Duration = Duration::from_secs(30);

/// How soon again if it has said no to a token that it said yes to, and that there was an error, which may have been its own:
/// an outage of a minute must not end the streams of a whole cluster. After the last of them it is believed.
const DOUBTS: [Duration; 3] = [Duration::from_secs(10), Duration::from_secs(20), Duration::from_secs(40)];

/// Tokens it is asked about again at once: few, as nobody waits for that.
const AGAIN_AT_ONCE: usize = 4;

/// No token. What the API server says to it does not count, only that it says anything.
pub(super) const PROBE: &str = "probe";

/// Has tokens reviewed, and tells if that does not work.
#[derive(Debug)]
pub struct Reviewer {
    api: Arc<dyn ReviewTokens>,
    audiences: Vec<String>,
    problems: watch::Sender<Arc<Vec<Problem>>>,
    again: Semaphore,
    clock: Clock,
    tasks: Tasks,
}

impl Reviewer {
    /// Has `api` review tokens for any of `audiences`.
    pub fn start(api: Arc<dyn ReviewTokens>, audiences: Vec<String>, clock: Clock, tasks: &Tasks) -> Arc<Self> {
        let (problems, again) = (watch::Sender::default(), Semaphore::new(AGAIN_AT_ONCE));
        let reviewer = Arc::new(Self { api, audiences, problems, again, clock, tasks: tasks.clone() });
        tasks.spawn_essential("token reviews", reviewer.clone().probe());
        reviewer
    }

    pub(super) fn problems(&self) -> watch::Receiver<Arc<Vec<Problem>>> {
        self.problems.subscribe()
    }

    /// Whose token it is. The standing is that of the API server's word.
    pub(super) async fn verify(
        self: &Arc<Self>,
        token: &BearerToken,
        expires: Timestamp,
    ) -> Result<Verified, Unverified> {
        let account = self.ask(token.expose()).await.map_err(|no| match no {
            No::Refused(reason) | No::Doubtful(reason) => Unverified::Refused(reason),
            No::Unavailable(reason) => Unverified::Unavailable(reason),
        })?;
        let interval = if account.pod.is_some() { BOUND } else { UNBOUND };
        let left = expires.duration_since(self.clock.now());
        if left.unsigned_abs() <= interval {
            return Ok(Verified { account, standing: Standing::default() });
        }
        let (publish, state) = watch::channel(None);
        let asking = self.clone().ask_again(token.clone(), account.clone(), expires, interval, publish);
        self.tasks.spawn(asking);
        Ok(Verified { account, standing: Standing::on(Arc::new(Word(state))) })
    }

    async fn ask(&self, token: &str) -> Result<Account, No> {
        let answer = self.api.review(token, &self.audiences).await;
        let problem = answer.as_ref().err().map(|reason| Problem {
            at: Location { field: Some(format!("identify.{METHOD}")), ..Location::default() },
            what: format!("the API server reviews no tokens: {reason}"),
            hint: Some("the server must be allowed to create tokenreviews, see deploy/rbac.yaml".to_owned()),
        });
        super::tell(&self.problems, problem);
        review::read(&answer.map_err(No::Unavailable)?, &self.audiences)
    }

    /// Asks about a token until it ends, nobody lives by it any more, or the answer is no.
    async fn ask_again(
        self: Arc<Self>,
        token: BearerToken,
        account: Account,
        expires: Timestamp,
        interval: Duration,
        publish: watch::Sender<Option<String>>,
    ) {
        let (mut pause, mut doubts) = (interval, DOUBTS.iter());
        loop {
            tokio::select! {
                () = publish.closed() => return,
                // Never later, and not all that came together at once.
                () = tokio::time::sleep(pause.mul_f64(0.8 + 0.2 * fastrand::f64())) => {}
            }
            if expires <= self.clock.now() {
                return;
            }
            let Ok(_slot) = self.again.acquire().await else { return };
            let refused = match self.ask(token.expose()).await {
                Ok(again) if again == account => {
                    (pause, doubts) = (interval, DOUBTS.iter());
                    continue;
                }
                Ok(_) => "the API server says now that the token is another's".to_owned(),
                Err(No::Refused(reason)) => reason,
                Err(No::Doubtful(reason)) => match doubts.next() {
                    Some(doubt) => {
                        pause = *doubt;
                        continue;
                    }
                    None => reason,
                },
                Err(No::Unavailable(_)) => {
                    pause = RETRY;
                    continue;
                }
            };
            publish.send_replace(Some(refused));
            return;
        }
    }

    /// Finds out before the first token comes whether reviews work, and when they work again.
    async fn probe(self: Arc<Self>) {
        let mut problems = self.problems();
        loop {
            // The answer is no.
            let _ = self.ask(PROBE).await;
            tokio::time::sleep(RETRY).await;
            if problems.wait_for(|problems| !problems.is_empty()).await.is_err() {
                return;
            }
        }
    }
}

/// The API server's last word on a token: good, or why it is not any more.
#[derive(Debug)]
struct Word(watch::Receiver<Option<String>>);

impl Stands for Word {
    fn facts(&self) -> Result<Facts, IdentifyError> {
        match &*self.0.borrow() {
            None => Ok(Facts::default()),
            Some(reason) => Err(super::refused(reason.clone())),
        }
    }

    fn changes(&self) -> BoxStream<'static, ()> {
        WatchStream::from_changes(self.0.clone()).map(drop).boxed()
    }
}
