//! What is known of the objects of one kind. Pure: what the watch tells goes in, and which objects are other than before
//! comes out.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;

use crate::model::identity::Labels;

/// An object's name; the namespace is empty for what has none.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
}

/// What counts of an object, as the API server tells it.
#[derive(Debug, Clone, Default)]
pub(super) struct Object {
    pub(super) uid: String,
    pub(super) labels: Labels,
    /// From then on it proves nothing, although it is still there: it is being deleted.
    pub(super) ends: Option<Timestamp>,
}

/// All that is kept of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) uid: Arc<str>,
    pub(super) labels: Arc<Labels>,
    pub(super) ends: Option<Timestamp>,
}

impl Entry {
    fn is(&self, uid: Option<&str>) -> bool {
        uid.is_none_or(|uid| *uid == *self.uid)
    }
}

/// The answer to whether an object is there.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// It is.
    There(&'a Entry),
    /// It is, but it was deleted, and only a finalizer keeps it.
    Ended,
    /// It is not, or one of that name is that has another uid.
    Absent,
}

/// Someone asks the API server for an object that the watch has not told of.
#[derive(Debug)]
struct Question {
    number: u64,
    key: Key,
    uid: Option<Arc<str>>,
    /// The object was deleted, or a list was begun, since: the answer may be older than what the watch has told.
    outdated: bool,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    entries: HashMap<Key, Entry>,
    by_uid: HashMap<Arc<str>, Key>,
    /// The service accounts of pods, by the pod's uid, as far as they were asked for.
    accounts: HashMap<Arc<str>, Arc<str>>,
    /// Those that only the API server's answer to a question has told of. The watch is behind it: what it still tells of
    /// an older object of that name does not count.
    ahead: HashSet<Key>,
    /// What a list has shown so far.
    listing: Option<HashSet<Key>>,
    listed: bool,
    failure: Option<String>,
    questions: Vec<Question>,
    asked: u64,
    /// Pods of one Deployment have the same labels; they are kept once.
    labels: HashSet<Arc<Labels>>,
}

impl Table {
    /// Whether all of them have been listed once. From then on the last that was known counts.
    pub(super) fn is_listed(&self) -> bool {
        self.listed
    }

    /// Whether they are being listed at the moment, so that what is not known may be there.
    pub(super) fn is_listing(&self) -> bool {
        self.listing.is_some()
    }

