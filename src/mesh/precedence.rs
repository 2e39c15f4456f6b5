//! Resource files and objects of the cluster together: which one counts, and how the objects fare. Pure.
//!
//! A resource in a file wins over an object of the same kind, mesh and name: whoever runs this server wrote it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cluster::{Acceptance, ObjectRef, Standing};
use super::compile::{File, Found};
use super::known_good::KnownGood;
use super::resource::Key;
use crate::model::diagnostic::{Location, Problem};

/// The objects that do not count: by their paths, and the file that each yields to.
pub(super) type Shadowed = BTreeMap<Arc<PathBuf>, Arc<PathBuf>>;

/// Takes those objects out that a file has as well. So does one that was in a file that is not completely understood at
/// the moment: it may still be there, and its last good version stays in force.
pub(super) fn yield_to_files(files: &mut [File], known: &KnownGood) -> Shadowed {
    let (objects, files): (Vec<&mut File>, Vec<_>) = files.iter_mut().partition(|file| is_object(&file.path));
    let claim = |file: &File| {
        let path = file.path.clone();
        file.found.iter().map(move |found| (found.key.clone(), path.clone())).collect::<Vec<_>>()
    };
    let claimed: BTreeMap<Key, Arc<PathBuf>> = files.iter().flat_map(|file| claim(file)).collect();
    let may_be_in = |key: &Key| {
        let place = known.place(key).filter(|place| !is_object(place))?;
        files.iter().any(|file| !file.complete && place.starts_with(file.path.as_path())).then_some(place)
    };
    let mut shadowed = Shadowed::new();
    for object in objects {
        let path = object.path.clone();
        object.found.retain(|Found { key, .. }| {
            let Some(file) = claimed.get(key).or_else(|| may_be_in(key)) else { return true };
            shadowed.insert(path.clone(), file.clone());
            false
        });
    }
    shadowed
}

/// How each object fares, from everything that is wrong. Problems of objects come out as the user knows these: without
/// the paths that stand for them, and marked as the cluster's. Nothing is said of what is wrong with shadowed ones.
pub(super) fn standings(
    files: &[File],
    known: &KnownGood,
    shadowed: &Shadowed,
    problems: &mut Vec<Problem>,
    notices: &mut Vec<Problem>,
) -> BTreeMap<ObjectRef, Standing> {
    let counts = |problem: &Problem| problem.at.file.as_ref().is_none_or(|file| !shadowed.contains_key(file));
    problems.retain(counts);
    notices.retain(counts);
    let objects = files.iter().filter_map(|file| Some((ObjectRef::of_path(&file.path)?, file)));
    let standings: BTreeMap<ObjectRef, Standing> = objects
        .map(|(at, file)| {
            let about = |told: &[Problem]| -> Vec<String> {
                let of_it = told.iter().filter(|problem| problem.at.file.as_ref() == Some(&file.path));
                of_it.map(without_place).collect()
            };
            let (wrong, good_to_know) = (about(problems), about(notices));
            let in_force = known.places().any(|place| *place == file.path);
            let standing = match shadowed.get(&file.path) {
                Some(winner) => {
                    let message = format!("the resource file {} has it too, and that one counts", winner.display());
                    Standing { acceptance: Acceptance::ShadowedByFile, in_force: false, messages: vec![message] }
                }
                // What is wrong then is no fault of it: time has gone by.
                None if file.is_good() => {
                    let messages = wrong.into_iter().chain(good_to_know).collect();
                    Standing { acceptance: Acceptance::Accepted, in_force, messages }
                }
                None => Standing { acceptance: Acceptance::Invalid, in_force, messages: wrong },
            };
            (at, standing)
        })
        .collect();
    for told in problems.iter_mut().chain(notices) {
        name_the_cluster(&mut told.at);
    }
    for (at, standing) in standings.iter().filter(|(_, standing)| standing.acceptance == Acceptance::ShadowedByFile) {
        let at = Location { resource: Some(at.to_string()), ..Location::default() };
        let hint = Some("remove one of them".to_owned());
        problems.extend(standing.messages.iter().map(|what| Problem {
            at: at.clone(),
            what: what.clone(),
            hint: hint.clone(),
        }));
    }
    standings
}

fn is_object(path: &Path) -> bool {
    ObjectRef::of_path(path).is_some()
}

/// Field, what and hint: whoever reads it has the object before him.
fn without_place(problem: &Problem) -> String {
    let at = Location { field: problem.at.field.clone(), ..Location::default() };
    Problem { at, ..problem.clone() }.to_string()
}

fn name_the_cluster(at: &mut Location) {
    let Some(object) = at.file.as_deref().and_then(|file| ObjectRef::of_path(file)) else { return };
    at.file = None;
    at.resource = Some(match at.resource.take() {
        Some(resource) => format!("{resource} (cluster)"),
        None => object.to_string(),
    });
}
