//! Which policies are in force, given those that are wanted and what is known of their signers: the pure core.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aws_lc_rs::digest;
use jiff::Timestamp;

use super::compose::{Take, compose, signers};
use super::record;
use crate::model::certificate::{self, Certificate};
use crate::model::policy::{Backend, BackendKind, CaSource, DataSource, MeshPolicy, PolicySet};
use crate::model::preflight::{Conflict, Outcome, Rules, Verdict, Verdicts};

/// A backend to be tested, as it is defined now.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Test {
    pub(super) mesh: Arc<str>,
    pub(super) backend: Arc<str>,
    /// Of what makes it this CA and no other, in hex; nothing secret is in it.
    pub(super) digest: Arc<str>,
}

impl Test {
    pub(super) fn of(mesh: &Arc<str>, backend: &Backend) -> Self {
        Self { mesh: mesh.clone(), backend: backend.name.clone(), digest: digest_of(backend) }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Whether there may be policies in force; see [`State::begin`].
    has_begun: bool,
    wanted: Arc<PolicySet>,
    in_force: Arc<PolicySet>,
    /// What is known of the signers of both, and since when.
    known: BTreeMap<Test, (Outcome, Timestamp)>,
    /// The signers that this server has heard of: what was remembered of one counts the first time only. One that is
    /// enabled again after a while is tested again.
    seen: BTreeSet<Key>,
    /// Those whose parts are held back, and why, if not for their own sake.
    held: BTreeMap<Key, Option<Arc<str>>>,
    /// What was in force when the server ended of meshes that have not been in force since.
    kept: PolicySet,
    /// Which policies may be in force beside each other.
    rules: Rules,
}

/// A mesh and a signer.
type Key = (Arc<str>, Arc<str>);

impl State {
    /// Nothing is wanted yet; `kept` was in force when the server ended.
    pub(super) fn new(kept: PolicySet, rules: Rules) -> Self {
        Self { kept, rules, ..Self::default() }
    }

    /// What was in force when the server ended of meshes that have not been in force since.
    pub(super) fn kept(&self) -> &PolicySet {
        &self.kept
    }

    /// Whoever is wanted by now has come: a mesh of this name that comes later is another one.
    pub(super) fn forget_kept(&mut self) {
        self.kept = PolicySet::default();
    }

    /// These are wanted now. `has_passed` says whether a test is remembered to have been good before the server started.
    pub(super) fn want(&mut self, wanted: Arc<PolicySet>, has_passed: impl Fn(&Test) -> bool, now: Timestamp) {
        self.wanted = wanted;
        for (test, _, skip) in all_signers(&self.wanted) {
            let is_first = self.seen.insert((test.mesh.clone(), test.backend.clone()));
            let outcome = match self.known.get(&test) {
                Some((Outcome::Passed, _)) => continue,
                _ if skip => Outcome::Skipped,
                None if is_first && has_passed(&test) => Outcome::Passed,
                None | Some((Outcome::Skipped, _)) => Outcome::Pending,
                Some(_) => continue,
            };
            self.note(test, outcome, now);
        }
        self.settle();
    }

    /// What is wanted now is all that there is, or all that was waited for: the first policies come into force together.
    /// Before that nothing is, and nothing is tested. Resources come kind by kind, and the one that happens to come first is
    /// not what a mesh has to keep.
    pub(super) fn begin(&mut self) {
        self.has_begun = true;
        self.settle();
    }

    /// Whether [`State::begin`] has been called.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// A test has come out so. Says whether that is news.
    pub(super) fn told(&mut self, test: &Test, outcome: Outcome, now: Timestamp) -> bool {
        let is_news = self.known.get(test).is_some_and(|(before, _)| *before != outcome);
        if is_news {
            self.note(test.clone(), outcome, now);
            self.settle();
        }
        is_news
    }

    fn note(&mut self, test: Test, outcome: Outcome, now: Timestamp) {
        let before = self.known.get(&test).filter(|(before, _)| *before == outcome);
        let since = before.map_or(now, |(_, since)| *since);
        self.known.insert(test, (outcome, since));
    }

