//! The names of Open Service Mesh, which is archived and still in use.
//!
//! OSM put the names to accept into its validation contexts. This server never does (it would widen what the proxy's own
//! configuration allows), so a proxy that is moved over has to match names itself.

use super::meaning::{Meaning, Owner};

/// `service-cert:<namespace>/<service account>`, the proxy's own only; `root-cert-for-mtls-inbound`, bare or with the
/// proxy's own service account; `root-cert-for-mtls-outbound`, bare or with the service that is called. All of a mesh
/// have the same CAs, so which service that is makes no difference.
pub(super) fn meaning(name: &str) -> Option<Meaning<'_>> {
    let (what, whose) = match name.split_once(':') {
        Some((what, whose)) => (what, Some(namespaced(whose)?)),
        None => (name, None),
    };
    let own = whose.map(|(namespace, name)| Owner::ServiceAccount { namespace, name });
    match what {
        "service-cert" => own.map(Meaning::Certificate),
        "root-cert-for-mtls-inbound" => Some(Meaning::TrustBundle(own.unwrap_or(Owner::Asker))),
        "root-cert-for-mtls-outbound" => Some(Meaning::TrustBundle(Owner::Asker)),
        _ => None,
    }
}

fn namespaced(text: &str) -> Option<(&str, &str)> {
    let (namespace, name) = text.split_once('/')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains('/')).then_some((namespace, name))
}
