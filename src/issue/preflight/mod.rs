//! A CA backend is asked for a test certificate before it is relied on: when it becomes one that signs, or is changed.
//!
//! It sits between the policies that the resources want and everybody who acts by a policy. A new signer comes into force
//! when its test certificate (`spiffe://<trust domain>/envoy-sds/preflight`; approvers have to know it; its key is thrown away)
//! was issued and leads to the CA that the policy says to trust. Until then the mesh's older policy stays, and what is wrong
//! is told, also over a restart. A mesh's first policy has nothing to keep: it is in force at once, and its test only
//! tells. `mtls.skipValidation` turns all of that off.

mod attempt;
mod compose;
mod passed;
mod record;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use self::attempt::{TestError, Tester, WentBy, files_of};
use self::passed::Passed;
pub use self::record::recall;
use self::state::{State, Test};
use super::ca::AuthoritySource;
use super::ca::cert_manager::PendingBoard;
use super::metrics::{IssuanceLabels, MeshLabels};
use super::renewal::{Patience, retry_after};
use crate::model::policy::{Backend, PolicySet};
use crate::model::preflight::{Outcome, Rules, Verdicts};
use crate::model::secrets::KnownSecrets;
use crate::runtime::clock::Clock;
use crate::runtime::publish;
use crate::runtime::state_dir::{StateDir, StateFile};
use crate::runtime::tasks::Tasks;

/// How long a mesh that was in force when the server ended may take to come again; the resources have been waited for before.
const LATE: Duration = Duration::from_secs(60);

/// The longest pause between two attempts: somebody waits for it.
const AT_MOST: Duration = Duration::from_secs(60);

/// When what could not be written is tried again, if nothing happens before.
const WRITE_AGAIN: Duration = Duration::from_secs(60);

/// What it works with.
#[derive(Debug)]
pub struct Settings {
    /// The policies that the resources want.
    pub wanted: watch::Receiver<Arc<PolicySet>>,
    /// Becomes true once these are all that there are, or have been waited for long enough.
    pub known: watch::Receiver<bool>,
    /// Mesh Secrets, those included that only a policy names that is not in force yet.
    pub secrets: watch::Receiver<Arc<KnownSecrets>>,
    /// Makes a CA of a backend's policy.
    pub authorities: Arc<dyn AuthoritySource>,
    /// What cert-manager is waited for; `None` without a cluster.
    pub pending: Option<PendingBoard>,
    /// Which policies may be in force beside each other: what is composed of old and new is held to it.
    pub rules: Rules,
    /// Where is kept what has passed, and what was in force.
    pub state_dir: StateDir,
    /// The time.
    pub clock: Clock,
}

/// What comes out of it.
#[derive(Debug, Clone)]
pub struct Preflight {
    /// The policies in force; none before `decided`.
    pub in_force: watch::Receiver<Arc<PolicySet>>,
    /// What is known of the signers that are wanted.
    pub verdicts: watch::Receiver<Arc<Verdicts>>,
    /// Becomes true once the first policies are in force, all at once.
    pub decided: watch::Receiver<bool>,
}

impl Preflight {
    /// Starts it; the first policies are in force when it returns, if they are known by then.
    pub fn start(settings: Settings, registry: &mut Registry, tasks: &Tasks) -> Self {
        let Settings { mut wanted, known, secrets, authorities, pending, rules, state_dir, clock } = settings;
        let (passed, mut record) = (Passed::new(&state_dir), record::file(&state_dir));
        let mut state = State::new(record.recall().unwrap_or_default(), rules);
        state.want(wanted.borrow_and_update().clone(), |test| passed.has(test), clock.now());
        if *known.borrow() {
            state.begin();
        }
        let (publish, in_force) = watch::channel(state.in_force().clone());
        let (tell, verdicts) = watch::channel(Arc::new(state.verdicts()));
        let (decide, decided) = watch::channel(state.has_begun());
        let worker = Worker {
            state,
            passed,
            record,
            signers: BTreeSet::new(),
            running: BTreeMap::new(),
            tests: JoinSet::new(),
            tester: Tester { authorities, secrets, pending, files: Arc::default(), clock: clock.clone() },
            clock,
            metrics: Metrics::new(registry),
            publish,
            tell,
            decide,
        };
        tasks.spawn_essential("preflight", worker.run(wanted, known));
        Self { in_force, verdicts, decided }
    }
}

