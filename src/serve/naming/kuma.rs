//! The names of Kuma and Kong Mesh, classic and newer. Every one of them that has a mesh in it is for proxies of that
//! mesh only.

use super::meaning::{Meaning, Owner};

/// `identity_cert`, `identity_cert:secret:<mesh>`, `system_mtls_identity_<mesh>`; `mesh_ca`, `mesh_ca:secret:<mesh>`,
/// `system_mtls_ca_<mesh>`, `system_trust_bundle`; and all trust domains: `mesh_ca:secret:all`,
/// `system_mtls_ca_all_meshes`. The last two mean that also to a mesh with such a name. Resource identifiers (KRI): of a
/// MeshIdentity, a certificate; of a MeshTrust, CAs.
pub(super) fn meaning(name: &str) -> Option<Meaning<'_>> {
    match name {
        "identity_cert" => return Some(Meaning::Certificate(Owner::Asker)),
        "mesh_ca" | "system_trust_bundle" => return Some(Meaning::TrustBundle(Owner::Asker)),
        "mesh_ca:secret:all" | "system_mtls_ca_all_meshes" => return Some(Meaning::AllTrustDomains),
        _ => {}
    }
    if let Some((kind, mesh)) = resource_identifier(name) {
        return match kind {
            "mid" => Some(Meaning::Certificate(Owner::Mesh(mesh))),
            "mtrust" => Some(Meaning::TrustBundle(Owner::Mesh(mesh))),
            _ => None,
        };
    }
    let mesh_after = |prefixes: [&str; 2]| {
        let mesh = prefixes.into_iter().find_map(|prefix| name.strip_prefix(prefix))?;
        (!mesh.is_empty()).then_some(Owner::Mesh(mesh))
    };
    let certificate = mesh_after(["identity_cert:secret:", "system_mtls_identity_"]).map(Meaning::Certificate);
    certificate.or_else(|| mesh_after(["mesh_ca:secret:", "system_mtls_ca_"]).map(Meaning::TrustBundle))
}

/// Kind and mesh of `kri_<kind>_<mesh>_<zone>_<namespace>_<name>_<section>`, in which no part has a `_`, and zone,
/// namespace and section may be empty (Kuma's decision record 070).
fn resource_identifier(name: &str) -> Option<(&str, &str)> {
    let parts: Vec<&str> = name.strip_prefix("kri_")?.splitn(7, '_').collect();
    let [kind, mesh, _zone, _namespace, name, _section] = parts[..] else { return None };
    (!mesh.is_empty() && !name.is_empty()).then_some((kind, mesh))
}
