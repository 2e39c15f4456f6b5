//! `insecureNodeId`, for development: believes what the proxy says of itself.

use super::{NodeClaim, Proof};
use crate::model::identity::Workload;
use crate::model::policy::PolicySet;

/// The name of the method, as configured.
pub const METHOD: &str = "insecureNodeId";

/// Takes `node` at its word: `node.id` is `<mesh>.<name>` or `<name>`, `node.cluster` the workload (the name, if it is
/// empty). What comes before the first dot is a mesh only if there is such a mesh, since names may have dots too.
pub fn believe(node: &NodeClaim, policies: &PolicySet) -> Proof {
    let split = node.id.split_once('.').filter(|(mesh, name)| policies.meshes.contains_key(*mesh) && !name.is_empty());
    let (mesh, name) = split.map_or((None, node.id.as_str()), |(mesh, name)| (Some(mesh.to_owned()), name));
    let workload = if node.cluster.is_empty() { name } else { &node.cluster };
    let workload = Workload { name: Some(workload.into()), ..Workload::default() };
    Proof { method: METHOD, mesh, workload, ..Proof::default() }
}

#[cfg(test)]
mod tests {
    use super::super::membership::tests::policies;
    use super::*;

    #[test]
    fn reads_mesh_and_name() {
        for (id, cluster, mesh, workload) in [
            ("web-0", "web", None, "web"),
            ("web-0", "", None, "web-0"),
            ("prod.web-0", "web", Some("prod"), "web"),
            ("prod.web-0", "", Some("prod"), "web-0"),
            ("prod.web.v1", "", Some("prod"), "web.v1"),
            ("other.web-0", "", None, "other.web-0"),
            ("prod.", "", None, "prod."),
            ("", "web", None, "web"),
        ] {
            let node = NodeClaim { id: id.to_owned(), cluster: cluster.to_owned(), ..NodeClaim::default() };
            let proof = believe(&node, &policies(&["default", "prod"]));
            assert_eq!((proof.mesh.as_deref(), proof.workload.name.as_deref()), (mesh, Some(workload)), "{id}");
        }
    }
}
