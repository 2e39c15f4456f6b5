//! Where the cluster's public keys come from, and keeping them current: the API server, or a file. The last good ones stay.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use jiff::Timestamp;
use kube::Client;
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::WatchStream;

use super::jwks::{Key, KeySet, NotVerified};
use super::{METHOD, Unverified, Verified};
use crate::identify::IdentifyError;
use crate::identify::standing::{Facts, Standing, Stands};
use crate::model::diagnostic::{Location, Problem};
use crate::runtime::cluster::explain;
use crate::runtime::file_watch::FileWatch;
use crate::runtime::regular_file;
use crate::runtime::tasks::Tasks;

/// How often the API server is asked: keys change once in months, and a token with a new one has it asked at once.
const REFRESH: Duration = Duration::from_secs(600);

/// How soon again if that failed.
const RETRY: Duration = Duration::from_secs(30);

/// At the soonest, whatever keys tokens name.
const AT_MOST_EVERY: Duration = Duration::from_secs(10);

/// Bound on one answer, and on the wait for it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// OpenID Connect Discovery 1.0 section 4, as the API server does it for its own tokens.
const DISCOVERY: &str = "/.well-known/openid-configuration";

/// The key set. The discovery document names an address for it too, which may be that of another server, for others.
const KEYS: &str = "/openid/v1/jwks";

/// The file with the key set cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct FileError {
    path: PathBuf,
    reason: String,
}

/// The keys of now.
#[derive(Debug)]
pub struct Keys {
    state: watch::Receiver<State>,
    problems: watch::Receiver<Arc<Vec<Problem>>>,
    /// Asks for newer ones.
    wanted: Arc<Notify>,
}

/// Where what was read goes.
#[derive(Debug)]
struct Publisher {
    state: watch::Sender<State>,
    problems: watch::Sender<Arc<Vec<Problem>>>,
    /// The file; none where it is the API server.
    file: Option<Arc<PathBuf>>,
}

#[derive(Debug, Clone, Default)]
struct State {
    keys: Option<Arc<KeySet>>,
    /// When they were asked for the last time; never, where the file tells.
    asked: Option<Instant>,
    /// Why that gave none.
    failure: Option<String>,
}

impl Keys {
    /// Asks the API server behind `client`, which must allow `get` of the paths above. `issuer` is the one that counts,
    /// whatever the API server says.
    pub fn of_cluster(client: Client, issuer: Option<String>, tasks: &Tasks) -> Self {
        let wanted = Arc::new(Notify::new());
        let publish = Publisher::new(State::default(), None);
        let keys = publish.keys(wanted.clone());
        tasks.spawn_essential("service account keys", ask(client, issuer, publish, wanted));
        keys
    }

    /// Reads a file, and again when it changes.
    ///
    /// # Errors
    /// It cannot be read, or is no key set.
    pub fn of_file(path: &Path, issuer: String, tasks: &Tasks) -> Result<Self, FileError> {
        let watch = FileWatch::new();
        watch.add(path);
        let mut changes = watch.changes();
        let first = read(path, &issuer).map_err(|reason| FileError { path: path.to_owned(), reason })?;
        let first = State { keys: Some(Arc::new(first)), ..State::default() };
        let publish = Publisher::new(first, Some(path.to_owned()));
        let keys = publish.keys(Arc::default());
        let path = path.to_owned();
        tasks.spawn_essential("service account key file", async move {
            // It is what tells `changes`.
            let _watch = watch;
            loop {
                changes.next().await;
                publish.answer(read(&path, &issuer), None);
            }
        });
        Ok(keys)
    }

    /// Whether a file has keys in it.
    ///
    /// # Errors
    /// See [`Keys::of_file`].
    pub fn check_file(path: &Path) -> Result<(), FileError> {
        read(path, "").map(drop).map_err(|reason| FileError { path: path.to_owned(), reason })
    }

    pub(super) fn problems(&self) -> watch::Receiver<Arc<Vec<Problem>>> {
        self.problems.clone()
    }

    /// Whose token it is.
    pub(super) async fn verify(
        &self,
        token: &str,
        audiences: &[String],
        now: Timestamp,
    ) -> Result<Verified, Unverified> {
        let mut state = self.state.borrow().clone();
        loop {
            let asked = state.asked;
            let unknown = match state.keys.as_ref().map(|keys| keys.verify(token, audiences, now)) {
                Some(Ok((account, kid, key))) => {
                    let stands = SigningKey { kid, key, state: self.state.clone() };
                    return Ok(Verified { account, standing: Standing::on(Arc::new(stands)) });
                }
                Some(Err(NotVerified::Refused(reason))) => return Err(Unverified::Refused(reason)),
                Some(Err(NotVerified::UnknownKey(reason))) => Some(reason),
                None => None,
            };
            state = self.newer(asked).await;
            if state.asked != asked && state.failure.is_none() {
                continue;
            }
            return Err(match (state.failure, unknown) {
                (None, Some(reason)) => Unverified::Refused(reason),
                (Some(failure), Some(reason)) => {
                    Unverified::Unavailable(format!("{reason}; and it cannot be asked for newer ones: {failure}"))
                }
                (failure, None) => Unverified::Unavailable(format!(
                    "the cluster's public keys are not known: {}",
                    failure.as_deref().unwrap_or("the API server has not answered yet")
                )),
            });
        }
    }

