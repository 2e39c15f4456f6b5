//! What the worker makes of the leaves that proxies report.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::issuer::{Issuer, policy_digest};
use super::metrics::MeshLabels;
use super::resume::{Anchors, Doubt, Held, Standard};
use super::subscribers::Report;
use super::worker::{Worker, subject};
use crate::model::held::HeldLeaf;
use crate::model::identity::ProxyKey;

/// Proxies come back by the thousand when a server starts: one line in the log for as many as come within this.
const TOLD_EVERY: Duration = Duration::from_secs(5);

/// How many reports were stood by, and how many not, that the log has not been told of.
#[derive(Debug, Default)]
pub(super) struct Recognised {
    good: usize,
    doubtful: usize,
    tell_at: Option<Instant>,
}

impl Recognised {
    fn note(&mut self, is_good: bool) {
        if is_good {
            self.good += 1;
        } else {
            self.doubtful += 1;
        }
        self.tell_at.get_or_insert_with(|| Instant::now() + TOLD_EVERY);
    }

    /// How long until there is something to tell.
    pub(super) fn tell_in(&self, now: Instant) -> Option<Duration> {
        self.tell_at.map(|at| at.saturating_duration_since(now))
    }

    /// Tells the log, if it is time.
    pub(super) fn tell(&mut self, now: Instant) {
        if self.tell_at.is_some_and(|at| at <= now) {
            tracing::info!(
                resumed = self.good,
                not_resumed = self.doubtful,
                "proxies have come back with a certificate; those that hold a good one keep it until it is due"
            );
            *self = Self::default();
        }
    }
}

impl Worker {
    /// What to go by of a report that has just come; `None` if it is of no use.
    pub(super) fn recognise(&mut self, key: &ProxyKey, leaf: HeldLeaf) -> Option<Report> {
        // Whose leaf is in memory is given that.
        if self.slots.get(key).is_some_and(|slot| slot.current.borrow().is_some()) {
            return None;
        }
        if !self.schedule.is_open(&key.mesh) {
            return Some(Report::Unjudged(leaf));
        }
        let judged = judge(&self.issuers, &self.anchors, key, leaf, self.settings.clock.now());
        self.note(key, &judged);
        judged.ok().map(Report::Good)
    }

    /// Judges what came while the mesh had no policy or trust. Comes before anything is signed for it.
    pub(super) fn judge_those_that_waited(&mut self, mesh: &str, now: Timestamp) {
        let (issuers, anchors, mut verdicts) = (&self.issuers, &self.anchors, Vec::new());
        let proxies = self.schedule.judge(mesh, now, |key, leaf| {
            let judged = judge(issuers, anchors, key, leaf, now);
            verdicts.push((key.clone(), judged.as_ref().err().copied()));
            judged.ok()
        });
        for (key, doubt) in verdicts {
            self.note(&key, &doubt.map_or(Ok(()), Err));
        }
        for key in &proxies {
            self.show_held(key);
        }
    }

    fn note<T>(&mut self, key: &ProxyKey, judged: &Result<T, Doubt>) {
        self.recognised.note(judged.is_ok());
        match judged {
            Ok(_) => {
                tracing::debug!(proxy = %key, mesh = %key.mesh, "the proxy holds a good certificate; none is issued until it is due");
                self.settings.metrics.resumed.get_or_create(&MeshLabels { mesh: key.mesh.to_string() }).inc();
            }
            Err(doubt) => {
                tracing::debug!(proxy = %key, mesh = %key.mesh, %doubt, "the proxy reports a certificate that is not good");
            }
        }
    }

    /// Whether a subscriber of the proxy holds what peers refuse. (One that has ended is due anyway.)
    pub(super) fn holds_refused(&self, key: &ProxyKey, now: Timestamp) -> bool {
        let Some(anchors) = self.anchors.get(&key.mesh) else { return false };
        self.schedule.held(key).any(|held| held.usable_until > now && !anchors.have_anchor_of(&held.leaf))
    }

    /// Whether a subscriber of the proxy holds what the policy does not want any more.
    pub(super) fn holds_outdated(&self, key: &ProxyKey, wanted: &str) -> bool {
        self.schedule.held(key).any(|held| *held.leaf.policy_digest != *wanted)
    }

    /// Shows operators what the proxy holds.
    pub(super) fn show_held(&self, key: &ProxyKey) {
        let held_until = self.schedule.held_until(key);
        let Some(mut slot) = self.slots.get_mut(key) else { return };
        if slot.status.error.is_none() && (held_until.is_some() || slot.status.held_until.is_some()) {
            slot.status.next = held_until.and_then(|_| self.schedule.due(key));
        }
        slot.status.held_until = held_until;
    }
}

fn judge(
    issuers: &HashMap<Arc<str>, Issuer>,
    anchors: &HashMap<Arc<str>, Anchors>,
    key: &ProxyKey,
    leaf: HeldLeaf,
    now: Timestamp,
) -> Result<Held, Doubt> {
    let issuer = issuers.get(&key.mesh).ok_or(Doubt::OtherPolicy)?;
    let anchors = anchors.get(&key.mesh).ok_or(Doubt::UnknownCa)?;
    let policy_digest = policy_digest(&issuer.backend, &subject(key));
    Standard { policy_digest: &policy_digest, lifetime: issuer.backend.leaf_lifetime, anchors }.judge(leaf, now)
}
