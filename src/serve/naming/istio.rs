//! The names of Istio's proxies: sidecars, and gateways that are told to use an external SDS server.
//!
//! A gateway's `credentialName: sds://NAME` reaches an SDS server with its prefix, and with `-cacert` behind it for the
//! CAs. NAME is the user's own and there is one certificate that a proxy may have, so every NAME means that one. (Where a
//! mesh's `extensionProviders[].sds` is used the prefix is gone, and NAME has to be listed in the configuration.)
//!
//! Names of objects that istiod keeps (`kubernetes://…`, `kubernetes-gateway://…`, `configmap://…`), of files
//! (`file-cert:…`, `file-root:…`) and of credentials that Istio refuses (`invalid://…`) are known to be somebody else's:
//! whoever asks for one wants that object, and the mesh's certificate in its place would be a wrong one on a public port.

use super::meaning::{Meaning, Owner};

/// What Istio appends to a credential's name to ask for the CAs that belong to it.
const CA_SUFFIX: &str = "-cacert";

/// Names of credentials that this server does not have, each with `-cacert` or without it.
const FOREIGN: [&str; 3] = ["kubernetes://", "kubernetes-gateway://", "invalid://"];

/// `default`, `builtin://`, `sds://NAME`; `ROOTCA`, `builtin://-cacert`, `sds://NAME-cacert`; and what is not ours.
pub(super) fn meaning(name: &str) -> Option<Meaning<'_>> {
    match name {
        "default" | "builtin://" => return Some(Meaning::Certificate(Owner::Asker)),
        "ROOTCA" | "builtin://-cacert" => return Some(Meaning::TrustBundle(Owner::Asker)),
        _ => {}
    }
    if let Some(credential) = name.strip_prefix("sds://") {
        return match credential.strip_suffix(CA_SUFFIX) {
            Some("") => None,
            Some(_) => Some(Meaning::TrustBundle(Owner::Asker)),
            None if credential.is_empty() => None,
            None => Some(Meaning::Certificate(Owner::Asker)),
        };
    }
    let is_foreign = FOREIGN.iter().any(|prefix| name.starts_with(prefix));
    if name.starts_with("file-root:") || name.starts_with("configmap://") || (is_foreign && name.ends_with(CA_SUFFIX)) {
        return Some(Meaning::TrustBundle(Owner::Nobody));
    }
    (is_foreign || name.starts_with("file-cert:")).then_some(Meaning::Certificate(Owner::Nobody))
}
