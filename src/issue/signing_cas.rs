//! The CA certificates that leaves lead through, roots and intermediates, for operators who want to hear of it before one ends.
//! A proxy that reports a leaf names its anchor, and says nothing of the intermediates, which are in no bundle. So what has signed
//! is kept for the next start, or a server that has just started would know of no end until it has renewed the leaves.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::manager::Slot;
use crate::model::certificate::{Certificate, Validity};
use crate::model::held::HeldLeaf;
use crate::model::svid::Svid;
use crate::runtime::clock::Clock;
use crate::runtime::state_dir::{StateDir, StateFile};
use crate::runtime::tasks::Tasks;

const FORMAT: u32 = 1;

/// It is written no more often than this: a crash loses what was issued since.
const KEPT_EVERY: Duration = Duration::from_secs(60);

/// The most that are known of one mesh. A CA with a new certificate for each leaf must not fill memory and disk.
const MOST: usize = 256;

/// A CA certificate that leaves lead through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningCa {
    /// Its subject.
    pub subject: Arc<str>,
    /// When it is valid.
    pub validity: Validity,
}

impl SigningCa {
    /// Puts this one in the place of `first`, if it ends sooner.
    fn compare(first: &mut Option<Self>, subject: &str, validity: Validity) {
        if first.as_ref().is_none_or(|first| validity.not_after < first.validity.not_after) {
            *first = Some(Self { subject: subject.into(), validity });
        }
    }
}

/// A CA certificate, as the leaves of one anchor lead through it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Used {
    /// Which certificate it is: its [`Certificate::short_digest`].
    digest: Arc<str>,
    /// The same of the CA in the trust bundle, which may be this one.
    anchor: Arc<str>,
    subject: Arc<str>,
    not_before: Timestamp,
    not_after: Timestamp,
    /// When the last of the leaves ends.
    until: Timestamp,
}

/// Those of each mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known(BTreeMap<Arc<str>, Vec<Used>>);

impl Known {
    /// A leaf was issued. Says whether that is worth keeping.
    fn note(&mut self, mesh: &Arc<str>, svid: &Svid) -> bool {
        let (anchor, until) = (svid.anchor.short_digest(), svid.usable_until());
        let known = self.0.entry(mesh.clone()).or_default();
        let mut is_news = false;
        for ca in chain_of(svid) {
            let digest = ca.short_digest();
            if let Some(used) = known.iter_mut().find(|used| *used.digest == *digest && *used.anchor == *anchor) {
                is_news |= used.until < until;
                used.until = used.until.max(until);
                continue;
            }
            let Validity { not_before, not_after } = ca.validity();
            let (digest, anchor) = (digest.into(), anchor.as_str().into());
            known.push(Used { digest, anchor, subject: ca.subject().into(), not_before, not_after, until });
            is_news = true;
        }
        while known.len() > MOST {
            // The one that is of the least interest.
            let last = known.iter().enumerate().max_by_key(|(_, used)| used.not_after).map(|(index, _)| index);
            last.map(|last| known.swap_remove(last));
        }
        is_news
    }

    /// Forgets what no leaf needs any more that is good at `now`.
    fn prune(&mut self, now: Timestamp) {
        for known in self.0.values_mut() {
            known.retain(|used| used.until >= now);
        }
        self.0.retain(|_, known| !known.is_empty());
    }

    /// What a leaf that a proxy of `mesh` holds may lead through. It ends no later than the last that was issued by way of a CA;
    /// when an intermediate has a successor, that tells their leaves apart.
    fn of_held(&self, mesh: &str, leaf: &HeldLeaf) -> impl Iterator<Item = &Used> {
        let until = leaf.not_after.saturating_sub(KEPT_EVERY).unwrap_or(leaf.not_after);
        let (anchor, known) = (leaf.anchor.clone(), self.0.get(mesh));
        known.into_iter().flatten().filter(move |used| used.anchor == anchor && until <= used.until)
    }

    /// Compares what the leaf of a proxy of `mesh` leads through with `first`, which becomes the one that ends first.
    pub(super) fn compare(&self, first: &mut Option<SigningCa>, mesh: &str, slot: &Slot) {
        if let Some(svid) = slot.current.borrow().as_deref() {
            for ca in chain_of(svid) {
                SigningCa::compare(first, ca.subject(), ca.validity());
            }
        } else if let Some(leaf) = slot.held.as_ref().filter(|_| slot.status.held_until.is_some()) {
            for Used { subject, not_before, not_after, .. } in self.of_held(mesh, leaf) {
                SigningCa::compare(first, subject, Validity { not_before: *not_before, not_after: *not_after });
            }
        }
    }
}

/// All CA certificates that a leaf leads through, its anchor included.
fn chain_of(svid: &Svid) -> impl Iterator<Item = &Certificate> {
    svid.intermediates.iter().chain([&svid.anchor])
}

/// Where the worker notes them, and pages and metrics read them. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct SigningCas {
    known: Arc<Mutex<Known>>,
    news: Arc<Notify>,
}

impl SigningCas {
    /// Begins with what was kept in `state_dir`, and keeps what is noted.
    pub(super) fn start(state_dir: &StateDir, clock: Clock, tasks: &Tasks) -> Self {
        let mut file = StateFile::new(state_dir, "signing-cas.json", "which CAs leaves lead through", FORMAT);
        let known = file.recall().unwrap_or_default();
        let this = Self { known: Arc::new(Mutex::new(known)), news: Arc::default() };
        tasks.spawn_to_end(this.clone().keep(file, clock, tasks.shutdown().clone()));
        this
    }

    /// A leaf of a proxy of `mesh` was issued.
    pub(super) fn note(&self, mesh: &Arc<str>, svid: &Svid) {
        if self.lock().note(mesh, svid) {
            self.news.notify_one();
        }
    }

    /// What is known now.
    pub(super) fn known(&self) -> Known {
        self.lock().clone()
    }

    async fn keep(self, mut file: StateFile, clock: Clock, shutdown: CancellationToken) {
        while shutdown.run_until_cancelled(self.news.notified()).await.is_some() {
            self.write(&mut file, &clock);
            shutdown.run_until_cancelled(tokio::time::sleep(KEPT_EVERY)).await;
        }
        if self.news.notified().now_or_never().is_some() {
            self.write(&mut file, &clock);
        }
    }

    fn write(&self, file: &mut StateFile, clock: &Clock) {
        self.lock().prune(clock.now());
        if !file.keep(&self.known()) {
            // Tried again.
            self.news.notify_one();
        }
    }

    /// Lists are whole after each statement, so a writer that has panicked left nothing broken.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "signing_cas_tests.rs"]
mod tests;
