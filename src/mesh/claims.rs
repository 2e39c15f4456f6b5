//! Who may use which SPIFFE IDs: a trust domain belongs to one mesh, and within it no two workloads can get one ID by the
//! templates of different identity policies. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::gaps::as_pairs;
use super::identity::{IdentityDefinition, shown};
use crate::document::quoted;
use crate::model::diagnostic::{Location, Problem};
use crate::model::policy::IdentityPolicy;
use crate::model::template::{PathTemplate, TemplateField};

/// The paths of the SPIFFE ID of a proxy whose policy names none: with a service account, and without one.
const DEFAULT_PATHS: [&str; 2] = ["/ns/{{ .Namespace }}/sa/{{ .ServiceAccount }}", "/{{ .Workload }}"];

/// Mesh and name of an identity policy.
pub(super) type IdentityKey = (Arc<str>, Arc<str>);

/// What is claimed at a time, by the meshes and identity policies that there are.
#[derive(Debug, Clone, Default)]
pub(super) struct Claims {
    /// The meshes with a Mesh resource, and whether they have an enabled backend.
    pub(super) meshes: BTreeMap<Arc<str>, bool>,
    pub(super) identities: BTreeMap<IdentityKey, IdentityDefinition>,
    pub(super) of_broken: BrokenClaims,
    /// Where there may be a mesh that nobody knows of.
    pub(super) unread: Option<String>,
}

/// What is claimed by resources that are broken and have never been good, as far as it can be read: as if they were good, so
/// that they find it theirs when they are mended. They push nothing out.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct BrokenClaims {
    /// The meshes that have such resources.
    pub(super) names: BTreeSet<Arc<str>>,
    /// The trust domains of identity policies.
    #[serde(with = "as_pairs")]
    pub(super) domains: BTreeMap<IdentityKey, Arc<str>>,
}

impl Claims {
    /// The name of a mesh is a trust domain of its own, whether there is a Mesh resource for it or not.
    fn has_mesh(&self, name: &Arc<str>) -> bool {
        let is_others =
            || self.identities.iter().any(|((mesh, _), other)| mesh != name && other.policy.trust_domain == *name);
        self.has_good_mesh(name) || self.of_broken.names.contains(name) && !is_others()
    }

    fn has_good_mesh(&self, name: &Arc<str>) -> bool {
        self.meshes.contains_key(name) || self.identities.keys().any(|(mesh, _)| mesh == name)
    }

    /// The trust domain of an identity policy, good or not.
    fn domain_of(&self, key: &IdentityKey) -> Option<&Arc<str>> {
        let good = self.identities.get(key).map(|definition| &definition.policy.trust_domain);
        good.or_else(|| self.of_broken.domains.get(key))
    }

    /// Whether a mesh has a trust domain, by any of its identity policies.
    fn holds(&self, mesh: &Arc<str>, domain: &Arc<str>) -> bool {
        let good = self.identities.iter().map(|(key, definition)| (key, &definition.policy.trust_domain));
        good.chain(&self.of_broken.domains).any(|((of, _), held)| (of, held) == (mesh, domain))
    }

    fn has_default_paths(&self, mesh: &Arc<str>) -> bool {
        self.meshes.get(mesh) == Some(&true)
    }
}

/// Who has claimed too much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Claimant {
    /// A Mesh resource.
    Mesh(Arc<str>),
    /// An identity policy.
    Identity(IdentityKey),
}

