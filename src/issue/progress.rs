//! How far issuing has come where more certificates are wanted at once than may be in flight: after a loss of everything, that
//! takes minutes, and operators want to see an end of it. Pure, but for [`Board`], which shares it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::time::Instant;

/// A line in the log for each mesh as often as this, while somebody waits.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// As seldom as this if nothing is issued at all: why that is so is told elsewhere.
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
    /// Those that have a turn. Requests that somebody sits on for so long that they gave it back do not count.
    pub in_flight: usize,
}

impl Backlog {
    fn waiting(&self) -> usize {
        self.first + self.renewals
    }

    fn left(&self) -> u64 {
        (self.waiting() + self.in_flight) as u64
    }
}

/// Where one mesh stands while somebody waits for a turn.
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
        let Backlog { first, renewals, in_flight } = self.backlog;
        let left = self.backlog.left();
        write!(f, "{left} of {} certificates are still to be issued: {first} proxies that have none wait", self.of)?;
        write!(f, ", {renewals} renewals after them, {in_flight} are in flight")?;
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
    /// Nobody waits any more: so many were issued in this time.
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

/// From when somebody has to wait for a turn until nobody does.
#[derive(Debug)]
struct Rush {
    began: Instant,
    issued: u64,
    /// How many had been issued when, for the rate; at least one.
    marks: VecDeque<(Instant, u64)>,
    tell_at: Instant,
    /// How many had been issued when the log was told last, and how long ago that was to be; nothing before the first time.
    told: Option<(u64, Duration)>,
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

    fn told(&mut self, now: Instant) {
        let wait = match self.told {
            Some((issued, wait)) if issued == self.issued => (wait * 2).min(TOLD_AT_LEAST_EVERY),
            _ => TOLD_EVERY,
        };
        (self.told, self.tell_at) = (Some((self.issued, wait)), now + wait);
    }
}

