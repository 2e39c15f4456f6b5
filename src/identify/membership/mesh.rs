//! Which mesh a proxy belongs to: what its proof and the cluster say of it, never what it wishes.

use std::sync::Arc;

use crate::identify::standing::Facts;
use crate::identify::{IdentifyError, Proof};
use crate::model::policy::{MeshPolicy, PolicySet};

/// The mesh that is meant where nothing names one, as in Kuma.
const DEFAULT_MESH: &str = "default";

/// The mesh that the proof, its trust domain and the label `kuma.io/mesh` name, all that there are of them; where none does:
/// the configured default, else `default`, else the only mesh that is defined. Whoever would be in a mesh that may be defined
/// in resources that are broken is in none, and not in another one.
pub(super) fn of<'p>(
    proof: &Proof,
    facts: &Facts,
    policies: &'p PolicySet,
    default: Option<&str>,
) -> Result<&'p Arc<MeshPolicy>, IdentifyError> {
    if policies.meshes.is_empty() {
        let forbidden = || IdentifyError::Forbidden("no mesh has mTLS enabled yet".to_owned());
        return Err(policies.unserved.may_have_others().map_or_else(forbidden, undecided));
    }
    let by_trust_domain =
        proof.trust_domain.as_deref().map(|domain| with_trust_domain(domain, policies)).transpose()?;
    let named = [
        ("its proof of identity", proof.mesh.as_deref()),
        ("the trust domain of its proof", by_trust_domain),
        ("the label kuma.io/mesh", facts.mesh.as_deref()),
    ];
    let mut named = named.into_iter().filter_map(|(by, mesh)| Some((by, mesh?)));
    let Some((by, mesh)) = named.next() else { return without_a_name(policies, default) };
    if let Some((other, contradicts)) = named.find(|(_, other)| *other != mesh) {
        let reason = format!("{by} names mesh {mesh:?}, but {other} names {contradicts:?}");
        return Err(IdentifyError::Forbidden(reason));
    }
    known(mesh, policies, || format!("there is no mesh {mesh:?} with mTLS on, which {by} names"))
}

/// The mesh that has this trust domain. No two have (see [`MeshPolicy::own_trust_domains`]).
fn with_trust_domain<'p>(domain: &str, policies: &'p PolicySet) -> Result<&'p str, IdentifyError> {
    let found = policies.meshes.values().find(|mesh| mesh.own_trust_domains().contains(domain));
    let found = found.map(|mesh| &*mesh.name);
    found.ok_or_else(|| match policies.unserved.may_have_others() {
        Some(why) => undecided(why),
        None => IdentifyError::Forbidden(format!("no mesh has the trust domain {domain:?} of its proof")),
    })
}

fn without_a_name<'p>(policies: &'p PolicySet, default: Option<&str>) -> Result<&'p Arc<MeshPolicy>, IdentifyError> {
    if let Some(default) = default {
        return known(default, policies, || {
            format!("there is no mesh {default:?} with mTLS on, which membership.default names")
        });
    }
    let (meshes, unserved) = (&policies.meshes, &policies.unserved);
    if let Some(default) = meshes.get(DEFAULT_MESH) {
        return Ok(default);
    }
    let mut others = meshes.values();
    if let (Some(only), None) = (others.next(), others.next()) {
        if let Some(why) = unserved.may_have_others() {
            return Err(undecided(format!("nothing names its mesh, {:?} need not be the only one: {why}", only.name)));
        }
        if unserved.off.is_empty() {
            return Ok(only);
        }
    }
    let why = match unserved.off.contains(DEFAULT_MESH) {
        true => format!("mTLS is off in mesh {DEFAULT_MESH}"),
        false => format!("there are several, none is called {DEFAULT_MESH}"),
    };
    known(DEFAULT_MESH, policies, || format!("its proof names no mesh, {why}, and membership.default is not set"))
}

fn known<'p>(
    name: &str,
    policies: &'p PolicySet,
    what: impl FnOnce() -> String,
) -> Result<&'p Arc<MeshPolicy>, IdentifyError> {
    policies.meshes.get(name).ok_or_else(|| {
        if let Some(why) = policies.unserved.may_have(name) {
            return undecided(why);
        }
        let known = policies.meshes.keys().map(AsRef::as_ref).collect::<Vec<&str>>().join(", ");
        IdentifyError::Forbidden(format!("{}; known: {known}", what()))
    })
}

/// It is not the proxy's fault, and may be another answer soon.
fn undecided(reason: String) -> IdentifyError {
    IdentifyError::Unavailable { method: "membership", reason }
}
