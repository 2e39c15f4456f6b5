//! What may name a proxy, and label it: the same in a token as in a rule for the peers of a unix socket.

use std::collections::BTreeMap;

use spiffe::{SpiffeId, TrustDomain};

use super::text::is_misleading;

/// The longest mesh, name, workload and id: as long as a name in Kubernetes.
const MAX_NAME_BYTES: usize = 253;

/// Labels of a proxy, and the bytes of all their keys and values.
const MAX_LABELS: usize = 32;
const MAX_LABEL_BYTES: usize = 4096;

/// Whether `text` can name something: not empty, bounded, and of characters that can be seen.
///
/// # Errors
/// What is wrong with it, to be read after what it names.
pub fn check_name(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    if text.len() > MAX_NAME_BYTES {
        return Err(format!("has {} bytes; at most {MAX_NAME_BYTES} are taken", text.len()));
    }
    if text.trim() != text || text.chars().any(|c| c.is_control() || is_misleading(c)) {
        return Err("has characters in it that cannot be shown, or space around it".to_owned());
    }
    Ok(())
}

/// Whether labels are bounded, and of characters that can be seen.
///
/// # Errors
/// What is wrong with them, of the proxy as "it".
pub fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), String> {
    let bytes: usize = labels.iter().map(|(key, value)| key.len() + value.len()).sum();
    if labels.len() > MAX_LABELS || bytes > MAX_LABEL_BYTES {
        return Err(format!(
            "it has {} labels with {bytes} bytes; at most {MAX_LABELS} with {MAX_LABEL_BYTES} bytes are taken",
            labels.len()
        ));
    }
    for (key, value) in labels {
        check_name(key).map_err(|why| format!("the key of one of its labels {why}"))?;
        if value.chars().any(|c| c.is_control() || is_misleading(c)) {
            return Err(format!("its label {key:?} has characters in it that cannot be shown"));
        }
    }
    Ok(())
}

/// The same of labels that somebody has just written down, rather than those of a token that is there.
///
/// # Errors
/// See [`check_labels`].
pub fn check_new_labels(labels: &BTreeMap<String, String>) -> Result<(), String> {
    if let Some(key) = labels.keys().find(|key| key.contains(char::is_whitespace)) {
        return Err(format!("the label {key:?} has a space in its key"));
    }
    check_labels(labels)
}

/// Whether a mesh of this name can be a trust domain (SPIFFE-ID §2.1).
///
/// # Errors
/// That it cannot.
pub fn check_mesh(mesh: &str) -> Result<TrustDomain, String> {
    let domain = TrustDomain::new(mesh).ok().filter(|domain| domain.as_str() == mesh);
    domain.ok_or_else(|| format!("mesh {mesh:?} is no trust domain: lower-case letters, digits, - _ and ."))
}

/// Whether a mesh and a workload of these names make a SPIFFE ID.
///
/// # Errors
/// Which of them does not.
pub fn check_spiffe_id(mesh: &str, workload: &str) -> Result<(), String> {
    SpiffeId::from_segments(check_mesh(mesh)?, &[workload])
        .map(drop)
        .map_err(|error| format!("workload {workload:?} cannot be part of a SPIFFE ID: {error}"))
}
