//! Who may use which SPIFFE IDs: a trust domain belongs to one mesh, and within it no two workloads can get one ID by the
//! templates of different identity policies. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::identity::{IdentityDefinition, shown};
use crate::document::quoted;
use crate::model::diagnostic::Problem;
use crate::model::policy::IdentityPolicy;
use crate::model::template::{PathTemplate, TemplateField};

/// The paths of the SPIFFE ID of a proxy whose policy names none: with a service account, and without one.
const DEFAULT_PATHS: [&str; 2] = ["/ns/{{ .Namespace }}/sa/{{ .ServiceAccount }}", "/{{ .Workload }}"];

/// Mesh and name of an identity policy.
pub(super) type IdentityKey = (Arc<str>, Arc<str>);

/// Finds the first identity policy that may not be in force beside the others, and says why. Those that have been in force
/// already (`before`) come first, then the order of mesh and name: a new one never pushes a good one out.
/// `meshes` are those with a Mesh resource, and whether they have an enabled backend.
pub(super) fn first_conflict(
    identities: &BTreeMap<IdentityKey, IdentityDefinition>,
    before: &BTreeMap<IdentityKey, IdentityDefinition>,
    meshes: &BTreeMap<Arc<str>, bool>,
    zone: &str,
) -> Option<(IdentityKey, Problem)> {
    let mut ordered: Vec<_> = identities.iter().collect();
    ordered.sort_by_key(|(key, definition)| (before.get(*key) != Some(*definition), *key));
    // The name of a mesh is a trust domain of its own, whether there is a Mesh resource for it or not.
    let named: BTreeSet<&Arc<str>> = meshes.keys().chain(identities.keys().map(|(mesh, _)| mesh)).collect();
    let mut accepted: Vec<(&IdentityKey, &IdentityDefinition)> = Vec::new();
    for (key, definition) in ordered {
        let found = conflict(key, definition, &named, meshes, &accepted, zone);
        if let Some(problem) = found {
            return Some((key.clone(), problem));
        }
        accepted.push((key, definition));
    }
    None
}

fn conflict(
    (mesh, _): &IdentityKey,
    definition: &IdentityDefinition,
    named: &BTreeSet<&Arc<str>>,
    meshes: &BTreeMap<Arc<str>, bool>,
    accepted: &[(&IdentityKey, &IdentityDefinition)],
    zone: &str,
) -> Option<Problem> {
    let domain = &definition.policy.trust_domain;
    let taken = |by: String| Problem {
        at: definition.trust_domain_at.clone(),
        what: format!("the trust domain {} belongs to another mesh, by {by}", quoted(domain)),
        hint: Some("a trust domain belongs to one mesh; to trust the CAs of another one, use a MeshTrust".to_owned()),
    };
    if domain != mesh && named.contains(domain) {
        return Some(taken("its name".to_owned()));
    }
    let same_domain = || accepted.iter().filter(|(_, other)| other.policy.trust_domain == *domain);
    if let Some(((other_mesh, other), _)) = same_domain().find(|((other_mesh, _), _)| other_mesh != mesh) {
        return Some(taken(format!("{} of mesh {}", shown(other), quoted(other_mesh))));
    }
    let meet = |with: String, theirs: &PathTemplate| Problem {
        at: definition.path_at.clone(),
        what: format!("two workloads could get one SPIFFE ID: by this path and by {theirs} of {with}"),
        hint: Some("tell them apart by fixed text in a segment, such as /wl/{{ .Workload }}".to_owned()),
    };
    let ours = paths(mesh, &definition.policy, zone);
    if *domain == *mesh && meshes.get(mesh) == Some(&true) {
        let defaults = default_paths();
        if let Some(theirs) = meeting(&ours, &defaults) {
            return Some(meet("proxies that no MeshIdentity selects".to_owned(), theirs));
        }
    }
    same_domain().find_map(|((_, other), theirs)| {
        let theirs = paths(mesh, &theirs.policy, zone);
        Some(meet(shown(other), meeting(&ours, &theirs)?))
    })
}

pub(super) fn meeting<'t>(ours: &[PathTemplate], theirs: &'t [PathTemplate]) -> Option<&'t PathTemplate> {
    theirs.iter().find(|theirs| ours.iter().any(|ours| ours.may_collide(theirs)))
}

/// Its paths, with what is the same for the whole mesh filled in.
pub(super) fn paths(mesh: &str, identity: &IdentityPolicy, zone: &str) -> Vec<PathTemplate> {
    match &identity.path {
        None => default_paths(),
        Some(path) => vec![path.clone().with(TemplateField::Mesh, mesh).with(TemplateField::Zone, zone)],
    }
}

pub(super) fn default_paths() -> Vec<PathTemplate> {
    DEFAULT_PATHS.iter().filter_map(|path| PathTemplate::parse(path).ok()).collect()
}
