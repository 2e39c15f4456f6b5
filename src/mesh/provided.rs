//! CAs whose certificate and key the user gives to this server: the classic `provided` backend, and `bundled.ca` of a
//! `MeshIdentity` (S4-6). What is inline is checked here, and files where they are looked into (`check`); else, as Secrets and
//! variables, they are checked where they are read.

use std::time::Duration;

use super::backend::{Reference, Use};
use super::{Context, data_source};
use crate::document::{Field, Fields};
use crate::model::ca_pair::{CaChain, CaKey, CaPairError};
use crate::model::policy::{BackendKind, DataSource, ProvidedCa};
use crate::model::secrets::SecretBytes;

/// `conf.{cert, key}` of a backend.
pub(super) fn decode_classic(
    fields: &Fields<'_>,
    leaf_lifetime: Option<Duration>,
    context: &Context,
    references: &mut Vec<Reference>,
) -> Option<BackendKind> {
    let (certificate, key) = fields.required("conf")?.strict_map(|fields| {
        let certificate = fields.required("cert").and_then(|field| data_source::classic(&field));
        (certificate, fields.required("key").and_then(|field| data_source::classic(&field)))
    })?;
    check(certificate, key, true, leaf_lifetime, context, references)
}

/// `ca.{certificate, privateKey}` of a `MeshIdentity`.
pub(super) fn decode_bundled(
    ca: &Field<'_>,
    allow_self_signed: bool,
    leaf_lifetime: Option<Duration>,
    context: &Context,
    references: &mut Vec<Reference>,
) -> Option<BackendKind> {
    let (certificate, key) = ca.strict_map(|fields| {
        let certificate = fields.required("certificate").and_then(|field| data_source::secure(&field));
        (certificate, fields.required("privateKey").and_then(|field| data_source::secure(&field)))
    })?;
    check(certificate, key, allow_self_signed, leaf_lifetime, context, references)
}

/// A source, and the field that it is in.
type Given<'t> = Option<(DataSource, Field<'t>)>;

fn check(
    certificate: Given<'_>,
    key: Given<'_>,
    allow_self_signed: bool,
    leaf_lifetime: Option<Duration>,
    context: &Context,
    references: &mut Vec<Reference>,
) -> Option<BackendKind> {
    let mut chain = None;
    if let Some((pem, field)) = content(&certificate, context) {
        chain = tell(field, CaChain::from_pem(pem.expose(), allow_self_signed, context.now));
        let end = chain.as_ref().map(CaChain::not_after);
        let wanted = leaf_lifetime.and_then(|lifetime| context.now.checked_add(lifetime).ok());
        if let (Some(end), Some(wanted)) = (end, wanted)
            && wanted > end
        {
            field.notice(format!("the CA ends at {end}, before the leaves that are asked for: they end with it"));
        }
    }
    if let Some((pem, field)) = content(&key, context)
        && let Some(key) = tell(field, CaKey::from_pem(pem.expose()))
        && let Some(chain) = &chain
    {
        tell(field, key.check_belongs_to(chain));
    }
    let ((certificate, certificate_at), (private_key, key_at)) = (certificate?, key?);
    if let DataSource::Secret(name) = &certificate {
        let meant = Use::CaCertificate { allow_self_signed };
        references.push(Reference { name: name.clone(), at: certificate_at.location(), meant });
    }
    if let DataSource::Secret(name) = &private_key {
        let meant = Use::CaKey { certificate: certificate.clone() };
        references.push(Reference { name: name.clone(), at: key_at.location(), meant });
    }
    Some(BackendKind::Provided(ProvidedCa { certificate, private_key, allow_self_signed }))
}

/// What is in a source, as far as it can be known here.
fn content<'g, 't>(given: &'g Given<'t>, context: &Context) -> Option<(SecretBytes, &'g Field<'t>)> {
    let (source, field) = given.as_ref()?;
    match source {
        DataSource::Inline(content) => Some((content.clone(), field)),
        DataSource::File(path) => Some((data_source::look_into(path, field, context)?, field)),
        DataSource::Secret(_) | DataSource::EnvVar(_) | DataSource::NotKept => None,
    }
}

fn tell<T>(field: &Field<'_>, result: Result<T, CaPairError>) -> Option<T> {
    let error = match result {
        Ok(value) => return Some(value),
        Err(error) => error,
    };
    if let CaPairError::Expired { .. } = error {
        field.lapsed(error.to_string());
        return None;
    }
    match error.hint() {
        Some(hint) => field.problem_with_hint(error.to_string(), hint),
        None => field.problem(error.to_string()),
    }
    None
}
