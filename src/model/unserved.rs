//! Meshes that there are, or may be, beside those that are served. It depends on them which mesh is meant where nothing
//! names one: a mesh that cannot be served at the moment must not leave its proxies to another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unserved {
    /// They are defined and give nobody an identity: mTLS is off, and there is no `MeshIdentity`.
    pub off: BTreeSet<Arc<str>>,
    /// They are meant to be served, and nothing of them is in force: what defines them is broken, or held back.
    pub waiting: BTreeSet<Arc<str>>,
    /// They are served, and a part of what defines them is broken, of which nothing good is known.
    pub in_part: BTreeSet<Arc<str>>,
    /// The resources that nobody has understood so far, so that a mesh may be among them: where they are.
    pub unread: Option<Arc<str>>,
}

impl Unserved {
    /// Why it is not known yet whether a mesh of this name is to be served; `None` if it is not.
    pub fn may_have(&self, mesh: &str) -> Option<String> {
        if self.waiting.contains(mesh) {
            return Some(format!("what defines mesh {mesh:?} is broken or held back, and nothing good of it is known"));
        }
        self.unread()
    }

    /// Why it is not known yet whether there are other meshes to be served; `None` if there are none.
    pub fn may_have_others(&self) -> Option<String> {
        match self.waiting.first() {
            Some(mesh) => self.may_have(mesh),
            None => self.unread(),
        }
    }

    /// The meshes of which it is not known yet which backends they are to have; `None` if that may be any.
    pub fn incomplete(&self) -> Option<BTreeSet<Arc<str>>> {
        self.unread.is_none().then(|| self.waiting.union(&self.in_part).cloned().collect())
    }

    /// The same, while of the meshes that are `wanted` only some are in force.
    #[must_use]
    pub fn with_those_held_back<T, U>(&self, wanted: &BTreeMap<Arc<str>, T>, in_force: &BTreeMap<Arc<str>, U>) -> Self {
        let held_back = wanted.keys().filter(|mesh| !in_force.contains_key(*mesh)).cloned();
        Self { waiting: self.waiting.iter().cloned().chain(held_back).collect(), ..self.clone() }
    }

    fn unread(&self) -> Option<String> {
        let at = self.unread.as_ref()?;
        Some(format!("what is in {at} has not been understood since the server started, and may define a mesh"))
    }
}
