//! What is trusted, given what the sources said last: the pure core of the trust store.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::bundle::{Bundle, TrustSet};
use crate::model::policy::PolicySet;

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
/// A mesh's bundle is the union over *all* its backends, or it is absent: a bundle that lacks a CA because a Secret was
/// missing at the moment would cut off every peer that has its leaf from that CA. A source that was good and turns bad
/// keeps what it had.
#[derive(Debug, Default)]
pub struct TrustState {
    policies: Arc<PolicySet>,
    sources: BTreeMap<SourceKey, Source>,
}

impl TrustState {
    /// The policy is now this. Sources of backends that are no longer listed are dropped: their CA is no longer trusted.
    pub fn set_policies(&mut self, policies: Arc<PolicySet>) {
        let listed = |(mesh, backend): &SourceKey| {
            policies.meshes.get(mesh).is_some_and(|policy| policy.backends.iter().any(|listed| listed.name == *backend))
        };
        self.sources.retain(|key, _| listed(key));
        for (mesh, policy) in &policies.meshes {
            for backend in &policy.backends {
                self.sources.entry((mesh.clone(), backend.name.clone())).or_default();
            }
        }
        self.policies = policies;
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

    /// The bundle of every mesh all of whose sources have been good at least once.
    pub fn bundles(&self) -> TrustSet {
        let of = |mesh: &Arc<str>| {
            let policy = self.policies.meshes.get(mesh)?;
            let bundles: Option<Vec<&Arc<Bundle>>> = policy
                .backends
                .iter()
                .map(|backend| self.sources.get(&(mesh.clone(), backend.name.clone()))?.good.as_ref())
                .collect();
            Bundle::union(bundles?.into_iter().map(AsRef::as_ref)).map(Arc::new)
        };
        let meshes = self.policies.meshes.keys().filter_map(|mesh| Some((mesh.clone(), of(mesh)?))).collect();
        TrustSet { meshes }
    }

    /// Which sources are in trouble, and why; whether an older answer of theirs is in use.
    pub fn troubles(&self) -> BTreeMap<SourceKey, Trouble> {
        self.sources.iter().filter_map(|(key, source)| Some((key.clone(), source.trouble()?))).collect()
    }
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
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::policy::{Backend, BackendKind, BuiltinSettings, MeshPolicy};
    use crate::testing::certs::TestCa;

    fn policies(meshes: &[(&str, &[&str])]) -> Arc<PolicySet> {
        let backend = |name: &&str| {
            Arc::new(Backend {
                name: (*name).into(),
                leaf_lifetime: None,
                request_timeout: Duration::from_secs(10),
                kind: BackendKind::Builtin(BuiltinSettings::default()),
            })
        };
        let mesh = |(name, backends): &(&str, &[&str])| {
            let name: Arc<str> = (*name).into();
            let backends: Vec<_> = backends.iter().map(backend).collect();
            let policy = MeshPolicy { name: name.clone(), enabled_backend: backends[0].name.clone(), backends };
            (name, Arc::new(policy))
        };
        Arc::new(PolicySet { meshes: meshes.iter().map(mesh).collect() })
    }

    fn key(mesh: &str, backend: &str) -> SourceKey {
        (mesh.into(), backend.into())
    }

    fn good(ca: &TestCa) -> Answer {
        Answer::Good(Arc::new(ca.bundle()))
    }

    fn trusted(state: &TrustState, mesh: &str) -> Option<Vec<String>> {
        let set = state.bundles();
        let bundle = set.meshes.get(mesh)?;
        Some(bundle.certificates().iter().map(|ca| ca.subject().to_owned()).collect())
    }

    #[test]
    fn all_listed_backends_are_trusted_and_none_is_until_all_are_known() {
        let mut state = TrustState::default();
        state.set_policies(policies(&[("default", &["old", "new"]), ("other", &["x"])]));
        state.hear(&key("default", "old"), good(&TestCa::root("Old")));
        state.hear(&key("other", "x"), good(&TestCa::root("X")));
        assert_eq!(trusted(&state, "default"), None, "half a bundle would cut peers off");
        assert_eq!(trusted(&state, "other").unwrap(), ["CN=X"], "one mesh's trouble is not another's");
        state.hear(&key("default", "new"), good(&TestCa::root("New")));
        assert_eq!(trusted(&state, "default").unwrap(), ["CN=Old", "CN=New"]);
    }

    #[test]
    fn a_bad_answer_keeps_the_last_good_one_and_is_told_once() {
        let mut state = TrustState::default();
        state.set_policies(policies(&[("default", &["a"])]));
        state.hear(&key("default", "a"), good(&TestCa::root("A")));
        let news = |trouble: Option<Trouble>| trouble.map(|trouble| (trouble.reason, trouble.has_last_good));
        let bad = || Answer::Bad("gone".into());
        assert_eq!(news(state.hear(&key("default", "a"), bad())), Some(("gone".into(), true)));
        assert_eq!(state.hear(&key("default", "a"), Answer::Bad("gone".into())), None);
        assert_eq!(state.hear(&key("default", "a"), Answer::Awaited("list")), None);
        assert_eq!(trusted(&state, "default").unwrap(), ["CN=A"]);
        let doubtful = || Answer::Doubtful(Arc::new(TestCa::root("A").bundle()), "away".into());
        assert_eq!(news(state.hear(&key("default", "a"), doubtful())), Some(("away".into(), true)));
        assert_eq!(state.hear(&key("default", "a"), doubtful()), None);
        assert!(state.troubles()[&key("default", "a")].has_last_good);
        state.hear(&key("default", "a"), good(&TestCa::root("B")));
        assert_eq!(trusted(&state, "default").unwrap(), ["CN=B"]);
        assert!(state.troubles().is_empty());
    }

    #[test]
    fn a_backend_that_is_no_longer_listed_is_no_longer_trusted() {
        let mut state = TrustState::default();
        state.set_policies(policies(&[("default", &["old", "new"])]));
        for (backend, ca) in [("old", "Old"), ("new", "New")] {
            state.hear(&key("default", backend), good(&TestCa::root(ca)));
        }
        state.set_policies(policies(&[("default", &["new"])]));
        assert_eq!(trusted(&state, "default").unwrap(), ["CN=New"]);
        state.set_policies(policies(&[("default", &["old", "new"])]));
        assert_eq!(trusted(&state, "default"), None, "what was dropped is not remembered");
        assert_eq!(state.hear(&key("nowhere", "x"), good(&TestCa::root("X"))), None);
    }
}
