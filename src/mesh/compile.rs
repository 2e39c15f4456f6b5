//! All documents together: duplicates, references between resources, and what is in force as a result.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::backend::Reference;
use super::last_good::{LastGood, Seen};
use super::policy::MeshDefinition;
use super::resource::{self, Decoded, Definition, Key, Outcome};
use super::{Context, Resources};
use crate::document::{Node, Value};
use crate::model::bundle::Bundle;
use crate::model::diagnostic::{Location, Problem};
use crate::model::policy::PolicySet;
use crate::model::secrets::{MeshSecrets, SecretBytes};

/// A file of resources, as far as it could be read.
#[derive(Debug)]
pub struct Source {
    /// The file; the folder, if it is the folder that cannot be read.
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
}

/// What was good the last time that [`compile`] ran; empty at first.
#[derive(Debug, Default)]
pub struct KnownGood {
    meshes: LastGood<Arc<str>, MeshDefinition>,
    secrets: LastGood<(Arc<str>, Arc<str>), SecretBytes>,
}

/// One resource of one file.
struct Found {
    key: Key,
    at: Location,
    definition: Option<Definition>,
}

/// Compiles everything that all sources hold. What is broken is replaced by what is known to be good of it; see
/// [`LastGood::update`] for the rules.
pub fn compile(sources: &[Source], context: &Context, known: &mut KnownGood) -> Compiled {
    let (mut problems, mut notices) = (Vec::new(), Vec::new());
    let mut files: Vec<Seen<(), ()>> = Vec::new();
    let mut found: Vec<Vec<Found>> = Vec::new();
    for source in sources {
        let mut complete = source.documents.is_ok();
        let mut resources = Vec::new();
        match &source.documents {
            Err(unreadable) => problems.extend(unreadable.iter().cloned()),
            Ok(documents) => {
                for document in documents.iter().flat_map(expand) {
                    let decoded = resource::decode(document, Some(source.path.clone()), context);
                    let Decoded { outcome, problems: more, notices: told } = decoded;
                    problems.extend(more);
                    notices.extend(told);
                    match outcome {
                        Outcome::Ignored => {}
                        Outcome::Unidentified => complete = false,
                        Outcome::Known { key, at, definition } => resources.push(Found { key, at, definition }),
                    }
                }
            }
        }
        files.push(Seen { file: source.path.clone(), complete, resources: Vec::new() });
        found.push(resources);
    }
    problems.extend(refuse_duplicates(&mut found));

    known.secrets.update(&pick(&files, &found, |found| match (&found.key, &found.definition) {
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

    for found in found.iter_mut().flatten() {
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
    known.meshes.update(&pick(&files, &found, |found| match (&found.key, &found.definition) {
        (Key::Mesh(name), Some(Definition::Mesh(definition))) => Some((name.clone(), Some(definition.clone()))),
        (Key::Mesh(name), _) => Some((name.clone(), None)),
        (Key::Secret { .. }, _) => None,
    }));
    let policies = known.meshes.iter().filter_map(|(name, mesh)| Some((name.clone(), mesh.policy.clone()?)));
    let policies = PolicySet { meshes: policies.collect() };

    problems.sort();
    notices.sort();
    Compiled { resources: Resources { policies, secrets }, problems, notices }
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
fn refuse_duplicates(found: &mut [Vec<Found>]) -> Vec<Problem> {
    let mut places: BTreeMap<Key, Vec<Location>> = BTreeMap::new();
    for found in found.iter().flatten() {
        places.entry(found.key.clone()).or_default().push(found.at.clone());
    }
    places.retain(|_, places| places.len() > 1);
    for found in found.iter_mut().flatten().filter(|found| places.contains_key(&found.key)) {
        found.definition = None;
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

fn pick<K, V>(
    files: &[Seen<(), ()>],
    found: &[Vec<Found>],
    pick: impl Fn(&Found) -> Option<(K, Option<V>)>,
) -> Vec<Seen<K, V>> {
    let of_file = |(file, found): (&Seen<(), ()>, &Vec<Found>)| Seen {
        file: file.file.clone(),
        complete: file.complete,
        resources: found.iter().filter_map(&pick).collect(),
    };
    files.iter().zip(found).map(of_file).collect()
}

/// A Secret with CA certificates must hold some. One that is in no file may be in the cluster, if there is one.
fn check_reference(mesh: &str, reference: &Reference, secrets: &MeshSecrets, context: &Context) -> Option<Problem> {
    let Reference { name, at } = reference;
    let (what, hint) = match secrets.get(mesh, name) {
        Some(content) => {
            let error = Bundle::from_pem(content.expose(), context.now).err()?;
            (format!("the Secret {mesh}/{name} is no trust bundle: {error}"), None)
        }
        None if context.kubernetes_available => return None,
        None => {
            let hint = format!("add a mesh Secret {name} of mesh {mesh} to the resource files");
            (format!("there is no Secret {mesh}/{name}"), Some(hint))
        }
    };
    Some(Problem { at: at.clone(), what, hint })
}
