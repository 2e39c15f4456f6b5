//! What the server knows of the cluster's pods, namespaces and service accounts: their uids and labels, watched, so that a
//! proof ends when the pod or the account behind it does, and so that a label decides which mesh a pod is in.
//!
//! Once listed, the last that was known counts, also while the API server is away: a fleet that reconnects meanwhile is
//! let in.

mod by_uid;
mod ending;
mod kinds;
mod table;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use kube::Client;
use tokio::sync::{Semaphore, watch};

use self::by_uid::Ahead;
use self::kinds::{Kind, MESH};
use self::table::{Found, Key, Table};
use super::IdentifyError;
use super::standing::{Facts, Standing, Stands};
use crate::model::diagnostic::{Location, Problem};
use crate::model::identity::{Labels, Pod};
use crate::runtime::clock::Clock;
use crate::runtime::publish;
use crate::runtime::tasks::Tasks;
use crate::runtime::watch_board::WatchBoard;

/// Questions about single objects under way at once; see the same of token reviews.
const AT_ONCE: usize = 32;

/// Bound on the answer to one, and on the wait for a list that is under way.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A service account, and the pod that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its uid, where the proof names it.
    pub uid: Option<Arc<str>>,
    /// The pod that the proof is bound to.
    pub pod: Option<Pod>,
}

/// Knows whether service accounts and pods are there.
#[async_trait]
pub trait KnowAccounts: fmt::Debug + Send + Sync + 'static {
    /// Waits, for some seconds at most, until accounts and pods are known.
    ///
    /// # Errors
    /// [`IdentifyError::Unavailable`], with the permission that is missing if that is why.
    async fn ready(&self, method: &'static str) -> Result<(), IdentifyError>;

    /// What a proof by `method` that names `account` depends on.
    ///
    /// # Errors
    /// [`IdentifyError`]: the account, its namespace or the pod is gone; or that cannot be told now.
    async fn standing(&self, method: &'static str, account: &Account) -> Result<Standing, IdentifyError>;
}

/// See the module. Clones are the same directory.
#[derive(Debug, Clone)]
pub struct Directory(Arc<Inner>);

struct Inner {
    clock: Clock,
    questions: Questions,
    ahead: Ahead,
    pods: Shelf,
    namespaces: Shelf,
    accounts: Shelf,
    problems: watch::Sender<Arc<Vec<Problem>>>,
}

/// What the API server is asked outside of the watches.
struct Questions {
    client: Client,
    slots: Semaphore,
}

/// Not what it knows: that is all of a cluster, and each proof has a reference to it.
impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory").finish_non_exhaustive()
    }
}

/// The objects of one kind, and who waits for changes of which. The lock is held for lookups only, never across an await.
struct Shelf {
    state: Mutex<State>,
    /// Counts what the watch has told about itself: a list begun or complete, a failure.
    told: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    table: Table,
    /// By object, so that an event wakes the streams of that object and no others. They outlive it as long as somebody follows
    /// it: another of its name may come before its end was heard of, and that one's end is news too.
    bells: HashMap<Key, watch::Sender<()>>,
}

impl State {
    fn ring(&mut self, key: &Key) {
        if let Some(bell) = self.bells.get(key)
            && bell.send(()).is_err()
        {
            self.bells.remove(key);
        }
    }
}

