//! Who signs for a proxy.

use std::sync::Arc;

use crate::model::identity::ProxyKey;
use crate::model::policy::{Backend, MeshPolicy};

/// Names one of a mesh's signers: the backend of an identity policy, or, without one, the mesh's enabled backend. What is not
/// known of one of them holds none of the others back.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Signer {
    /// The mesh.
    pub mesh: Arc<str>,
    /// The identity policy, by name.
    pub identity_policy: Option<Arc<str>>,
}

impl Signer {
    /// Every signer of a mesh, with the backend that signs.
    pub fn all(policy: &MeshPolicy) -> impl Iterator<Item = (Self, &Arc<Backend>)> {
        let names = policy.identities.iter().map(|identity| Some(identity.name.clone()));
        std::iter::once(None).chain(names).filter_map(|identity_policy| {
            let backend = policy.signer(identity_policy.as_deref())?;
            Some((Self { mesh: policy.name.clone(), identity_policy }, backend))
        })
    }

    /// Whether it signs for this proxy.
    pub fn signs_for(&self, key: &ProxyKey) -> bool {
        key.mesh == self.mesh && key.identity_policy == self.identity_policy
    }
}

#[cfg(test)]
impl Signer {
    /// The enabled backend of `mesh`.
    pub(super) fn classic(mesh: &str) -> Self {
        Self { mesh: mesh.into(), identity_policy: None }
    }
}

impl From<&ProxyKey> for Signer {
    fn from(key: &ProxyKey) -> Self {
        Self { mesh: key.mesh.clone(), identity_policy: key.identity_policy.clone() }
    }
}

/// The bare name of the trust domain of a SPIFFE ID; it names nobody's if the text is none.
pub fn trust_domain(spiffe_id: &str) -> &str {
    let rest = spiffe_id.strip_prefix("spiffe://").unwrap_or_default();
    rest.split_once('/').map_or(rest, |(domain, _)| domain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trust_domain_is_what_is_before_the_path() {
        for (id, expected) in
            [("spiffe://prod/ns/a", "prod"), ("spiffe://prod", "prod"), ("https://prod/a", ""), ("spiffe:///a", "")]
        {
            assert_eq!(trust_domain(id), expected, "{id}");
        }
    }
}
