//! `MeshTrust`: CAs to be trusted for a trust domain (S4-10).

use std::sync::Arc;

use super::{Context, ca_cert, policy};
use crate::document::{Field, Fields};
use crate::model::bundle::Bundle;
use crate::model::policy::TrustAnchors;

/// What is read of `spec`; the rest is not for users to set.
const IGNORED: [&str; 2] = ["origin", "status"];

/// Decodes the fields of `spec`. `None` if it is broken, which is reported.
pub(super) fn decode(name: &str, spec: &Fields<'_>, context: &Context) -> Option<TrustAnchors> {
    for key in IGNORED {
        let _ = spec.optional(key);
    }
    let trust_domain = spec.required("trustDomain").and_then(|field| {
        let domain = field.name()?;
        policy::check_trust_domain(domain, &field).then_some(domain)
    });
    let bundles = spec.required("caBundles").and_then(|field| {
        let items = field.list()?;
        if items.is_empty() {
            field.problem("must hold at least one CA");
        }
        let decoded: Vec<Option<Bundle>> = items.iter().map(|item| decode_bundle(item, context)).collect();
        let bundles = decoded.into_iter().collect::<Option<Vec<_>>>().filter(|bundles| !bundles.is_empty())?;
        let all = bundles.iter().flat_map(|bundle| bundle.certificates().iter().cloned());
        let (valid, over): (Vec<_>, Vec<_>) = all.partition(|ca| ca.validity().not_after >= context.now);
        field.check(Bundle::from_certificates(if valid.is_empty() { over } else { valid }))
    });
    Some(TrustAnchors { name: name.into(), trust_domain: trust_domain?.into(), bundle: Arc::new(bundles?) })
}

fn decode_bundle(item: &Field<'_>, context: &Context) -> Option<Bundle> {
    let pem = item.strict_map(|fields| {
        let _ = fields.required("type").and_then(|field| field.one_of(&[("Pem", ())]));
        fields.required("pem")
    })??;
    let value = pem.strict_map(|fields| fields.required("value"))??;
    ca_cert::bundle(&value, value.name()?.as_bytes(), context)
}