struct Worker {
    state: State,
    passed: Passed,
    record: StateFile,
    /// Those that were wanted or in force when it looked last.
    signers: BTreeSet<(Arc<str>, Arc<str>)>,
    running: BTreeMap<Test, AbortHandle>,
    tests: JoinSet<()>,
    tester: Tester,
    clock: Clock,
    metrics: Metrics,
    publish: watch::Sender<Arc<PolicySet>>,
    tell: watch::Sender<Arc<Verdicts>>,
    decide: watch::Sender<bool>,
}

type Told = (Test, Outcome);

impl Worker {
    async fn run(mut self, mut wanted: watch::Receiver<Arc<PolicySet>>, mut known: watch::Receiver<bool>) {
        // No more is in it than there are signers, each of which says a word now and then.
        let (tell, mut told) = mpsc::unbounded_channel();
        let (mut late, mut known_since) = (true, self.state.has_begun().then(Instant::now));
        loop {
            let is_kept = self.keep();
            self.publish();
            self.start_tests(&tell);
            tokio::select! {
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.want(wanted.borrow_and_update().clone());
                }
                () = becomes_true(&mut known), if !self.state.has_begun() => {
                    // What is known has been published before that.
                    self.want(wanted.borrow_and_update().clone());
                    self.state.begin();
                    known_since = Some(Instant::now());
                }
                () = until_late(known_since), if late => {
                    self.state.forget_kept();
                    late = false;
                }
                Some((test, outcome)) = told.recv() => self.hear(&test, outcome),
                Some(_ended) = self.tests.join_next() => {}
                () = tokio::time::sleep(WRITE_AGAIN), if !is_kept => {}
            }
        }
    }

    fn want(&mut self, wanted: Arc<PolicySet>) {
        self.state.want(wanted, |test| self.passed.has(test), self.clock.now());
    }

    /// For the next start. Says whether what there is to keep has been written.
    fn keep(&mut self) -> bool {
        let before = std::mem::replace(&mut self.signers, self.state.signers());
        for (mesh, backend) in before.difference(&self.signers) {
            self.passed.forget(mesh, backend);
        }
        !self.state.has_begun() || self.record.keep(&record::to_keep(self.state.in_force(), self.state.kept()))
    }

    /// One task for each test that is open; those of others are given up, and what they have asked for with them.
    fn start_tests(&mut self, tell: &mpsc::UnboundedSender<Told>) {
        let open = self.state.to_test();
        self.running.retain(|test, task| {
            let stays = open.contains_key(test);
            if !stays {
                task.abort();
            }
            stays
        });
        for (test, backend) in open {
            if !self.running.contains_key(&test) {
                let task = keep_testing(self.tester.clone(), test.clone(), backend, tell.clone());
                self.running.insert(test, self.tests.spawn(task));
            }
        }
    }

    fn hear(&mut self, test: &Test, outcome: Outcome) {
        // One that was given up may have left a word behind.
        if !self.running.contains_key(test) {
            return;
        }
        self.metrics.count(test, &outcome);
        if outcome == Outcome::Passed {
            self.passed.remember(test);
        }
        if !self.state.told(test, outcome.clone(), self.clock.now()) {
            return;
        }
        let Test { mesh, backend, .. } = test;
        match outcome {
            Outcome::Failed(reason) => {
                let verdict = self.state.verdicts().remove(&(mesh.clone(), backend.clone()));
                let keeps_the_old_policy = verdict.is_some_and(|verdict| verdict.holds_back);
                tracing::warn!(%mesh, %backend, reason, keeps_the_old_policy, "the backend has not passed its preflight");
            }
            _ => tracing::info!(%mesh, %backend, outcome = outcome.label(), "the backend's preflight"),
        }
    }

    fn publish(&self) {
        let (in_force, verdicts) = (self.state.in_force(), self.state.verdicts());
        self.metrics.show(&verdicts);
        self.publish.send_if_modified(|current| {
            let changed = current != in_force;
            *current = in_force.clone();
            changed
        });
        // Who waits for it finds the policies.
        self.decide
            .send_if_modified(|decided| std::mem::replace(decided, self.state.has_begun()) != self.state.has_begun());
        let before = self.tell.borrow().clone();
        for ((mesh, backend), verdict) in &verdicts {
            let told = before.get(&(mesh.clone(), backend.clone())).and_then(|before| before.unlisted.as_ref());
            if let Some(signs) = verdict.unlisted.as_ref().filter(|signs| told != Some(signs)) {
                tracing::warn!(%mesh, %backend, %signs, "a backend that is not listed any more signs, and is trusted, until the one that is enabled has passed its preflight");
            }
        }
        publish::if_changed(&self.tell, verdicts);
    }
}

