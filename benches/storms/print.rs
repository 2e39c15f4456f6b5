//! What is printed, in Markdown.

use envoy_sds::load::results::{Phase, PhaseKind, Results, Sample};

const MIB: f64 = 1024.0 * 1024.0;

/// How all came, and came back.
pub(crate) fn storm(results: &Results) {
    println!("\n| | reached | seconds | issued | p50 s | p99 s | max s | CPU s | most RSS MiB | RSS after MiB |");
    println!("|---|---|---|---|---|---|---|---|---|---|");
    // Each with the rest after it, in which the server comes to rest.
    let all = results.phases.iter().zip(results.phases.iter().skip(1).map(Some).chain([None]));
    for (phase, next) in all.filter(|(phase, _)| phase.kind != PhaseKind::Rest) {
        let after = next.filter(|next| next.kind == PhaseKind::Rest).and_then(|rest| rest.server);
        row(phase, after.map(|used| used.rss_bytes));
    }
}

fn row(phase: &Phase, rss_after: Option<u64>) {
    // From the beginning of the storm; of those who come for the first time, from their own.
    let latency = ["served-again", "first-secret"].iter().find_map(|what| phase.latencies.get(*what));
    let [p50, p99, max] = match latency {
        Some(latency) => [latency.p50_ms, latency.p99_ms, latency.max_ms].map(|ms| format!("{:.2}", ms / 1000.0)),
        None => Default::default(),
    };
    let issued = phase.issued.map(|issued| issued.to_string()).unwrap_or_default();
    let mib = |bytes: Option<u64>| bytes.map(|bytes| format!("{:.0}", bytes as f64 / MIB)).unwrap_or_default();
    println!(
        "| {} | {}/{} | {:.2} | {issued} | {p50} | {p99} | {max} | {} | {} | {} |",
        phase.name,
        phase.reached,
        phase.expected,
        phase.seconds,
        phase.server.map(|used| format!("{:.1}", used.cpu_seconds)).unwrap_or_default(),
        mib(phase.server.map(|used| used.peak_rss_bytes)),
        mib(rss_after),
    );
}

/// The server's memory and CPU, minute by minute.
pub(crate) fn churn(results: &Results) {
    let Some(churn) = results.phases.iter().find(|phase| phase.kind == PhaseKind::Churn) else { return };
    println!("\n| minute | RSS MiB | CPU s in it | served | failures |\n|---|---|---|---|---|");
    let minute = |sample: &Sample| (sample.at_seconds - churn.began_at_seconds) / 60.0;
    let is_during = |sample: &&Sample| (0.0..=churn.seconds / 60.0).contains(&minute(sample));
    let samples: Vec<&Sample> = results.samples.iter().filter(is_during).collect();
    let mut shown: Vec<&Sample> = Vec::new();
    for (at, sample) in samples.iter().enumerate() {
        let is_next = shown.last().is_none_or(|last| minute(sample) >= minute(last).floor() + 1.0);
        if is_next || at + 1 == samples.len() {
            shown.push(sample);
        }
    }
    let rss = |sample: &Sample| sample.server_rss_bytes.map_or(0.0, |bytes| bytes as f64 / MIB);
    for (at, sample) in shown.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|before| shown[before].server_cpu_seconds);
        let cpu = sample.server_cpu_seconds.zip(before).map(|(now, before)| format!("{:.2}", now - before));
        let Sample { served, failures, .. } = sample;
        println!(
            "| {:.1} | {:.1} | {} | {served} | {failures} |",
            minute(sample),
            rss(sample),
            cpu.unwrap_or_default()
        );
    }
    println!(
        "\n{} of {} who left are back, {} could not leave; {} connections in {:.0} s, {} certificates issued meanwhile",
        churn.reached,
        churn.expected,
        churn.missed.unwrap_or(0),
        churn.traffic.connections,
        churn.seconds,
        churn.issued.unwrap_or(0)
    );
    // The first half may still fill what is remembered, and what allocators keep.
    let points: Vec<_> = shown.iter().map(|sample| (minute(sample), rss(sample))).collect();
    if let Some(slope) = slope(&points[points.len() / 2..]) {
        println!("RSS in the second half: {:+.2} MiB an hour", slope * 60.0);
    }
}

/// Of the line that is nearest to the points: what `y` grows by with each `x`.
fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    (points.len() > 2 && spread > 0.0)
        .then(|| points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum::<f64>() / spread)
}
