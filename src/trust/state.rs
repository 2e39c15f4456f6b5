//! What is trusted, given what the sources said last: the pure core of the trust store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::model::bundle::{Bundle, TrustSet};
use crate::model::certificate::Certificate;
use crate::model::policy::{Backend, PolicySet};
use crate::model::roots::root_issuer;

use super::memory::{Memory, origin};
use super::own::{Own, known_to_each};

/// A backend of a mesh: `(mesh, backend)`.
pub type SourceKey = (Arc<str>, Arc<str>);

/// What a source says at the moment.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// These CAs.
    Good(Arc<Bundle>),
    /// These CAs, which it said before; now there is trouble.
    Doubtful(Arc<Bundle>, String),
    /// Nothing usable, and why.
    Bad(String),
    /// It has not been heard yet (a list of Secrets is not complete, a CA has not been asked); nobody's fault.
    Awaited(&'static str),
}

/// How long a mesh of which nothing is remembered waits for a source that is in trouble: a file may be about to be mounted.
const PATIENCE_WITH_BAD: SignedDuration = SignedDuration::from_secs(10);

/// And for one that has not been heard, which is nobody's fault and may well come.
const PATIENCE_WITH_AWAITED: SignedDuration = SignedDuration::from_secs(60);

#[derive(Debug, Default)]
struct Source {
    good: Option<Arc<Bundle>>,
    trouble: Option<String>,
    is_awaited: bool,
}

impl Source {
    fn patience(&self) -> SignedDuration {
        if self.is_awaited { PATIENCE_WITH_AWAITED } else { PATIENCE_WITH_BAD }
    }

    fn trouble(&self) -> Option<Trouble> {
        Some(Trouble { reason: self.trouble.clone()?, has_last_good: self.good.is_some() })
    }
}

/// See the module.
///
/// A mesh's bundle is the union over *all* its backends, or what it was: a bundle that lacks a CA because a Secret was
/// missing at the moment would cut off every peer that has its leaf from that CA. A source that was good and turns bad
/// keeps what it had. While a backend has not said its CA, what was said under its name before counts, also to the program
/// that ran before this one, and the CAs that are known come to it ([`Memory`]). All of that goes trust domain by trust domain;
/// `MeshTrust` resources bring their CAs with them, so they are always known, and gone as soon as they are deleted.
#[derive(Debug, Default)]
pub struct TrustState {
    policies: Arc<PolicySet>,
    sources: BTreeMap<SourceKey, Source>,
    /// What each mesh was last served with.
    memory: BTreeMap<Arc<str>, Memory>,
    /// What meshes were served with before this program started, as far as it has not been taken over.
    kept: BTreeMap<Arc<str>, Memory>,
    /// Since when each mesh is known.
    since: BTreeMap<Arc<str>, Timestamp>,
    /// When patience with a silent source may end next.
    look_again_at: Option<Timestamp>,
    /// What was returned last by [`TrustState::bundles`]: what each mesh's own domains trust, and what was new in it when.
    served: BTreeMap<Arc<str>, Own>,
    added: BTreeMap<Arc<str>, Vec<(Certificate, Timestamp)>>,
}

impl TrustState {
    /// One that knows what meshes were served with before.
    pub(super) fn new(kept: BTreeMap<Arc<str>, Memory>) -> Self {
        Self { kept, ..Self::default() }
    }

    /// The policy is now this. Sources of backends that are no longer listed are dropped: their CA is no longer trusted.
    /// Returns those that are gone: of them nothing is known any more, should one of that name come later. One that is
    /// another CA now is gone and newly listed at once, and what it said counts until its last leaf has ended.
    pub fn set_policies(&mut self, policies: Arc<PolicySet>) -> Vec<SourceKey> {
        let before = std::mem::replace(&mut self.policies, policies.clone());
        let source = |policies: &PolicySet, (mesh, backend): &SourceKey| {
            policies
                .meshes
                .get(mesh)?
                .backend(backend)
                .map(|backend| (origin(&backend.kind), root_issuer(&backend.kind)))
        };
        let stays = |key: &SourceKey| source(&policies, key).is_some_and(|now| Some(now) == source(&before, key));
        let gone: Vec<SourceKey> = self.sources.keys().filter(|key| !stays(key)).cloned().collect();
        self.sources.retain(|key, _| stays(key));
        for (mesh, policy) in &policies.meshes {
            for backend in &policy.backends {
                self.sources.entry((mesh.clone(), backend.name.clone())).or_default();
            }
        }
        self.memory.retain(|mesh, _| policies.meshes.contains_key(mesh));
        self.since.retain(|mesh, _| policies.meshes.contains_key(mesh));
        self.kept.retain(|mesh, _| policies.meshes.contains_key(mesh) || !before.meshes.contains_key(mesh));
        gone
    }

    /// The policies are all there is, but for those of `incomplete` meshes: what was kept of other meshes and backends that
    /// are not among them is for nobody. One that waits for a source has nothing else until it has heard of it.
    pub fn forget_others(&mut self, incomplete: &BTreeSet<Arc<str>>) {
        let waits = |mesh: &Arc<str>| self.policies.meshes.contains_key(mesh) && !self.memory.contains_key(mesh);
        self.kept.retain(|mesh, _| incomplete.contains(mesh) || waits(mesh));
    }

    /// What is to be kept for the next start.
    pub(super) fn to_keep(&self) -> BTreeMap<Arc<str>, Memory> {
        let mut all = self.kept.clone();
        for (mesh, memory) in &self.memory {
            let memory = self.kept.get(mesh).map_or_else(|| memory.clone(), |kept| memory.with_rest_of(kept));
            all.insert(mesh.clone(), memory);
        }
        all
    }

