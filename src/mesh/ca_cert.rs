//! `conf.caCert`: where the CA certificates to trust come from (S1-1); one of Kuma's four kinds of data source.

use std::path::PathBuf;
use std::sync::Arc;

use super::Context;
use super::backend::Reference;
use super::secret::from_base64;
use crate::document::Field;
use crate::model::bundle::Bundle;
use crate::model::policy::CaSource;

/// Decodes a caCert; a Secret that it names is added to `references`.
pub(super) fn decode(field: &Field<'_>, context: &Context, references: &mut Vec<Reference>) -> Option<CaSource> {
    const KINDS: [&str; 4] = ["inlineString", "inline", "file", "secret"];
    let sources = field.strict_map(|fields| KINDS.map(|kind| fields.optional(kind)))?;
    match sources.iter().flatten().count() {
        1 => {}
        0 => {
            field.problem_with_hint("names no source", "one of inlineString, inline (base64), file, secret");
            return None;
        }
        _ => {
            let given: Vec<_> = KINDS.iter().zip(&sources).filter(|(_, field)| field.is_some()).collect();
            let given = given.iter().map(|(kind, _)| **kind).collect::<Vec<_>>().join(" and ");
            field.problem(format!("names more than one source: {given}; exactly one is meant"));
            return None;
        }
    }
    let [text, base64, file, secret] = sources;
    if let Some(field) = text {
        return bundle(&field, field.text()?.as_bytes(), context);
    }
    if let Some(field) = base64 {
        let pem = field.check(from_base64(field.text()?))?;
        return bundle(&field, &pem, context);
    }
    if let Some(field) = file {
        return Some(CaSource::File(PathBuf::from(field.name()?)));
    }
    let field = secret?;
    let name: Arc<str> = field.name()?.into();
    references.push(Reference { name: name.clone(), at: field.location() });
    Some(CaSource::Secret(name))
}

fn bundle(field: &Field<'_>, pem: &[u8], context: &Context) -> Option<CaSource> {
    if String::from_utf8_lossy(pem).contains("PRIVATE KEY-----") {
        field.problem_with_hint(
            "there is a private key in it, which does not belong into a trust bundle",
            "leave only CA certificates, and consider the key as disclosed",
        );
        return None;
    }
    let parsed = field.check(Bundle::from_pem(pem, context.now))?;
    for ca in &parsed.expired {
        field.notice(format!("{} expired at {} and is left out", ca.subject(), ca.validity().not_after));
    }
    Some(CaSource::Inline(Arc::new(parsed.bundle)))
}