impl Shelf {
    fn new() -> Self {
        Self { state: Mutex::default(), told: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `settled`, for as long as there is hope.
    async fn wait(&self, settled: impl Fn(&Table) -> bool) {
        let mut told = self.told.subscribe();
        let until = told.wait_for(|_| {
            let state = self.lock();
            settled(&state.table) || state.table.failure().is_some()
        });
        let _ = tokio::time::timeout(ANSWER_TIMEOUT, until).await;
    }
}

impl Directory {
    /// Watches the cluster behind `client`, which must allow `get`, `list` and `watch` on pods, namespaces and
    /// serviceaccounts in all of it. `board` is told whether the API server lists them.
    pub fn start(client: Client, clock: Clock, board: &WatchBoard, tasks: &Tasks) -> Self {
        let inner = Inner {
            clock,
            questions: Questions { client: client.clone(), slots: Semaphore::new(AT_ONCE) },
            ahead: Ahead::default(),
            pods: Shelf::new(),
            namespaces: Shelf::new(),
            accounts: Shelf::new(),
            problems: watch::Sender::default(),
        };
        let directory = Self(Arc::new(inner));
        kinds::watch_all(&directory, client, board, tasks);
        directory
    }

    /// Which kinds of objects cannot be watched at the moment.
    pub fn problems(&self) -> watch::Receiver<Arc<Vec<Problem>>> {
        self.0.problems.subscribe()
    }
}

impl Inner {
    fn shelf(&self, kind: Kind) -> &Shelf {
        match kind {
            Kind::Pod => &self.pods,
            Kind::Namespace => &self.namespaces,
            Kind::ServiceAccount => &self.accounts,
        }
    }

    /// Makes sure that an object is known, if it is there: one that was just made may not have come by the watch yet.
    async fn look_up(&self, method: &'static str, subject: &Subject) -> Result<(), IdentifyError> {
        let Subject { kind, key, uid } = subject;
        let shelf = self.shelf(*kind);
        let known = || match shelf.lock().table.find(key, uid.as_deref(), self.clock.now()) {
            Found::There(_) => Some(Ok(())),
            Found::Ended => Some(Err(subject.gone(method))),
            Found::Absent => None,
        };
        if let Some(known) = known() {
            return known;
        }
        shelf.wait(|table| table.is_listed() && !table.is_listing()).await;
        if let Some(known) = known() {
            return known;
        }
        self.unlisted(method, *kind)?;
        let unavailable = |reason: String| IdentifyError::Unavailable { method, reason };
        if shelf.lock().table.is_listing() {
            return Err(unavailable(format!(
                "{subject} is not known, and the {} are being listed anew",
                kind.plural()
            )));
        }
        let number = shelf.lock().table.ask(key.clone(), uid.clone());
        let asked = tokio::time::timeout(ANSWER_TIMEOUT, async {
            let _slot = self.questions.slots.acquire().await.map_err(|closed| closed.to_string())?;
            kind.ask(&self.questions.client, key).await
        });
        let answer = asked.await.unwrap_or_else(|_elapsed| Err("the API server does not answer".to_owned()));
        let mut state = shelf.lock();
        match answer {
            Ok(Some(object)) if uid.as_deref().is_none_or(|uid| *uid == *object.uid) => {
                let (counts, changed) = state.table.answer(number, object);
                if changed {
                    state.ring(key);
                }
                if !counts {
                    return Err(unavailable(format!("{subject} changes right now")));
                }
                match state.table.find(key, uid.as_deref(), self.clock.now()) {
                    Found::There(_) => Ok(()),
                    Found::Ended | Found::Absent => Err(subject.gone(method)),
                }
            }
            Ok(_) => {
                state.table.forget(number);
                Err(subject.gone(method))
            }
            Err(reason) => {
                state.table.forget(number);
                Err(unavailable(format!("{subject} is not known yet, and cannot be looked up: {reason}")))
            }
        }
    }

    /// Publishes why kinds of objects cannot be watched. The watches log it.
    fn report(&self) {
        let problem = |kind: Kind| {
            let state = self.shelf(kind).lock();
            let (failure, plural) = (state.table.failure()?, kind.plural());
            let what = if state.table.is_listed() {
                format!("cannot be watched, what was known last counts: {failure}")
            } else {
                format!("cannot be listed, so that no proof that depends on them is accepted: {failure}")
            };
            let hint = format!(
                "the server must be allowed to get, list and watch {plural} in all namespaces, see deploy/rbac.yaml"
            );
            let at = Location { resource: Some(format!("the cluster's {plural}")), ..Location::default() };
            Some(Problem { at, what, hint: Some(hint) })
        };
        publish::if_changed(&self.problems, Kind::ALL.into_iter().filter_map(problem).collect());
    }

    /// Why objects of a kind are not known at all, if so.
    fn unlisted(&self, method: &'static str, kind: Kind) -> Result<(), IdentifyError> {
        let state = self.shelf(kind).lock();
        if state.table.is_listed() {
            return Ok(());
        }
        let plural = kind.plural();
        let reason = match state.table.failure() {
            Some(failure) => format!("the cluster's {plural} are not known (see deploy/rbac.yaml): {failure}"),
            None => format!("the cluster's {plural} are not listed yet"),
        };
        Err(IdentifyError::Unavailable { method, reason })
    }
}

#[async_trait]
impl KnowAccounts for Directory {
    async fn ready(&self, method: &'static str) -> Result<(), IdentifyError> {
        for kind in Kind::ALL {
            self.0.shelf(kind).wait(Table::is_listed).await;
            self.0.unlisted(method, kind)?;
        }
        Ok(())
    }

    async fn standing(&self, method: &'static str, account: &Account) -> Result<Standing, IdentifyError> {
        let namespace = account.namespace.clone();
        let key = |name: &Arc<str>| Key { namespace: namespace.clone(), name: name.clone() };
        let stands = Dependence {
            method,
            directory: self.0.clone(),
            namespace: Subject {
                kind: Kind::Namespace,
                key: Key { namespace: "".into(), name: namespace.clone() },
                uid: None,
            },
            account: Subject { kind: Kind::ServiceAccount, key: key(&account.name), uid: account.uid.clone() },
            pod: account.pod.as_ref().map(|pod| Subject {
                kind: Kind::Pod,
                key: key(&pod.name),
                uid: Some(pod.uid.clone()),
            }),
        };
        for subject in stands.subjects() {
            self.0.look_up(method, subject).await?;
        }
        Ok(Standing::on(Arc::new(stands)))
    }
}

/// An object that a proof depends on.
#[derive(Debug)]
struct Subject {
    kind: Kind,
    key: Key,
    uid: Option<Arc<str>>,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, key: Key { namespace, name }, uid } = self;
        let slash = if namespace.is_empty() { "" } else { "/" };
        write!(f, "the {} {namespace}{slash}{name}", kind.noun())?;
        uid.iter().try_for_each(|uid| write!(f, " with the uid {uid}"))
    }
}

