//! The certificate manager's handle: ask for a proxy's certificate, and watch it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use jiff::Timestamp;
use tokio::sync::watch;

use super::inbox::Inbox;
use super::progress::Board;
use super::signing_cas::SigningCas;
use super::subscribers::ReportId;
use crate::model::held::HeldLeaf;
use crate::model::identity::{Identity, ProxyKey};
use crate::model::svid::Svid;

/// Keeps every wanted proxy's certificate issued and renewed. Cheap to clone; the work is done by one task.
#[derive(Debug, Clone)]
pub struct Manager {
    pub(super) slots: Slots,
    pub(super) inbox: Arc<Inbox>,
    pub(super) next_report: Arc<AtomicU64>,
    pub(super) progress: Board,
    pub(super) signing_cas: SigningCas,
}

/// What is held for each proxy. Written by the worker alone, but for the creation of a slot.
pub(super) type Slots = Arc<DashMap<ProxyKey, Slot>>;

/// What is held for one proxy.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) current: watch::Sender<Option<Arc<Svid>>>,
    pub(super) status: Status,
    /// The leaf of `status.held_until`, as it was reported.
    pub(super) held: Option<HeldLeaf>,
}

/// How a proxy's certificate is doing, for operators.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// When the next attempt is due: renewal, or the retry after a failure.
    pub next: Option<Timestamp>,
    /// Why the last attempt failed; `None` after a good one.
    pub error: Option<String>,
    /// The proxy has reported a leaf that this server stands by, and there is none in memory: until when that one is usable.
    /// Its serial is not known here.
    pub held_until: Option<Timestamp>,
    /// It failed because of what the mesh trusts, so a change of that is reason enough to try again.
    pub(super) wants_other_trust: bool,
}

/// A subscription to a proxy's certificate; while one of them lives, the certificate is issued and renewed.
#[derive(Debug)]
pub struct Subscription {
    /// `None` until the first is issued, then always the newest good one. It may stay `None` for long where the subscriber
    /// has reported a leaf that is good.
    pub current: watch::Receiver<Option<Arc<Svid>>>,
    /// What is in `current` at first is not for this subscriber, which reports that it holds a newer one. It is announced
    /// again if the server does not stand by that.
    pub shows_changes_only: bool,
    /// Tells the manager when it is dropped.
    pub interest: Interest,
}

/// See [`Subscription::interest`].
#[derive(Debug)]
pub struct Interest {
    key: ProxyKey,
    report: Option<ReportId>,
    inbox: Arc<Inbox>,
}

impl Drop for Interest {
    fn drop(&mut self) {
        self.inbox.unwanted(&self.key, self.report);
    }
}

impl Manager {
    /// Subscribes to the certificate of `identity`'s proxy, which says that it holds the leaf `held`. If the server stands by
    /// that (see [`super::resume`]) and has no leaf for the proxy in memory, nothing is issued before it is due.
    pub fn subscribe(&self, identity: &Identity, held: Option<&HeldLeaf>) -> Subscription {
        let key = identity.proxy_key();
        let slot = self.slots.entry(key.clone());
        let slot = slot.or_default();
        let current = slot.current.subscribe();
        // Under the slot's lock: what comes later is a change.
        let is_newer = |held: &HeldLeaf| current.borrow().as_ref().is_some_and(|svid| held.is_newer_than(svid));
        let shows_changes_only = held.is_some_and(is_newer);
        drop(slot);
        let reported = held.map(|leaf| (ReportId(self.next_report.fetch_add(1, Ordering::Relaxed)), leaf.clone()));
        let report = reported.as_ref().map(|(id, _)| *id);
        self.inbox.wanted(&key, reported);
        Subscription { current, shows_changes_only, interest: Interest { key, report, inbox: self.inbox.clone() } }
    }

    /// Renews the certificates of these proxies now, whenever they are due; those that are being issued already are left as
    /// they are. Those that nobody wants at the moment are renewed when somebody comes who does, as long as they are
    /// remembered; a proxy that is not known here is passed over.
    pub fn rotate(&self, proxies: Vec<ProxyKey>) {
        for key in proxies {
            self.inbox.rotate(&key);
        }
    }

    /// Every proxy's certificate and status, ordered.
    pub fn snapshot(&self) -> BTreeMap<ProxyKey, (Option<Arc<Svid>>, Status)> {
        self.slots
            .iter()
            .map(|slot| (slot.key().clone(), (slot.current.borrow().clone(), slot.status.clone())))
            .collect()
    }
}
