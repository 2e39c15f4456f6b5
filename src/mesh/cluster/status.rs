//! What the status of an object is to say. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::condition::{Condition, Wanted};
use super::object::{Object, ObjectKind};
use super::report::{Acceptance, Standing};
use crate::model::policy::PolicySet;
use crate::model::preflight::{Outcome, Verdict, Verdicts};

/// Whether the object is understood and in force.
pub(super) const READY: &str = "Ready";
/// Whether the CA backends that it names work.
pub(super) const BACKEND_READY: &str = "BackendReady";

/// Why the CA certificate of a backend cannot be learned, by mesh and backend.
pub type BackendTroubles = BTreeMap<(Arc<str>, Arc<str>), String>;

/// What its conditions are to be, by type.
pub(super) fn wanted(
    object: &Object,
    standing: &Standing,
    policies: &PolicySet,
    verdicts: &Verdicts,
    troubles: &BackendTroubles,
) -> Vec<(&'static str, Wanted)> {
    let backends = match standing.acceptance {
        Acceptance::ShadowedByFile => None,
        Acceptance::Accepted | Acceptance::Invalid => backends(object, policies),
    };
    let mut verdicts: Vec<(&str, &Verdict)> = of_backends(backends.as_deref(), &object.mesh, verdicts);
    let troubles: Vec<(&str, &String)> = of_backends(backends.as_deref(), &object.mesh, troubles);
    verdicts.sort_by_key(|(backend, _)| *backend);
    let mut wanted = vec![(READY, Wanted::Say(ready(standing, &verdicts)))];
    if object.at.kind != ObjectKind::MeshTrust {
        let backend_ready = if backends.is_some() { backend_ready(&verdicts, &troubles) } else { Wanted::Remove };
        wanted.push((BACKEND_READY, backend_ready));
    }
    wanted
}

/// The names of the backends that the object stands for; `None` if there are none.
fn backends(object: &Object, policies: &PolicySet) -> Option<Vec<Arc<str>>> {
    let mesh = policies.meshes.get(&object.mesh)?;
    let of_identities = mesh.identities.iter().map(|identity| identity.backend.clone());
    let backends: Vec<Arc<str>> = match object.at.kind {
        ObjectKind::Mesh => {
            let of_identities: Vec<Arc<str>> = of_identities.collect();
            let listed = mesh.backends.iter().map(|backend| backend.name.clone());
            listed.filter(|backend| !of_identities.contains(backend)).collect()
        }
        ObjectKind::MeshIdentity => {
            let own = mesh.identities.iter().filter(|identity| identity.name == object.at.name);
            own.map(|identity| identity.backend.clone()).collect()
        }
        ObjectKind::MeshTrust => Vec::new(),
    };
    (!backends.is_empty()).then_some(backends)
}

fn of_backends<'a, T>(
    backends: Option<&'a [Arc<str>]>,
    mesh: &Arc<str>,
    known: &'a BTreeMap<(Arc<str>, Arc<str>), T>,
) -> Vec<(&'a str, &'a T)> {
    let known_of = |backend: &'a Arc<str>| Some((&**backend, known.get(&(mesh.clone(), backend.clone()))?));
    backends.unwrap_or_default().iter().filter_map(known_of).collect()
}

fn ready(standing: &Standing, verdicts: &[(&str, &Verdict)]) -> Condition {
    match standing.acceptance {
        Acceptance::ShadowedByFile => Condition::new(false, "ShadowedByFile", &standing.messages),
        Acceptance::Invalid => {
            let held = held_back("its last good version", verdicts);
            let kept = match (standing.in_force, held.is_empty()) {
                (true, true) => vec!["the last good version stays in force".to_owned()],
                (true, false) => held,
                (false, _) => vec!["nothing of it is in force".to_owned()],
            };
            let sentences: Vec<_> = standing.messages.iter().cloned().chain(kept).collect();
            Condition::new(false, "Invalid", &sentences)
        }
        Acceptance::Accepted => {
            let mut sentences = held_back("it", verdicts);
            if !sentences.is_empty() {
                return Condition::new(false, "HeldBack", &sentences);
            }
            sentences.extend(standing.messages.iter().cloned());
            if sentences.is_empty() {
                sentences.push("it is in force".to_owned());
            }
            Condition::new(true, "Accepted", &sentences)
        }
    }
}

/// Why a version is not in force, though it is good as far as it can be told of a resource.
fn held_back(version: &str, verdicts: &[(&str, &Verdict)]) -> Vec<String> {
    let held = verdicts.iter().filter(|(_, verdict)| verdict.holds_back);
    held.map(|(backend, verdict)| match &verdict.conflict {
        Some(why) => format!("{version} cannot be in force yet: {why}"),
        None => format!(
            "{version} is not in force until backend {backend} has issued a test certificate; the version before, if there is \
             one, stays in force"
        ),
    })
    .collect()
}

fn backend_ready(verdicts: &[(&str, &Verdict)], troubles: &[(&str, &String)]) -> Wanted {
    let failed: Vec<String> = verdicts
        .iter()
        .filter_map(|(backend, verdict)| match &verdict.outcome {
            Outcome::Failed(why) => Some(format!("backend {backend}: {why}")),
            Outcome::Pending | Outcome::Passed | Outcome::Skipped => None,
        })
        .collect();
    if !failed.is_empty() {
        return Wanted::Say(Condition::new(false, "BackendFailed", &failed).volatile());
    }
    // A CA certificate that is not known yet keeps a test certificate waiting; so this is asked first.
    let untrusted: Vec<String> = troubles.iter().map(|(backend, why)| format!("backend {backend}: {why}")).collect();
    if !untrusted.is_empty() {
        return Wanted::Say(Condition::new(false, "CertificateAuthorityUnknown", &untrusted).volatile());
    }
    if verdicts.is_empty() {
        return Wanted::Keep;
    }
    let pending = verdicts.iter().find(|(_, verdict)| verdict.outcome == Outcome::Pending);
    if let Some((backend, _)) = pending {
        let message = format!("backend {backend} is being asked for a test certificate");
        return Wanted::Await(Condition::unknown("Pending", &message));
    }
    let tested = |(backend, verdict): &(&str, &Verdict)| match verdict.outcome {
        Outcome::Skipped => format!("backend {backend} is not tested (skipValidation)"),
        _ => format!("backend {backend} has issued a test certificate"),
    };
    Wanted::Say(Condition::new(true, "BackendReady", &verdicts.iter().map(tested).collect::<Vec<_>>()))
}
