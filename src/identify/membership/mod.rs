//! Which mesh a proven peer belongs to, whether that lets it in, and which SPIFFE ID it has there. Pure.

mod instance;
mod mesh;
mod rules;
mod spiffe_id;
mod subject;
#[cfg(test)]
pub(super) mod tests;

use std::sync::Arc;

pub use rules::{AllowRule, Rules, ServiceAccount};

use self::subject::Subject;
use super::standing::Facts;
use super::{IdentifyError, NodeClaim, Proof};
use crate::model::identity::{Identity, Labels};
#[cfg(doc)]
use crate::model::policy::MeshPolicy;
use crate::model::policy::PolicySet;

/// The identity behind `proof`, on a server in `zone` (which may be empty). Equal decisions give equal identities: what only
/// led to them, such as labels, is not in them, so that a change of it that changes nothing ends no stream.
///
/// # Errors
/// [`IdentifyError::Forbidden`] if policy gives it no identity, and why; what the proof depends on, if it does not stand.
pub fn identity(
    proof: &Proof,
    node: &NodeClaim,
    policies: &PolicySet,
    rules: &Rules,
    zone: &str,
) -> Result<Identity, IdentifyError> {
    let facts = proof.standing.facts()?;
    let labels = labels(&facts, proof)?;
    let mesh = mesh::of(proof, &facts, policies, rules.default.as_deref())?;
    let subject = Subject::of(proof);
    rules.admit(&mesh.name, &subject, &labels)?;
    // Whom none selects, and for whom no backend is enabled, is let in all the same: it learns whom to trust, and nobody signs
    // for it ([`MeshPolicy::signer`] is `None`). So trust can be everywhere before the first certificate is.
    let policy = mesh.identity_for(&labels);
    let spiffe_id = spiffe_id::of(mesh, policy.map(Arc::as_ref), &subject, zone)?;
    // A mesh may have several trust domains, whose issuers need not trust each other: what is proven in one is nobody in another.
    // Whom nobody signs for may learn whom to trust all the same.
    let is_signed = policy.is_some() || mesh.enabled_backend.is_some();
    let domain = proof.trust_domain.as_deref().filter(|_| is_signed);
    if let Some(proven) = domain.filter(|domain| *domain != spiffe_id.trust_domain_name()) {
        let given = spiffe_id.trust_domain_name();
        let reason = format!("it is proven in the trust domain {proven:?}, and policy gives it an ID in {given:?}");
        return Err(IdentifyError::Forbidden(reason));
    }
    // An ID says less than the names it was rendered from: read back as names and rendered again, it may be another's.
    if let Some(proven) = proof.spiffe_id.as_ref().filter(|proven| is_signed && **proven != spiffe_id) {
        let reason = format!("it is proven to be {proven}, and policy gives it {spiffe_id}");
        return Err(IdentifyError::Forbidden(reason));
    }
    Ok(Identity {
        mesh: mesh.name.clone(),
        spiffe_id,
        identity_policy: policy.map(|policy| policy.name.clone()),
        instance: instance::of(proof, &mesh.name, node),
        workload: proof.workload.clone(),
        method: proof.method,
        proven_until: proof.until,
    })
}

/// The labels that the server has read itself, and those in the proof.
fn labels(facts: &Facts, proof: &Proof) -> Result<Arc<Labels>, IdentifyError> {
    let mut labels = facts.labels.clone();
    for (key, value) in &proof.labels {
        match labels.get(key) {
            Some(known) if known == value => {}
            Some(known) => {
                let reason = format!("its label {key:?} is {known:?} in the cluster and {value:?} in its proof");
                return Err(IdentifyError::Forbidden(reason));
            }
            None => drop(Arc::make_mut(&mut labels).insert(key.clone(), value.clone())),
        }
    }
    Ok(labels)
}