    /// Why the watch does not work, if so.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    pub(super) fn find(&self, key: &Key, uid: Option<&str>, now: Timestamp) -> Found<'_> {
        match self.entries.get(key).filter(|entry| entry.is(uid)) {
            Some(entry) if entry.ends.is_some_and(|ends| ends <= now) => Found::Ended,
            Some(entry) => Found::There(entry),
            None => Found::Absent,
        }
    }

    pub(super) fn knows(&self, key: &Key) -> bool {
        self.entries.contains_key(key)
    }

    /// When the object of this name ends, if that is known.
    pub(super) fn end_of(&self, key: &Key) -> Option<Timestamp> {
        self.entries.get(key).and_then(|entry| entry.ends)
    }

    /// The name of the object with this uid.
    pub(super) fn by_uid(&self, uid: &str) -> Option<&Key> {
        self.by_uid.get(uid)
    }

    /// The service account of the pod with this uid.
    pub(super) fn account_of(&self, uid: &str) -> Option<Arc<str>> {
        self.accounts.get(uid).cloned()
    }

    /// What the API server has answered to that. It never changes.
    pub(super) fn remember_account(&mut self, uid: &str, account: Arc<str>) {
        if self.by_uid.contains_key(uid) {
            self.accounts.insert(uid.into(), account);
        }
    }

    /// The watch does not work.
    pub(super) fn fails(&mut self, reason: String) {
        self.failure = Some(reason);
    }

    /// A list is about to be asked for. What is known stays until it is complete.
    pub(super) fn begin(&mut self) {
        self.listing = Some(HashSet::new());
        self.ahead.clear();
        self.questions.iter_mut().for_each(|question| question.outdated = true);
    }

    /// The list is complete: gives what is gone.
    pub(super) fn complete(&mut self) -> Vec<Key> {
        (self.listed, self.failure) = (true, None);
        let Some(seen) = self.listing.take() else { return Vec::new() };
        let gone: Vec<Key> = self.entries.keys().filter(|key| !seen.contains(key)).cloned().collect();
        gone.iter().for_each(|key| self.remove(key));
        gone
    }

    /// An object as it is now; says whether anything about it that counts has changed.
    pub(super) fn apply(&mut self, key: Key, object: Object) -> bool {
        if let Some(seen) = &mut self.listing {
            seen.insert(key.clone());
        }
        if self.ahead.contains(&key) {
            let caught_up = self.entries.get(&key).is_none_or(|entry| *entry.uid == *object.uid);
            if !caught_up {
                return false;
            }
            self.ahead.remove(&key);
        }
        self.put(key, object)
    }

    /// An object is gone; says whether it was known.
    pub(super) fn delete(&mut self, key: &Key, uid: &str) -> bool {
        for question in self.questions.iter_mut().filter(|question| question.key == *key) {
            question.outdated |= question.uid.as_deref().is_none_or(|asked| asked == uid);
        }
        // That of another uid has taken its place already.
        if self.entries.get(key).is_none_or(|entry| *entry.uid != *uid) {
            return false;
        }
        self.ahead.remove(key);
        self.remove(key);
        true
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.by_uid.remove(&entry.uid);
            self.accounts.remove(&entry.uid);
        }
    }

    /// The API server is about to be asked for an object; gives the question's number.
    pub(super) fn ask(&mut self, key: Key, uid: Option<Arc<str>>) -> u64 {
        self.asked += 1;
        self.questions.push(Question { number: self.asked, key, uid, outdated: self.is_listing() });
        self.asked
    }

    /// No answer is to be expected any more.
    pub(super) fn forget(&mut self, number: u64) {
        self.questions.retain(|question| question.number != number);
    }

    /// The API server has answered with this object; says whether that counts, and whether it changes anything.
    pub(super) fn answer(&mut self, number: u64, object: Object) -> (bool, bool) {
        let Some(at) = self.questions.iter().position(|question| question.number == number) else {
            return (false, false);
        };
        let Question { key, outdated, .. } = self.questions.swap_remove(at);
        if self.entries.get(&key).is_some_and(|entry| *entry.uid == *object.uid) {
            return (true, false);
        }
        if outdated {
            return (false, false);
        }
        self.ahead.insert(key.clone());
        (true, self.put(key, object))
    }

    fn put(&mut self, key: Key, object: Object) -> bool {
        let Object { uid, labels, ends } = object;
        let same = |entry: &Entry| *entry.uid == *uid && *entry.labels == labels && entry.ends == ends;
        if self.entries.get(&key).is_some_and(same) {
            return false;
        }
        let labels = self.shared(labels);
        match self.entries.get_mut(&key) {
            Some(entry) if *entry.uid == *uid => (entry.labels, entry.ends) = (labels, ends),
            _ => {
                self.remove(&key);
                let uid: Arc<str> = uid.into();
                self.by_uid.insert(uid.clone(), key.clone());
                self.entries.insert(key, Entry { uid, labels, ends });
            }
        }
        true
    }

    fn shared(&mut self, labels: Labels) -> Arc<Labels> {
        if let Some(known) = self.labels.get(&labels) {
            return known.clone();
        }
        // Now and then those go that nobody has any more; as the set doubles between, that costs little on the whole.
        if self.labels.len() == self.labels.capacity() {
            self.labels.retain(|labels| Arc::strong_count(labels) > 1);
        }
        let labels = Arc::new(labels);
        self.labels.insert(labels.clone());
        labels
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