/// One claim; their order is that in which new ones are heard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Claim<'a> {
    /// A mesh's name, as a trust domain.
    Name(&'a Arc<str>),
    /// The default paths in the mesh's own trust domain.
    DefaultPaths(&'a Arc<str>),
    /// What an identity policy gives out.
    Identity(&'a IdentityKey),
}

/// Who is heard first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    /// What has been in force, as it is.
    Same,
    /// Another claim in a trust domain that the mesh has held.
    OfHolder,
    New,
}

/// Finds the first Mesh or identity policy that may not be in force beside the others, and says why; a Mesh without the
/// place, which the caller knows. What has been in force already (`before`) comes first, then who holds the trust domain, then
/// names of meshes and the order of mesh and name: a new one never pushes a good one out. What broken ones claim stands in the
/// way of others, and is never refused.
pub(super) fn first_conflict(now: &Claims, before: &Claims, zone: &str) -> Option<(Claimant, Problem)> {
    let names = now.meshes.keys().chain(now.identities.keys().map(|(mesh, _)| mesh)).chain(&now.of_broken.names);
    let names: BTreeSet<&Arc<str>> = names.collect();
    let with_defaults = now.meshes.iter().filter(|(_, enabled)| **enabled).map(|(mesh, _)| Claim::DefaultPaths(mesh));
    let of_identities: BTreeSet<&IdentityKey> = now.identities.keys().chain(now.of_broken.domains.keys()).collect();
    let of_identities = of_identities.into_iter().map(Claim::Identity);
    let mut ordered: Vec<Claim<'_>> =
        names.iter().map(|name| Claim::Name(name)).chain(with_defaults).chain(of_identities).collect();
    let holds = |key: &IdentityKey| now.domain_of(key).is_some_and(|domain| before.holds(&key.0, domain));
    ordered.sort_by_key(|claim| {
        let is_same = match claim {
            Claim::Name(mesh) => before.has_mesh(mesh),
            Claim::DefaultPaths(mesh) => before.has_default_paths(mesh),
            Claim::Identity(key) => {
                let claimed = |claims: &Claims| {
                    let policy = &claims.identities.get(*key)?.policy;
                    Some((policy.trust_domain.clone(), policy.path.clone()))
                };
                claimed(now).is_some_and(|now| claimed(before) == Some(now))
            }
        };
        let turn = match claim {
            _ if is_same => Turn::Same,
            Claim::Identity(key) if holds(key) => Turn::OfHolder,
            _ => Turn::New,
        };
        (turn, *claim)
    });
    let mut accepted =
        Accepted { zone, names: BTreeSet::new(), with_defaults: BTreeSet::new(), identities: Vec::new() };
    for claim in ordered {
        let refused = match claim {
            Claim::Name(mesh) if !now.has_good_mesh(mesh) => {
                accepted.broken_name(mesh);
                None
            }
            Claim::Name(mesh) => accepted.name(mesh).map(|problem| {
                let by_identity =
                    || now.identities.keys().find(|(of, _)| of == mesh).map(|key| Claimant::Identity(key.clone()));
                let by_mesh = Claimant::Mesh(mesh.clone());
                let claimant = if now.meshes.contains_key(mesh) { by_mesh } else { by_identity().unwrap_or(by_mesh) };
                (claimant, problem)
            }),
            Claim::DefaultPaths(mesh) => {
                accepted.default_paths(mesh).map(|problem| (Claimant::Mesh(mesh.clone()), problem))
            }
            Claim::Identity(key) => {
                let Some(definition) = now.identities.get(key) else {
                    now.of_broken.domains.get(key).into_iter().for_each(|domain| accepted.broken_identity(key, domain));
                    continue;
                };
                let unread = now.unread.as_deref().filter(|_| !holds(key));
                accepted.identity(key, definition, unread).map(|problem| (Claimant::Identity(key.clone()), problem))
            }
        };
        if let Some((claimant, mut problem)) = refused {
            if let (Claim::Name(_), Claimant::Identity(key)) = (claim, &claimant)
                && let Some(definition) = now.identities.get(key)
            {
                problem.at = definition.trust_domain_at.clone();
            }
            return Some((claimant, problem));
        }
    }
    None
}

const ONE_MESH: &str = "a trust domain belongs to one mesh; to trust the CAs of another one, use a MeshTrust";
const TELL_APART: &str = "tell them apart by fixed text in a segment, such as /wl/{{ .Workload }}";

/// The claims that go together, so far. Each method takes one in, or says what is in its way.
struct Accepted<'a> {
    zone: &'a str,
    names: BTreeSet<&'a Arc<str>>,
    with_defaults: BTreeSet<&'a Arc<str>>,
    identities: Vec<Taken<'a>>,
}

/// What an identity policy has taken; without a policy, if that is broken, a trust domain and no paths in it.
struct Taken<'a> {
    key: &'a IdentityKey,
    domain: &'a Arc<str>,
    policy: Option<&'a IdentityPolicy>,
}

impl<'a> Accepted<'a> {
    fn name(&mut self, mesh: &'a Arc<str>) -> Option<Problem> {
        let taken = self.foreign(mesh, mesh).map(|(other, name)| Problem {
            at: Location::default(),
            what: format!(
                "the mesh's name is a trust domain already, that of {} of mesh {}",
                shown(name),
                quoted(other)
            ),
            hint: Some(ONE_MESH.to_owned()),
        });
        self.names.insert(mesh);
        taken
    }

