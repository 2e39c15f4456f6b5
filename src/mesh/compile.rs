//! All documents together: duplicates, references between resources, and what is in force as a result.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::backend::{Reference, Use};
use super::claims::{self, Claimant, Claims, IdentityKey};
use super::cluster::{ObjectRef, Standing};
use super::identity::IdentityDefinition;
use super::last_good::{LastGood, Seen};
use super::policy::MeshDefinition;
use super::precedence;
use super::resource::{self, Decoded, Definition, Key, Outcome};
use super::{Context, Resources};
use crate::document::{Node, Value, quoted};
use crate::model::bundle::Bundle;
use crate::model::ca_pair::{CaChain, CaKey, CaPairError};
use crate::model::diagnostic::{Location, Problem};
use crate::model::policy::{DataSource, MeshPolicy, PolicySet, TrustAnchors};
use crate::model::secrets::{MeshSecrets, SecretBytes};

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

/// What was good the last time that [`compile`] ran, and in force as far as meshes and identity policies go; empty at first.
#[derive(Debug, Default)]
pub struct KnownGood {
    meshes: LastGood<Arc<str>, MeshDefinition>,
    secrets: LastGood<(Arc<str>, Arc<str>), SecretBytes>,
    identities: LastGood<IdentityKey, IdentityDefinition>,
    trusts: LastGood<TrustKey, Arc<TrustAnchors>>,
}

/// Mesh and name of a MeshTrust.
type TrustKey = (Arc<str>, Arc<str>);

impl KnownGood {
    /// Where a resource was seen last that something good is known of.
    pub(super) fn place(&self, key: &Key) -> Option<&Arc<PathBuf>> {
        match key {
            Key::Mesh(name) => self.meshes.place(name),
            Key::Secret { mesh, name } => self.secrets.place(&(mesh.clone(), name.clone())),
            Key::Identity { mesh, name } => self.identities.place(&(mesh.clone(), name.clone())),
            Key::Trust { mesh, name } => self.trusts.place(&(mesh.clone(), name.clone())),
        }
    }

    /// Who uses which SPIFFE IDs.
    fn claims(&self) -> Claims {
        let is_enabled =
            |mesh: &MeshDefinition| mesh.policy.as_ref().is_some_and(|policy| policy.enabled_backend.is_some());
        Claims {
            meshes: self.meshes.iter().map(|(name, mesh)| (name.clone(), is_enabled(mesh))).collect(),
            identities: self.identities.iter().map(|(key, definition)| (key.clone(), definition.clone())).collect(),
        }
    }

    /// The same of all resources.
    pub(super) fn places(&self) -> impl Iterator<Item = &Arc<PathBuf>> {
        let of_meshes = self.meshes.places().chain(self.secrets.places());
        of_meshes.chain(self.identities.places()).chain(self.trusts.places())
    }
}

/// What a [`Source`] holds; see [`Seen`] for `complete`.
pub(super) struct File {
    pub(super) path: Arc<PathBuf>,
    pub(super) complete: bool,
    /// Something in it may be any resource.
    has_unknown: bool,
    pub(super) found: Vec<Found>,
}

/// One resource of one file.
pub(super) struct Found {
    pub(super) key: Key,
    at: Location,
    definition: Option<Definition>,
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
        let broken: Vec<Problem> =
            references.iter().filter_map(|reference| check_reference(mesh, reference, &secrets, context)).collect();
        if !broken.is_empty() {
            found.definition = None;
            problems.extend(broken);
        }
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
    let (policies, unused) = assemble(known);
    for found in files.iter().flat_map(|file| &file.found) {
        let (Key::Mesh(mesh), Some(Definition::Mesh(definition))) = (&found.key, &found.definition) else { continue };
        let gives_identities = policies.meshes.get(mesh).is_some_and(|policy| !policy.identities.is_empty());
        notices.extend(definition.off.as_deref().filter(|_| !gives_identities).cloned());
    }
    for (mesh, name) in unused {
        let at = Location { resource: Some(format!("MeshTrust {mesh}/{name}")), ..Location::default() };
        let what = "has no effect: its mesh has neither mTLS nor a MeshIdentity".to_owned();
        notices.push(Problem { at, what, hint: None });
    }

    let standings = precedence::standings(&files, known, &shadowed, &mut problems, &mut notices);
    problems.sort();
    notices.sort();
    Compiled { resources: Resources { policies, secrets }, problems, notices, standings }
}

