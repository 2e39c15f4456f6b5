//! All documents together: duplicates, references between resources, and what is in force as a result.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::claims::{self, Claimant};
use super::cluster::{ObjectRef, Standing, in_cluster};
use super::gaps::{self, Gaps};
use super::known_good::{KnownGood, TrustKey};
use super::last_good::Seen;
use super::precedence;
use super::references::{self, Wrong};
use super::resource::{self, Decoded, Definition, Key, Outcome};
use super::{Context, Resources};
use crate::document::{Node, Value, quoted};
use crate::model::diagnostic::{Location, Problem};
use crate::model::policy::{MeshPolicy, PolicySet, Selector};
use crate::model::secrets::MeshSecrets;

/// A file of resources, as far as it could be read; or an object of the cluster.
#[derive(Debug)]
pub struct Source {
    /// The file; the folder, if it is the folder that cannot be read; what [`ObjectRef::path`] gives for an object.
    pub path: Arc<PathBuf>,
    /// Its documents, or why there are none.
    pub documents: Result<Vec<Node>, Vec<Problem>>,
}

/// The result of [`compile`].
#[derive(Debug, Clone, Default)]
pub struct Compiled {
    /// What is in force now.
    pub resources: Resources,
    /// What is wrong, in the order of files and lines.
    pub problems: Vec<Problem>,
    /// What is not wrong, but good to know.
    pub notices: Vec<Problem>,
    /// How the objects of the cluster fare.
    pub standings: BTreeMap<ObjectRef, Standing>,
}

/// What a [`Source`] holds; see [`Seen`] for `complete`.
pub(super) struct File {
    pub(super) path: Arc<PathBuf>,
    pub(super) complete: bool,
    /// Whether it is known of each of its documents which resource it is, or that it is none.
    identified: bool,
    pub(super) found: Vec<Found>,
}

impl File {
    /// Whether all of it counts as it is.
    pub(super) fn is_good(&self) -> bool {
        self.complete && self.found.iter().all(|found| found.definition.is_some())
    }
}

/// One resource of one file.
pub(super) struct Found {
    pub(super) key: Key,
    at: Location,
    definition: Option<Definition>,
    /// Whom a MeshIdentity selects, good or not.
    selects: Option<Selector>,
    /// The trust domain of a MeshIdentity, good or not.
    trust_domain: Option<Arc<str>>,
    /// Whether what it claims is others'.
    is_refused: bool,
}

/// What the user is to be told.
#[derive(Default)]
struct Told {
    problems: Vec<Problem>,
    notices: Vec<Problem>,
}

