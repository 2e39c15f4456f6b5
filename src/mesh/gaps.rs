//! What was broken from the start, so that nothing good is known of it: the meshes that it may define, and the proxies that it
//! may select, must not be left to another mesh or to a weaker identity. Pure.
//!
//! That is for the first start alone. Once everything has been seen, what was good stays in force, and that there was no such
//! resource is part of it: one that is broken when it appears takes nothing away from anybody, and neither does it when the
//! server starts again. So gaps are kept over a restart with what is known to be good.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::backend::OF_IDENTITY;
use super::claims::{BrokenClaims, IdentityKey};
use super::cluster::{ObjectKind, ObjectRef, in_cluster};
use super::policy::is_trust_domain;
use super::resource::Key;
use crate::document::{Node, Value};
use crate::model::diagnostic::{Location, Problem};
use crate::model::policy::{IdentityPolicy, MeshPolicy, Selector};
use crate::model::template::render_trust_domain;
use crate::model::unserved::Unserved;

/// See the module.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Gaps {
    /// Mesh resources.
    pub(super) meshes: BTreeSet<Arc<str>>,
    /// Identity policies, and whom they select; `None` if even that cannot be read.
    #[serde(with = "as_pairs")]
    pub(super) identities: BTreeMap<IdentityKey, Option<Selector>>,
    /// What these claim; but for what was refused to them because others have it.
    #[serde(default)]
    pub(super) claims: BrokenClaims,
    /// Files and folders of which something has never been understood.
    pub(super) unread: BTreeSet<Arc<PathBuf>>,
    /// Whether everything has been seen once.
    has_begun: bool,
}

/// In JSON a map's keys are texts, and these are not.
pub(super) mod as_pairs {
    use super::*;

    pub(in crate::mesh) fn serialize<T: Serialize, S: Serializer>(
        identities: &BTreeMap<IdentityKey, T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(identities)
    }

    pub(in crate::mesh) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<IdentityKey, T>, D::Error> {
        Ok(Vec::<(IdentityKey, T)>::deserialize(deserializer)?.into_iter().collect())
    }
}

impl Gaps {
    /// From now on nothing is added.
    pub(super) fn begin(&mut self) {
        self.has_begun = true;
    }

    /// Takes in what is broken `now` and of which nothing good is known. What is mended or gone is no gap any more.
    pub(super) fn update(&mut self, now: Self) {
        if !self.has_begun {
            *self = now;
            return;
        }
        // Something may be in what is not understood.
        let may_hide = !now.unread.is_empty();
        self.meshes.retain(|mesh| may_hide || now.meshes.contains(mesh));
        self.identities.retain(|key, selector| {
            let found = now.identities.get(key);
            if let Some(found) = found {
                selector.clone_from(found);
            }
            may_hide || found.is_some()
        });
        self.claims.names.retain(|mesh| may_hide || now.claims.names.contains(mesh));
        self.claims.domains.retain(|key, domain| {
            let found = now.claims.domains.get(key);
            if let Some(found) = found {
                domain.clone_from(found);
            }
            may_hide || found.is_some()
        });
        self.unread.retain(|path| now.unread.contains(path));
    }

    /// Where there may be a mesh that nobody knows of; `None` if there is none. A kind of object that has not been listed is not
    /// meant: before it is, nothing comes into force and nothing counts as held.
    pub(super) fn may_hide_a_mesh(&self) -> Option<String> {
        let may_have = |path: &&Arc<PathBuf>| match in_cluster(path) {
            None => true,
            Some(_) => ObjectRef::of_path(path).is_some_and(|object| object.kind == ObjectKind::Mesh),
        };
        let places: Vec<String> = self.unread.iter().filter(may_have).map(|path| place(path)).collect();
        (!places.is_empty()).then(|| places.join(", "))
    }

