//! Mesh Secrets: named bytes that belong to a mesh (Kuma's `system.kuma.io/secret`).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

/// Mesh Secrets by mesh and name; wiped when dropped, and only their names are ever formatted.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct MeshSecrets(BTreeMap<MeshAndName, Zeroizing<Vec<u8>>>);

type MeshAndName = (Arc<str>, Arc<str>);

impl MeshSecrets {
    /// Adds one; a former one of that name is replaced.
    pub fn insert(&mut self, mesh: &str, name: &str, value: Zeroizing<Vec<u8>>) {
        self.0.insert((mesh.into(), name.into()), value);
    }

    /// Removes one.
    pub fn remove(&mut self, mesh: &str, name: &str) {
        self.0.remove(&(mesh.into(), name.into()));
    }

    /// The value of one.
    pub fn get(&self, mesh: &Arc<str>, name: &Arc<str>) -> Option<&[u8]> {
        self.0.get(&(mesh.clone(), name.clone())).map(|value| value.as_slice())
    }
}

impl fmt::Debug for MeshSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
