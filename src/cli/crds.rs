//! `envoy-sds crds`: the definitions of what it reads from the cluster.

use clap::Args;

use super::{Failure, output};
use crate::mesh::cluster::DEFINITIONS;

/// Print the CustomResourceDefinitions of Mesh, MeshIdentity and MeshTrust
///
/// They have Kuma's names, scopes and version. Where Kuma is installed, its own are used as they are: do not replace them.
#[derive(Debug, Args)]
#[command(after_help = "Example: envoy-sds crds | kubectl apply -f -")]
pub(super) struct Crds;

impl Crds {
    pub(super) fn run(self) -> Result<(), Failure> {
        output::line(DEFINITIONS.trim_end())
    }
}