/// Compiles everything that all sources hold. What is broken is replaced by what is known to be good of it; see
/// [`LastGood::update`] for the rules. Files win over the cluster.
pub fn compile<'s>(
    sources: impl IntoIterator<Item = &'s Source>,
    context: &Context,
    known: &mut KnownGood,
) -> Compiled {
    let mut told = Told::default();
    let mut files: Vec<File> = sources.into_iter().map(|source| decode(source, context, &mut told)).collect();
    let Told { mut problems, mut notices } = told;
    let shadowed = precedence::yield_to_files(&mut files, known);
    problems.extend(refuse_duplicates(&mut files));

    known.secrets.update(&pick(&files, |found| match (&found.key, &found.definition) {
        (Key::Secret { mesh, name }, definition) => {
            let content = match definition {
                Some(Definition::Secret(content)) => Some(content.clone()),
                _ => None,
            };
            Some(((mesh.clone(), name.clone()), content))
        }
        _ => None,
    }));
    let secrets = secrets(&files, known);

    for found in files.iter_mut().flat_map(|file| &mut file.found) {
        let (mesh, references) = match (&found.key, &found.definition) {
            (Key::Mesh(mesh), Some(Definition::Mesh(definition))) => (mesh, &definition.references),
            (Key::Identity { mesh, .. }, Some(Definition::Identity(definition))) => (mesh, &definition.references),
            _ => continue,
        };
        let wrong: Vec<Wrong> =
            references.iter().filter_map(|reference| references::check(mesh, reference, &secrets, context)).collect();
        if wrong.iter().any(|wrong| wrong.is_void) {
            found.definition = None;
        }
        problems.extend(wrong.into_iter().map(|wrong| wrong.problem));
    }
    known.trusts.update(&pick(&files, |found| match (&found.key, &found.definition) {
        (Key::Trust { mesh, name }, definition) => {
            let anchors = match definition {
                Some(Definition::Trust(anchors)) => Some(anchors.clone()),
                _ => None,
            };
            Some(((mesh.clone(), name.clone()), anchors))
        }
        _ => None,
    }));
    problems.extend(update_claims(&mut files, known, context));
    known.gaps.update(find_gaps(&files, known));
    let (policies, unused) = assemble(known);
    for found in files.iter().flat_map(|file| &file.found) {
        let (Key::Mesh(mesh), Some(Definition::Mesh(definition))) = (&found.key, &found.definition) else { continue };
        let gives_identities = policies.meshes.get(mesh).is_some_and(|policy| !policy.identities.is_empty());
        notices.extend(definition.off.as_deref().filter(|_| !gives_identities).cloned());
    }
    let found = files.iter().flat_map(|file| &file.found);
    notices.extend(found.filter_map(|found| known.gaps.notice(&found.key, &found.at)));
    notices.extend(files.iter().flat_map(|file| &file.found).filter_map(|found| without_mesh(found, known, &unused)));

    let standings = precedence::standings(&files, known, &shadowed, &mut problems, &mut notices);
    problems.sort();
    // A new version may be refused for what its last good one is refused for as well.
    problems.dedup();
    notices.sort();
    Compiled { resources: Resources { policies, secrets }, problems, notices, standings }
}

/// The Secrets of files: what is known to be good of each. One that is there and broken is not one that is absent.
fn secrets(files: &[File], known: &KnownGood) -> MeshSecrets {
    let mut secrets: MeshSecrets = known.secrets.iter().map(|(key, content)| (key.clone(), content.clone())).collect();
    for file in files.iter().filter(|file| in_cluster(&file.path).is_none()) {
        for found in file.found.iter().filter(|found| found.definition.is_none()) {
            if let Key::Secret { mesh, name } = &found.key {
                let line = found.at.line.map(|line| format!(":{line}")).unwrap_or_default();
                let why = format!("it is broken in {}{line}", file.path.display());
                secrets.cannot_read(mesh.clone(), name.clone(), why.into());
            }
        }
        if !file.identified {
            secrets.may_lack_some(format!("it may be in {}, which cannot be understood", file.path.display()).into());
        }
    }
    secrets
}

/// Takes in the meshes and identity policies that may be in force beside each other.
fn update_claims(files: &mut [File], known: &mut KnownGood, context: &Context) -> Vec<Problem> {
    let before = known.claims();
    // Those that are refused in here are none: they claim what is others'.
    let mut gaps = known.gaps.clone();
    gaps.update(find_gaps(files, known));
    let mut problems = Vec::new();
    let mut dropped: Vec<Claimant> = Vec::new();
    loop {
        let (mut meshes, mut identities) = (known.meshes.clone(), known.identities.clone());
        meshes.update(&pick(files, |found| match (&found.key, &found.definition) {
            (Key::Mesh(name), Some(Definition::Mesh(definition))) => Some((name.clone(), Some(definition.clone()))),
            (Key::Mesh(name), _) => Some((name.clone(), None)),
            _ => None,
        }));
        identities.update(&pick(files, |found| match (&found.key, &found.definition) {
            (Key::Identity { mesh, name }, definition) => {
                let definition = match definition {
                    Some(Definition::Identity(definition)) => Some((**definition).clone()),
                    _ => None,
                };
                Some(((mesh.clone(), name.clone()), definition))
            }
            _ => None,
        }));
        for claimant in &dropped {
            match claimant {
                Claimant::Mesh(name) => meshes.forget(name),
                Claimant::Identity(key) => identities.forget(key),
            }
        }
        let next = KnownGood { meshes, identities, gaps: gaps.clone(), ..KnownGood::default() };
        let Some((claimant, mut problem)) = claims::first_conflict(&next.claims(), &before, &context.zone) else {
            (known.meshes, known.identities) = (next.meshes, next.identities);
            return problems;
        };
        let is_it = |found: &&mut Found| match (&found.key, &claimant) {
            (Key::Mesh(name), Claimant::Mesh(refused)) => name == refused,
            (Key::Identity { mesh, name }, Claimant::Identity(refused)) => (mesh, name) == (&refused.0, &refused.1),
            _ => false,
        };
        let mut refused: Vec<&mut Found> = files.iter_mut().flat_map(|file| &mut file.found).filter(is_it).collect();
        refused.iter_mut().for_each(|found| found.is_refused = true);
        match refused.iter_mut().find(|found| found.definition.is_some()) {
            // Its last good version may still do.
            Some(found) => {
                found.definition = None;
                if let Claimant::Mesh(_) = claimant {
                    problem.at = found.at.clone();
                }
            }
            None => dropped.push(claimant),
        }
        problems.push(problem);
    }
}