    /// What the meshes that are wanted have to keep: what is in force of them, or was when the server ended.
    fn before(&self) -> PolicySet {
        let meshes = self.wanted.meshes.iter().filter_map(|(mesh, wanted)| {
            let kept = || Some(record::completed(self.kept.meshes.get(mesh)?, wanted));
            Some((mesh.clone(), self.in_force.meshes.get(mesh).cloned().or_else(kept)?))
        });
        PolicySet { meshes: meshes.collect(), ..PolicySet::default() }
    }

    /// The parts that stay what they were because their signers are not known to be good. The first of a mesh has nothing to
    /// keep.
    fn untested(&self, before: &PolicySet) -> BTreeMap<Key, Take> {
        let mut untested = BTreeMap::new();
        for (mesh, old) in &before.meshes {
            let in_force: BTreeSet<Test> = signers(old).values().map(|backend| Test::of(mesh, backend)).collect();
            for (name, backend) in self.wanted.meshes.get(mesh).map(|wanted| signers(wanted)).unwrap_or_default() {
                let test = Test::of(mesh, &backend);
                let is_good = self.known.get(&test).is_some_and(|(outcome, _)| outcome.is_good());
                if !is_good && !in_force.contains(&test) {
                    untested.insert((mesh.clone(), name), Take::Old);
                }
            }
        }
        untested
    }

    /// All meshes, but for those that are `away`.
    fn composed(&self, before: &PolicySet, takes: &BTreeMap<Key, Take>, away: &BTreeSet<Arc<str>>) -> PolicySet {
        let wanted = self.wanted.meshes.iter().filter(|(mesh, _)| !away.contains(*mesh));
        let meshes = wanted.filter_map(|(mesh, wanted)| {
            let take = |part: &Arc<str>| takes.get(&(mesh.clone(), part.clone())).copied().unwrap_or(Take::New);
            Some((mesh.clone(), compose(before.meshes.get(mesh), wanted, take)?))
        });
        let meshes = meshes.collect();
        let unserved = self.wanted.unserved.with_those_held_back(&self.wanted.meshes, &meshes);
        PolicySet { meshes, unserved }
    }

    fn settle(&mut self) {
        if !self.has_begun {
            return;
        }
        let before = self.before();
        let mut takes = self.untested(&before);
        self.held = takes.keys().map(|key| (key.clone(), None)).collect();
        let mut away: BTreeSet<Arc<str>> = BTreeSet::new();
        // Ends: each turn leaves out a mesh, or more of a part than the one before.
        let next = loop {
            let next = self.composed(&before, &takes, &away);
            let Some(Conflict { mesh, signer, reason }) = (self.rules.first_conflict)(&next, &before, &self.rules.zone)
            else {
                break next;
            };
            let reason: Arc<str> = reason.into();
            match signer.map(|signer| (mesh.clone(), signer)) {
                Some(key) if takes.get(&key) != Some(&Take::Nothing) => {
                    let is_new = takes.insert(key.clone(), Take::Old).is_none();
                    if !is_new {
                        takes.insert(key.clone(), Take::Nothing);
                    }
                    self.held.insert(key, Some(reason));
                }
                _ => {
                    let signers = self.wanted.meshes.get(&mesh).map(|wanted| signers(wanted)).unwrap_or_default();
                    self.held.extend(signers.into_keys().map(|name| ((mesh.clone(), name), Some(reason.clone()))));
                    if !away.insert(mesh) {
                        break (*self.in_force).clone();
                    }
                }
            }
        };
        self.kept.meshes.retain(|mesh, _| !next.meshes.contains_key(mesh));
        if next != *self.in_force {
            self.in_force = Arc::new(next);
        }
        let needed: BTreeSet<Test> = [&self.wanted, &self.in_force]
            .into_iter()
            .flat_map(|set| all_signers(set))
            .map(|(test, ..)| test)
            .collect();
        self.known.retain(|test, _| needed.contains(test));
        self.seen.retain(|(mesh, name)| needed.iter().any(|test| test.mesh == *mesh && test.backend == *name));
    }

    /// The policies in force.
    pub(super) fn in_force(&self) -> &Arc<PolicySet> {
        &self.in_force
    }

    /// What is known of the signers that are wanted.
    pub(super) fn verdicts(&self) -> Verdicts {
        let verdict = |(test, ..): (Test, _, _)| {
            let (outcome, since) = self.known.get(&test)?.clone();
            let key = (test.mesh, test.backend);
            let held = self.held.get(&key);
            let (holds_back, conflict) = (held.is_some(), held.cloned().flatten());
            let unlisted = held.and_then(|_| self.unlisted_signer(&key));
            Some((key, Verdict { outcome, since, holds_back, conflict, unlisted }))
        };
        all_signers(&self.wanted).filter_map(verdict).collect()
    }

