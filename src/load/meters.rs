//! What connections count and time while a run goes on. Shared by all of them; nothing here waits.

use std::collections::BTreeMap;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::latency::Timed;
use super::protocol::Kind;
use super::results::{FailureCount, Latency, PhaseKind, Traffic};

/// How a phase is concerned by a new version of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Concerns {
    /// Not at all.
    Nothing,
    /// If it is one of this kind.
    Kind(Kind),
    /// If it has one of these names, by their place in the list of all.
    Names(Vec<usize>),
}

/// The phase that runs.
#[derive(Debug)]
pub(crate) struct Current {
    pub(crate) number: u32,
    pub(crate) name: String,
    pub(crate) kind: PhaseKind,
    pub(crate) concerns: Concerns,
    pub(crate) began: Instant,
    /// What fan-outs are timed from: the trigger's start, or the first arrival if there is no trigger.
    pub(crate) since: OnceLock<Instant>,
    pub(crate) expected: AtomicU64,
    reached: AtomicU64,
    lost: AtomicU64,
    missed: AtomicU64,
    changed: Notify,
    timed: Mutex<BTreeMap<&'static str, Timed>>,
}

impl Current {
    pub(crate) fn new(number: u32, name: String, kind: PhaseKind, concerns: Concerns, expected: u64) -> Self {
        Self {
            number,
            name,
            kind,
            concerns,
            began: Instant::now(),
            since: OnceLock::new(),
            expected: expected.into(),
            reached: 0.into(),
            lost: 0.into(),
            missed: 0.into(),
            changed: Notify::new(),
            timed: Mutex::default(),
        }
    }

    pub(crate) fn is_concerned(&self, name: usize, kind: Kind) -> bool {
        match &self.concerns {
            Concerns::Nothing => false,
            Concerns::Kind(of) => *of == kind,
            Concerns::Names(names) => names.contains(&name),
        }
    }

    /// Whether it is about proxies that connect.
    pub(crate) fn is_about_proxies(&self) -> bool {
        matches!(self.kind, PhaseKind::Connect | PhaseKind::Storm | PhaseKind::Churn)
    }

    pub(crate) fn time(&self, what: &'static str, took: Duration) {
        lock(&self.timed).entry(what).or_default().record(took);
    }

    /// One more is expected.
    pub(crate) fn expect_one(&self) {
        self.expected.fetch_add(1, Relaxed);
    }

    /// One of those expected has got what it waits for.
    pub(crate) fn reach(&self) {
        self.reached.fetch_add(1, Relaxed);
        self.settle();
    }

    /// One of those expected never will.
    pub(crate) fn lose(&self) {
        self.lost.fetch_add(1, Relaxed);
        self.settle();
    }

    /// So many proxies were to leave, and could not.
    pub(crate) fn miss(&self, many: usize) {
        self.missed.fetch_add(many as u64, Relaxed);
    }

    pub(crate) fn missed(&self) -> u64 {
        self.missed.load(Relaxed)
    }

    fn settle(&self) {
        if self.is_over() {
            self.changed.notify_one();
        }
    }

    fn is_over(&self) -> bool {
        self.reached() + self.lost.load(Relaxed) >= self.expected.load(Relaxed)
    }

    pub(crate) fn reached(&self) -> u64 {
        self.reached.load(Relaxed)
    }

    /// Returns when nobody is waited for any more.
    pub(crate) async fn over(&self) {
        while !self.is_over() {
            self.changed.notified().await;
        }
    }

    pub(crate) fn latencies(&self) -> BTreeMap<String, Latency> {
        lock(&self.timed).iter().map(|(what, timed)| ((*what).to_owned(), timed.summary())).collect()
    }
}

/// A secret's name, as all proxies together know it.
#[derive(Debug, Default)]
pub(crate) struct Name {
    /// What it was when it first came.
    pub(crate) kind: OnceLock<Kind>,
    /// Proxies that have it, and will read another version.
    pub(crate) holders: AtomicU64,
}

