//! What the worker makes of the leaves that proxies report.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::issuer::{Issuer, policy_digest};
use super::metrics::MeshLabels;
use super::resume::{Anchors, Doubt, Held, Standard};
use super::signer::{Signer, trust_domain};
use super::subscribers::Report;
use super::worker::{Domain, Worker, subject};
use crate::model::held::HeldLeaf;
use crate::model::identity::ProxyKey;
use crate::model::svid::Svid;

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
        let in_memory = self.slots.get(key).and_then(|slot| slot.current.borrow().clone());
        if let Some(in_memory) = in_memory {
            return self.recognise_newer(key, leaf, &in_memory);
        }
        if !self.schedule.is_open(&Signer::from(key)) {
            return Some(Report::Unjudged(leaf));
        }
        let judged = judge(&self.issuers, &self.anchors, key, leaf, self.settings.clock.now());
        self.note(key, judged.as_ref());
        judged.ok().map(Report::Good)
    }

    /// Whose leaf is in memory is given that, unless it holds a newer one that another replica has issued meanwhile: the
    /// one in memory may be of a key that somebody wanted out of use.
    fn recognise_newer(&mut self, key: &ProxyKey, leaf: HeldLeaf, in_memory: &Svid) -> Option<Report> {
        if !leaf.is_newer_than(in_memory) {
            return None;
        }
        let now = self.settings.clock.now();
        let judged = judge(&self.issuers, &self.anchors, key, leaf, now).ok().filter(|held| !held.outdated);
        let given_up = judged.filter(|_| self.schedule.is_open(&Signer::from(key)) && self.schedule.give_up(key, now));
        if let Some(slot) = self.slots.get(key) {
            match &given_up {
                Some(_) => drop(slot.current.send_replace(None)),
                // It has not been shown to this subscription yet, see `Subscription::shows_changes_only`.
                None => slot.current.send_modify(|_| {}),
            }
        }
        let held = given_up?;
        self.note(key, Ok(&held));
        Some(Report::Good(held))
    }

    /// Judges what came while the signer had no policy or trust. Comes before it signs anything.
    pub(super) fn judge_those_that_waited(&mut self, signer: &Signer, now: Timestamp) {
        let (issuers, anchors, mut verdicts) = (&self.issuers, &self.anchors, Vec::new());
        let proxies = self.schedule.judge(signer, now, |key, leaf| {
            let judged = judge(issuers, anchors, key, leaf, now);
            verdicts.push((key.clone(), judged.clone()));
            judged.ok()
        });
        for (key, verdict) in verdicts {
            self.note(&key, verdict.as_ref());
        }
        for key in &proxies {
            self.show_held(key);
        }
    }

    fn note(&mut self, key: &ProxyKey, judged: Result<&Held, &Doubt>) {
        self.recognised.note(judged.is_ok_and(|held| !held.outdated));
        match judged {
            Ok(held) if held.outdated => {
                let at = held.renew_at;
                tracing::debug!(proxy = %key, mesh = %key.mesh, %at, "the proxy holds a certificate of another policy; it is replaced when peers had time to come back");
            }
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
        let Some(anchors) = self.anchors.get(&domain(key)) else { return false };
        self.schedule.held(key).any(|held| held.usable_until > now && !anchors.have_anchor_of(&held.leaf))
    }

    /// Whether a subscriber of the proxy holds what the policy does not want any more. What was of another policy already
    /// when it came is replaced when its own time comes.
    pub(super) fn holds_outdated(&self, key: &ProxyKey, wanted: &str, now: Timestamp) -> bool {
        let has_time = |held: &Held| held.outdated && held.renew_at > now;
        self.schedule.held(key).any(|held| *held.leaf.policy_digest != *wanted && !has_time(held))
    }

    /// Before a signing is counted as failed: what subscribers hold may have become no good while it was in flight.
    pub(super) fn call_for_what_is_no_good(&mut self, key: &ProxyKey, now: Timestamp) {
        let wanted = self.issuers.get(&Signer::from(key)).map(|issuer| policy_digest(&issuer.backend, &subject(key)));
        if self.holds_refused(key, now) || wanted.is_some_and(|wanted| self.holds_outdated(key, &wanted, now)) {
            self.schedule.call_for(key, now);
        }
    }

    /// Shows operators what the proxy holds.
    pub(super) fn show_held(&self, key: &ProxyKey) {
        let held_until = self.schedule.held_until(key);
        let Some(mut slot) = self.slots.get_mut(key) else { return };
        if held_until.is_some() && !self.schedule.is_retrying(key) {
            // Whoever needed the leaf that could not be had is gone, and those who are left hold good ones.
            (slot.status.error, slot.status.wants_other_trust) = (None, false);
        }
        if held_until.is_some() || (slot.status.error.is_none() && slot.status.held_until.is_some()) {
            slot.status.next = held_until.and_then(|_| self.schedule.due(key));
        }
        slot.status.held_until = held_until;
        let held = held_until.and_then(|until| self.schedule.held(key).find(|held| held.usable_until == until));
        slot.held = held.map(|held| held.leaf.clone());
    }
}

/// Where the CAs are that the proxy's leaf has to lead to one of.
fn domain(key: &ProxyKey) -> Domain {
    (key.mesh.clone(), trust_domain(&key.spiffe_id).into())
}

fn judge(
    issuers: &HashMap<Signer, Issuer>,
    anchors: &HashMap<Domain, Anchors>,
    key: &ProxyKey,
    leaf: HeldLeaf,
    now: Timestamp,
) -> Result<Held, Doubt> {
    let (Some(issuer), Some(anchors)) = (issuers.get(&Signer::from(key)), anchors.get(&domain(key))) else {
        return Err(Doubt::UnknownCa);
    };
    let policy_digest = policy_digest(&issuer.backend, &subject(key));
    Standard { policy_digest: &policy_digest, anchors }.judge(leaf, now)
}
