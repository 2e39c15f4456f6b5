//! What is trusted, given what the sources said last: the pure core of the trust store.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::model::bundle::{Bundle, TrustSet};
use crate::model::certificate::Certificate;
use crate::model::policy::{Backend, PolicySet};
use crate::model::roots::root_issuer;

use super::own::{Own, Part, known_to_each};

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

#[derive(Debug, Default)]
struct Source {
    good: Option<Arc<Bundle>>,
    trouble: Option<String>,
}

impl Source {
    fn trouble(&self) -> Option<Trouble> {
        Some(Trouble { reason: self.trouble.clone()?, has_last_good: self.good.is_some() })
    }
}

/// See the module.
///
/// A mesh's bundle is the union over *all* its backends, or what it was: a bundle that lacks a CA because a Secret was
/// missing at the moment would cut off every peer that has its leaf from that CA. A source that was good and turns bad
/// keeps what it had. While a backend that is newly listed has not said its CA, the mesh keeps its last complete bundle, and
/// the CAs that are known come to it. All of that goes trust domain by trust domain; `MeshTrust` resources bring their CAs
/// with them, so they are always known, and gone as soon as they are deleted.
#[derive(Debug, Default)]
pub struct TrustState {
    policies: Arc<PolicySet>,
    sources: BTreeMap<SourceKey, Source>,
    /// What the backends of each mesh said when last all of them had said something.
    complete: BTreeMap<Arc<str>, Vec<Part>>,
    /// What was returned last by [`TrustState::bundles`]: what each mesh's own domains trust, and what was new in it when.
    served: BTreeMap<Arc<str>, Own>,
    added: BTreeMap<Arc<str>, Vec<(Certificate, Timestamp)>>,
}

impl TrustState {
    /// The policy is now this. Sources of backends that are no longer listed are dropped: their CA is no longer trusted.
    /// Returns those that are gone: of them nothing is known any more, should one of that name come later. One whose issuer
    /// is to name its CA, and is another issuer now, is gone and newly listed at once.
    pub fn set_policies(&mut self, policies: Arc<PolicySet>) -> Vec<SourceKey> {
        let before = std::mem::replace(&mut self.policies, policies.clone());
        let source = |policies: &PolicySet, (mesh, backend): &SourceKey| {
            policies.meshes.get(mesh)?.backend(backend).map(|backend| root_issuer(&backend.kind))
        };
        let stays = |key: &SourceKey| source(&policies, key).is_some_and(|now| Some(now) == source(&before, key));
        let gone: Vec<SourceKey> = self.sources.keys().filter(|key| !stays(key)).cloned().collect();
        self.sources.retain(|key, _| stays(key));
        for (mesh, policy) in &policies.meshes {
            for backend in &policy.backends {
                self.sources.entry((mesh.clone(), backend.name.clone())).or_default();
            }
        }
        self.complete.retain(|mesh, _| policies.meshes.contains_key(mesh));
        gone
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
        source.trouble = trouble;
        source.trouble().filter(|_| is_news)
    }

    /// The bundles of every mesh all of whose sources have been good at least once, at `now`.
    pub fn bundles(&mut self, now: Timestamp) -> TrustSet {
        let mut set = TrustSet::default();
        let mut served = BTreeMap::new();
        for (mesh, policy) in &self.policies.meshes {
            let good = |backend: &Arc<Backend>| {
                let bundle = self.sources.get(&(mesh.clone(), backend.name.clone()))?.good.clone()?;
                Some((backend.name.clone(), (backend.trust_domain.clone(), bundle)))
            };
            let (known, mut parts): (Vec<Arc<str>>, Vec<Part>) = policy.backends.iter().filter_map(good).unzip();
            if known.len() == policy.backends.len() {
                self.complete.insert(mesh.clone(), parts.clone());
            } else {
                let Some(before) = self.complete.get(mesh) else { continue };
                parts.splice(0..0, before.iter().cloned());
            }
            let Some(own) = Own::new(policy, &parts) else { continue };
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
        self.sources.iter().filter_map(|(key, source)| Some((key.clone(), source.trouble()?))).collect()
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
    /// Whether what it said before is still in use; if not, the mesh has no trust bundle.
    pub has_last_good: bool,
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