/// Counters, all since the run began.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) connections: AtomicU64,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
    pub(crate) secrets: AtomicU64,
    pub(crate) unchanged: AtomicU64,
    pub(crate) acks: AtomicU64,
    pub(crate) nacks: AtomicU64,
}

/// Kinds that are told apart; a server may call the ends of its streams as it likes.
const KINDS: usize = 100;

/// How often what happened, by kind, with the first case of it.
#[derive(Debug, Default)]
struct Tally(BTreeMap<String, (u64, String)>);

impl Tally {
    fn note(&mut self, what: String, example: impl FnOnce() -> String) {
        let is_one_more = self.0.len() >= KINDS && !self.0.contains_key(&what);
        let what = if is_one_more { "of further kinds".to_owned() } else { what };
        self.0.entry(what).or_insert_with(|| (0, example())).0 += 1;
    }

    /// The most frequent first.
    fn counts(&self) -> Vec<FailureCount> {
        let of = |(what, (count, example)): (&String, &(u64, String))| FailureCount {
            what: what.clone(),
            count: *count,
            example: example.clone(),
        };
        let mut counts: Vec<_> = self.0.iter().map(of).collect();
        counts.sort_by_key(|count| std::cmp::Reverse(count.count));
        counts
    }
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Meters {
    pub(crate) began: Instant,
    pub(crate) counters: Arc<Counters>,
    pub(crate) connected: AtomicU64,
    pub(crate) served: AtomicU64,
    /// Proxies that were to be served and never will be again.
    pub(crate) given_up: AtomicU64,
    /// Proxies that are to be served and are not, those that were given up aside.
    away: AtomicU64,
    all_back: Notify,
    pub(crate) names: Vec<Name>,
    current: RwLock<Arc<Current>>,
    failures: Mutex<Tally>,
    interruptions: Mutex<Tally>,
    failed: AtomicU64,
    max_failures: u64,
    too_many: Notify,
}

impl Meters {
    /// For `readers` proxies that are to be served, each with so many names.
    pub(crate) fn new(readers: u64, names: usize, max_failures: u64, first: Current) -> Self {
        Self {
            began: Instant::now(),
            counters: Arc::default(),
            connected: 0.into(),
            served: 0.into(),
            given_up: 0.into(),
            away: readers.into(),
            all_back: Notify::new(),
            names: (0..names).map(|_| Name::default()).collect(),
            current: RwLock::new(Arc::new(first)),
            failures: Mutex::default(),
            interruptions: Mutex::default(),
            failed: 0.into(),
            max_failures,
            too_many: Notify::new(),
        }
    }

    pub(crate) fn current(&self) -> Arc<Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn begin(&self, phase: Arc<Current>) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    /// Notes something that went wrong, with the first case of its kind as the example.
    pub(crate) fn fail(&self, what: impl Into<String>, example: impl FnOnce() -> String) {
        lock(&self.failures).note(what.into(), example);
        if self.failed.fetch_add(1, Relaxed) + 1 >= self.max_failures {
            self.too_many.notify_one();
        }
    }

    pub(crate) fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    /// Notes the end of a connection that comes back: no failure, but it may be why nobody is served.
    pub(crate) fn interrupt(&self, what: impl Into<String>, example: impl FnOnce() -> String) {
        lock(&self.interruptions).note(what.into(), example);
    }

    /// A proxy that is to be served is not any more.
    pub(crate) fn left(&self) {
        self.away.fetch_add(1, Relaxed);
    }

    /// One that was not is served, or given up.
    pub(crate) fn back(&self) {
        // Whoever sees that nobody is away sees what was counted before.
        if self.away.fetch_sub(1, AcqRel) == 1 {
            self.all_back.notify_one();
        }
    }

    pub(crate) fn away(&self) -> u64 {
        self.away.load(Acquire)
    }