impl Progress {
    /// A mesh stands like this now; gives what the log is to be told.
    pub(super) fn note(&mut self, mesh: &Arc<str>, backlog: Backlog, now: Instant) -> Option<News> {
        let this = match self.0.get_mut(mesh) {
            Some(this) => this,
            None => self.0.entry(mesh.clone()).or_default(),
        };
        this.backlog = backlog;
        if backlog.waiting() == 0 {
            let over = this.rush.take()?;
            return over.told.map(|_| News::Done(over.issued, now.duration_since(over.began)));
        }
        let rush = this.rush.get_or_insert_with(|| Rush::new(now));
        rush.mark(now);
        (rush.tell_at <= now).then(|| {
            rush.told(now);
            News::Waiting(rush.outlook(backlog, now))
        })
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

    /// Meshes in which somebody waits.
    pub(super) fn outlooks(&self, now: Instant) -> BTreeMap<Arc<str>, Outlook> {
        let outlook = |mesh: &Mesh| mesh.rush.as_ref().map(|rush| rush.outlook(mesh.backlog, now));
        self.0.iter().filter_map(|(name, mesh)| Some((name.clone(), outlook(mesh)?))).collect()
    }
}

/// Where the worker notes it, and pages and metrics read it. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Board(Arc<Mutex<Progress>>);

impl Board {
    /// Notes where each mesh stands, and tells the log if it is time.
    pub(super) fn note<'m>(&self, meshes: impl Iterator<Item = (&'m Arc<str>, Backlog)>, now: Instant) {
        let news: Vec<_> = {
            let mut progress = self.lock();
            meshes.filter_map(|(mesh, backlog)| Some((mesh, progress.note(mesh, backlog, now)?))).collect()
        };
        for (mesh, news) in news {
            match news {
                News::Waiting(outlook) => tracing::info!(%mesh, "{outlook}"),
                News::Done(issued, took) => tracing::info!(
                    %mesh, issued, seconds = took.as_secs_f64().round(), "nobody waits for a turn to be issued a certificate any more"
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
        let help = "Certificates that are due and wait for a turn (limits.issuancesInFlight): the first of a proxy, which go first, and renewals.";
        let mut family = encoder.encode_descriptor("issuances_waiting", help, None, MetricType::Gauge)?;
        for (mesh, Backlog { first, renewals, .. }) in &meshes {
            for (reason, waiting) in [("first", *first), ("renewal", *renewals)] {
                gauge(waiting).encode(family.encode_family(&[("mesh", &**mesh), ("reason", reason)])?)?;
            }
        }
        let help = "Certificates that are being issued, but for requests that somebody sits on (more than 30 s).";
        let mut family = encoder.encode_descriptor("issuances_in_flight", help, None, MetricType::Gauge)?;
        for (mesh, backlog) in &meshes {
            gauge(backlog.in_flight).encode(family.encode_family(&[("mesh", &**mesh)])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = 10_000;

    /// A mesh of which `issued` of all have been issued.
    fn backlog(issued: u64) -> Backlog {
        let left = usize::try_from(ALL - issued).unwrap();
        let in_flight = left.min(64);
        Backlog { first: (left - in_flight).saturating_sub(100), renewals: (left - in_flight).min(100), in_flight }
    }

    /// Issues `per_turn` in each tenth of a second, and gives what the log is told, and when.
    fn run(per_turn: u64, turns: u32) -> (Progress, Instant, Vec<(f64, String)>) {
        let (mesh, mut progress, began): (Arc<str>, _, _) = ("default".into(), Progress::default(), Instant::now());
        let (mut told, mut now, mut issued) = (Vec::new(), began, 0);
        for turn in 0..turns {
            now = began + Duration::from_millis(100) * turn;
            if let Some(news) = progress.note(&mesh, backlog(issued), now) {
                let text = match news {
                    News::Waiting(outlook) => outlook.to_string(),
                    News::Done(issued, took) => format!("{issued} in {} s", took.as_secs()),
                };
                told.push((now.duration_since(began).as_secs_f64(), text));
            }
            for _ in 0..per_turn.min(ALL - issued) {
                progress.issued("default");
                issued += 1;
            }
        }
        (progress, now, told)
    }

    #[test]
    fn the_log_is_told_every_ten_seconds_and_at_the_end() {
        let (progress, now, told) = run(10, 1200);
        let times: Vec<f64> = told.iter().map(|(at, _)| at.round()).collect();
        assert_eq!(times, [10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 99.0]);
        let first = "9000 of 10000 certificates are still to be issued: 8836 proxies that have none wait, 100 renewals after \
                     them, 64 are in flight; 100/s, about 90 s";
        assert_eq!(told[0].1, first);
        assert_eq!(told.last().unwrap().1, "9940 in 99 s", "the last are in flight then, and have not waited");
        assert_eq!((progress.outlooks(now), progress.tell_at()), (BTreeMap::new(), None));
    }

    #[test]
    fn what_is_quick_is_not_told_and_nobody_waits_without_being_seen() {
        let (_, _, told) = run(200, 100);
        assert_eq!(told, []);
        let (progress, now, _) = run(200, 30);
        let outlook = progress.outlooks(now)["default"];
        assert_eq!((outlook.of, outlook.backlog.left(), outlook.per_second.round()), (10_200, 4200, 2069.0));
    }

    #[test]
    fn if_nothing_is_issued_it_is_told_less_and_less_often_and_without_a_rate() {
        let (_, _, told) = run(0, 20_000);
        let times: Vec<f64> = told.iter().map(|(at, _)| at.round()).collect();
        assert_eq!(times, [10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 960.0, 1280.0, 1600.0, 1920.0]);
        assert!(told.iter().all(|(_, text)| text.ends_with("64 are in flight")), "{told:?}");
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let (mut progress, now, _) = run(10, 300);
        let later = now + Duration::from_secs(5);
        let rate = |progress: &Progress, at| progress.outlooks(at)["default"].per_second.round();
        assert_eq!((rate(&progress, now), rate(&progress, later)), (101.0, 55.0));
        assert_eq!(
            rate(&progress, now + Duration::from_secs(1000)),
            0.0,
            "it has stalled, though nobody has noted that"
        );
        progress.note(&"default".into(), backlog(3000), later);
        progress.issued("default");
        assert!(progress.outlooks(later)["default"].to_string().contains("/s, about"));
    }
}