    /// What is known after `asked`, waiting for an answer if it is time to ask again.
    async fn newer(&self, asked: Option<Instant>) -> State {
        let mut state = self.state.clone();
        let of_file = asked.is_none() && state.borrow().keys.is_some();
        if !of_file && asked.is_none_or(|asked| asked.elapsed() >= AT_MOST_EVERY) {
            // The first time, it is being asked already.
            if asked.is_some() {
                self.wanted.notify_one();
            }
            let answered = state.wait_for(|state| state.asked != asked);
            let _ = tokio::time::timeout(ANSWER_TIMEOUT, answered).await;
        }
        self.state.borrow().clone()
    }
}

fn read(path: &Path, issuer: &str) -> Result<KeySet, String> {
    let text = regular_file::read(path).map_err(|error| format!("it cannot be read: {error}"))?;
    KeySet::parse(&text, issuer.to_owned())
}

/// Asks the API server for the keys, for ever.
async fn ask(client: Client, issuer: Option<String>, publish: Publisher, wanted: Arc<Notify>) {
    loop {
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, fetch(&client, issuer.as_deref())).await;
        let answer = answer.unwrap_or_else(|_elapsed| Err("the API server does not answer".to_owned()));
        let pause = if answer.is_ok() { REFRESH } else { RETRY };
        publish.answer(answer, Some(Instant::now()));
        tokio::time::sleep(AT_MOST_EVERY).await;
        let pause = (pause - AT_MOST_EVERY).mul_f64(0.8 + 0.4 * fastrand::f64());
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = wanted.notified() => {}
        }
    }
}

async fn fetch(client: &Client, issuer: Option<&str>) -> Result<KeySet, String> {
    #[derive(Deserialize)]
    struct Discovery {
        issuer: String,
    }
    let issuer = match issuer {
        Some(issuer) => issuer.to_owned(),
        None => {
            let text = get(client, DISCOVERY).await?;
            let found: Discovery =
                serde_json::from_str(&text).map_err(|error| format!("{DISCOVERY} names no issuer: {error}"))?;
            found.issuer
        }
    };
    let text = get(client, KEYS).await?;
    KeySet::parse(text.as_bytes(), issuer).map_err(|error| format!("{KEYS}: {error}"))
}

async fn get(client: &Client, path: &str) -> Result<String, String> {
    let request = http::Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?;
    client.request_text(request).await.map_err(|error| {
        let reason = explain(&error);
        format!("{path} (see deploy/rbac.yaml): {reason}")
    })
}

impl Publisher {
    fn new(first: State, file: Option<PathBuf>) -> Self {
        let (state, problems) = (watch::Sender::new(first), watch::Sender::default());
        Self { state, problems, file: file.map(Arc::new) }
    }

    fn keys(&self, wanted: Arc<Notify>) -> Keys {
        Keys { state: self.state.subscribe(), problems: self.problems.subscribe(), wanted }
    }

    fn answer(&self, answer: Result<KeySet, String>, asked: Option<Instant>) {
        let kept = self.state.borrow().keys.is_some();
        let problem = answer.as_ref().err().map(|reason| self.problem(reason, kept));
        super::tell(&self.problems, problem);
        self.state.send_modify(|state| {
            state.asked = asked;
            match answer {
                Ok(keys) => {
                    if state.keys.as_deref() != Some(&keys) {
                        tracing::info!(
                            issuer = keys.issuer,
                            kids = ?keys.kids(),
                            "public keys for service account tokens"
                        );
                        state.keys = Some(Arc::new(keys));
                    }
                    state.failure = None;
                }
                Err(reason) => state.failure = Some(reason),
            }
        });
    }

    fn problem(&self, reason: &str, kept: bool) -> Problem {
        let field = self.file.is_none().then(|| format!("identify.{METHOD}"));
        let hint = if kept { "the last good ones count" } else { "until then no service account token is accepted" };
        Problem {
            at: Location { file: self.file.clone(), field, ..Location::default() },
            what: format!("the public keys for service account tokens cannot be read: {reason}"),
            hint: Some(hint.to_owned()),
        }
    }
}

/// A token is good for as long as the issuer has the key that signed it: one that has leaked is taken out of the set.
struct SigningKey {
    kid: String,
    key: Arc<Key>,
    state: watch::Receiver<State>,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl SigningKey {
    fn is_there(state: &State, kid: &str, key: &Arc<Key>) -> bool {
        state.keys.as_ref().is_some_and(|keys| keys.has(kid, key))
    }
}

impl Stands for SigningKey {
    fn facts(&self) -> Result<Facts, IdentifyError> {
        if Self::is_there(&self.state.borrow(), &self.kid, &self.key) {
            return Ok(Facts::default());
        }
        let reason = format!("the issuer has withdrawn the key {:?}, which signed the token", self.kid);
        Err(IdentifyError::Refused { method: METHOD, reason })
    }

    fn changes(&self) -> BoxStream<'static, ()> {
        let (kid, key) = (self.kid.clone(), self.key.clone());
        let changes = WatchStream::from_changes(self.state.clone());
        // Most of what comes is the same again, and wakes nobody.
        changes
            .filter_map(move |state| {
                let withdrawn = !Self::is_there(&state, &kid, &key);
                async move { withdrawn.then_some(()) }
            })
            .boxed()
    }
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
