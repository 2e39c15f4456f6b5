//! What a mesh was last served with, and how that counts on while its backends say nothing, or are others. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::own::Part;
use crate::model::bundle::Bundle;
use crate::model::policy::{Backend, BackendKind, MeshPolicy};

/// What was said under a backend's name.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Said {
    /// The backend's name.
    pub(super) backend: Arc<str>,
    /// Its trust domain then, and its CAs.
    pub(super) part: Part,
    /// Set if the backend has become another CA since: when the last leaf of the old one has ended.
    pub(super) until: Option<Timestamp>,
}

/// Which CA a backend was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    /// See [`origin`].
    pub(super) origin: Arc<str>,
    /// The longest that a leaf of it lives.
    pub(super) longest_leaf: Duration,
}

/// Everything that a mesh is served with but its `MeshTrust` resources.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Memory {
    pub(super) said: Vec<Said>,
    /// The backends that were listed, by name.
    pub(super) listed: BTreeMap<Arc<str>, Listed>,
}

/// Which CA a backend is: as long as this stays, another certificate is news of the same one, and counts instead of what was
/// said before.
pub(super) fn origin(kind: &BackendKind) -> Arc<str> {
    match kind {
        BackendKind::CertManager { issuer, .. } => {
            format!("{}/{}/{}/{}", kind.label(), issuer.group, issuer.kind, issuer.name).into()
        }
        // One that is read from elsewhere is the user's all the same: what it leads to is learned, and kept like that.
        BackendKind::Builtin(_) | BackendKind::Provided(_) | BackendKind::NotInProgram(_) => kind.label().into(),
    }
}

/// Whether it can ever say its CA.
pub(super) fn can_speak(backend: &Backend) -> bool {
    !matches!(backend.kind, BackendKind::NotInProgram(_))
}

fn listed(policy: &MeshPolicy) -> BTreeMap<Arc<str>, Listed> {
    let of = |backend: &Arc<Backend>| Listed { origin: origin(&backend.kind), longest_leaf: backend.longest_leaf() };
    policy.backends.iter().map(|backend| (backend.name.clone(), of(backend))).collect()
}

impl Memory {
    /// What the mesh is served with now: what its backends say (`good`), and for those that say nothing what is remembered.
    /// `None` if it is not served yet (`is_served`) and a backend says nothing of which nobody knows what it has signed: nothing
    /// is remembered at all, or it was another CA then; unless it `is_given_up`. Half a bundle would cut peers off.
    ///
    /// A backend that is no longer listed counts no more; only where nothing else is left of its trust domain, while the one
    /// to come in its place has said nothing. One that has become another CA in its place counts until its last leaf has ended.
    pub(super) fn next(
        before: &Self,
        is_served: bool,
        policy: &MeshPolicy,
        good: impl Fn(&Backend) -> Option<Arc<Bundle>>,
        is_given_up: impl Fn(&Backend) -> bool,
        now: Timestamp,
    ) -> Option<Self> {
        let is_silent = |backend: &&Arc<Backend>| can_speak(backend) && good(backend).is_none();
        let silent: Vec<&Arc<Backend>> = policy.backends.iter().filter(is_silent).collect();
        let is_nobody_heard = silent.len() == policy.backends.iter().filter(|backend| can_speak(backend)).count();
        let is_nothing_known = before.said.is_empty();
        let is_another = |backend: &Backend| {
            before.listed.get(&backend.name).is_some_and(|before| before.origin != origin(&backend.kind))
        };
        let is_awaited = |backend: &Backend| (is_nothing_known || is_another(backend)) && !is_given_up(backend);
        let is_early = is_nothing_known && is_nobody_heard || silent.iter().any(|backend| is_awaited(backend));
        if !is_served && is_early {
            return None;
        }
        let last_word = |backend: &Backend| {
            let is_its = |said: &&Said| said.backend == backend.name && said.until.is_none() && !is_another(backend);
            before.said.iter().find(is_its)
        };
        let of_listed = policy.backends.iter().filter_map(|backend| match good(backend) {
            Some(bundle) => {
                let part = (backend.trust_domain.clone(), bundle);
                Some(Said { backend: backend.name.clone(), part, until: None })
            }
            None => last_word(backend).filter(|_| can_speak(backend)).cloned(),
        });
        let of_listed: Vec<Said> = of_listed.collect();
        let is_left = |said: &&Said| {
            let is_of_domain = |domain: &Arc<str>| *domain == said.part.0;
            let is_awaited = silent.iter().any(|backend| is_of_domain(&backend.trust_domain));
            let is_replaced = of_listed.iter().any(|other| is_of_domain(&other.part.0));
            let is_last = !silent.is_empty() && of_listed.is_empty();
            said.until.is_none() && policy.backend(&said.backend).is_none() && (is_last || is_awaited && !is_replaced)
        };
        let left: Vec<Said> = before.said.iter().filter(is_left).cloned().collect();
        let listed = listed(policy);
        let retired = before.retired(&listed, now);
        let mut said: Vec<Said> = left.into_iter().chain(of_listed).chain(retired).collect();
        if said.is_empty() {
            // Its last leaf has ended, and there is nobody else yet.
            said = before.said.iter().filter(|said| listed.contains_key(&said.backend)).cloned().collect();
        }
        Some(Self { said, listed })
    }

