//! The pod behind a uid, which is all that the control groups of a process tell.
//!
//! Its service account is not in a pod's metadata, so the API server is asked for it, once: it never changes. And it has
//! no way to ask for a uid: for a pod that the watch does not know, all are listed, for all who wait, and not often.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::kinds::{self, Kind};
use super::table::Key;
use super::{ANSWER_TIMEOUT, Account, Directory, Inner, KnowAccounts};
use crate::identify::IdentifyError;
use crate::identify::pods::{FindPods, FoundPod};
use crate::model::identity::{Pod, Workload};

const METHOD: &str = "unixPeer";

/// Pods are listed at most so often for those that the watch does not know.
const LIST_AT_MOST_EVERY: Duration = Duration::from_secs(10);

/// Pods that a list has shown and the watch did not know then.
#[derive(Debug)]
pub(super) struct Ahead {
    /// Of whoever lists.
    turn: Semaphore,
    last: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    begun: Option<Instant>,
    complete: bool,
    pods: HashMap<String, Key>,
}

impl Default for Ahead {
    fn default() -> Self {
        Self { turn: Semaphore::new(1), last: Mutex::default() }
    }
}

impl Ahead {
    fn last(&self) -> MutexGuard<'_, List> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn known(&self, uid: &str) -> Option<Key> {
        self.pods.lock().table.by_uid(uid).cloned()
    }

    /// The name of a pod that the watch does not know, by a list that is begun after this is called.
    async fn listed(&self, uid: &str) -> Result<Option<Key>, String> {
        let asked = Instant::now();
        let _turn = self.ahead.turn.acquire().await.map_err(|closed| closed.to_string())?;
        // By what came while it was another's turn.
        if let Some(key) = self.known(uid) {
            return Ok(Some(key));
        }
        {
            let mut last = self.ahead.last();
            if let Some(key) = last.pods.get(uid) {
                return Ok(Some(key.clone()));
            }
            match last.begun {
                Some(begun) if begun > asked && last.complete => return Ok(None),
                Some(begun) if begun.elapsed() < LIST_AT_MOST_EVERY => {
                    return Err("the pod was not known when pods were listed, some seconds ago".to_owned());
                }
                _ => (last.begun, last.complete) = (Some(Instant::now()), false),
            }
        }
        let mut pods = kinds::list_pods(&self.questions.client).await?;
        {
            let state = self.pods.lock();
            pods.retain(|uid, _| state.table.by_uid(uid).is_none());
        }
        let key = self.known(uid).or_else(|| pods.get(uid).cloned());
        let mut last = self.ahead.last();
        (last.pods, last.complete) = (pods, true);
        Ok(key)
    }

    /// The service account of a pod, if it still is there.
    async fn account_of(&self, key: &Key, uid: &str) -> Result<Option<Arc<str>>, String> {
        if let Some(account) = self.pods.lock().table.account_of(uid) {
            return Ok(Some(account));
        }
        let _slot = self.questions.slots.acquire().await.map_err(|closed| closed.to_string())?;
        kinds::account_of(&self.questions.client, key, uid).await
    }
}

async fn in_time<T>(answer: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, answer).await;
    answer.unwrap_or_else(|_elapsed| Err("the API server does not answer".to_owned()))
}

#[async_trait]
impl FindPods for Directory {
    async fn by_uid(&self, uid: &str) -> Result<Option<FoundPod>, String> {
        let pods = self.0.shelf(Kind::Pod);
        pods.wait(|table| table.is_listed() && (!table.is_listing() || table.by_uid(uid).is_some())).await;
        self.0.unlisted(METHOD, Kind::Pod).map_err(|error| error.to_string())?;
        let key = match self.0.known(uid) {
            Some(key) => Some(key),
            None => in_time(self.0.listed(uid)).await?,
        };
        let Some(key) = key else { return Ok(None) };
        let Some(name) = in_time(self.0.account_of(&key, uid)).await? else { return Ok(None) };
        let pod = Pod { name: key.name, uid: uid.into() };
        let account = Account { namespace: key.namespace, name, uid: None, pod: Some(pod) };
        let standing = match self.standing(METHOD, &account).await {
            Ok(standing) => standing,
            Err(IdentifyError::Unavailable { reason, .. }) => return Err(reason),
            Err(_gone) => return Ok(None),
        };
        let Account { namespace, name, pod, .. } = account;
        pods.lock().table.remember_account(uid, name.clone());
        let workload = Workload { namespace: Some(namespace), service_account: Some(name), pod, ..Workload::default() };
        Ok(Some(FoundPod { workload, standing }))
    }
}
