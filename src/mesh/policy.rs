//! `spec.mtls` of a Mesh.

use std::collections::BTreeMap;
use std::sync::Arc;

use spiffe::TrustDomain;

use super::backend::{self, Reference};
use super::{Context, names};
use crate::document::{Field, quoted};
use crate::model::diagnostic::Problem;
use crate::model::policy::MeshPolicy;

/// What a Mesh says.
#[derive(Debug, Clone)]
pub(super) struct MeshDefinition {
    /// Without a backend, it counts for the mesh's MeshIdentities only; `None` if there is no mTLS part.
    pub(super) policy: Option<Arc<MeshPolicy>>,
    /// What to say if nobody in the mesh gets an identity: classic mTLS is off.
    pub(super) off: Option<Box<Problem>>,
    /// The Secrets that its backends name.
    pub(super) references: Vec<Reference>,
}

/// Decodes the mTLS part; everything else in a Mesh is left alone. `None` if it is broken.
pub(super) fn decode(
    name: &str,
    name_field: &Field<'_>,
    mtls: Option<&Field<'_>>,
    context: &Context,
) -> Option<MeshDefinition> {
    let off = |field: &Field<'_>, why: &str| {
        let what = format!("mTLS is off ({why}) and there is no MeshIdentity: this mesh has no identity to give");
        Some(Box::new(Problem { at: field.location(), what, hint: None }))
    };
    let Some(mtls) = mtls else {
        return Some(MeshDefinition { policy: None, off: off(name_field, "no mtls"), references: Vec::new() });
    };
    let report = mtls.report();
    let before = report.count();
    // The mesh's name is the trust domain of its SPIFFE IDs.
    check_trust_domain(name, name_field);

    let fields = mtls.map()?;
    let enabled = fields.optional("enabledBackend");
    let listed = fields.optional("backends").and_then(|field| field.list()).unwrap_or_default();
    let skip_validation = fields.optional("skipValidation").and_then(|field| field.boolean()).unwrap_or(false);
    fields.refuse_others();

    let mut references = Vec::new();
    let backends: Vec<_> =
        listed.iter().filter_map(|item| backend::decode(item, name, context, &mut references)).map(Arc::new).collect();
    let by_name = listed_names(&listed);
    let enabled_name = enabled.as_ref().and_then(Field::text).filter(|name| !name.is_empty());
    if let (Some(enabled), Some(enabled_name)) = (enabled, enabled_name)
        && !by_name.contains_key(enabled_name)
    {
        let shown = by_name.keys().filter(|name| !names::looks_like_content(name));
        let listed = shown.copied().collect::<Vec<_>>().join(", ");
        let hint = if by_name.is_empty() { "there is none".to_owned() } else { format!("there are: {listed}") };
        enabled.problem_with_hint(format!("{} is not the name of one of the backends", quoted(enabled_name)), hint);
    }
    if report.count() != before {
        return None;
    }
    // Nobody need sign by a backend for its CA to be trusted: that of proxies that have yet to move to a MeshIdentity.
    let enabled_backend = enabled_name.map(Into::into);
    let off = if enabled_backend.is_none() { off(mtls, "no enabledBackend") } else { None };
    let (identities, trusts) = (Vec::new(), Vec::new());
    let policy = MeshPolicy { name: name.into(), enabled_backend, backends, identities, trusts, skip_validation };
    Some(MeshDefinition { policy: Some(Arc::new(policy)), off, references })
}

/// The names of all listed backends, broken ones too; a name that is there twice is a problem.
fn listed_names<'t>(listed: &[Field<'t>]) -> BTreeMap<&'t str, usize> {
    let mut names = BTreeMap::new();
    for (index, item) in listed.iter().enumerate() {
        let Some(name) = item.node().get("name").and_then(|name| name.text()) else { continue };
        if let Some(first) = names.get(name) {
            item.problem(format!("the name {} is there twice, first in backends[{first}]", quoted(name)));
        } else {
            names.insert(name, index);
        }
    }
    names
}

/// Whether `name` can be a trust domain.
pub(super) fn is_trust_domain(name: &str) -> bool {
    TrustDomain::new(name).is_ok_and(|domain| domain.as_str() == name)
}

/// Whether `name` can be a trust domain; reports it if not.
pub(super) fn check_trust_domain(name: &str, field: &Field<'_>) -> bool {
    let usable = is_trust_domain(name);
    if !usable {
        field.problem_with_hint(
            format!("{} cannot be a SPIFFE trust domain", quoted(name)),
            "lower-case letters, digits, -, _ and ., at most 255",
        );
    }
    usable
}
