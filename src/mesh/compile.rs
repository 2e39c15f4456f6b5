//! All documents together: duplicates, references between resources, and what is in force as a result.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::backend::Reference;
use super::cluster::{ObjectRef, Standing};
use super::last_good::{LastGood, Seen};
use super::policy::MeshDefinition;
use super::precedence;
use super::resource::{self, Decoded, Definition, Key, Outcome};
use super::{Context, Resources};
use crate::document::{Node, Value, quoted};
use crate::model::bundle::Bundle;
use crate::model::diagnostic::{Location, Problem};
use crate::model::policy::PolicySet;
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

/// What was good the last time that [`compile`] ran; empty at first.
#[derive(Debug, Default)]
pub struct KnownGood {
    meshes: LastGood<Arc<str>, MeshDefinition>,
    secrets: LastGood<(Arc<str>, Arc<str>), SecretBytes>,
}

impl KnownGood {
    /// Where a resource was seen last that something good is known of.
    pub(super) fn place(&self, key: &Key) -> Option<&Arc<PathBuf>> {
        match key {
            Key::Mesh(name) => self.meshes.place(name),
            Key::Secret { mesh, name } => self.secrets.place(&(mesh.clone(), name.clone())),
        }
    }

    /// The same of all resources.
    pub(super) fn places(&self) -> impl Iterator<Item = &Arc<PathBuf>> {
        self.meshes.places().chain(self.secrets.places())
    }
}

/// What a [`Source`] holds; see [`Seen`] for `complete`.
pub(super) struct File {
    pub(super) path: Arc<PathBuf>,
    pub(super) complete: bool,
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
        (Key::Mesh(_), _) => None,
    }));
    let secrets: MeshSecrets = known.secrets.iter().map(|(key, content)| (key.clone(), content.clone())).collect();

    for found in files.iter_mut().flat_map(|file| &mut file.found) {
        let (Key::Mesh(mesh), Some(Definition::Mesh(definition))) = (&found.key, &found.definition) else { continue };
        let broken: Vec<Problem> = definition
            .references
            .iter()
            .filter_map(|reference| check_reference(mesh, reference, &secrets, context))
            .collect();
        if !broken.is_empty() {
            found.definition = None;
            problems.extend(broken);
        }
    }
    known.meshes.update(&pick(&files, |found| match (&found.key, &found.definition) {
        (Key::Mesh(name), Some(Definition::Mesh(definition))) => Some((name.clone(), Some(definition.clone()))),
        (Key::Mesh(name), _) => Some((name.clone(), None)),
        (Key::Secret { .. }, _) => None,
    }));
    let policies = known.meshes.iter().filter_map(|(name, mesh)| Some((name.clone(), mesh.policy.clone()?)));
    let policies = PolicySet { meshes: policies.collect() };

    let standings = precedence::standings(&files, known, &shadowed, &mut problems, &mut notices);
    problems.sort();
    notices.sort();
    Compiled { resources: Resources { policies, secrets }, problems, notices, standings }
}

fn decode(source: &Source, context: &Context, told: &mut Told) -> File {
    let mut file = File { path: source.path.clone(), complete: true, found: Vec::new() };
    let documents = match &source.documents {
        Ok(documents) => documents,
        Err(problems) => {
            told.problems.extend(problems.iter().cloned());
            return File { complete: false, ..file };
        }
    };
    for document in documents.iter().flat_map(expand) {
        let Decoded { outcome, problems, notices } = resource::decode(document, Some(source.path.clone()), context);
        told.problems.extend(problems);
        told.notices.extend(notices);
        match outcome {
            Outcome::Ignored => {}
            Outcome::Unidentified => file.complete = false,
            Outcome::Known { key, at, definition } => file.found.push(Found { key, at, definition }),
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

/// A Secret with CA certificates must hold some. One that is in no file may be in the cluster, if there is one.
fn check_reference(mesh: &str, reference: &Reference, secrets: &MeshSecrets, context: &Context) -> Option<Problem> {
    let Reference { name, at } = reference;
    let (what, hint) = match secrets.get(mesh, name) {
        Some(content) => {
            let error = Bundle::from_pem(content.expose(), context.now).err()?;
            (format!("the Secret {} is no trust bundle: {error}", quoted(name)), None)
        }
        None if context.kubernetes_available => return None,
        None => {
            let hint = "add it to the resource files".to_owned();
            (format!("there is no mesh Secret {}", quoted(name)), Some(hint))
        }
    };
    Some(Problem { at: at.clone(), what, hint })
}
