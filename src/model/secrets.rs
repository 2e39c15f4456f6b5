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

/// A mesh Secret that there is. That one cannot be read is not that there is none: absence may mean something to a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MeshSecret {
    /// It can be read.
    Good(SecretBytes),
    /// It cannot, as it is now.
    Unreadable {
        /// Why; nothing of its content is in it.
        why: Arc<str>,
        /// What it held when it could be read.
        last: Option<SecretBytes>,
    },
}

impl MeshSecret {
    /// What it holds, or held last.
    pub fn content(&self) -> Option<&SecretBytes> {
        match self {
            Self::Good(content) => Some(content),
            Self::Unreadable { last, .. } => last.as_ref(),
        }
    }

    /// Why it cannot be read, if it cannot.
    pub fn problem(&self) -> Option<&Arc<str>> {
        match self {
            Self::Good(_) => None,
            Self::Unreadable { why, .. } => Some(why),
        }
    }
}

/// Mesh Secrets by mesh and name; only their names are ever formatted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MeshSecrets {
    known: BTreeMap<(Arc<str>, Arc<str>), MeshSecret>,
    gap: Option<Arc<str>>,
}

impl MeshSecrets {
    /// Secret `name` of `mesh`.
    pub fn find(&self, mesh: &str, name: &str) -> Option<&MeshSecret> {
        self.known.get(&(mesh.into(), name.into()))
    }

    /// What Secret `name` of `mesh` holds, or held last.
    pub fn get(&self, mesh: &str, name: &str) -> Option<&SecretBytes> {
        self.find(mesh, name).and_then(MeshSecret::content)
    }

    /// Mesh, name and the Secret itself of each, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &MeshSecret)> {
        self.known.iter().map(|((mesh, name), secret)| (mesh.as_ref(), name.as_ref(), secret))
    }

    /// Secret `name` of `mesh` is there and cannot be read; what is known of it is what it held last.
    pub fn cannot_read(&mut self, mesh: Arc<str>, name: Arc<str>, why: Arc<str>) {
        let key = (mesh, name);
        let last = self.known.get(&key).and_then(MeshSecret::content).cloned();
        self.known.insert(key, MeshSecret::Unreadable { why, last });
    }

    /// There may be more of them, in something that cannot be understood.
    pub fn may_lack_some(&mut self, why: Arc<str>) {
        self.gap = Some(why);
    }

    /// Why there may be more of them, if there may.
    pub fn gap(&self) -> Option<&Arc<str>> {
        self.gap.as_ref()
    }
}

impl FromIterator<((Arc<str>, Arc<str>), MeshSecret)> for MeshSecrets {
    fn from_iter<T: IntoIterator<Item = ((Arc<str>, Arc<str>), MeshSecret)>>(secrets: T) -> Self {
        Self { known: secrets.into_iter().collect(), gap: None }
    }
}

/// Those that can be read.
impl FromIterator<((Arc<str>, Arc<str>), SecretBytes)> for MeshSecrets {
    fn from_iter<T: IntoIterator<Item = ((Arc<str>, Arc<str>), SecretBytes)>>(secrets: T) -> Self {
        secrets.into_iter().map(|(key, content)| (key, MeshSecret::Good(content))).collect()
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
    /// Its content, or what that was when it could be read last.
    Found(SecretBytes),
    /// It is there, has not been readable yet, and this is why.
    Unreadable(Arc<str>),
    /// It may be among those of the cluster, which are not listed yet.
    Pending,
    /// There is none, neither in a resource file nor in the cluster.
    Absent,
    /// It is in no resource file, and there is no cluster.
    NotInFiles,
}

impl KnownSecrets {
    /// Secret `name` of `mesh`, if it is among those that are known.
    pub fn get(&self, mesh: &str, name: &str) -> Option<&MeshSecret> {
        self.files.find(mesh, name).or_else(|| self.listed()?.find(mesh, name))
    }

    /// Those that are known of all sources.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &MeshSecret)> {
        self.files.iter().chain(self.listed().into_iter().flat_map(MeshSecrets::iter))
    }

    /// Looks Secret `name` of `mesh` up.
    pub fn find(&self, mesh: &str, name: &str) -> SecretLookup {
        match (self.get(mesh, name), &self.cluster) {
            (Some(MeshSecret::Unreadable { why, last: None }), _) => SecretLookup::Unreadable(why.clone()),
            (Some(MeshSecret::Good(found) | MeshSecret::Unreadable { last: Some(found), .. }), _) => {
                SecretLookup::Found(found.clone())
            }
            (None, ClusterSecrets::NoCluster) => SecretLookup::NotInFiles,
            (None, ClusterSecrets::Pending) => SecretLookup::Pending,
            (None, ClusterSecrets::Listed(_)) => SecretLookup::Absent,
        }
    }

    fn listed(&self) -> Option<&MeshSecrets> {
        match &self.cluster {
            ClusterSecrets::Listed(secrets) => Some(secrets),
            ClusterSecrets::NoCluster | ClusterSecrets::Pending => None,
        }
    }
}
