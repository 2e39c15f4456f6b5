//! Mesh Secrets: named bytes that belong to a mesh (Kuma's `system.kuma.io/secret`; S1-3).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

/// The content of a Secret: redacted in `Debug`, wiped when the last clone is dropped. (What a parser's own buffers held
/// while it was read is not.)
#[derive(Clone, PartialEq, Eq)]
pub struct SecretBytes(Arc<Zeroizing<Vec<u8>>>);

impl SecretBytes {
    /// Takes over `bytes`.
    pub fn new(bytes: impl Into<Zeroizing<Vec<u8>>>) -> Self {
        Self(Arc::new(bytes.into()))
    }

    /// The content itself.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes([redacted])")
    }
}

/// Mesh Secrets by mesh and name; only their names are ever formatted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MeshSecrets(BTreeMap<(Arc<str>, Arc<str>), SecretBytes>);

impl MeshSecrets {
    /// The content of Secret `name` of `mesh`.
    pub fn get(&self, mesh: &str, name: &str) -> Option<&SecretBytes> {
        self.0.get(&(mesh.into(), name.into()))
    }

    /// Mesh, name and content of each, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &SecretBytes)> {
        self.0.iter().map(|((mesh, name), bytes)| (mesh.as_ref(), name.as_ref(), bytes))
    }
}

impl FromIterator<((Arc<str>, Arc<str>), SecretBytes)> for MeshSecrets {
    fn from_iter<T: IntoIterator<Item = ((Arc<str>, Arc<str>), SecretBytes)>>(secrets: T) -> Self {
        Self(secrets.into_iter().collect())
    }
}

/// The mesh Secrets of all sources: those of resource files come before those of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownSecrets {
    /// From resource files.
    pub files: Arc<MeshSecrets>,
    /// From the cluster.
    pub cluster: ClusterSecrets,
}

/// The mesh Secrets of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ClusterSecrets {
    /// There is no cluster.
    #[default]
    NoCluster,
    /// They have not been listed yet.
    Pending,
    /// These.
    Listed(Arc<MeshSecrets>),
}

/// What is known of a mesh Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretLookup {
    /// Its content.
    Found(SecretBytes),
    /// It may be among those of the cluster, which are not listed yet.
    Pending,
    /// There is none, neither in a resource file nor in the cluster.
    Absent,
    /// It is in no resource file, and there is no cluster.
    NotInFiles,
}

impl KnownSecrets {
    /// Looks Secret `name` of `mesh` up.
    pub fn find(&self, mesh: &str, name: &str) -> SecretLookup {
        if let Some(found) = self.files.get(mesh, name) {
            return SecretLookup::Found(found.clone());
        }
        match &self.cluster {
            ClusterSecrets::NoCluster => SecretLookup::NotInFiles,
            ClusterSecrets::Pending => SecretLookup::Pending,
            ClusterSecrets::Listed(secrets) => {
                secrets.get(mesh, name).cloned().map_or(SecretLookup::Absent, SecretLookup::Found)
            }
        }
    }
}
