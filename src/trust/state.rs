//! What is trusted, given what the sources said last: the pure core of the trust store.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::model::bundle::{Bundle, TrustSet};
use crate::model::certificate::Certificate;
use crate::model::policy::{Backend, PolicySet};

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
/// the CAs that are known come to it.
#[derive(Debug, Default)]
pub struct TrustState {
    policies: Arc<PolicySet>,
    sources: BTreeMap<SourceKey, Source>,
    /// The last bundle of each mesh that all of its sources were in.
    complete: BTreeMap<Arc<str>, Arc<Bundle>>,
    /// What was returned last by [`TrustState::bundles`].
    served: TrustSet,
}

impl TrustState {
    /// The policy is now this. Sources of backends that are no longer listed are dropped: their CA is no longer trusted.
    /// Returns those that are gone: of them nothing is known any more, should one of that name come later.
    pub fn set_policies(&mut self, policies: Arc<PolicySet>) -> Vec<SourceKey> {
        let listed = |(mesh, backend): &SourceKey| {
            policies.meshes.get(mesh).is_some_and(|policy| policy.backends.iter().any(|listed| listed.name == *backend))
        };
        let gone: Vec<SourceKey> = self.sources.keys().filter(|key| !listed(key)).cloned().collect();
        self.sources.retain(|key, _| listed(key));
        for (mesh, policy) in &policies.meshes {
            for backend in &policy.backends {
                self.sources.entry((mesh.clone(), backend.name.clone())).or_default();
            }
        }
        self.complete.retain(|mesh, _| policies.meshes.contains_key(mesh));
        self.policies = policies;
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

    /// The bundle of every mesh all of whose sources have been good at least once, at `now`.
    pub fn bundles(&mut self, now: Timestamp) -> TrustSet {
        let mut set = TrustSet::default();
        for (mesh, policy) in &self.policies.meshes {
            let good = |backend: &Arc<Backend>| {
                let bundle = self.sources.get(&(mesh.clone(), backend.name.clone()))?.good.clone()?;
                Some((backend.name.clone(), bundle))
            };
            let known: Vec<(Arc<str>, Arc<Bundle>)> = policy.backends.iter().filter_map(good).collect();
            let is_complete = known.len() == policy.backends.len();
            let before = self.complete.get(mesh).filter(|_| !is_complete);
            let union = match (is_complete, before) {
                (false, None) => None,
                _ => Bundle::union(before.into_iter().chain(known.iter().map(|(_, bundle)| bundle)).map(AsRef::as_ref)),
            };
            let Some(union) = union.map(Arc::new) else { continue };
            if is_complete {
                self.complete.insert(mesh.clone(), union.clone());
            }
            set.known.extend(known.into_iter().map(|(backend, _)| (mesh.clone(), backend)));
            set.added.insert(mesh.clone(), added(&self.served, mesh, &union, now));
            set.meshes.insert(mesh.clone(), union);
        }
        self.served = set.clone();
        set
    }

    /// Which sources are in trouble, and why; whether an older answer of theirs is in use.
    pub fn troubles(&self) -> BTreeMap<SourceKey, Trouble> {
        self.sources.iter().filter_map(|(key, source)| Some((key.clone(), source.trouble()?))).collect()
    }
}

/// Which CAs of `bundle` came into it after it was first served, and when.
fn added(served: &TrustSet, mesh: &Arc<str>, bundle: &Bundle, now: Timestamp) -> Vec<(Certificate, Timestamp)> {
    let Some(before) = served.meshes.get(mesh) else { return Vec::new() };
    let earlier = served.added.get(mesh).map_or(&[][..], Vec::as_slice);
    let kept = earlier.iter().filter(|(ca, _)| bundle.contains(ca)).cloned();
    let new = bundle.certificates().iter().filter(|ca| !before.contains(ca)).map(|ca| (ca.clone(), now));
    kept.chain(new).collect()
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
    use crate::model::policy::{BackendKind, BuiltinSettings, MeshPolicy};
    use crate::testing::certs::{TestCa, timestamp};

    fn policies(meshes: &[(&str, &[&str])]) -> Arc<PolicySet> {
        let backend = |name: &&str| {
            Arc::new(Backend {
                name: (*name).into(),
                leaf_lifetime: None,
                request_timeout: Duration::from_secs(10),
                trust_domain: "default".into(),
                kind: BackendKind::Builtin(BuiltinSettings::default()),
            })
        };
        let mesh = |(name, backends): &(&str, &[&str])| {
            let name: Arc<str> = (*name).into();
            let backends: Vec<_> = backends.iter().map(backend).collect();
            let policy = MeshPolicy::classic(name.clone(), backends[0].name.clone(), backends);
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

    fn trusted(state: &mut TrustState, mesh: &str) -> Option<Vec<String>> {
        let set = state.bundles(timestamp(1_800_000_000));
        let bundle = set.meshes.get(mesh)?;
        Some(bundle.certificates().iter().map(|ca| ca.subject().to_owned()).collect())
    }

    #[test]
    fn all_listed_backends_are_trusted_and_none_is_until_all_are_known() {
        let mut state = TrustState::default();
        state.set_policies(policies(&[("default", &["old", "new"]), ("other", &["x"])]));
        state.hear(&key("default", "old"), good(&TestCa::root("Old")));
        state.hear(&key("other", "x"), good(&TestCa::root("X")));
        assert_eq!(trusted(&mut state, "default"), None, "half a bundle would cut peers off");
        assert_eq!(trusted(&mut state, "other").unwrap(), ["CN=X"], "one mesh's trouble is not another's");
        state.hear(&key("default", "new"), good(&TestCa::root("New")));
        assert_eq!(trusted(&mut state, "default").unwrap(), ["CN=Old", "CN=New"]);
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
        assert_eq!(trusted(&mut state, "default").unwrap(), ["CN=A"]);
        let doubtful = || Answer::Doubtful(Arc::new(TestCa::root("A").bundle()), "away".into());
        assert_eq!(news(state.hear(&key("default", "a"), doubtful())), Some(("away".into(), true)));
        assert_eq!(state.hear(&key("default", "a"), doubtful()), None);
        assert!(state.troubles()[&key("default", "a")].has_last_good);
        state.hear(&key("default", "a"), good(&TestCa::root("B")));
        assert_eq!(trusted(&mut state, "default").unwrap(), ["CN=B"]);
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
        assert_eq!(trusted(&mut state, "default").unwrap(), ["CN=New"]);
        assert_eq!(state.hear(&key("nowhere", "x"), good(&TestCa::root("X"))), None);
    }

    #[test]
    fn a_backend_that_has_not_said_its_ca_takes_nothing_away() {
        let mut state = TrustState::default();
        state.set_policies(policies(&[("default", &["old"])]));
        state.hear(&key("default", "old"), good(&TestCa::root("Old")));
        assert_eq!(trusted(&mut state, "default").unwrap(), ["CN=Old"]);
        state.set_policies(policies(&[("default", &["new", "old"])]));
        state.hear(&key("default", "new"), Answer::Bad("no such Secret".into()));
        assert_eq!(trusted(&mut state, "default").unwrap(), ["CN=Old"]);
        let known = state.bundles(timestamp(1_800_000_000)).known;
        assert_eq!(known.into_iter().collect::<Vec<_>>(), [key("default", "old")]);
        // Also if the one that was there is replaced by it.
        state.set_policies(policies(&[("default", &["new"])]));
        assert_eq!(trusted(&mut state, "default").unwrap(), ["CN=Old"]);
        state.hear(&key("default", "new"), good(&TestCa::root("New")));
        assert_eq!(trusted(&mut state, "default").unwrap(), ["CN=New"]);
    }

    #[test]
    fn a_mesh_that_is_deleted_leaves_nothing_to_one_of_its_name() {
        let mut state = TrustState::default();
        state.set_policies(policies(&[("default", &["ca"]), ("other", &["x"])]));
        state.hear(&key("default", "ca"), good(&TestCa::root("Old")));
        assert_eq!(trusted(&mut state, "default").unwrap(), ["CN=Old"]);
        assert_eq!(state.set_policies(policies(&[("other", &["x"])])), [key("default", "ca")]);
        assert_eq!(trusted(&mut state, "default"), None);
        assert!(state.set_policies(policies(&[("default", &["ca"])])).contains(&key("other", "x")));
        state.hear(&key("default", "ca"), Answer::Bad("not there".into()));
        assert_eq!(trusted(&mut state, "default"), None);
        assert!(!state.troubles()[&key("default", "ca")].has_last_good);
        state.hear(&key("default", "ca"), good(&TestCa::root("New")));
        let set = state.bundles(timestamp(1_800_000_000));
        assert_eq!(set.added["default"], [], "it was not served before");
    }

    #[test]
    fn what_comes_into_a_bundle_that_is_served_is_noted_with_its_time() {
        let mut state = TrustState::default();
        state.set_policies(policies(&[("default", &["old", "new"])]));
        let (old, new) = (TestCa::root("Old"), TestCa::root("New"));
        state.hear(&key("default", "old"), good(&old));
        state.hear(&key("default", "new"), good(&old));
        let added = |state: &mut TrustState, at| state.bundles(timestamp(at)).added["default"].clone();
        assert_eq!(added(&mut state, 1), [], "the first bundle is new to nobody: there was none");
        state.hear(&key("default", "new"), good(&new));
        assert_eq!(added(&mut state, 2), [(new.certificate().clone(), timestamp(2))]);
        assert_eq!(added(&mut state, 3), [(new.certificate().clone(), timestamp(2))]);
        state.hear(&key("default", "new"), good(&old));
        assert_eq!(added(&mut state, 4), []);
    }
}
