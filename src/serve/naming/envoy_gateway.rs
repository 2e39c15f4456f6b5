//! The names that Envoy Gateway gives to secrets: Kubernetes Secrets and ConfigMaps by namespace and name.
//!
//! Envoy Gateway's names say which object of the cluster is wanted, and this server has none of them: it has one
//! certificate for each proxy, and the CAs of its mesh. So a name is answered only where it can mean nothing but these:
//!
//! - a certificate, `<namespace>/<secret>`, to the proxy whose own namespace that is and whose service account (or
//!   workload) has the Secret's name, which is how per-workload certificates are commonly called. Anything looser would
//!   put a mesh certificate on a port where the user has configured another one;
//! - CAs, `<namespace>/<name>/ca.crt` and `gateway/<namespace>/<gateway>/<suffix>/ca.crt`, to the proxies of that
//!   namespace. They are public, and a proxy that is given its own mesh's CAs accepts fewer peers, never more than its mesh.
//!   A revocation list (`…/ca.crl`) is not served: the mesh has none.
//!
//! By default Envoy Gateway runs its proxies in its own namespace and not in the Gateway's; those names have to be listed
//! in the configuration, as have the free ones of its `gateway.envoyproxy.io/sds` Secrets (`secretName`).

use super::meaning::{Meaning, Owner};

/// See the module.
pub(super) fn meaning(name: &str) -> Option<Meaning<'_>> {
    let mut parts = name.split('/');
    let parts = [(); 6].map(|()| parts.next());
    match parts {
        [Some(namespace), Some(name), None, ..] if is_label(namespace) && is_name(name) => {
            Some(Meaning::Certificate(Owner::Workload { namespace, name }))
        }
        [Some(namespace), Some(name), Some("ca.crt"), None, ..]
        | [Some("gateway"), Some(namespace), Some(name), Some(_), Some("ca.crt"), None]
            if is_label(namespace) && is_name(name) =>
        {
            Some(Meaning::TrustBundle(Owner::Namespace(namespace)))
        }
        _ => None,
    }
}

/// A DNS label (RFC 1123), as a namespace is one.
fn is_label(text: &str) -> bool {
    is_name(text) && text.len() <= 63 && !text.contains('.')
}

/// A DNS name in lower case (RFC 1123), as an object's name is one.
fn is_name(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    let is_outer = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let bytes = text.as_bytes();
    bytes.len() <= 253 && bytes.iter().copied().all(is_inner) && is_outer(bytes.first()) && is_outer(bytes.last())
}
