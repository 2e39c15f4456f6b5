//! The names of Kuma and Kong Mesh, classic and newer. Every one of them that has a mesh in it is for proxies of that
//! mesh only.

use super::meaning::{Meaning, Owner};

/// `identity_cert`, `identity_cert:secret:<mesh>`, `system_mtls_identity_<mesh>`; `mesh_ca`, `mesh_ca:secret:<mesh>`,
/// `system_mtls_ca_<mesh>`, `system_trust_bundle`; and all trust domains: `mesh_ca:secret:all`,
/// `system_mtls_ca_all_meshes`. The last two mean that also to a mesh with such a name.
pub(super) fn meaning(name: &str) -> Option<Meaning<'_>> {
    match name {
        "identity_cert" => return Some(Meaning::Certificate(Owner::Asker)),
        "mesh_ca" | "system_trust_bundle" => return Some(Meaning::TrustBundle(Owner::Asker)),
        "mesh_ca:secret:all" | "system_mtls_ca_all_meshes" => return Some(Meaning::AllTrustDomains),
        _ => {}
    }
    let mesh_after = |prefixes: [&str; 2]| {
        let mesh = prefixes.into_iter().find_map(|prefix| name.strip_prefix(prefix))?;
        (!mesh.is_empty()).then_some(Owner::Mesh(mesh))
    };
    let certificate = mesh_after(["identity_cert:secret:", "system_mtls_identity_"]).map(Meaning::Certificate);
    certificate.or_else(|| mesh_after(["mesh_ca:secret:", "system_mtls_ca_"]).map(Meaning::TrustBundle))
}
