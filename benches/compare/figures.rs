//! What is taken from a run.

use std::collections::BTreeMap;

use envoy_sds::load::results::{Phase, PhaseKind, Results};
use serde::Serialize;

use crate::servers::Memory;

/// A figure of a run; less is better in all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Figure {
    /// Resident memory of a server with all its proxies at rest, less what it had without any, by proxy.
    RestMemory,
    /// The same of the most that it ever had.
    PeakMemory,
    /// CPU of the server until all proxies have their secrets, by proxy.
    ConnectCpu,
    /// Until all proxies have their secrets.
    ConnectSeconds,
    /// From the start of a proxy's connection to its first secret.
    FirstP50,
    /// Likewise.
    FirstP99,
    /// CPU of the server for a change of the CA, by stream that it is sent on.
    BundleCpu,
    /// From the change to the secret's arrival.
    BundleP99,
    /// Of that, until the first arrives: what noticing the change takes. Our server is given a file, and waits a moment
    /// for more of them; the peer is called.
    BundleFirst,
    /// CPU of the server for new leaves, by proxy.
    LeafCpu,
    /// From the command to the secret's arrival.
    LeafP99,
    /// Secrets that were sent again though nothing had changed in them, because of one change: in it, and in the rest after it.
    Unchanged,
}

/// All of them.
pub(crate) const ALL: [Figure; 12] = [
    Figure::RestMemory,
    Figure::PeakMemory,
    Figure::ConnectCpu,
    Figure::ConnectSeconds,
    Figure::FirstP50,
    Figure::FirstP99,
    Figure::BundleCpu,
    Figure::BundleP99,
    Figure::BundleFirst,
    Figure::LeafCpu,
    Figure::LeafP99,
    Figure::Unchanged,
];

/// Every value that was measured, by figure: one of each run, or of each phase of its kind.
pub(crate) type Figures = BTreeMap<Figure, Vec<f64>>;

impl Figure {
    /// As the table has it.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::RestMemory | Self::PeakMemory => "KiB",
            Self::ConnectCpu | Self::BundleCpu | Self::LeafCpu => "µs",
            Self::ConnectSeconds => "s",
            Self::FirstP50 | Self::FirstP99 | Self::BundleP99 | Self::BundleFirst | Self::LeafP99 => "ms",
            Self::Unchanged => "",
        }
    }

    /// What it is, where no row of the table says so.
    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::RestMemory => "RSS per proxy at rest",
            Self::PeakMemory => "peak RSS per proxy",
            Self::ConnectCpu => "CPU per connecting proxy",
            Self::ConnectSeconds => "until all have their secrets",
            Self::FirstP50 => "first secret, p50",
            Self::FirstP99 => "first secret, p99",
            Self::BundleCpu => "CPU per CA push",
            Self::BundleP99 => "fan-out of a CA push, p99",
            Self::BundleFirst => "of that, until the first proxy has it",
            Self::LeafCpu => "CPU per leaf in a rotation",
            Self::LeafP99 => "leaf rotation, p99",
            Self::Unchanged => "unchanged secrets in a rotation, at most",
        }
    }

    /// What stands for all that was measured: the middle one, but the worst where there should be none at all.
    pub(crate) fn of_all(self, values: &[f64]) -> Option<f64> {
        match self {
            Self::Unchanged => values.iter().copied().reduce(f64::max),
            _ => median(values),
        }
    }
}

/// Adds what one run has shown.
pub(crate) fn add(figures: &mut Figures, run: &Results, memory: Memory) {
    let proxies = run.proxies.max(1) as f64;
    let mut note = |figure, value: Option<f64>| {
        if let Some(value) = value {
            figures.entry(figure).or_default().push(value);
        }
    };
    // Each with what comes after it.
    let all = || run.phases.iter().zip(run.phases.iter().skip(1).map(Some).chain([None]));
    let of = |kind| all().filter(move |(phase, _)| phase.kind == kind);
    let quantile = |phase: &Phase, of: &str, pick: fn(&envoy_sds::load::results::Latency) -> f64| {
        phase.latencies.get(of).filter(|latency| latency.count > 0).map(pick)
    };
    let per_proxy = |bytes: u64| bytes.saturating_sub(memory.before) as f64 / 1024.0 / proxies;
    // A phase is over when the last secret has come. The server has ACKs to read then, which it does in the rest.
    let cpu = |phase: &Phase, next: Option<&Phase>, by: f64| {
        let rest = next.filter(|next| next.kind == PhaseKind::Rest).and_then(|rest| rest.server);
        let after = rest.map_or(0.0, |used| used.cpu_seconds);
        phase.server.map(|used| (used.cpu_seconds + after) * 1e6 / by)
    };

    // The first rest: what comes later has seen rotations.
    let rest = of(PhaseKind::Rest).next().and_then(|(phase, _)| phase.server);
    note(Figure::RestMemory, rest.map(|used| per_proxy(used.rss_bytes)));
    note(Figure::PeakMemory, memory.peak.map(per_proxy));
    for (phase, next) in of(PhaseKind::Connect) {
        note(Figure::ConnectCpu, cpu(phase, next, proxies));
        note(Figure::ConnectSeconds, Some(phase.seconds));
        note(Figure::FirstP50, quantile(phase, "first-secret", |latency| latency.p50_ms));
        note(Figure::FirstP99, quantile(phase, "first-secret", |latency| latency.p99_ms));
    }
    for (kind, by_cpu, by_p99) in [
        (PhaseKind::BundlePush, Figure::BundleCpu, Figure::BundleP99),
        (PhaseKind::LeafRotation, Figure::LeafCpu, Figure::LeafP99),
    ] {
        for (phase, next) in of(kind) {
            note(by_cpu, cpu(phase, next, phase.expected.max(1) as f64));
            note(by_p99, quantile(phase, "fan-out", |latency| latency.p99_ms));
            if kind == PhaseKind::BundlePush {
                note(Figure::BundleFirst, quantile(phase, "fan-out", |latency| latency.min_ms));
            }
            let after = next.filter(|next| next.kind == PhaseKind::Rest).map_or(0, |rest| rest.traffic.unchanged);
            note(Figure::Unchanged, Some((phase.traffic.unchanged + after) as f64));
        }
    }
}

/// What a run should have shown and has not: a figure that went missing would be a row that nobody misses.
pub(crate) fn missing(figures: &Figures, rotates: bool) -> Vec<&'static str> {
    use Figure::{BundleCpu, BundleFirst, BundleP99, LeafCpu, LeafP99, Unchanged};
    let of_rotations = [BundleCpu, BundleP99, BundleFirst, LeafCpu, LeafP99, Unchanged];
    let is_expected = |figure: &Figure| rotates || !of_rotations.contains(figure);
    ALL.iter()
        .filter(|figure| is_expected(figure) && !figures.contains_key(figure))
        .map(|figure| figure.what())
        .collect()
}

/// The middle one of several; of an even number, the mean of the two in the middle.
fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    Some(if sorted.len().is_multiple_of(2) { f64::midpoint(sorted[middle - 1], upper) } else { upper })
}