/// The Secrets of files: what is known to be good of each. One that is there and broken is not one that is absent.
fn secrets(files: &[File], known: &KnownGood) -> MeshSecrets {
    let mut secrets: MeshSecrets = known.secrets.iter().map(|(key, content)| (key.clone(), content.clone())).collect();
    for file in files.iter().filter(|file| ObjectRef::of_path(&file.path).is_none()) {
        for found in file.found.iter().filter(|found| found.definition.is_none()) {
            if let Key::Secret { mesh, name } = &found.key {
                let line = found.at.line.map(|line| format!(":{line}")).unwrap_or_default();
                let why = format!("it is broken in {}{line}", file.path.display());
                secrets.cannot_read(mesh.clone(), name.clone(), why.into());
            }
        }
        if file.has_unknown {
            secrets.may_lack_some(format!("it may be in {}, which cannot be understood", file.path.display()).into());
        }
    }
    secrets
}

/// Takes in the meshes and identity policies that may be in force beside each other.
fn update_claims(files: &mut [File], known: &mut KnownGood, context: &Context) -> Vec<Problem> {
    let before = known.claims();
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
        let next = KnownGood { meshes, identities, ..KnownGood::default() };
        let Some((claimant, mut problem)) = claims::first_conflict(&next.claims(), &before, &context.zone) else {
            (known.meshes, known.identities) = (next.meshes, next.identities);
            return problems;
        };
        let is_it = |found: &&mut Found| match (&found.key, &claimant) {
            (Key::Mesh(name), Claimant::Mesh(refused)) => name == refused,
            (Key::Identity { mesh, name }, Claimant::Identity(refused)) => (mesh, name) == (&refused.0, &refused.1),
            _ => false,
        };
        let mut found = files.iter_mut().flat_map(|file| &mut file.found).filter(is_it);
        match found.find(|found| found.definition.is_some()) {
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
    let mut unused = Vec::new();
    for ((mesh, name), anchors) in known.trusts.iter() {
        match meshes.get_mut(mesh) {
            Some(policy) => policy.trusts.push(anchors.clone()),
            None => unused.push((mesh.clone(), name.clone())),
        }
    }
    let meshes = meshes.into_iter().map(|(name, policy)| (name, Arc::new(policy))).collect();
    (PolicySet { meshes }, unused)
}

fn decode(source: &Source, context: &Context, told: &mut Told) -> File {
    let mut file = File { path: source.path.clone(), complete: true, has_unknown: false, found: Vec::new() };
    let documents = match &source.documents {
        Ok(documents) => documents,
        Err(problems) => {
            told.problems.extend(problems.iter().cloned());
            return File { complete: false, has_unknown: true, ..file };
        }
    };
    for document in documents.iter().flat_map(expand) {
        let Decoded { outcome, problems, notices } = resource::decode(document, Some(source.path.clone()), context);
        told.problems.extend(problems);
        told.notices.extend(notices);
        match outcome {
            Outcome::Unidentified => (file.complete, file.has_unknown) = (false, true),
            Outcome::Known { key, at, definition } => {
                // A file that is cut off in the middle of a resource has lost what came after it as well.
                file.complete &= definition.is_some();
                file.found.push(Found { key, at, definition });
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

/// A Secret must hold what it is named for. One that is in no file may be in the cluster, if there is one.
fn check_reference(mesh: &str, reference: &Reference, secrets: &MeshSecrets, context: &Context) -> Option<Problem> {
    let Reference { name, at, meant } = reference;
    let problem = |what: String, hint: Option<String>| Some(Problem { at: at.clone(), what, hint });
    let Some(content) = secrets.get(mesh, name) else {
        if context.kubernetes_available {
            return None;
        }
        return problem(
            format!("there is no mesh Secret {}", quoted(name)),
            Some("add it to the resource files".to_owned()),
        );
    };
    let bad_pair =
        |error: CaPairError| problem(format!("the Secret {}: {error}", quoted(name)), error.hint().map(str::to_owned));
    match meant {
        Use::Other => None,
        Use::Bundle => {
            let error = Bundle::from_pem(content.expose(), context.now).err()?;
            problem(format!("the Secret {} is no trust bundle: {error}", quoted(name)), None)
        }
        Use::CaCertificate { allow_self_signed } => {
            bad_pair(CaChain::from_pem(content.expose(), *allow_self_signed, context.now).err()?)
        }
        Use::CaKey { certificate } => {
            let key = match CaKey::from_pem(content.expose()) {
                Ok(key) => key,
                Err(error) => return bad_pair(error),
            };
            let pem = match certificate {
                DataSource::Inline(pem) => pem,
                DataSource::Secret(name) => secrets.get(mesh, name)?,
                DataSource::File(_) | DataSource::EnvVar(_) => return None,
            };
            // What is wrong with the certificate itself is told where that is named.
            let chain = CaChain::from_pem(pem.expose(), true, context.now).ok()?;
            bad_pair(key.check_belongs_to(&chain).err()?)
        }
    }
}