/// What to say of a resource for a mesh that has no Mesh: where others have one, it may be a slip of the pen.
fn without_mesh(found: &Found, known: &KnownGood, unused: &[TrustKey]) -> Option<Problem> {
    let has_any = known.meshes.iter().next().is_some();
    let is_defined = |mesh| !has_any || known.meshes.get(mesh).is_some() || known.gaps.meshes.contains(mesh);
    let what = match (&found.key, &found.definition) {
        (Key::Trust { mesh, name }, Some(_)) if unused.contains(&(mesh.clone(), name.clone())) => {
            format!("has no effect: mesh {} has neither mTLS nor a MeshIdentity", quoted(mesh))
        }
        (Key::Identity { mesh, .. } | Key::Trust { mesh, .. }, Some(_)) if !is_defined(mesh) => {
            format!("no Mesh defines mesh {}, so it has only what its MeshIdentities say", quoted(mesh))
        }
        _ => return None,
    };
    let hint = Some(
        "if another mesh is meant, name it: by the label kuma.io/mesh, or by mesh in the Universal form".to_owned(),
    );
    Some(Problem { at: Location { field: None, ..found.at.clone() }, what, hint })
}

/// What is broken, and nothing good is known of it.
fn find_gaps(files: &[File], known: &KnownGood) -> Gaps {
    let mut gaps = Gaps::default();
    gaps.unread.extend(files.iter().filter(|file| !file.identified).map(|file| file.path.clone()));
    for found in files.iter().flat_map(|file| &file.found) {
        let claims = (!found.is_refused).then_some(&mut gaps.claims);
        match &found.key {
            _ if found.definition.is_some() => {}
            Key::Mesh(name) if known.meshes.get(name).is_none() => {
                gaps.meshes.insert(name.clone());
                claims.map(|claims| claims.names.insert(name.clone()));
            }
            Key::Identity { mesh, name } => {
                let key = (mesh.clone(), name.clone());
                if known.identities.get(&key).is_some() {
                    continue;
                }
                gaps.identities.insert(key.clone(), found.selects.clone());
                if let Some(claims) = claims {
                    claims.names.insert(mesh.clone());
                    claims.domains.extend(found.trust_domain.clone().map(|domain| (key, domain)));
                }
            }
            Key::Mesh(_) | Key::Secret { .. } | Key::Trust { .. } => {}
        }
    }
    gaps
}

