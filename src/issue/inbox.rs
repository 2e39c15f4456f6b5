//! What the worker is to hear, until it listens.
//!
//! Not a queue of messages, which would grow without bound while streams come and go faster than the worker turns, but a
//! note for each proxy. Whoever comes and goes between two looks of the worker leaves no more than the fact. So there is
//! never more in here than the proxies that are remembered, the subscriptions that are open, and those that were when the
//! worker last looked.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::subscribers::ReportId;
use crate::model::held::HeldLeaf;
use crate::model::identity::ProxyKey;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    /// A lock, because it is held for a moment and never across an await.
    notes: Mutex<Notes>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Notes {
    by_proxy: HashMap<ProxyKey, Note>,
    /// Those that have a note, the one that has waited longest first.
    order: VecDeque<ProxyKey>,
}

/// What has happened to one proxy since the worker last looked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Note {
    /// New subscriptions that came with a report.
    pub(super) reports: Vec<(ReportId, HeldLeaf)>,
    /// New ones without.
    pub(super) come: usize,
    /// Subscriptions that the worker knows of, and that have ended: those that came with a report...
    pub(super) withdrawn: Vec<ReportId>,
    /// ...and those without.
    pub(super) gone: usize,
    /// Others have come and gone.
    pub(super) passed: bool,
    /// An operator wants another certificate.
    pub(super) rotate: bool,
}

impl Inbox {
    /// Somebody subscribes.
    pub(super) fn wanted(&self, key: &ProxyKey, report: Option<(ReportId, HeldLeaf)>) {
        self.note(key, |note| match report {
            Some(report) => note.reports.push(report),
            None => note.come += 1,
        });
    }

    /// A subscription has ended, which came with this report.
    pub(super) fn unwanted(&self, key: &ProxyKey, report: Option<ReportId>) {
        self.note(key, |note| {
            note.passed |= match report {
                // There are no more of these than a proxy may have streams.
                Some(id) => match note.reports.iter().position(|(known, _)| *known == id) {
                    Some(position) => {
                        note.reports.swap_remove(position);
                        true
                    }
                    None => {
                        note.withdrawn.push(id);
                        false
                    }
                },
                None if note.come > 0 => {
                    note.come -= 1;
                    true
                }
                None => {
                    note.gone += 1;
                    false
                }
            };
        });
    }

    /// An operator wants another certificate for the proxy.
    pub(super) fn rotate(&self, key: &ProxyKey) {
        self.note(key, |note| note.rotate = true);
    }

    /// The notes of up to `most` proxies, those that have waited longest.
    pub(super) fn take(&self, most: usize) -> Vec<(ProxyKey, Note)> {
        let mut notes = self.lock();
        let count = most.min(notes.order.len());
        let keys: Vec<ProxyKey> = notes.order.drain(..count).collect();
        keys.into_iter().filter_map(|key| notes.by_proxy.remove_entry(&key)).collect()
    }

    /// Waits until there is something to take. If there is already, the other tasks come first.
    pub(super) async fn wait(&self) {
        loop {
            if self.len() > 0 {
                return tokio::task::yield_now().await;
            }
            self.news.notified().await;
        }
    }

    /// How many proxies there are notes for.
    pub(super) fn len(&self) -> usize {
        self.lock().order.len()
    }

    fn note(&self, key: &ProxyKey, write: impl FnOnce(&mut Note)) {
        let mut notes = self.lock();
        match notes.by_proxy.get_mut(key) {
            Some(note) => write(note),
            None => {
                let mut note = Note::default();
                write(&mut note);
                notes.by_proxy.insert(key.clone(), note);
                notes.order.push_back(key.clone());
                drop(notes);
                self.news.notify_one();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::identity::Instance;
    use crate::testing::certs::timestamp;

    fn key(name: &str) -> ProxyKey {
        ProxyKey {
            mesh: "default".into(),
            spiffe_id: format!("spiffe://default/{name}").into(),
            identity_policy: None,
            instance: Instance::Proven(name.into()),
        }
    }

    fn leaf() -> HeldLeaf {
        HeldLeaf {
            not_before: timestamp(0),
            not_after: timestamp(100),
            policy_digest: "policy".into(),
            anchor: "anchor".into(),
            content: "content".into(),
        }
    }

    #[test]
    fn who_has_waited_longest_is_first_and_has_one_note() {
        let inbox = Inbox::default();
        inbox.wanted(&key("web"), None);
        inbox.wanted(&key("api"), None);
        inbox.rotate(&key("web"));
        let notes = inbox.take(1);
        assert_eq!(notes, [(key("web"), Note { come: 1, rotate: true, ..Note::default() })]);
        assert_eq!(inbox.take(9), [(key("api"), Note { come: 1, ..Note::default() })]);
        assert_eq!((inbox.take(9), inbox.len()), (vec![], 0));
    }

    #[test]
    fn coming_and_going_without_end_leaves_one_empty_note() {
        let inbox = Inbox::default();
        for id in 0..10_000 {
            inbox.wanted(&key("web"), None);
            inbox.wanted(&key("web"), Some((ReportId(id), leaf())));
            inbox.unwanted(&key("web"), Some(ReportId(id)));
            inbox.unwanted(&key("web"), None);
        }
        assert_eq!(inbox.take(9), [(key("web"), Note { passed: true, ..Note::default() })]);
        // The worker knows of one of each; these take the place of nobody that comes.
        inbox.unwanted(&key("web"), None);
        inbox.unwanted(&key("web"), Some(ReportId(3)));
        inbox.wanted(&key("web"), None);
        let note = Note { gone: 1, withdrawn: vec![ReportId(3)], come: 1, ..Note::default() };
        assert_eq!(inbox.take(9), [(key("web"), note)]);
    }

    #[tokio::test]
    async fn waiting_ends_when_there_is_something() {
        let inbox = Inbox::default();
        assert!(futures::poll!(std::pin::pin!(inbox.wait())).is_pending());
        let (waited, ()) = tokio::join!(inbox.wait(), async { inbox.rotate(&key("web")) });
        let () = waited;
        inbox.wait().await;
        assert_eq!(inbox.len(), 1);
    }
}
