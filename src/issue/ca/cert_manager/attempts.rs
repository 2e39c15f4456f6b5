//! The calls of `sign` that are under way, and what is known of the object of each. No I/O and no waiting: the watch
//! feeds it, `sign` listens to it.
//!
//! A call is registered under an attempt id before anything is sent, and the object carries the id. So an event that
//! overtakes the answer to the POST finds its waiter, and an object whose POST was never answered is found again. An
//! object of ours that belongs to no call is wanted by nobody, and is deleted.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::api::ObjectMeta;
use kube::runtime::watcher::Event;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::cleanup::Cleaner;
use super::observed::Observed;
use super::outcome::{RequestState, classify};
use super::resource::attempt_of;
use super::{ObjectRef, random_id};

/// What a call of `sign` gets to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Progress {
    /// The object has not been seen yet.
    Unseen,
    /// The object was seen. A final state stays, whatever happens to the object later.
    Seen(RequestState),
    /// Somebody else has deleted the object before it was answered.
    Deleted,
    /// The POST came to nothing: it was not answered, and a list that began well after it does not have the object.
    NeverCreated,
}

impl Progress {
    fn is_final(&self) -> bool {
        !matches!(self, Self::Unseen | Self::Seen(RequestState::Pending { .. }))
    }
}

/// All calls of `sign` under way.
pub(super) struct Attempts {
    open: Mutex<HashMap<Arc<str>, Entry>>,
    relist: Notify,
    cleaner: Cleaner,
}

struct Entry {
    tell: watch::Sender<Progress>,
    object: Object,
    /// In a re-list: known to exist before it began, and not come up in it yet.
    missing: bool,
    /// A list has begun while the POST was on its way.
    listed_early: bool,
}

enum Object {
    /// The POST is on its way; a list that does not have the object says nothing.
    Posted,
    /// The POST failed in a way that leaves open whether it was carried out. A list that begins after this moment and
    /// does not have the object settles it.
    Doubtful(Instant),
    Exists(ObjectRef),
    Gone,
}

impl Attempts {
    pub(super) fn new(cleaner: Cleaner) -> Self {
        Self { open: Mutex::default(), relist: Notify::new(), cleaner }
    }

    /// Registers a call.
    pub(super) fn open(self: &Arc<Self>) -> Attempt {
        let id: Arc<str> = random_id(16).into();
        let (tell, progress) = watch::channel(Progress::Unseen);
        self.lock().insert(id.clone(), Entry { tell, object: Object::Posted, missing: false, listed_early: false });
        Attempt { id, progress, attempts: self.clone() }
    }

    /// Whether no call is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Resolves when a call wants the watch to begin anew.
    pub(super) async fn relist_wanted(&self) {
        self.relist.notified().await;
    }

    /// Takes in what the watch tells.
    pub(super) fn on_event(&self, event: Event<Observed>) {
        match event {
            Event::Init => self.list_begins(),
            Event::InitApply(object) | Event::Apply(object) => self.seen(object),
            Event::InitDone => self.list_ends(),
            Event::Delete(object) => self.deleted(&object.metadata),
        }
    }

    fn list_begins(&self) {
        let now = Instant::now();
        for entry in self.lock().values_mut() {
            entry.listed_early |= matches!(entry.object, Object::Posted);
            entry.missing = match entry.object {
                Object::Exists(_) => true,
                Object::Doubtful(until) => until <= now,
                Object::Posted | Object::Gone => false,
            };
        }
    }

    fn list_ends(&self) {
        for entry in self.lock().values_mut() {
            if !std::mem::take(&mut entry.missing) {
                continue;
            }
            let progress = match std::mem::replace(&mut entry.object, Object::Gone) {
                Object::Exists(_) => Progress::Deleted,
                _ => Progress::NeverCreated,
            };
            entry.told(progress);
        }
    }

    fn seen(&self, Observed { metadata, status }: Observed) {
        let state = match status {
            Ok(status) => classify(status),
            // It stays visible as pending until someone mends it.
            Err(why) => RequestState::Pending { reason: "Unreadable".to_owned(), message: why },
        };
        let Some(found) = ObjectRef::of(&metadata) else { return };
        let mut open = self.lock();
        match attempt_of(&metadata).and_then(|id| open.get_mut(id)) {
            Some(entry) => {
                entry.missing = false;
                entry.object = Object::Exists(found);
                entry.told(Progress::Seen(state));
            }
            None => {
                drop(open);
                self.cleaner.delete(found);
            }
        }
    }

    fn deleted(&self, metadata: &ObjectMeta) {
        let mut open = self.lock();
        if let Some(entry) = attempt_of(metadata).and_then(|id| open.get_mut(id)) {
            (entry.object, entry.missing) = (Object::Gone, false);
            entry.told(Progress::Deleted);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Entry>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn told(&self, progress: Progress) {
        self.tell.send_if_modified(|current| {
            let news = !current.is_final() && *current != progress;
            if news {
                *current = progress;
            }
            news
        });
    }
}

impl fmt::Debug for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempts").field("open", &self.lock().len()).finish_non_exhaustive()
    }
}

/// One call of `sign`. Dropping it, for whatever reason, deletes the object.
#[derive(Debug)]
pub(super) struct Attempt {
    id: Arc<str>,
    pub(super) progress: watch::Receiver<Progress>,
    attempts: Arc<Attempts>,
}

impl Attempt {
    /// The id that the object carries.
    pub(super) fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// The POST was answered with the object.
    pub(super) fn created(&self, metadata: &ObjectMeta) {
        if let (Some(entry), Some(created)) = (self.attempts.lock().get_mut(&self.id), ObjectRef::of(metadata)) {
            // The watch may have told more already, even that the object is gone again.
            if matches!(entry.object, Object::Posted) {
                entry.object = Object::Exists(created);
                // It may have come and gone before that list: then no event would ever tell.
                if entry.listed_early {
                    self.settle();
                }
            }
        }
    }

    /// The POST failed, and may have been carried out all the same, or still be until `until`.
    pub(super) fn doubtful(&self, until: Instant) {
        if let Some(entry) = self.attempts.lock().get_mut(&self.id)
            && matches!(entry.object, Object::Posted)
        {
            entry.object = Object::Doubtful(until);
        }
    }

    /// Has the watch list everything anew, which settles doubts that have ripened.
    pub(super) fn settle(&self) {
        self.attempts.relist.notify_one();
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let entry = self.attempts.lock().remove(&self.id);
        if let Some(Entry { object: Object::Exists(object), tell, .. }) = entry {
            if tell.borrow().is_final() {
                self.attempts.cleaner.delete_answered(object);
            } else {
                self.attempts.cleaner.delete(object);
            }
        }
    }
}