    /// The CAs that backends were before they became others, which leaves may still lead to.
    fn retired(&self, listed: &BTreeMap<Arc<str>, Listed>, now: Timestamp) -> Vec<Said> {
        let mut retired: Vec<Said> = Vec::new();
        for said in &self.said {
            let Some(listed) = listed.get(&said.backend) else { continue };
            let until = match (said.until, self.listed.get(&said.backend)) {
                (Some(until), _) => until,
                (None, Some(before)) if before.origin != listed.origin => {
                    now.saturating_add(before.longest_leaf).unwrap_or(Timestamp::MAX)
                }
                (None, _) => continue,
            };
            let is_over = said.part.1.certificates().iter().all(|ca| ca.validity().not_after < now);
            if until < now || is_over {
                continue;
            }
            let same = retired.iter_mut().find(|other| (&other.backend, &other.part) == (&said.backend, &said.part));
            match same {
                Some(same) => same.until = same.until.max(Some(until)),
                None => retired.push(Said { until: Some(until), ..said.clone() }),
            }
        }
        retired
    }

    /// This, with what a program that ran before this one kept of the backends that `policy` lists; and the rest of that.
    pub(super) fn with_kept(mut self, kept: &Self, policy: &MeshPolicy) -> (Self, Self) {
        let listed = listed(policy);
        let is_same =
            |(name, now): (&Arc<str>, &Listed)| kept.listed.get(name).is_some_and(|before| before.origin == now.origin);
        // Then also what was left of others.
        let are_all_the_same = kept.listed.len() == listed.len() && listed.iter().all(is_same);
        let is_ours = |said: &Said| listed.contains_key(&said.backend) || are_all_the_same;
        let (ours, others): (Vec<Said>, Vec<Said>) = kept.said.iter().cloned().partition(is_ours);
        for said in ours {
            let is_known = self.said.iter().any(|known| known.backend == said.backend && known.until.is_none());
            if said.until.is_some() || !is_known {
                self.listed.extend(kept.listed.get_key_value(&said.backend).map(|(k, v)| (k.clone(), v.clone())));
                self.said.push(said);
            }
        }
        (self, Self { said: others, listed: kept.listed.clone() })
    }

    /// With what `kept` has of backends that are not in this one.
    pub(super) fn with_rest_of(&self, kept: &Self) -> Self {
        let mut all = self.clone();
        for said in &kept.said {
            if !self.listed.contains_key(&said.backend) {
                all.said.push(said.clone());
            }
        }
        for (name, listed) in &kept.listed {
            all.listed.entry(name.clone()).or_insert_with(|| listed.clone());
        }
        all
    }

    pub(super) fn parts(&self) -> Vec<Part> {
        self.said.iter().map(|said| said.part.clone()).collect()
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
