//! Mesh resources: from what users wrote, in files or in the cluster, to a [`PolicySet`]. Reading and deciding are apart:
//! [`compile`] is pure, [`LiveResources`] reads and watches. A bad resource never replaces a good one.

mod backend;
mod ca_cert;
mod claims;
mod claims_in_force;
pub mod cluster;
mod compile;
mod data_source;
mod files;
mod gaps;
mod identity;
mod known_good;
mod last_good;
mod live;
mod names;
mod not_in_program;
mod policy;
mod precedence;
mod provided;
mod references;
mod resource;
mod secret;
mod trust;

use std::path::Path;

use jiff::Timestamp;

pub use claims_in_force::first_conflict;
pub use compile::{Compiled, Source, compile};
pub use known_good::KnownGood;
pub use last_good::{LastGood, Seen};
pub use live::{LISTED_WITHIN, LiveResources, Settings, WithoutMeshes};

use crate::model::policy::PolicySet;
use crate::model::secrets::MeshSecrets;

/// Reads a file.
pub type ReadFile = fn(&Path) -> std::io::Result<Vec<u8>>;

/// What is known outside of the resources themselves, and decides whether they are right.
#[derive(Debug, Clone)]
pub struct Context {
    /// Whether there is a cluster for cert-manager backends and for Secrets that are in no file.
    pub kubernetes_available: bool,
    /// Where mesh Secrets and `MeshIdentity` resources have to be (S1-3, S4-6).
    pub system_namespace: String,
    /// The zone that this server is in; may be empty.
    pub zone: String,
    /// How to look into files that resources name, so that what is wrong with them is told with the resource; `None` on a
    /// server, which reads them when they are used: one that is not there yet voids no resource.
    pub read_file: Option<ReadFile>,
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

#[cfg(test)]
mod tests;

#[cfg(test)]
mod broken_claims_tests;
#[cfg(test)]
mod claims_tests;
#[cfg(test)]
mod compile_tests;
#[cfg(test)]
mod identity_tests;
