//! Objects as they may be written down: without private keys. What is left out is marked ([`NOT_KEPT`]), and whoever reads it
//! after a restart finds the object broken there, so that what was good of it counts, which is kept without keys as well (see
//! [`kept`](crate::model::kept)). Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::document::NOT_KEPT;
use crate::mesh::names;
use crate::mesh::secret::from_base64;
use crate::model::certificate::Certificate;

/// Where names and values are the user's own, and decide whom something is for: they must not come back as others.
const LABELS: [&str; 2] = ["labels", "matchLabels"];

/// Takes everything out of an object that may be a private key.
pub(super) fn strip(object: &mut Value) {
    strip_field("", object);
}

fn strip_field(field: &str, value: &mut Value) {
    match value {
        Value::Object(fields) => fields
            .iter_mut()
            .filter(|(field, _)| !LABELS.contains(&field.as_str()))
            .for_each(|(field, value)| strip_field(field, value)),
        Value::Array(items) => items.iter_mut().for_each(|item| strip_field(field, item)),
        Value::String(text) => {
            if let Some(instead) = instead_of(field, text) {
                drop(Zeroizing::new(std::mem::replace(text, instead)));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// What is written of a text; `None`: just that. Of one that holds something by itself, that is the certificates that were
/// understood of it, since there may be anything beside them.
fn instead_of(field: &str, text: &str) -> Option<String> {
    let not_kept = || NOT_KEPT.to_owned();
    let understood = |content: &[u8]| {
        let has_key = String::from_utf8_lossy(content).contains("PRIVATE KEY-----");
        let certificates = Certificate::many_from_pem(content).ok().filter(|_| !has_key)?;
        Some(certificates.iter().map(Certificate::pem).collect::<String>())
    };
    match field {
        "inlineString" | "value" => Some(understood(text.as_bytes()).unwrap_or_else(not_kept)),
        "inline" => {
            let pem = from_base64(text).ok().and_then(|content| understood(&content));
            Some(pem.map_or_else(not_kept, |pem| STANDARD.encode(pem)))
        }
        // It may have been put into the wrong field.
        _ => names::looks_like_content(text).then(not_kept),
    }
}

#[cfg(test)]
#[path = "without_keys_tests.rs"]
mod tests;
