//! What the tests of all variants share.

use std::time::Duration;

use super::Machine;
use crate::serve::naming::SecretKind;

/// Where it does not matter when.
pub(super) const AT: Duration = Duration::ZERO;

/// There is a certificate `name` of this version now.
pub(super) fn certificate(state: &mut impl Machine, name: &str, version: &str) {
    state.available(name, SecretKind::Certificate, version.into());
}

/// Name and version of all that there is to send.
pub(super) fn pushes(state: &mut impl Machine) -> Vec<(String, String)> {
    std::iter::from_fn(|| state.next_push(AT)).map(|push| (push.name.to_string(), push.version.to_string())).collect()
}

/// As [`pushes`] has them.
pub(super) fn pair(name: &str, version: &str) -> (String, String) {
    (name.to_owned(), version.to_owned())
}