    /// Returns when every proxy that is to be served is, those that were given up aside.
    pub(crate) async fn all_back(&self) {
        while self.away() > 0 {
            self.all_back.notified().await;
        }
    }

    /// Returns when there are more failures than the run is to go on with.
    pub(crate) async fn too_many_failures(&self) {
        self.too_many.notified().await;
    }

    pub(crate) fn failures(&self) -> Vec<FailureCount> {
        lock(&self.failures).counts()
    }

    pub(crate) fn interruptions(&self) -> Vec<FailureCount> {
        lock(&self.interruptions).counts()
    }

    pub(crate) fn traffic(&self) -> Traffic {
        let Counters { connections, bytes_in, bytes_out, secrets, unchanged, acks, nacks } = &*self.counters;
        Traffic {
            connections: connections.load(Relaxed),
            bytes_in: bytes_in.load(Relaxed),
            bytes_out: bytes_out.load(Relaxed),
            secrets: secrets.load(Relaxed),
            unchanged: unchanged.load(Relaxed),
            acks: acks.load(Relaxed),
            nacks: nacks.load(Relaxed),
        }
    }
}

/// What came between two readings.
pub(crate) fn between(before: &Traffic, after: &Traffic) -> Traffic {
    Traffic {
        connections: after.connections - before.connections,
        bytes_in: after.bytes_in - before.bytes_in,
        bytes_out: after.bytes_out - before.bytes_out,
        secrets: after.secrets - before.secrets,
        unchanged: after.unchanged - before.unchanged,
        acks: after.acks - before.acks,
        nacks: after.nacks - before.nacks,
    }
}

/// Counters are sound whatever happened to who held the lock.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_phase_is_over_when_nobody_is_waited_for() {
        let phase = Current::new(1, "connect".into(), PhaseKind::Connect, Concerns::Nothing, 2);
        let over = |phase: &Current| futures::FutureExt::now_or_never(phase.over()).is_some();
        assert!(!over(&phase));
        phase.reach();
        assert!(!over(&phase));
        phase.lose();
        assert!(over(&phase) && phase.reached() == 1);
    }

    #[tokio::test]
    async fn failures_are_told_by_kind_with_one_example_and_end_the_run() {
        let first = Current::new(0, "connect".into(), PhaseKind::Connect, Concerns::Nothing, 0);
        let meters = Meters::new(2, 1, 3, first);
        meters.fail("lost", || "proxy 0".to_owned());
        meters.fail("refused", || "proxy 1".to_owned());
        assert!(futures::FutureExt::now_or_never(meters.too_many_failures()).is_none());
        meters.fail("refused", || unreachable!("one example is enough"));
        meters.too_many_failures().await;
        let told: Vec<_> = meters.failures().into_iter().map(|f| (f.what, f.count, f.example)).collect();
        assert_eq!(told, [("refused".into(), 2, "proxy 1".into()), ("lost".into(), 1, "proxy 0".into())]);
    }

    #[test]
    fn interruptions_are_no_failures_and_of_so_many_kinds_at_most() {
        let first = Current::new(0, "connect".into(), PhaseKind::Connect, Concerns::Nothing, 0);
        let meters = Meters::new(2, 1, 3, first);
        for number in 0..2 * KINDS {
            meters.interrupt(number.to_string(), String::new);
        }
        let told = meters.interruptions();
        assert_eq!((told.len(), told[0].count), (KINDS + 1, KINDS as u64));
        assert_eq!((meters.failures(), meters.failed()), (Vec::new(), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn all_are_back_when_nobody_is_away() {
        let first = Current::new(0, "churn".into(), PhaseKind::Churn, Concerns::Nothing, 0);
        let meters = Meters::new(2, 1, 3, first);
        let all_back = |meters: &Meters| futures::FutureExt::now_or_never(meters.all_back()).is_some();
        meters.back();
        assert!(!all_back(&meters));
        meters.back();
        assert!(all_back(&meters));
        meters.left();
        assert!(!all_back(&meters) && meters.away() == 1);
    }
}
