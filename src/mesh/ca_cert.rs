//! `conf.caCert`: where the CA certificates to trust come from (S1-1); one of Kuma's four kinds of data source.

use std::sync::Arc;

use super::backend::{Reference, Use};
use super::{Context, data_source};
use crate::document::Field;
use crate::model::bundle::{Bundle, BundleError};
use crate::model::certificate::Certificate;
use crate::model::policy::{CaSource, DataSource};

/// Decodes a caCert; a Secret that it names is added to `references`.
pub(super) fn decode(field: &Field<'_>, context: &Context, references: &mut Vec<Reference>) -> Option<CaSource> {
    let (source, at) = data_source::classic(field)?;
    match source {
        DataSource::Inline(pem) => Some(CaSource::Inline(Arc::new(bundle(&at, pem.expose(), context)?))),
        DataSource::File(path) => {
            if let Some(content) = data_source::look_into(&path, &at, context) {
                bundle(&at, content.expose(), context);
            }
            Some(CaSource::File(path))
        }
        DataSource::Secret(name) => {
            references.push(Reference { name: name.clone(), at: at.location(), meant: Use::Bundle });
            Some(CaSource::Secret(name))
        }
        // Not one of this form's sources.
        DataSource::EnvVar(_) | DataSource::NotKept => None,
    }
}

/// CA certificates in PEM; those that are over are left out, with a notice, unless nothing is left then.
pub(super) fn bundle(field: &Field<'_>, pem: &[u8], context: &Context) -> Option<Bundle> {
    if String::from_utf8_lossy(pem).contains("PRIVATE KEY-----") {
        field.problem_with_hint(
            "there is a private key in it, which does not belong into a trust bundle",
            "leave only CA certificates, and consider the key as disclosed",
        );
        return None;
    }
    let parsed = match Bundle::from_pem(pem, context.now) {
        // It was right once. Whoever trusts it sees that it is over; what it is listed in must not be over with it.
        Err(over @ BundleError::Expired { .. }) => {
            field.lapsed(over.to_string());
            return field
                .check(Certificate::many_from_pem(pem).map_err(BundleError::from).and_then(Bundle::from_certificates));
        }
        parsed => field.check(parsed)?,
    };
    for ca in &parsed.expired {
        field.notice(format!("{} expired at {} and is left out", ca.subject(), ca.validity().not_after));
    }
    Some(parsed.bundle)
}
