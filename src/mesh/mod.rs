//! Mesh resources: from what users wrote, in files or in the cluster, to a [`PolicySet`]. Reading and deciding are apart:
//! [`compile`] is pure, [`ResourceFiles`] reads, watches and publishes. A bad resource never replaces a good one.

mod backend;
mod ca_cert;
mod claims;
mod compile;
mod data_source;
mod files;
mod identity;
mod last_good;
mod not_in_program;
mod policy;
mod provided;
mod resource;
mod secret;
mod trust;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

pub use compile::{Compiled, KnownGood, Source, compile};
pub use files::{ResourceFiles, Settings};
pub use last_good::{LastGood, Seen};

use crate::model::policy::{Backend, BackendKind, BuiltinSettings, MeshPolicy, PolicySet};
use crate::model::secrets::MeshSecrets;

/// What is known outside of the resources themselves, and decides whether they are right.
#[derive(Debug, Clone)]
pub struct Context {
    /// Whether there is a cluster for cert-manager backends and for Secrets that are in no file.
    pub kubernetes_available: bool,
    /// Where mesh Secrets and `MeshIdentity` resources have to be (S1-3, S4-6).
    pub system_namespace: String,
    /// The zone that this server is in; may be empty.
    pub zone: String,
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
        let builtin = Backend {
            name: backend.clone(),
            leaf_lifetime: None,
            request_timeout: backend::DEFAULT_REQUEST_TIMEOUT,
            trust_domain: mesh.clone(),
            kind: BackendKind::Builtin(BuiltinSettings::default()),
        };
        let policy = MeshPolicy::classic(mesh.clone(), backend, vec![Arc::new(builtin)]);
        let policies = PolicySet { meshes: BTreeMap::from([(mesh, Arc::new(policy))]) };
        Self { policies, secrets: MeshSecrets::default() }
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod identity_tests;
