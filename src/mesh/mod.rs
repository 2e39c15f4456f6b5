//! Mesh resources: from what users wrote, in files or in the cluster, to a [`PolicySet`]. Reading and deciding are apart:
//! [`compile`] is pure, [`ResourceFiles`] reads, watches and publishes. A bad resource never replaces a good one.

mod backend;
mod ca_cert;
mod compile;
mod files;
mod last_good;
mod policy;
mod resource;
mod secret;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

pub use compile::{Compiled, KnownGood, Source, compile};
pub use files::{ResourceFiles, Settings};
pub use last_good::{LastGood, Seen};

use self::secret::SecretContent;
use crate::model::policy::{Backend, BackendKind, BuiltinSettings, MeshPolicy, PolicySet};

/// What is known outside of the resources themselves, and decides whether they are right.
#[derive(Debug, Clone)]
pub struct Context {
    /// Whether there is a cluster for cert-manager backends and for Secrets that are in no file.
    pub kubernetes_available: bool,
    /// Where mesh Secrets have to be (S1-3).
    pub system_namespace: String,
    /// The time; an expired CA is a problem.
    pub now: Timestamp,
}

/// What all resources together say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resources {
    /// Meshes with mTLS on.
    pub policies: PolicySet,
    /// Mesh Secrets from resource files.
    pub secrets: MeshSecrets,
}

impl Resources {
    /// What is served if no resources are configured at all: the mesh `default` with a builtin CA.
    pub fn embedded_default() -> Self {
        let (mesh, backend): (Arc<str>, Arc<str>) = ("default".into(), "builtin".into());
        let policy = MeshPolicy {
            name: mesh.clone(),
            enabled_backend: backend.clone(),
            backends: vec![Arc::new(Backend {
                name: backend,
                leaf_lifetime: None,
                request_timeout: backend::DEFAULT_REQUEST_TIMEOUT,
                kind: BackendKind::Builtin(BuiltinSettings::default()),
            })],
        };
        let policies = PolicySet { meshes: BTreeMap::from([(mesh, Arc::new(policy))]) };
        Self { policies, secrets: MeshSecrets::default() }
    }
}

/// The content of mesh Secrets (S1-3), by mesh and name: wiped when dropped, redacted in `Debug`.
#[derive(Clone, Default, PartialEq)]
pub struct MeshSecrets(BTreeMap<Arc<str>, BTreeMap<Arc<str>, SecretContent>>);

impl MeshSecrets {
    /// The content of the Secret `name` of `mesh`.
    pub fn get(&self, mesh: &str, name: &str) -> Option<&[u8]> {
        self.0.get(mesh)?.get(name).map(|content| content.as_slice())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    fn insert(&mut self, mesh: Arc<str>, name: Arc<str>, content: SecretContent) {
        self.0.entry(mesh).or_default().insert(name, content);
    }
}

impl fmt::Debug for MeshSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.0.iter().flat_map(|(mesh, secrets)| secrets.keys().map(move |name| format!("{mesh}/{name}")));
        f.debug_map().entries(names.map(|name| (name, "[redacted]"))).finish()
    }
}

#[cfg(test)]
mod tests;