/// Waits until nothing comes any more of what was in force before the start; forever, if not even the rest has come.
async fn until_late(known_since: Option<Instant>) {
    match known_since {
        Some(since) => tokio::time::sleep_until(since + LATE).await,
        None => std::future::pending().await,
    }
}

/// Waits until it is true; forever, if nobody is there any more to say so.
async fn becomes_true(known: &mut watch::Receiver<bool>) {
    if known.wait_for(|known| *known).await.is_err() {
        std::future::pending().await
    }
}

/// Tests a backend until it passes.
async fn keep_testing(mut tester: Tester, test: Test, backend: Arc<Backend>, tell: mpsc::UnboundedSender<Told>) {
    // Before the files are read, so that no change is missed; and not for longer than they are of use.
    let _held = tester.files.hold(files_of(&backend));
    let (mut failures, mut files) = (0, tester.files.changes());
    loop {
        let mut went_by = WentBy::default();
        // The receiver is gone only when the program is.
        let say = |outcome| drop(tell.send((test.clone(), outcome)));
        let overdue = |why: Option<String>| {
            let (waited, why) = (backend.request_timeout, why.map(|why| format!(": {why}")).unwrap_or_default());
            say(Outcome::Failed(format!(
                "the CA has not answered the request for a test certificate within {waited:?}{why}; it is still waited for"
            )));
        };
        let Err(error) = tester.attempt(&test.mesh, &backend, &mut went_by, overdue).await else {
            return say(Outcome::Passed);
        };
        failures += 1;
        say(Outcome::Failed(error.to_string()));
        let patience = match &error {
            TestError::Source(_) => Patience::Away,
            TestError::Issue(error) => error.patience(),
        };
        let wait = retry_after(patience, failures, None, fastrand::f64()).min(AT_MOST);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = tester.mended(&test.mesh, &backend, &went_by, &mut files) => {}
        }
    }
}

struct Metrics {
    attempts: Family<IssuanceLabels, Counter>,
    held_back: Family<MeshLabels, Gauge>,
}

impl Metrics {
    fn new(registry: &mut Registry) -> Self {
        let metrics = Self { attempts: Family::default(), held_back: Family::default() };
        registry.register("preflights", "Test certificates asked of CA backends, by outcome", metrics.attempts.clone());
        registry.register(
            "preflight_held_back",
            "Signing backends of a mesh that are not in force because they have not passed their preflight",
            metrics.held_back.clone(),
        );
        metrics
    }

    fn count(&self, test: &Test, outcome: &Outcome) {
        let (mesh, backend) = (test.mesh.to_string(), test.backend.to_string());
        self.attempts.get_or_create(&IssuanceLabels { mesh, backend, outcome: outcome.label() }).inc();
    }

    fn show(&self, verdicts: &Verdicts) {
        let meshes: BTreeSet<&Arc<str>> = verdicts.keys().map(|(mesh, _)| mesh).collect();
        self.held_back.clear();
        for mesh in meshes {
            let held = verdicts.iter().filter(|((of, _), verdict)| of == mesh && verdict.holds_back).count();
            let labels = MeshLabels { mesh: mesh.to_string() };
            self.held_back.get_or_create(&labels).set(i64::try_from(held).unwrap_or(i64::MAX));
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
