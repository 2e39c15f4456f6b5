//! What the worker does when the policy or the trust changes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::Instant;

use super::issuer::{Issuer, TRUST_GRACE, policy_digest};
use super::resume::Anchors;
use super::signer::Signer;
use super::verify::is_trusted;
use super::worker::{TRY_AGAIN, Worker, subject, trust_of};
use crate::model::identity::ProxyKey;
use crate::model::policy::Backend;

impl Worker {
    pub(super) fn policies_changed(&mut self) {
        let policies = self.settings.policies.borrow_and_update().clone();
        let mut issuers = HashMap::new();
        let mut changed: HashSet<Signer> = HashSet::new();
        let tried_before = std::mem::take(&mut self.unusable);
        for (signer, backend) in policies.meshes.values().flat_map(|policy| Signer::all(policy)) {
            let kept = self.issuers.remove(&signer).filter(|issuer| issuer.backend == *backend);
            if kept.is_none() {
                changed.insert(signer.clone());
            }
            match kept.map_or_else(|| self.issuer(&signer.mesh, backend), Ok) {
                Ok(issuer) => {
                    issuers.insert(signer, issuer);
                }
                Err(reason) => {
                    let (mesh, backend) = (signer.mesh, backend.name.clone());
                    // One backend may sign for several.
                    let told = self.unusable.get(&(mesh.clone(), backend.clone()));
                    if told.or_else(|| tried_before.get(&(mesh.clone(), backend.clone()))) != Some(&reason) {
                        tracing::error!(%mesh, %backend, reason, "the backend cannot be used");
                    }
                    self.unusable.insert((mesh, backend), reason);
                }
            }
        }
        self.issuers = issuers;
        self.retry_at = (!self.unusable.is_empty()).then(|| Instant::now() + TRY_AGAIN);
        let now = self.settings.clock.now();
        self.know_anchors();
        self.open_signers(now);
        let of_changed = self.schedule.keys().filter(|key| changed.contains(&Signer::from(*key)));
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
        let Some(issuer) = self.issuers.get(&Signer::from(key)) else { return false };
        let wanted = policy_digest(&issuer.backend, &subject(key));
        if let Some(flight) = self.flights.get(key) {
            // The answer is looked at the way that the policy said at the start; the trust of another policy may have been
            // here before it.
            let takes_trust_from_issuer = |backend: &Backend| backend.kind.takes_trust_from_issuer();
            if takes_trust_from_issuer(&flight.issuance.backend) != takes_trust_from_issuer(&issuer.backend) {
                return true;
            }
            return policy_digest(&flight.issuance.backend, &subject(key)) != wanted;
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
        // Whether there are CAs that the proxy's leaf may lead to, and others than before.
        let is_changed = |key: &ProxyKey| {
            let wanted = trust_of(&trust, key);
            wanted.is_some() && wanted != trust_of(&before, key)
        };
        self.know_anchors();
        self.open_signers(now);
        let refused: Vec<ProxyKey> = self
            .slots
            .iter()
            // One in flight is checked against the trust of the moment it lands.
            .filter(|slot| is_changed(slot.key()) && !self.flights.contains_key(slot.key()))
            .filter(|slot| {
                let current = slot.current.borrow();
                let Some(svid) = current.as_ref() else { return self.holds_refused(slot.key(), now) };
                // One that has ended is due anyway.
                let bundle = trust_of(&trust, slot.key()).filter(|_| svid.usable_until() > now);
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
            .filter(|slot| slot.status.wants_other_trust && is_changed(slot.key()))
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

    /// Reads off the trust of each of the meshes' own domains what reported leaves are judged by.
    fn know_anchors(&mut self) {
        let policies = self.settings.policies.borrow().clone();
        let mut before = std::mem::take(&mut self.anchors);
        for (mesh, policy) in &policies.meshes {
            for domain in policy.own_trust_domains() {
                let Some(bundle) = self.checked.of(mesh, &domain) else { continue };
                let key = (mesh.clone(), domain);
                let kept = before.remove(&key).filter(|anchors| anchors.are_of(bundle));
                self.anchors.insert(key, kept.unwrap_or_else(|| Anchors::new(bundle)));
            }
        }
    }

    /// A backend signs when there is a policy that wants it to, and trust to check the answers against that has its CA in it.
    fn open_signers(&mut self, now: Timestamp) {
        let trust = self.checked.clone();
        let opened = self.issuers.iter().filter(|(signer, issuer)| {
            let Backend { name, trust_domain, .. } = &*issuer.backend;
            let is_known = trust.known.contains(&(signer.mesh.clone(), name.clone()));
            is_known && trust.of(&signer.mesh, trust_domain).is_some()
        });
        let opened: HashSet<Signer> = opened.map(|(signer, _)| signer.clone()).collect();
        self.schedule.close_others(&opened);
        for signer in opened {
            if self.schedule.is_open(&signer) {
                continue;
            }
            // What proxies reported meanwhile is judged before anything is signed.
            self.judge_those_that_waited(&signer, now);
            self.schedule.open(&signer, true);
        }
    }
}
