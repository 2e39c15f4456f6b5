//! The rules of [`claims`](super::claims) for policies that are to be in force together. Those were checked as they are
//! wanted; but while a part of them is held back, old and new come to stand beside each other that nobody has. Pure.

use std::sync::Arc;

use super::claims::{default_paths, meeting, paths};
use super::identity::shown;
use crate::document::quoted;
use crate::model::policy::{IdentityPolicy, MeshPolicy, PolicySet};
use crate::model::preflight::Conflict;

/// What a part of a mesh's policy takes for itself. In the order in which they come where none was there before.
enum Claim<'p> {
    /// The mesh's name, which is a trust domain.
    Name,
    /// The default paths in that trust domain, for proxies that no identity policy selects.
    Defaults { signer: &'p Arc<str> },
    /// A trust domain, and paths in it.
    Identity(&'p IdentityPolicy),
}

struct Claimed<'p> {
    mesh: &'p Arc<str>,
    claim: Claim<'p>,
    is_new: bool,
}

/// Finds the first part of `policies` that may not be in force beside the others, and says why. What is the same in `before`
/// comes first; then names of meshes, classic mTLS, and identity policies.
pub fn first_conflict(policies: &PolicySet, before: &PolicySet, zone: &str) -> Option<Conflict> {
    let mut claims: Vec<Claimed<'_>> =
        policies.meshes.values().flat_map(|policy| claims(policy, before.meshes.get(&policy.name))).collect();
    let rank = |claim: &Claim<'_>| match claim {
        Claim::Name => 0,
        Claim::Defaults { .. } => 1,
        Claim::Identity(_) => 2,
    };
    // Stable: within one rank by mesh and name.
    claims.sort_by_key(|claimed| (claimed.is_new, rank(&claimed.claim)));
    claims.iter().enumerate().find_map(|(at, claimed)| {
        let reason = claims[..at].iter().find_map(|earlier| conflict(claimed, earlier, zone))?;
        let signer = match claimed.claim {
            Claim::Name => None,
            Claim::Defaults { signer } => Some(signer.clone()),
            Claim::Identity(identity) => Some(identity.backend.clone()),
        };
        Some(Conflict { mesh: claimed.mesh.clone(), signer, reason })
    })
}

fn claims<'p>(policy: &'p MeshPolicy, before: Option<&Arc<MeshPolicy>>) -> Vec<Claimed<'p>> {
    let claimed = |claim, is_new| Claimed { mesh: &policy.name, claim, is_new };
    let mut claims = vec![claimed(Claim::Name, before.is_none())];
    if let Some(signer) = &policy.enabled_backend {
        let was_on = before.is_some_and(|before| before.enabled_backend.is_some());
        claims.push(claimed(Claim::Defaults { signer }, !was_on));
    }
    // Who has no signer is given nothing, and so takes nothing from others.
    let signed = policy.identities.iter().filter(|identity| policy.backend(&identity.backend).is_some());
    claims.extend(signed.map(|identity| {
        let was_there = before.is_some_and(|before| {
            let signs = |other: &IdentityPolicy| before.backend(&other.backend).is_some();
            before.identities.iter().any(|other| same_claim(identity, other) && signs(other))
        });
        claimed(Claim::Identity(identity), !was_there)
    }));
    claims
}

/// Whom it selects is nobody else's matter.
fn same_claim(one: &IdentityPolicy, other: &IdentityPolicy) -> bool {
    (&one.name, &one.trust_domain, &one.path) == (&other.name, &other.trust_domain, &other.path)
}

/// Why two claims cannot be in force together.
fn conflict(claimed: &Claimed<'_>, earlier: &Claimed<'_>, zone: &str) -> Option<String> {
    let (mesh, other) = (claimed.mesh, earlier.mesh);
    let taken = |domain: &str, by: String| {
        format!("the trust domain {} is in force for mesh {}, by {by}", quoted(domain), quoted(other))
    };
    match (&claimed.claim, &earlier.claim) {
        (Claim::Name, Claim::Identity(theirs)) if mesh != other && theirs.trust_domain == *mesh => {
            Some(taken(mesh, shown(&theirs.name)))
        }
        (Claim::Identity(ours), Claim::Name) if mesh != other && ours.trust_domain == *other => {
            Some(taken(other, "its name".to_owned()))
        }
        (Claim::Identity(ours), Claim::Identity(theirs)) if ours.trust_domain == theirs.trust_domain => {
            if mesh != other {
                return Some(taken(&ours.trust_domain, shown(&theirs.name)));
            }
            let theirs_are = paths(mesh, theirs, zone);
            let path = meeting(&paths(mesh, ours, zone), &theirs_are)?.to_string();
            Some(format!(
                "two workloads could get one SPIFFE ID, also by {path} of {}, which is in force",
                shown(&theirs.name)
            ))
        }
        (Claim::Identity(identity), Claim::Defaults { .. }) | (Claim::Defaults { .. }, Claim::Identity(identity))
            if mesh == other && identity.trust_domain == *mesh =>
        {
            let defaults = default_paths();
            let path = meeting(&paths(mesh, identity, zone), &defaults)?;
            let (name, path) = (shown(&identity.name), path.to_string());
            Some(format!(
                "two workloads could get one SPIFFE ID, by {name} and by the default path {path} of proxies that none selects"
            ))
        }
        _ => None,
    }
}

#[cfg(test)]
#[path = "claims_in_force_tests.rs"]
mod tests;
