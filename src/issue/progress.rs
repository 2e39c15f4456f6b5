//! How far issuing has come where more certificates are wanted at once than may be in flight: after a loss of everything, that
//! takes minutes, and operators want to see an end of it. It is not at its end as long as anybody is left, also where a CA does
//! not answer, or refuses. Pure, but for [`Board`], which shares it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::time::Instant;

/// A line in the log for each mesh as often as this, while it goes on.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// As seldom as this if nothing is issued, or to nobody who waits: why that is so is told elsewhere.
const TOLD_AT_LEAST_EVERY: Duration = Duration::from_secs(320);

/// The rate is that of so long.
const WINDOW: Duration = Duration::from_secs(10);

/// How close marks are.
const MARKED_EVERY: Duration = Duration::from_secs(1);

/// What of a mesh is still to be issued, of what is due.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Proxies without a usable leaf that wait for a turn.
    pub first: usize,
    /// Proxies that wait for another leaf before theirs ends.
    pub renewals: usize,
    /// Those that have a turn.
    pub in_flight: usize,
    /// Requests that somebody has sat on for so long that they gave their turn back.
    pub pending: usize,
    /// Proxies without a usable leaf whose last attempt failed: they do not wait for a turn, but for the next attempt.
    pub retrying: usize,
}

impl Backlog {
    fn waiting(&self) -> usize {
        self.first + self.renewals
    }

    /// All but those that it is the turn of.
    fn stranded(&self) -> usize {
        self.waiting() + self.pending + self.retrying
    }

    fn left(&self) -> u64 {
        (self.stranded() + self.in_flight) as u64
    }
}

/// Where one mesh stands from when somebody waits for a turn until nobody waits for anything.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outlook {
    /// What is left.
    pub backlog: Backlog,
    /// All that was or is to be issued since somebody began to wait.
    pub of: u64,
    /// Certificates a second, of the last seconds; 0 also if that is not known yet.
    pub per_second: f64,
}

impl fmt::Display for Outlook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Backlog { first, renewals, in_flight, pending, retrying } = self.backlog;
        let left = self.backlog.left();
        write!(f, "{left} of {} certificates are still to be issued: {first} proxies that have none wait", self.of)?;
        write!(f, ", {renewals} renewals after them, {in_flight} are in flight")?;
        if pending > 0 {
            write!(f, ", {pending} have long been without an answer")?;
        }
        if retrying > 0 {
            write!(f, ", {retrying} have failed and are tried again")?;
        }
        if self.per_second > 0.0 {
            let seconds = (left as f64 / self.per_second).ceil();
            write!(f, "; {:.*}/s, about {seconds:.0} s", usize::from(self.per_second < 9.5), self.per_second)?;
        }
        Ok(())
    }
}

/// What the log is to be told.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum News {
    Waiting(Outlook),
    /// Nobody is left who waits: so many were issued in this time.
    Done(u64, Duration),
}

/// All meshes.
#[derive(Debug, Default)]
pub(super) struct Progress(BTreeMap<Arc<str>, Mesh>);

#[derive(Debug, Default)]
struct Mesh {
    backlog: Backlog,
    rush: Option<Rush>,
}

/// From when somebody has to wait for a turn until nobody waits any more, be it for a turn, for an answer that takes long or
/// for the next attempt.
#[derive(Debug)]
struct Rush {
    began: Instant,
    issued: u64,
    /// How many had been issued when, for the rate; at least one.
    marks: VecDeque<(Instant, u64)>,
    tell_at: Instant,
    /// What the log was told last; nothing before the first time.
    told: Option<Told>,
}

#[derive(Debug)]
struct Told {
    issued: u64,
    stranded: usize,
    /// How long it is to be until the next.
    wait: Duration,
}

impl Rush {
    fn new(now: Instant) -> Self {
        Self { began: now, issued: 0, marks: [(now, 0)].into(), tell_at: now + TOLD_EVERY, told: None }
    }

    fn mark(&mut self, now: Instant) {
        if self.marks.back().is_none_or(|(at, _)| now.duration_since(*at) >= MARKED_EVERY) {
            self.marks.push_back((now, self.issued));
        }
        while self.marks.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= WINDOW) {
            self.marks.pop_front();
        }
    }

    fn outlook(&self, backlog: Backlog, now: Instant) -> Outlook {
        // Of the marks that are old enough, the last: when nothing happens, nobody takes old ones away.
        let old = self.marks.iter().rev().find(|(at, _)| now.duration_since(*at) >= WINDOW);
        let since = old.or(self.marks.front()).filter(|(at, _)| now.duration_since(*at) >= MARKED_EVERY);
        let rate =
            |(at, issued): &(Instant, u64)| (self.issued - issued) as f64 / now.duration_since(*at).as_secs_f64();
        Outlook { backlog, of: self.issued + backlog.left(), per_second: since.map_or(0.0, rate) }
    }

    fn told(&mut self, backlog: Backlog, now: Instant) {
        let (issued, stranded) = (self.issued, backlog.stranded());
        let wait = match &self.told {
            Some(told) => {
                let goes_on = issued > told.issued && (backlog.waiting() > 0 || stranded < told.stranded);
                if goes_on { TOLD_EVERY } else { (told.wait * 2).min(TOLD_AT_LEAST_EVERY) }
            }
            None => TOLD_EVERY,
        };
        (self.told, self.tell_at) = (Some(Told { issued, stranded, wait }), now + wait);
    }
}

