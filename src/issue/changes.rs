//! What the worker does when the policy or the trust changes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::Instant;

use super::issuer::{Issuer, TRUST_GRACE, policy_digest};
use super::resume::Anchors;
use super::verify::is_trusted;
use super::worker::{TRY_AGAIN, Worker, subject};
use crate::model::bundle::TrustSet;
use crate::model::identity::ProxyKey;
use crate::model::policy::Backend;

impl Worker {
    pub(super) fn policies_changed(&mut self) {
        let policies = self.settings.policies.borrow_and_update().clone();
        let mut issuers = HashMap::new();
        let mut changed: HashSet<Arc<str>> = HashSet::new();
        let tried_before = self.retry_at.take().is_some();
        for (mesh, policy) in &policies.meshes {
            let Some(backend) = policy.enabled() else { continue };
            let kept = self.issuers.remove(mesh).filter(|issuer| issuer.backend == *backend);
            if kept.is_none() {
                changed.insert(mesh.clone());
            }
            match kept.map_or_else(|| self.issuer(mesh, backend), Ok) {
                Ok(issuer) => {
                    issuers.insert(mesh.clone(), issuer);
                }
                Err(reason) => {
                    self.retry_at = Some(Instant::now() + TRY_AGAIN);
                    if !tried_before {
                        tracing::error!(%mesh, backend = %backend.name, reason, "the backend cannot be used");
                    }
                }
            }
        }
        self.issuers = issuers;
        let now = self.settings.clock.now();
        self.open_meshes(now);
        let of_changed = self.schedule.keys().filter(|key| changed.contains(&key.mesh));
        let outdated: Vec<ProxyKey> = of_changed.filter(|key| self.is_outdated(key)).cloned().collect();
        if !outdated.is_empty() {
            tracing::info!(proxies = outdated.len(), "the policy has changed; certificates are issued anew");
        }
        for key in outdated {
            // The trust bundle that goes with the new policy is sent first.
            self.restart(&key, now.saturating_add(TRUST_GRACE).unwrap_or(now), now);
        }
    }

    fn issuer(&self, mesh: &Arc<str>, backend: &Arc<Backend>) -> Result<Issuer, String> {
        Ok(Issuer {
            backend: backend.clone(),
            authority: self.settings.authorities.of(mesh, backend)?,
            trust: self.settings.trust.clone(),
            roots: self.settings.roots.clone(),
            clock: self.settings.clock.clone(),
        })
    }

    /// Whether what is held or asked for is not what the policy wants now.
    fn is_outdated(&self, key: &ProxyKey) -> bool {
        let Some(issuer) = self.issuers.get(&key.mesh) else { return false };
        let wanted = policy_digest(&issuer.backend, &subject(key));
        if let Some(flight) = self.flights.get(key) {
            // The answer is looked at the way that the policy said at the start; the trust of another policy may have been
            // here before it.
            let takes_trust_from_issuer = |backend: &Backend| backend.kind.takes_trust_from_issuer();
            if takes_trust_from_issuer(&flight.backend) != takes_trust_from_issuer(&issuer.backend) {
                return true;
            }
            return policy_digest(&flight.backend, &subject(key)) != wanted;
        }
        let current =
            self.slots.get(key).and_then(|slot| slot.current.borrow().as_ref().map(|svid| svid.policy_digest.clone()));
        match current {
            Some(digest) => digest != wanted,
            // One that has no leaf at all may do better with the new policy than it did.
            None => {
                let now = self.settings.clock.now();
                self.schedule.held_until(key).is_none() || self.holds_outdated(key, &wanted, now)
            }
        }
    }

    pub(super) fn trust_changed(&mut self) {
        let trust = self.settings.trust.borrow_and_update().clone();
        let now = self.settings.clock.now();
        let before = std::mem::replace(&mut self.checked, trust.clone());
        let is_changed = |mesh: &str| is_changed(&before, &trust, mesh);
        self.anchors.retain(|mesh, _| trust.meshes.contains_key(mesh));
        for (mesh, bundle) in trust.meshes.iter().filter(|(mesh, _)| is_changed(mesh)) {
            self.anchors.insert(mesh.clone(), Anchors::new(bundle));
        }
        self.open_meshes(now);
        let refused: Vec<ProxyKey> = self
            .slots
            .iter()
            // One in flight is checked against the trust of the moment it lands.
            .filter(|slot| is_changed(&slot.key().mesh) && !self.flights.contains_key(slot.key()))
            .filter(|slot| {
                let current = slot.current.borrow();
                let Some(svid) = current.as_ref() else { return self.holds_refused(slot.key(), now) };
                // One that has ended is due anyway.
                let bundle = trust.meshes.get(&slot.key().mesh).filter(|_| svid.usable_until() > now);
                bundle.is_some_and(|bundle| !is_trusted(svid, bundle, now))
            })
            .map(|slot| slot.key().clone())
            .collect();
        if !refused.is_empty() {
            tracing::warn!(
                proxies = refused.len(),
                "certificates in use are no longer trusted by their mesh; they are issued anew at once"
            );
        }
        // What failed for lack of trust has backed off by up to minutes.
        let waiting: Vec<ProxyKey> = self
            .slots
            .iter()
            .filter(|slot| slot.status.wants_other_trust && is_changed(&slot.key().mesh))
            .filter(|slot| !self.flights.contains_key(slot.key()))
            .map(|slot| slot.key().clone())
            .collect();
        for key in refused {
            self.restart(&key, now, now);
            // Who comes back to it must not be given what its peers refuse; who holds it keeps the last good one until the
            // new one is there.
            if let Some(slot) = self.slots.get(&key).filter(|slot| slot.current.receiver_count() == 0) {
                slot.current.send_replace(None);
                self.schedule.lost(&key, now);
            }
        }
        for key in waiting {
            self.restart(&key, now.saturating_add(TRUST_GRACE).unwrap_or(now), now);
        }
    }

    /// Goes on with the leaf of a proxy that was about to be forgotten.
    pub(super) fn remember(&mut self, key: &ProxyKey) {
        let now = self.settings.clock.now();
        let Some(slot) = self.slots.get(key) else { return };
        let until = slot.current.borrow().as_ref().map(|svid| svid.usable_until());
        let due = slot.status.next.unwrap_or(now);
        drop(slot);
        let Some(until) = until else { return };
        self.schedule.remember(key, due, until, now);
        if self.is_outdated(key) {
            self.restart(key, now.saturating_add(TRUST_GRACE).unwrap_or(now), now);
        }
    }

    /// A mesh signs when it has a policy, and a trust bundle to check the answers against that has its backend's CA in it.
    fn open_meshes(&mut self, now: Timestamp) {
        let trust = self.checked.clone();
        let opened = self.issuers.iter().filter(|(mesh, issuer)| {
            trust.meshes.contains_key(*mesh) && trust.known.contains(&((*mesh).clone(), issuer.backend.name.clone()))
        });
        let opened: HashSet<Arc<str>> = opened.map(|(mesh, _)| mesh.clone()).collect();
        self.schedule.close_others(|mesh| opened.contains(mesh));
        for mesh in opened {
            if self.schedule.is_open(&mesh) {
                continue;
            }
            // What proxies reported meanwhile is judged before anything is signed.
            self.judge_those_that_waited(&mesh, now);
            self.schedule.open(&mesh, true);
        }
    }
}

/// Whether the mesh has a trust bundle, and another one than before.
fn is_changed(before: &TrustSet, now: &TrustSet, mesh: &str) -> bool {
    now.meshes.get(mesh).is_some_and(|bundle| before.meshes.get(mesh) != Some(bundle))
}