    /// Who signs in the place of a mesh's enabled backend, and is listed no more.
    fn unlisted_signer(&self, (mesh, held): &Key) -> Option<Arc<str>> {
        let wanted = self.wanted.meshes.get(mesh).filter(|wanted| wanted.enabled_backend.as_ref() == Some(held))?;
        let signs = self.in_force.meshes.get(mesh)?.enabled_backend.clone()?;
        wanted.backend(&signs).is_none().then_some(signs)
    }

    /// The tests that have yet to come out well.
    pub(super) fn to_test(&self) -> BTreeMap<Test, Arc<Backend>> {
        let is_open = |test: &Test| self.known.get(test).is_some_and(|(outcome, _)| !outcome.is_good());
        let open = all_signers(&self.wanted).filter(|(test, ..)| self.has_begun && is_open(test));
        open.map(|(test, backend, _)| (test, backend)).collect()
    }

    /// All signers that are wanted or in force, by mesh and name.
    pub(super) fn signers(&self) -> BTreeSet<Key> {
        let of_both = [&self.wanted, &self.in_force].into_iter().flat_map(|set| all_signers(set));
        of_both.map(|(test, ..)| (test.mesh, test.backend)).collect()
    }
}

/// Each signer of each mesh, and whether its test is to be skipped.
fn all_signers(policies: &PolicySet) -> impl Iterator<Item = (Test, Arc<Backend>, bool)> + use<> {
    let of_mesh = |(mesh, policy): (&Arc<str>, &Arc<MeshPolicy>)| {
        let signer = |backend: Arc<Backend>| (Test::of(mesh, &backend), backend, policy.skip_validation);
        signers(policy).into_values().map(signer).collect::<Vec<_>>()
    };
    policies.meshes.iter().flat_map(of_mesh).collect::<Vec<_>>().into_iter()
}

/// Which CA it is, and whom its leaves have to lead to; how long they live is no matter.
pub(super) fn digest_of(backend: &Backend) -> Arc<str> {
    let mut parts: Vec<String> = vec![backend.trust_domain.to_string(), backend.kind.label().to_owned()];
    match &backend.kind {
        BackendKind::Builtin(_) | BackendKind::NotInProgram(_) => {}
        BackendKind::CertManager { issuer, trust } => {
            parts.extend([issuer.group.clone(), issuer.kind.clone(), issuer.name.clone()]);
            parts.extend(match trust {
                CaSource::Inline(bundle) => ["inline".to_owned(), bundle.full_digest().to_string()],
                CaSource::File(path) => ["file".to_owned(), path.display().to_string()],
                CaSource::Secret(name) => ["secret".to_owned(), name.to_string()],
                CaSource::Issuer => ["issuer".to_owned(), String::new()],
            });
        }
        BackendKind::Provided(ca) => {
            parts.extend(data_source(&ca.certificate, true));
            parts.extend(data_source(&ca.private_key, false));
            parts.push(ca.allow_self_signed.to_string());
        }
    }
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&part.len().to_be_bytes());
        context.update(part.as_bytes());
    }
    hex::encode(context.finish()).into()
}

/// Where it is, and what it is if it `is_public`.
fn data_source(source: &DataSource, is_public: bool) -> [String; 2] {
    match source {
        DataSource::Inline(bytes) if is_public => {
            // Not of the text: what is kept of it for the next start is the certificates.
            let digest = match Certificate::many_from_pem(bytes.expose()) {
                Ok(certificates) => certificate::full_digest(&certificates),
                Err(_) => hex::encode(digest::digest(&digest::SHA256, bytes.expose())),
            };
            ["inline".to_owned(), digest]
        }
        DataSource::Inline(_) | DataSource::NotKept => ["inline".to_owned(), String::new()],
        DataSource::File(path) => ["file".to_owned(), path.display().to_string()],
        DataSource::Secret(name) => ["secret".to_owned(), name.to_string()],
        DataSource::EnvVar(name) => ["envVar".to_owned(), name.to_string()],
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "start_tests.rs"]
mod start_tests;