    fn broken_name(&mut self, mesh: &'a Arc<str>) {
        if self.foreign(mesh, mesh).is_none() {
            self.names.insert(mesh);
        }
    }

    fn broken_identity(&mut self, key: &'a IdentityKey, domain: &'a Arc<str>) {
        let (mesh, _) = key;
        if (domain == mesh || !self.names.contains(domain)) && self.foreign(mesh, domain).is_none() {
            self.identities.push(Taken { key, domain, policy: None });
        }
    }

    fn default_paths(&mut self, mesh: &'a Arc<str>) -> Option<Problem> {
        let defaults = default_paths();
        let met = self.of_domain(mesh).find_map(|Taken { key: (_, name), policy, .. }| {
            let theirs = paths(mesh, (*policy)?, self.zone);
            let theirs = meeting(&defaults, &theirs)?;
            Some(Problem {
                at: Location::default(),
                what: format!(
                    "with an enabled backend two workloads could get one SPIFFE ID: by {theirs} of {}, and as proxies that \
                     no MeshIdentity selects",
                    shown(name)
                ),
                hint: Some(format!("in its path, {TELL_APART}")),
            })
        });
        self.with_defaults.insert(mesh);
        met
    }

    /// `unread` is where a mesh may be that nobody knows of, if that matters.
    fn identity(
        &mut self,
        key: &'a IdentityKey,
        definition: &'a IdentityDefinition,
        unread: Option<&str>,
    ) -> Option<Problem> {
        let conflict = self.conflict(key, definition, unread);
        let policy = &definition.policy;
        self.identities.push(Taken { key, domain: &policy.trust_domain, policy: Some(policy) });
        conflict
    }

    fn conflict(
        &self,
        (mesh, _): &IdentityKey,
        definition: &IdentityDefinition,
        unread: Option<&str>,
    ) -> Option<Problem> {
        let domain = &definition.policy.trust_domain;
        let taken = |by: String| Problem {
            at: definition.trust_domain_at.clone(),
            what: format!("the trust domain {} belongs to another mesh, by {by}", quoted(domain)),
            hint: Some(ONE_MESH.to_owned()),
        };
        if domain != mesh && self.names.contains(domain) {
            return Some(taken("its name".to_owned()));
        }
        if let Some((other_mesh, other)) = self.foreign(mesh, domain) {
            return Some(taken(format!("{} of mesh {}", shown(other), quoted(other_mesh))));
        }
        if let Some(place) = unread.filter(|_| domain != mesh) {
            return Some(Problem {
                at: definition.trust_domain_at.clone(),
                what: format!(
                    "the trust domain {} may belong to another mesh, by its name: what is in {place} has not been understood",
                    quoted(domain)
                ),
                hint: Some("mend that first, or remove it".to_owned()),
            });
        }
        let meet = |with: String, theirs: &PathTemplate| Problem {
            at: definition.path_at.clone(),
            what: format!("two workloads could get one SPIFFE ID: by this path and by {theirs} of {with}"),
            hint: Some(TELL_APART.to_owned()),
        };
        let ours = paths(mesh, &definition.policy, self.zone);
        if *domain == *mesh && self.with_defaults.contains(mesh) {
            let defaults = default_paths();
            if let Some(theirs) = meeting(&ours, &defaults) {
                return Some(meet("proxies that no MeshIdentity selects".to_owned(), theirs));
            }
        }
        self.of_domain(domain).find_map(|Taken { key: (_, other), policy, .. }| {
            let theirs = paths(mesh, (*policy)?, self.zone);
            Some(meet(shown(other), meeting(&ours, &theirs)?))
        })
    }

    fn of_domain(&self, domain: &Arc<str>) -> impl Iterator<Item = &Taken<'a>> {
        self.identities.iter().filter(move |taken| taken.domain == domain)
    }

    /// The identity policy by which another mesh than this one has a trust domain.
    fn foreign(&self, mesh: &Arc<str>, domain: &Arc<str>) -> Option<&'a IdentityKey> {
        self.of_domain(domain).map(|taken| taken.key).find(|(other, _)| other != mesh)
    }
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
