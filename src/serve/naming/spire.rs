//! The names of SPIRE's agent, which Istio's proxies use too.

use super::{NamingProfile, SecretRef};
use crate::model::identity::Identity;

/// `default` and `ROOTCA`.
#[derive(Debug)]
pub(super) struct Spire;

impl NamingProfile for Spire {
    fn name(&self) -> &'static str {
        "spire"
    }

    fn resolve(&self, secret_name: &str, _identity: &Identity) -> Option<SecretRef> {
        match secret_name {
            "default" => Some(SecretRef::Certificate),
            "ROOTCA" => Some(SecretRef::TrustBundle),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::testing::identity;

    #[test]
    fn names() {
        assert_eq!(Spire.resolve("default", &identity("web")), Some(SecretRef::Certificate));
        assert_eq!(Spire.resolve("ROOTCA", &identity("web")), Some(SecretRef::TrustBundle));
        assert_eq!(Spire.resolve("rootca", &identity("web")), None);
    }
}
