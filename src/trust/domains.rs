//! The trust bundles of all trust domains, for proxies that talk to others than those of their own.

use std::sync::Arc;

use tokio::sync::watch;

use super::own::is_trust_domain;
use super::per_mesh::PerMesh;
use crate::model::bundle::TrustSet;
use crate::model::bundle_set::BundleSet;
use crate::model::policy::PolicySet;

/// What each mesh's proxies may know of trust domains: those of every mesh of this server, and those that `MeshTrust`
/// resources of their own mesh name.
#[derive(Debug, Clone)]
pub struct TrustDomains {
    pub(super) meshes: PerMesh<BundleSet>,
    pub(super) published: watch::Receiver<Arc<TrustSet>>,
    pub(super) policies: watch::Receiver<Arc<PolicySet>>,
}

impl TrustDomains {
    /// All bundles that proxies of `mesh` may know, `None` while there is none. It changes only when one of these does, and
    /// neither with what else a [`TrustSet`] says nor with what is for other meshes alone.
    pub fn watch(&self, mesh: &str) -> watch::Receiver<Option<Arc<BundleSet>>> {
        self.meshes.of(mesh, || self.published.borrow().domains.get(mesh).cloned())
    }

    /// Whether there is such a trust domain for proxies of `mesh`, its bundle known or not.
    pub fn contains(&self, mesh: &str, name: &str) -> bool {
        if !is_trust_domain(name) {
            return false;
        }
        let policies = self.policies.borrow();
        let is_named_by_trust = policies
            .meshes
            .get(mesh)
            .is_some_and(|policy| policy.trusts.iter().any(|trust| *trust.trust_domain == *name));
        // Most trust domains are a mesh's name.
        is_named_by_trust
            || policies.meshes.contains_key(name)
            || policies.meshes.values().any(|policy| policy.identities.iter().any(|one| *one.trust_domain == *name))
    }
}