    /// A source says something. Returns its trouble if that is news, and more than having to wait.
    pub fn hear(&mut self, key: &SourceKey, answer: Answer) -> Option<Trouble> {
        let source = self.sources.get_mut(key)?;
        let is_waiting = matches!(answer, Answer::Awaited(_));
        let trouble = match answer {
            Answer::Good(bundle) => {
                source.good = Some(bundle);
                None
            }
            Answer::Doubtful(bundle, trouble) => {
                source.good = Some(bundle);
                Some(trouble)
            }
            Answer::Bad(reason) => Some(reason),
            Answer::Awaited(what) => source.good.is_none().then(|| what.to_owned()),
        };
        let is_news = trouble != source.trouble && !is_waiting;
        (source.trouble, source.is_awaited) = (trouble, is_waiting);
        source.trouble().filter(|_| is_news)
    }

    /// When to ask for the bundles again though nothing was heard.
    pub fn look_again_at(&self) -> Option<Timestamp> {
        self.look_again_at
    }

    /// The bundles of every mesh all of whose sources have been good at least once, at `now`; but for those that were silent
    /// for too long since the mesh is known. The enabled backend is waited for as long as it takes.
    pub fn bundles(&mut self, now: Timestamp) -> TrustSet {
        self.look_again_at = None;
        let mut set = TrustSet::default();
        let mut served = BTreeMap::new();
        for (mesh, policy) in &self.policies.meshes {
            let source = |backend: &Backend| self.sources.get(&(mesh.clone(), backend.name.clone()));
            let good = |backend: &Backend| source(backend)?.good.clone();
            let since = *self.since.entry(mesh.clone()).or_insert(now);
            let is_given_up = |backend: &Backend| {
                let is_enabled = policy.enabled_backend.as_ref() == Some(&backend.name);
                !is_enabled && source(backend).is_some_and(|source| now.duration_since(since) >= source.patience())
            };
            let before = self.memory.remove(mesh).unwrap_or_default();
            let is_served = !before.said.is_empty();
            let (before, rest) = match self.kept.get(mesh) {
                Some(kept) => before.with_kept(kept, policy),
                None => (before, Memory::default()),
            };
            let Some(memory) = Memory::next(&before, is_served, policy, good, is_given_up, now) else {
                let ends = [PATIENCE_WITH_BAD, PATIENCE_WITH_AWAITED].map(|patience| since.saturating_add(patience));
                let ends = ends.into_iter().flatten().filter(|end| *end > now);
                self.look_again_at = self.look_again_at.into_iter().chain(ends).min();
                continue;
            };
            let own = Own::new(policy, &memory.parts());
            let known = policy.backends.iter().filter(|backend| good(backend).is_some()).map(|one| one.name.clone());
            let known: Vec<Arc<str>> = known.collect();
            self.memory.insert(mesh.clone(), memory);
            self.kept.entry(mesh.clone()).and_modify(|kept| *kept = rest);
            let Some(own) = own else { continue };
            let earlier = self.added.get(mesh).map_or(&[][..], Vec::as_slice);
            set.known.extend(known.into_iter().map(|backend| (mesh.clone(), backend)));
            set.added.insert(mesh.clone(), added(self.served.get(mesh), earlier, &own, now));
            set.meshes.insert(mesh.clone(), own.plain.clone());
            served.insert(mesh.clone(), own);
        }
        set.domains = known_to_each(self.policies.meshes.values(), &served);
        self.served = served;
        self.added = set.added.clone();
        set
    }

    /// Which sources are in trouble, and why; whether an older answer of theirs is in use.
    pub fn troubles(&self) -> BTreeMap<SourceKey, Trouble> {
        let is_remembered = |(mesh, backend): &SourceKey| {
            self.memory.get(mesh).is_some_and(|memory| memory.said.iter().any(|said| said.backend == *backend))
        };
        let trouble = |(key, source): (&SourceKey, &Source)| {
            let Trouble { reason, has_last_good } = source.trouble()?;
            Some((key.clone(), Trouble { reason, has_last_good: has_last_good || is_remembered(key) }))
        };
        self.sources.iter().filter_map(trouble).collect()
    }
}

/// Which CAs came into one of a mesh's bundles after the mesh was first served, and when. One that was believed for another
/// of its trust domains before is new for this one: peers do not have it there yet.
fn added(
    before: Option<&Own>,
    earlier: &[(Certificate, Timestamp)],
    own: &Own,
    now: Timestamp,
) -> Vec<(Certificate, Timestamp)> {
    let Some(before) = before else { return Vec::new() };
    let had =
        |domain: &Arc<str>, ca: &Certificate| before.domains.get(domain).is_some_and(|bundle| bundle.contains(ca));
    let mut new: Vec<&Certificate> = Vec::new();
    for (domain, bundle) in &own.domains {
        let of_domain = bundle.certificates().iter().filter(|ca| !had(domain, ca));
        for ca in of_domain {
            if !new.contains(&ca) {
                new.push(ca);
            }
        }
    }
    let kept = earlier.iter().filter(|(ca, _)| own.plain.contains(ca) && !new.contains(&ca)).cloned();
    kept.chain(new.iter().map(|ca| ((*ca).clone(), now))).collect()
}

/// A source that does not say what it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Why.
    pub reason: String,
    /// Whether what it said before is still in use.
    pub has_last_good: bool,
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
