//! What a secret's name means. A request does not say which kind of secret it wants, and Envoy accepts the wrong kind
//! silently (xds-conformance items 65 and 66), so the kind follows from the name and from nothing else.

mod spire;

use std::fmt;

use crate::model::identity::Identity;

/// Every naming profile; the first that knows a name decides. To add one: a file next to this, and a line here.
const PROFILES: &[&dyn NamingProfile] = &[&spire::Spire];

/// A convention for naming secrets.
pub trait NamingProfile: fmt::Debug + Send + Sync {
    /// Its name in logs and configuration.
    fn name(&self) -> &'static str;

    /// What `secret_name` means for the proxy; `None` if this profile has no such name, or not for this proxy. A name
    /// has the same kind for every proxy that may have it.
    fn resolve(&self, secret_name: &str, identity: &Identity) -> Option<SecretRef>;
}

/// A secret that the server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretRef {
    /// The proxy's own certificate and key.
    Certificate,
    /// The trust bundle of the proxy's mesh.
    TrustBundle,
}

/// The kinds of secret, in the order in which they go out when several are ready: whom to trust before what to show
/// (xds-conformance item 92).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SecretKind {
    /// `validation_context`.
    Bundle,
    /// `tls_certificate`.
    Certificate,
}

impl SecretRef {
    /// Which kind of secret it is on the wire.
    pub fn kind(self) -> SecretKind {
        match self {
            Self::Certificate => SecretKind::Certificate,
            Self::TrustBundle => SecretKind::Bundle,
        }
    }
}

/// What `secret_name` means for the proxy; `None` if it is to be withheld.
pub fn resolve(secret_name: &str, identity: &Identity) -> Option<SecretRef> {
    PROFILES.iter().find_map(|profile| profile.resolve(secret_name, identity))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::testing::identity;

    /// Names in the wild: xds-conformance section D.
    const NAMES: &[&str] = &[
        "default",
        "ROOTCA",
        "ALL",
        "identity_cert",
        "identity_cert:secret:default",
        "mesh_ca",
        "mesh_ca:secret:default",
        "mesh_ca:secret:all",
        "system_trust_bundle",
        "spiffe://default",
        "spiffe://default/web",
        "spiffe://other",
        "kubernetes://x",
        "kubernetes://x-cacert",
        "file-root:system",
        "file-cert:a~b",
        "*",
        "",
    ];

    #[test]
    fn no_two_profiles_give_one_name_two_kinds() {
        for name in NAMES {
            let kinds: Vec<_> = PROFILES
                .iter()
                .filter_map(|profile| Some((profile.name(), profile.resolve(name, &identity("web"))?.kind())))
                .collect();
            assert!(kinds.iter().all(|(_, kind)| *kind == kinds[0].1), "{name}: {kinds:?}");
        }
    }

    #[test]
    fn names_of_others_mean_nothing() {
        for name in ["", "*", "Default", "default ", "kubernetes://x", "file-root:system"] {
            assert_eq!(resolve(name, &identity("web")), None, "{name}");
        }
    }
}
