//! The record of a run: phase after phase, and a sample every so often.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::meters::{Concerns, Current, Meters, between};
use super::results::{Phase, PhaseKind, Sample, Traffic};
use super::usage::{Look, Process};

/// How often a sample is taken.
const EVERY: Duration = Duration::from_millis(500);

/// The processes, and the most memory that samples have seen since a phase began.
#[derive(Debug)]
pub(crate) struct Processes {
    server: Option<Process>,
    client: Process,
    server_peak: AtomicU64,
    client_peak: AtomicU64,
}

impl Processes {
    pub(crate) fn new(server: Option<Process>) -> Self {
        Self { server, client: Process::this(), server_peak: 0.into(), client_peak: 0.into() }
    }

    fn look(&self) -> (Option<Look>, Look) {
        let (server, client) = (self.server.as_ref().and_then(Process::look), self.client.look().unwrap_or_default());
        self.server_peak.fetch_max(server.unwrap_or_default().rss_bytes, Relaxed);
        self.client_peak.fetch_max(client.rss_bytes, Relaxed);
        (server, client)
    }
}

/// What was before a phase.
#[derive(Debug)]
struct Before {
    phase: Arc<Current>,
    traffic: Traffic,
    server: Option<Look>,
    client: Look,
}

/// The phases so far.
#[derive(Debug)]
pub(crate) struct Record {
    meters: Arc<Meters>,
    processes: Arc<Processes>,
    before: Option<Before>,
    pub(crate) phases: Vec<Phase>,
}

impl Record {
    pub(crate) fn new(meters: Arc<Meters>, processes: Arc<Processes>) -> Self {
        Self { meters, processes, before: None, phases: Vec::new() }
    }

    /// Begins a phase, which is over when `expected` have got what it is about. Its name is its kind's, with a number from
    /// the second on.
    pub(crate) fn begin(&mut self, kind: PhaseKind, concerns: Concerns, expected: u64) -> Arc<Current> {
        self.end();
        let number = u32::try_from(self.phases.len() + 1).unwrap_or(u32::MAX);
        let same = self.phases.iter().filter(|phase| phase.kind == kind).count();
        let name = match same {
            0 => kind_name(kind).to_owned(),
            others => format!("{}-{}", kind_name(kind), others + 1),
        };
        self.processes.server_peak.store(0, Relaxed);
        self.processes.client_peak.store(0, Relaxed);
        let (server, client) = self.processes.look();
        let traffic = self.meters.traffic();
        let phase = Arc::new(Current::new(number, name, kind, concerns, expected));
        self.meters.begin(phase.clone());
        self.before = Some(Before { phase: phase.clone(), traffic, server, client });
        phase
    }

    /// Ends the phase that runs, if one does.
    pub(crate) fn end(&mut self) {
        let Some(Before { phase, traffic, server, client }) = self.before.take() else { return };
        let seconds = phase.began.elapsed().as_secs_f64();
        let peak = |peak: &AtomicU64| peak.load(Relaxed);
        let of_server = self.processes.server.as_ref().zip(server);
        let used = self.processes.client.since(client, peak(&self.processes.client_peak));
        self.phases.push(Phase {
            name: phase.name.clone(),
            kind: phase.kind,
            began_at_seconds: phase.began.saturating_duration_since(self.meters.began).as_secs_f64(),
            seconds,
            expected: phase.expected.load(Relaxed),
            reached: phase.reached(),
            missed: (phase.kind == PhaseKind::Churn).then(|| phase.missed()),
            latencies: phase.latencies(),
            traffic: between(&traffic, &self.meters.traffic()),
            issued: None,
            server: of_server.and_then(|(process, before)| process.since(before, peak(&self.processes.server_peak))),
            client: used.unwrap_or_default(),
        });
    }
}

fn kind_name(kind: PhaseKind) -> &'static str {
    match kind {
        PhaseKind::Connect => "connect",
        PhaseKind::Rest => "rest",
        PhaseKind::BundlePush => "bundle-push",
        PhaseKind::LeafRotation => "leaf-rotation",
        PhaseKind::Storm => "storm",
        PhaseKind::Churn => "churn",
    }
}

/// Takes samples for ever.
pub(crate) async fn sample(
    meters: &Meters,
    processes: &Processes,
    samples: &mut Vec<Sample>,
    observe: &mut (dyn FnMut(&Sample, &str) + Send),
) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let sample = now(meters, processes);
        observe(&sample, &meters.current().name);
        samples.push(sample);
    }
}

/// How things are.
pub(crate) fn now(meters: &Meters, processes: &Processes) -> Sample {
    let (server, _) = processes.look();
    Sample {
        at_seconds: meters.began.elapsed().as_secs_f64(),
        connected: meters.connected.load(Relaxed),
        served: meters.served.load(Relaxed),
        secrets: meters.counters.secrets.load(Relaxed),
        failures: meters.failed(),
        server_cpu_seconds: server.map(|look| look.cpu_seconds),
        server_rss_bytes: server.map(|look| look.rss_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_phase_has_what_came_in_it_and_a_name_of_its_own() {
        let first = Current::new(0, String::new(), PhaseKind::Rest, Concerns::Nothing, 0);
        let meters = Arc::new(Meters::new(3, 1, 1, first));
        let mut record = Record::new(meters.clone(), Arc::new(Processes::new(None)));
        meters.counters.secrets.fetch_add(5, Relaxed);
        let phase = record.begin(PhaseKind::Storm, Concerns::Nothing, 3);
        meters.counters.secrets.fetch_add(2, Relaxed);
        phase.reach();
        phase.time("first-secret", Duration::from_millis(10));
        tokio::time::advance(Duration::from_secs(2)).await;
        record.begin(PhaseKind::Rest, Concerns::Nothing, 0);
        record.begin(PhaseKind::Storm, Concerns::Nothing, 0);
        let churn = record.begin(PhaseKind::Churn, Concerns::Nothing, 0);
        (0..7).for_each(|_| churn.expect_one());
        (0..5).for_each(|_| churn.reach());
        churn.miss(3);
        record.end();
        record.end();
        let names: Vec<_> = record.phases.iter().map(|phase| phase.name.as_str()).collect();
        assert_eq!(names, ["storm", "rest", "storm-2", "churn"]);
        let churn = &record.phases[3];
        assert_eq!((churn.expected, churn.reached, churn.missed), (7, 5, Some(3)), "who left was to come back");
        let storm = &record.phases[0];
        assert_eq!((storm.expected, storm.reached, storm.traffic.secrets, storm.server), (3, 1, 2, None));
        assert_eq!(storm.missed, None);
        assert!((storm.seconds - 2.0).abs() < 1e-9 && storm.latencies["first-secret"].count == 1, "{storm:?}");
    }
}
