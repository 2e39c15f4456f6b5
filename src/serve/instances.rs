//! The proxies of identities whose credential names no instance: how many of each identity there are, those counted that
//! have gone but are still remembered. Pure, but for the place that a stream holds.
//!
//! A certificate is issued to each, and kept for a while after it has gone. So whoever has such a credential, and comes and
//! goes under one name after the other, costs the CA, and memory, as much as if all of them were there.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// An identity in its mesh, whichever instance.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct IdentityKey {
    pub(super) mesh: Arc<str>,
    pub(super) spiffe_id: Arc<str>,
}

#[derive(Debug, Default)]
struct Instances {
    identities: HashMap<IdentityKey, HashMap<Arc<str>, Presence>>,
    /// Those without a stream, by the time at which they are forgotten.
    gone: BTreeSet<(Instant, IdentityKey, Arc<str>)>,
}

#[derive(Debug, Default)]
struct Presence {
    streams: usize,
    /// If it has none.
    forget_at: Option<Instant>,
}

impl Instances {
    /// One more stream of `instance`, unless it is one more than `limit` instances.
    fn enter(&mut self, identity: &IdentityKey, instance: &Arc<str>, limit: usize, now: Instant) -> bool {
        self.forget(now);
        let known = self.identities.entry(identity.clone()).or_default();
        let is_full = known.len() >= limit;
        if is_full && !known.contains_key(instance) {
            return false;
        }
        let presence = known.entry(instance.clone()).or_default();
        presence.streams += 1;
        if let Some(at) = presence.forget_at.take() {
            self.gone.remove(&(at, identity.clone(), instance.clone()));
        }
        true
    }

    /// One stream less.
    fn leave(&mut self, identity: &IdentityKey, instance: &Arc<str>, remembered: Duration, now: Instant) {
        self.forget(now);
        let known = self.identities.get_mut(identity);
        let Some(presence) = known.and_then(|known| known.get_mut(instance)) else { return };
        presence.streams = presence.streams.saturating_sub(1);
        if presence.streams == 0 {
            let at = now + remembered;
            presence.forget_at = Some(at);
            self.gone.insert((at, identity.clone(), instance.clone()));
        }
    }

    fn forget(&mut self, now: Instant) {
        while self.gone.first().is_some_and(|(at, ..)| *at <= now) {
            let Some((_, identity, instance)) = self.gone.pop_first() else { return };
            let Some(known) = self.identities.get_mut(&identity) else { continue };
            known.remove(&instance);
            if known.is_empty() {
                self.identities.remove(&identity);
            }
        }
    }
}

/// Clones share what is known.
#[derive(Debug, Clone, Default)]
pub(super) struct KnownInstances(Arc<Mutex<Instances>>);

/// A stream of an instance, until dropped.
#[derive(Debug)]
pub(super) struct Present {
    known: KnownInstances,
    identity: IdentityKey,
    instance: Arc<str>,
    remembered: Duration,
}

impl KnownInstances {
    /// A place for a stream of `instance`, of which no more than `limit` of the same identity are known; it is remembered
    /// for so long after its last stream.
    pub(super) fn enter(
        &self,
        identity: IdentityKey,
        instance: Arc<str>,
        limit: usize,
        remembered: Duration,
    ) -> Option<Present> {
        self.lock().enter(&identity, &instance, limit, Instant::now()).then(|| Present {
            known: self.clone(),
            identity,
            instance,
            remembered,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Instances> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many are known, of all identities.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        let mut known = self.lock();
        known.forget(Instant::now());
        known.identities.values().map(HashMap::len).sum()
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.known.lock().leave(&self.identity, &self.instance, self.remembered, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REMEMBERED: Duration = Duration::from_secs(600);

    fn identity(name: &str) -> IdentityKey {
        IdentityKey { mesh: "default".into(), spiffe_id: format!("spiffe://default/{name}").into() }
    }

    #[test]
    fn item_63_who_has_gone_counts_until_it_is_forgotten() {
        let (start, mut known) = (Instant::now(), Instances::default());
        let at = |seconds| start + Duration::from_secs(seconds);
        let [a, b, c]: [Arc<str>; 3] = ["a".into(), "b".into(), "c".into()];
        let (web, api) = (identity("web"), identity("api"));
        let leave = |known: &mut Instances, instance, seconds| known.leave(&web, instance, REMEMBERED, at(seconds));
        assert!(known.enter(&web, &a, 2, at(0)) && known.enter(&web, &b, 2, at(0)));
        leave(&mut known, &a, 10);
        assert!(!known.enter(&web, &c, 2, at(609)), "both are remembered");
        assert!(known.enter(&api, &c, 2, at(609)), "another identity is another matter");
        assert!(known.enter(&web, &b, 2, at(609)), "who is known may come again");
        assert!(known.enter(&web, &c, 2, at(610)), "one of them is forgotten");
        // Who comes back is remembered anew, and not forgotten while it is there.
        leave(&mut known, &c, 700);
        assert!(known.enter(&web, &c, 2, at(800)));
        assert!(!known.enter(&web, &a, 2, at(5_000)));
        for instance in [&b, &b, &c] {
            leave(&mut known, instance, 6_000);
        }
        known.leave(&api, &c, REMEMBERED, at(6_000));
        known.forget(at(6_600));
        assert!(known.identities.is_empty() && known.gone.is_empty());
    }
}
