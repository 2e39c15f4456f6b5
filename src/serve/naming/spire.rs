//! The names of SPIRE's agent (its `sds` defaults), which other systems use as well.

use spiffe::SpiffeId;

use super::meaning::{Meaning, Owner};

/// `default`, the SPIFFE ID; `ROOTCA`, `ALL`, `spiffe://<trust domain>`.
///
/// A SPIFFE ID is read as it is written: one in another spelling (upper case in the trust domain) is no name of this
/// profile, since Envoy would not find the answer under its own spelling.
pub(super) fn meaning(name: &str) -> Option<Meaning<'_>> {
    match name {
        "default" => return Some(Meaning::Certificate(Owner::Asker)),
        "ROOTCA" => return Some(Meaning::TrustBundle(Owner::Asker)),
        "ALL" => return Some(Meaning::AllTrustDomains),
        _ => {}
    }
    let rest = name.strip_prefix("spiffe://")?;
    let id =
        SpiffeId::new(name).ok().filter(|id| id.trust_domain_name() == rest.split('/').next().unwrap_or_default())?;
    Some(match id.path() {
        "" => Meaning::TrustDomain(rest),
        _ => Meaning::Certificate(Owner::SpiffeId(name)),
    })
}