impl Subject {
    fn gone(&self, method: &'static str) -> IdentifyError {
        IdentifyError::Refused { method, reason: format!("{self} is gone") }
    }
}

/// What a proof depends on that names an account, and maybe a pod of it.
#[derive(Debug)]
struct Dependence {
    method: &'static str,
    directory: Arc<Inner>,
    namespace: Subject,
    account: Subject,
    pod: Option<Subject>,
}

impl Dependence {
    fn subjects(&self) -> impl Iterator<Item = &Subject> {
        [&self.namespace, &self.account].into_iter().chain(&self.pod)
    }

    fn labels_of(&self, subject: &Subject) -> Result<Arc<Labels>, IdentifyError> {
        let state = self.directory.shelf(subject.kind).lock();
        match state.table.find(&subject.key, subject.uid.as_deref(), self.directory.clock.now()) {
            Found::There(entry) => Ok(entry.labels.clone()),
            Found::Ended | Found::Absent => Err(subject.gone(self.method)),
        }
    }
}

impl Stands for Dependence {
    fn facts(&self) -> Result<Facts, IdentifyError> {
        let namespace = self.labels_of(&self.namespace)?;
        self.labels_of(&self.account)?;
        let labels = self.pod.as_ref().map(|pod| self.labels_of(pod)).transpose()?.unwrap_or_default();
        // An empty one assigns nothing, as in Kuma.
        let assigned = |labels: &Labels| labels.get(MESH).filter(|mesh| !mesh.is_empty()).cloned();
        let mesh = match (assigned(&labels), assigned(&namespace)) {
            // Whoever may make pods in a namespace chooses their labels, and not where the namespace belongs.
            (Some(pod), Some(namespace)) if pod != namespace => {
                let reason =
                    format!("the label kuma.io/mesh of its pod is {pod:?}, but that of its namespace is {namespace:?}");
                return Err(IdentifyError::Forbidden(reason));
            }
            (pod, namespace) => pod.or(namespace),
        };
        Ok(Facts { mesh, labels })
    }

    fn changes(&self) -> BoxStream<'static, ()> {
        let of = |subject: &Subject| self.directory.changes(subject.kind, &subject.key);
        stream::select_all(self.subjects().map(of)).boxed()
    }
}

#[cfg(test)]
mod tests;
