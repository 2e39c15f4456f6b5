//! What each live stream is subscribed to, what it was sent and what it said to that: for operators. Written by the streams,
//! read by the admin API; the protocol itself decides nothing by it, and there is no key material in it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dashmap::DashMap;
use jiff::Timestamp;

use super::metrics::Protocol;
use super::naming::SecretKind;
use super::state::Verdict;
use super::version::Version;
use crate::model::identity::Identity;

/// Every live stream whose proxy is known. Clones are the same roster.
#[derive(Debug, Clone, Default)]
pub struct Roster {
    streams: Arc<DashMap<u64, Arc<Mutex<StreamRecord>>>>,
    next: Arc<AtomicU64>,
}

/// One live stream.
#[derive(Debug, Clone)]
pub struct StreamRecord {
    /// Which variant of the protocol it speaks.
    pub protocol: Protocol,
    /// Where the connection comes from, for people.
    pub peer: Arc<str>,
    /// `node.id`: a label of the proxy's own choice.
    pub node_id: Arc<str>,
    /// `node.cluster`, likewise.
    pub node_cluster: Arc<str>,
    /// Who it has proven to be.
    pub identity: Arc<Identity>,
    /// Since when.
    pub opened: Timestamp,
    /// The names that it is subscribed to.
    pub names: HashMap<Arc<str>, NameRecord>,
}

/// One subscribed name of one stream.
#[derive(Debug, Clone, Default)]
pub struct NameRecord {
    /// What kind of secret the name means; `None` while it is withheld.
    pub kind: Option<SecretKind>,
    /// The version of the certificate that the proxy has said it holds, as long as nothing has been sent to it
    /// (xds-conformance item 107).
    pub held: Option<Arc<str>>,
    /// The newest version that was sent, and when.
    pub sent: Option<(Version, Timestamp)>,
    /// The newest version that the proxy has acknowledged, and when.
    pub acked: Option<(Version, Timestamp)>,
    /// The newest version that it has rejected, when, and why (redacted); gone with the next acknowledgement.
    pub nacked: Option<(Version, Timestamp, Arc<str>)>,
    /// The number of the response that it has said something of last, in the order of the responses.
    pub(crate) judged: u64,
}

/// A stream's entry; it leaves the roster when this is dropped.
#[derive(Debug)]
pub(crate) struct Listing {
    streams: Arc<DashMap<u64, Arc<Mutex<StreamRecord>>>>,
    id: u64,
    record: Arc<Mutex<StreamRecord>>,
}

impl Roster {
    /// Lists a stream.
    pub(crate) fn enter(&self, record: StreamRecord) -> Listing {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let record = Arc::new(Mutex::new(record));
        self.streams.insert(id, record.clone());
        Listing { streams: self.streams.clone(), id, record }
    }

    /// All of them, in the order in which they were opened.
    pub fn snapshot(&self) -> Vec<StreamRecord> {
        self.select(|_record| true)
    }

    /// Those that are wanted, in that order.
    pub fn select(&self, wanted: impl Fn(&StreamRecord) -> bool) -> Vec<StreamRecord> {
        let mut streams: Vec<_> = self.streams.iter().map(|entry| (*entry.key(), entry.value().clone())).collect();
        streams.sort_unstable_by_key(|(id, _)| *id);
        let copy = |record: &Mutex<StreamRecord>| {
            let record = locked(record);
            wanted(&record).then(|| record.clone())
        };
        streams.into_iter().filter_map(|(_, record)| copy(&record)).collect()
    }
}

impl Listing {
    /// The stream has subscribed to a name; `kind` is `None` if it is withheld.
    pub(crate) fn subscribed(&self, name: &Arc<str>, kind: Option<SecretKind>, held: Option<Arc<str>>) {
        let record = NameRecord { kind, held, ..NameRecord::default() };
        locked(&self.record).names.insert(name.clone(), record);
    }

    /// It is not interested in the name any more.
    pub(crate) fn unsubscribed(&self, name: &str) {
        locked(&self.record).names.remove(name);
    }

    /// It has asked for the name once more, and this is what it means now.
    pub(crate) fn means(&self, name: &str, kind: Option<SecretKind>) {
        if let Some(record) = locked(&self.record).names.get_mut(name) {
            record.kind = kind;
            record.held = None;
        }
    }

    /// It was sent a version. If the name was withheld, it has become known.
    pub(crate) fn sent(&self, name: &str, kind: SecretKind, version: &Version, now: Timestamp) {
        if let Some(record) = locked(&self.record).names.get_mut(name) {
            record.kind = Some(kind);
            record.sent = Some((version.clone(), now));
            record.held = None;
        }
    }

    /// It has said what it thinks of one. What it thinks of a later one is known already: then this is of no interest.
    pub(crate) fn answered(&self, verdict: &Verdict, now: Timestamp) {
        if let Some(record) = locked(&self.record).names.get_mut(&verdict.name)
            && record.judged < verdict.number
        {
            record.judged = verdict.number;
            match &verdict.result {
                Ok(()) => {
                    record.acked = Some((verdict.version.clone(), now));
                    record.nacked = None;
                }
                Err(reason) => record.nacked = Some((verdict.version.clone(), now, reason.as_str().into())),
            }
        }
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        self.streams.remove(&self.id);
    }
}

/// Records are whole after each statement, so one whose writer has panicked is as good as any.
fn locked(record: &Mutex<StreamRecord>) -> MutexGuard<'_, StreamRecord> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::serve::testing::identity;

    #[test]
    fn items_40_and_41_a_late_verdict_on_an_older_response_does_not_hide_that_on_the_newest() {
        let roster = Roster::default();
        let listing = roster.enter(StreamRecord {
            protocol: Protocol::Sotw,
            peer: "peer".into(),
            node_id: "node".into(),
            node_cluster: "cluster".into(),
            identity: Arc::new(identity("web")),
            opened: Timestamp::UNIX_EPOCH,
            names: HashMap::new(),
        });
        listing.subscribed(&"a".into(), Some(SecretKind::Bundle), None);
        let answered = |number: u64, result: Result<(), String>| {
            let (name, kind, version) = ("a".into(), SecretKind::Bundle, number.to_string().as_str().into());
            let verdict = Verdict { number, name, kind, version, result, after: Duration::ZERO };
            listing.answered(&verdict, Timestamp::UNIX_EPOCH);
            let record = roster.snapshot()[0].names["a"].clone();
            let of = |version: Version| version.to_string();
            (record.acked.map(|(version, _)| of(version)), record.nacked.map(|(version, ..)| of(version)))
        };
        let said = |version: &str| Some(version.to_owned());
        assert_eq!(answered(2, Ok(())), (said("2"), None));
        assert_eq!(answered(1, Err("no".to_owned())), (said("2"), None));
        assert_eq!(answered(4, Err("no".to_owned())), (said("2"), said("4")));
        assert_eq!(answered(3, Ok(())), (said("2"), said("4")));
        assert_eq!(answered(5, Ok(())), (said("5"), None));
    }
}
