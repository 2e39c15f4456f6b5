//! Names by which resources refer to what is elsewhere: mesh Secrets, files, variables, issuers. They are repeated in logs,
//! statuses and Events, so what is no such name is refused, and not repeated: it may be a key that was put into the wrong
//! field.

use std::path::PathBuf;

use crate::document::Field;

/// The longest name of an object in Kubernetes.
const LONGEST_NAME: usize = 253;
/// The longest path that Linux takes.
const LONGEST_PATH: usize = 4096;
/// Text of base64's letters alone that is as long is rather a key than a path.
const LIKE_A_KEY: usize = 40;

/// The name of a mesh Secret; as in Kuma, `_` is allowed in it.
pub(super) fn secret<'t>(field: &Field<'t>) -> Option<&'t str> {
    let is_name = |name: &str| is_name(&name.replace('_', "-"));
    checked(field, is_name, "the name of a Secret", "lower-case letters, digits, -, _ and ., at most 253")
}

/// The name of an object in Kubernetes, or of an API group (a DNS name, RFC 1123).
pub(super) fn object<'t>(field: &Field<'t>) -> Option<&'t str> {
    checked(field, is_name, "a name in Kubernetes", "lower-case letters, digits, - and ., at most 253")
}

/// A kind of object in Kubernetes.
pub(super) fn kind<'t>(field: &Field<'t>) -> Option<&'t str> {
    let is_kind = |kind: &str| kind.len() <= 63 && kind.bytes().all(|byte| byte.is_ascii_alphanumeric());
    checked(field, is_kind, "a kind in Kubernetes", "such as ClusterIssuer")
}

/// The name of an environment variable.
pub(super) fn variable<'t>(field: &Field<'t>) -> Option<&'t str> {
    let is_name = |name: &str| {
        let only = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        name.len() <= LONGEST_NAME && name.bytes().all(only) && !name.starts_with(|first: char| first.is_ascii_digit())
    };
    checked(field, is_name, "the name of an environment variable", "letters, digits and _, such as CA_KEY")
}

/// The path of a file.
pub(super) fn path(field: &Field<'_>) -> Option<PathBuf> {
    let is_path = |path: &str| path.len() <= LONGEST_PATH && !path.chars().any(char::is_control);
    checked(field, is_path, "the path of a file", "such as /etc/ca/tls.crt").map(PathBuf::from)
}

/// Whether it is rather the content of something than its name.
pub(super) fn looks_like_content(text: &str) -> bool {
    // However it is wrapped; a space within makes it prose.
    let text: String = text.trim().chars().filter(|letter| !matches!(letter, '\n' | '\r' | '\t')).collect();
    // The second is the first in base64.
    let is_pem = text.contains("-----") || text.starts_with("LS0tLS1");
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    let is_mixed =
        text.bytes().any(|byte| byte.is_ascii_uppercase()) && text.bytes().any(|byte| byte.is_ascii_lowercase());
    is_pem || (text.len() >= LIKE_A_KEY && is_mixed && !text.starts_with('/') && text.bytes().all(is_base64))
}

fn checked<'t>(
    field: &Field<'t>,
    is_good: impl FnOnce(&str) -> bool,
    what: &str,
    such_as: &'static str,
) -> Option<&'t str> {
    let text = field.name()?;
    if is_good(text) && !looks_like_content(text) {
        return Some(text);
    }
    field.problem_with_hint(format!("is not {what}"), format!("{such_as}; not the content of it"));
    None
}

/// A DNS name in lower case, part by part (RFC 1123).
fn is_name(name: &str) -> bool {
    let is_part = |part: &str| {
        let only = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !part.is_empty() && !part.starts_with('-') && !part.ends_with('-') && part.bytes().all(only)
    };
    name.len() <= LONGEST_NAME && name.split('.').all(is_part)
}