/// What is in force of all kinds, mesh by mesh; and the trusts of meshes that there are none of.
fn assemble(known: &KnownGood) -> (PolicySet, Vec<TrustKey>) {
    let classic = known.meshes.iter().filter_map(|(name, mesh)| Some((name.clone(), mesh.policy.as_deref()?.clone())));
    let mut meshes: BTreeMap<Arc<str>, MeshPolicy> = classic.collect();
    for ((mesh, _), definition) in known.identities.iter() {
        let policy = meshes.entry(mesh.clone()).or_insert_with(|| MeshPolicy {
            name: mesh.clone(),
            enabled_backend: None,
            backends: Vec::new(),
            identities: Vec::new(),
            trusts: Vec::new(),
            skip_validation: false,
        });
        policy.backends.push(definition.backend.clone());
        policy.identities.push(definition.policy.clone());
    }
    // Without a backend, there is nothing to trust or to sign.
    meshes.retain(|_, policy| !policy.backends.is_empty());
    let unserved = known.gaps.unserved(known.meshes.iter().map(|(mesh, _)| mesh), &meshes);
    known.gaps.fill(&mut meshes);
    let mut unused = Vec::new();
    for ((mesh, name), anchors) in known.trusts.iter() {
        match meshes.get_mut(mesh) {
            Some(policy) => policy.trusts.push(anchors.clone()),
            None => unused.push((mesh.clone(), name.clone())),
        }
    }
    let meshes = meshes.into_iter().map(|(name, policy)| (name, Arc::new(policy))).collect();
    (PolicySet { meshes, unserved }, unused)
}

fn decode(source: &Source, context: &Context, told: &mut Told) -> File {
    let mut file = File { path: source.path.clone(), complete: true, identified: true, found: Vec::new() };
    let documents = match &source.documents {
        Ok(documents) => documents,
        Err(problems) => {
            told.problems.extend(problems.iter().cloned());
            return File { complete: false, identified: false, ..file };
        }
    };
    for document in documents.iter().flat_map(expand) {
        let Decoded { outcome, problems, notices } = resource::decode(document, Some(source.path.clone()), context);
        told.problems.extend(problems);
        told.notices.extend(notices);
        match outcome {
            Outcome::Unidentified => (file.complete, file.identified) = (false, false),
            Outcome::Foreign => file.complete = false,
            Outcome::Known { key, at, definition } => {
                // A file that is cut off in the middle of a resource has lost what came after it as well.
                file.complete &= definition.is_some();
                let (selects, trust_domain) = match &key {
                    Key::Identity { mesh, .. } => {
                        (gaps::selector(document), gaps::trust_domain(document, mesh, &context.zone))
                    }
                    Key::Mesh(_) | Key::Secret { .. } | Key::Trust { .. } => (None, None),
                };
                file.found.push(Found { key, at, definition, selects, trust_domain, is_refused: false });
            }
        }
    }
    file
}

/// The items of a Kubernetes `List`, as `kubectl get -o yaml` writes it, or the document itself.
fn expand(document: &Node) -> Vec<&Node> {
    let is_list = document.get("kind").and_then(Node::text) == Some("List");
    match document.get("items").map(|items| &items.value) {
        Some(Value::List(items)) if is_list => items.iter().collect(),
        _ => vec![document],
    }
}

/// Takes the definitions away from resources that are there more than once: nobody can tell which one is meant.
fn refuse_duplicates(files: &mut [File]) -> Vec<Problem> {
    let mut places: BTreeMap<Key, Vec<Location>> = BTreeMap::new();
    for found in files.iter().flat_map(|file| &file.found) {
        places.entry(found.key.clone()).or_default().push(found.at.clone());
    }
    places.retain(|_, places| places.len() > 1);
    for found in files.iter_mut().flat_map(|file| &mut file.found) {
        if places.contains_key(&found.key) {
            found.definition = None;
        }
    }
    let mut problems = Vec::new();
    for places in places.into_values() {
        let mut places = places.into_iter();
        let Some(first) = places.next() else { continue };
        let file = first.file.map_or_else(String::new, |file| file.display().to_string());
        let what = format!("is there twice, first at {file}:{}; none of them counts", first.line.unwrap_or_default());
        problems.extend(places.map(|at| Problem { at, what: what.clone(), hint: Some("remove one".to_owned()) }));
    }
    problems
}

/// The resources of one kind, file by file.
fn pick<K, V>(files: &[File], pick: impl Fn(&Found) -> Option<(K, Option<V>)>) -> Vec<Seen<K, V>> {
    let of_file = |file: &File| Seen {
        file: file.path.clone(),
        complete: file.complete,
        resources: file.found.iter().filter_map(&pick).collect(),
    };
    files.iter().map(of_file).collect()
}