    /// The meshes that there are, or may be, and that are not `served`; `defined` have a Mesh resource that is in force.
    pub(super) fn unserved<'m>(
        &self,
        defined: impl Iterator<Item = &'m Arc<str>>,
        served: &BTreeMap<Arc<str>, MeshPolicy>,
    ) -> Unserved {
        let is_not_served = |mesh: &&Arc<str>| !served.contains_key(*mesh);
        let broken = self.meshes.iter().chain(self.identities.keys().map(|(mesh, _)| mesh));
        let (waiting, in_part): (BTreeSet<_>, BTreeSet<_>) = broken.cloned().partition(|mesh| is_not_served(&mesh));
        let off = defined.filter(is_not_served).filter(|mesh| !waiting.contains(*mesh)).cloned().collect();
        let unread: Vec<String> = self.unread.iter().map(|path| place(path)).collect();
        Unserved { off, waiting, in_part, unread: (!unread.is_empty()).then(|| unread.join(", ").into()) }
    }

    /// Puts into the meshes what takes the place of identity policies that are broken: nobody signs for whom they select.
    /// Where it cannot be read whom one selects, these are the proxies that no other one selects.
    pub(super) fn fill(&self, meshes: &mut BTreeMap<Arc<str>, MeshPolicy>) {
        let everybody = Selector::Labels(BTreeMap::new());
        for ((mesh, name), selector) in &self.identities {
            let Some(policy) = meshes.get_mut(mesh) else { continue };
            let selector = match selector {
                Some(selector) => selector.clone(),
                None if policy.identities.iter().any(|other| other.selector == everybody) => continue,
                None => everybody.clone(),
            };
            policy.identities.push(Arc::new(unsigned(mesh, name, selector)));
            policy.identities.sort_by(|one, other| one.name.cmp(&other.name));
        }
    }

    /// What it means for proxies that this resource is broken, if it is a gap.
    pub(super) fn notice(&self, key: &Key, at: &Location) -> Option<Problem> {
        let Key::Identity { mesh, name } = key else { return None };
        let what = match self.identities.get(&(mesh.clone(), name.clone()))? {
            Some(Selector::Nobody) => return None,
            Some(Selector::Labels(_)) => "the proxies that it selects are issued nothing until it is mended",
            None => {
                "nobody can tell whom it selects: proxies of its mesh that no other MeshIdentity selects are issued nothing \
                 until it is mended"
            }
        };
        Some(Problem { at: at.clone(), what: what.to_owned(), hint: None })
    }
}

/// Where something has not been understood, for people.
fn place(path: &Path) -> String {
    in_cluster(path).map_or_else(|| path.display().to_string(), |kind| format!("{kind} of the cluster"))
}

/// What takes the place of a broken identity policy. Its backend is none of the mesh's, so nobody signs; nothing of it counts
/// but whom it selects.
fn unsigned(mesh: &Arc<str>, name: &Arc<str>, selector: Selector) -> IdentityPolicy {
    let backend = format!("{OF_IDENTITY}{name}").into();
    IdentityPolicy { name: name.clone(), selector, trust_domain: mesh.clone(), path: None, backend }
}

/// Whom a `MeshIdentity` selects that is broken: those whom it would select at least, if a part cannot be read; `None` if
/// nothing can be told. Says nothing of what is wrong, which [`super::identity::decode`] does.
pub(super) fn selector(document: &Node) -> Option<Selector> {
    let spec = match document.get("spec") {
        Some(spec) => spec,
        None => document,
    };
    let Value::Map(_) = spec.value else { return None };
    let nobody = Some(Selector::Nobody);
    let Some(selector) = spec.get("selector") else { return nobody };
    let Value::Map(parts) = &selector.value else { return None };
    if parts.entries.is_empty() {
        return nobody;
    }
    let dataplane = selector.get("dataplane")?;
    let Value::Map(parts) = &dataplane.value else { return None };
    if parts.entries.is_empty() {
        return Some(Selector::Labels(Default::default()));
    }
    let Value::Map(labels) = &dataplane.get("matchLabels")?.value else { return None };
    let read: BTreeMap<Arc<str>, Arc<str>> = labels
        .entries
        .iter()
        .filter_map(|label| Some((label.key.as_str().into(), label.value.text()?.into())))
        .collect();
    (!read.is_empty() || labels.entries.is_empty()).then_some(Selector::Labels(read))
}

/// The trust domain of a `MeshIdentity` of `mesh` that is broken; `None` if that cannot be read.
pub(super) fn trust_domain(document: &Node, mesh: &str, zone: &str) -> Option<Arc<str>> {
    let spec = match document.get("spec") {
        Some(spec) => spec,
        None => document,
    };
    let Value::Map(_) = spec.value else { return None };
    let spiffe_id = spec.get("spiffeID").filter(|spiffe_id| !spiffe_id.is_null());
    if let Some(Value::List(_) | Value::Scalar(_)) = spiffe_id.map(|spiffe_id| &spiffe_id.value) {
        return None;
    }
    let domain = spiffe_id.and_then(|spiffe_id| spiffe_id.get("trustDomain")).filter(|domain| !domain.is_null());
    let Some(domain) = domain else { return Some(mesh.into()) };
    let rendered = render_trust_domain(domain.text()?, mesh, zone).ok()?;
    is_trust_domain(&rendered).then(|| rendered.into())
}

#[cfg(test)]
#[path = "gaps_tests.rs"]
mod tests;