impl Progress {
    /// A mesh stands like this now; gives what the log is to be told.
    fn note(&mut self, mesh: &Arc<str>, backlog: Backlog, now: Instant) -> Option<News> {
        let this = match self.0.get_mut(mesh) {
            Some(this) => this,
            None => self.0.entry(mesh.clone()).or_default(),
        };
        this.backlog = backlog;
        if backlog.stranded() == 0 {
            let over = this.rush.take()?;
            return over.told.map(|_| News::Done(over.issued, now.duration_since(over.began)));
        }
        // Those that nobody else has to wait for are told of elsewhere, one by one.
        if backlog.waiting() == 0 && this.rush.is_none() {
            return None;
        }
        let rush = this.rush.get_or_insert_with(|| Rush::new(now));
        rush.mark(now);
        (rush.tell_at <= now).then(|| {
            rush.told(backlog, now);
            News::Waiting(rush.outlook(backlog, now))
        })
    }

    /// All meshes stand like this now, and nothing is left of any other; gives what the log is to be told.
    fn note_all(&mut self, meshes: &BTreeMap<&Arc<str>, Backlog>, now: Instant) -> Vec<(Arc<str>, News)> {
        let gone: Vec<Arc<str>> = self.0.keys().filter(|mesh| !meshes.contains_key(*mesh)).cloned().collect();
        let of_gone = gone.iter().map(|mesh| (mesh, Backlog::default()));
        let all = meshes.iter().map(|(mesh, backlog)| (*mesh, *backlog)).chain(of_gone);
        let news = all.filter_map(|(mesh, backlog)| Some((mesh.clone(), self.note(mesh, backlog, now)?))).collect();
        self.0.retain(|mesh, _| meshes.contains_key(mesh));
        news
    }

    /// One was issued.
    pub(super) fn issued(&mut self, mesh: &str) {
        if let Some(rush) = self.0.get_mut(mesh).and_then(|mesh| mesh.rush.as_mut()) {
            rush.issued += 1;
        }
    }

    /// When the log is to be told something, if nothing happens.
    pub(super) fn tell_at(&self) -> Option<Instant> {
        self.0.values().filter_map(|mesh| mesh.rush.as_ref()).map(|rush| rush.tell_at).min()
    }

    /// Meshes in which somebody waits, or has waited for a turn and others wait still.
    pub(super) fn outlooks(&self, now: Instant) -> BTreeMap<Arc<str>, Outlook> {
        let outlook = |mesh: &Mesh| mesh.rush.as_ref().map(|rush| rush.outlook(mesh.backlog, now));
        self.0.iter().filter_map(|(name, mesh)| Some((name.clone(), outlook(mesh)?))).collect()
    }
}

/// Where the worker notes it, and pages and metrics read it. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Board(Arc<Mutex<Progress>>);

impl Board {
    /// Notes where each mesh stands, forgets all others, and tells the log if it is time.
    pub(super) fn note<'m>(&self, meshes: impl Iterator<Item = (&'m Arc<str>, Backlog)>, now: Instant) {
        let news = self.lock().note_all(&meshes.collect(), now);
        for (mesh, news) in news {
            match news {
                News::Waiting(outlook) => tracing::info!(%mesh, "{outlook}"),
                News::Done(issued, took) => tracing::info!(
                    %mesh, issued, seconds = took.as_secs_f64().round(), "nobody waits for a certificate any more"
                ),
            }
        }
    }

    pub(super) fn issued(&self, mesh: &str) {
        self.lock().issued(mesh);
    }

    /// How long until the log is to be told something.
    pub(super) fn tell_in(&self, now: Instant) -> Option<Duration> {
        self.lock().tell_at().map(|at| at.saturating_duration_since(now))
    }

    pub(super) fn outlooks(&self) -> BTreeMap<Arc<str>, Outlook> {
        self.lock().outlooks(Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Board {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let meshes: Vec<_> = self.lock().0.iter().map(|(name, mesh)| (name.clone(), mesh.backlog)).collect();
        let gauge = |value: usize| ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        let help = "Certificates that are due and not asked for yet: those of proxies that have none (first) and renewals wait for a \
                    turn (limits.issuancesInFlight), and proxies that have none and have failed (retry) for the next attempt.";
        let mut family = encoder.encode_descriptor("issuances_waiting", help, None, MetricType::Gauge)?;
        for (mesh, Backlog { first, renewals, retrying, .. }) in &meshes {
            for (reason, waiting) in [("first", *first), ("renewal", *renewals), ("retry", *retrying)] {
                gauge(waiting).encode(family.encode_family(&[("mesh", &**mesh), ("reason", reason)])?)?;
            }
        }
        let help = "Certificates that are being issued, but for those that are pending.";
        let mut family = encoder.encode_descriptor("issuances_in_flight", help, None, MetricType::Gauge)?;
        for (mesh, backlog) in &meshes {
            gauge(backlog.in_flight).encode(family.encode_family(&[("mesh", &**mesh)])?)?;
        }
        let help = "Certificates that were asked for more than 30 s ago and wait for an answer of the CA, its controller or an approver.";
        let mut family = encoder.encode_descriptor("issuances_pending", help, None, MetricType::Gauge)?;
        for (mesh, backlog) in &meshes {
            gauge(backlog.pending).encode(family.encode_family(&[("mesh", &**mesh)])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "progress_tests.rs"]
mod tests;
