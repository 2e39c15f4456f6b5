//! Figures that are derived from what was measured, and how figures are written. Nothing here divides by zero: what cannot be
//! said is `None`, and written as `-`.

use crate::load::results::{Phase, PhaseKind, Results};
use crate::model::text::escaped;

/// What stands for a figure that there is not.
pub(super) const NONE: &str = "-";

const KIB: f64 = 1024.0;

/// The server's memory before the first proxy connected: the run's first sample, if nobody was connected then.
pub(super) fn base_rss(results: &Results) -> Option<u64> {
    results.samples.first().filter(|sample| sample.connected == 0).and_then(|sample| sample.server_rss_bytes)
}

/// The server as it was given, with the address that its name stood for, if it was one.
pub(super) fn target(results: &Results) -> String {
    match &results.address {
        Some(address) if *address != results.target => format!("{} ({})", escaped(&results.target), escaped(address)),
        _ => escaped(&results.target),
    }
}

/// Server CPU time of a phase for each proxy of the run, in microseconds.
pub(super) fn cpu_micros_per_proxy(results: &Results, phase: &Phase) -> Option<f64> {
    per_proxy(results, phase.server?.cpu_seconds * 1e6)
}

/// Server memory at a phase's end for each proxy of the run, in KiB, above [`base_rss`].
pub(super) fn rss_kib_per_proxy(results: &Results, phase: &Phase) -> Option<f64> {
    let base = base_rss(results).unwrap_or(0) as f64;
    per_proxy(results, (phase.server?.rss_bytes as f64 - base) / KIB)
}

fn per_proxy(results: &Results, total: f64) -> Option<f64> {
    (results.proxies > 0).then(|| total / results.proxies as f64)
}

/// How long the run took: until the last phase or sample ended.
pub(super) fn run_seconds(results: &Results) -> Option<f64> {
    let phases = results.phases.iter().map(|phase| phase.began_at_seconds + phase.seconds);
    let samples = results.samples.iter().map(|sample| sample.at_seconds);
    phases.chain(samples).filter(|seconds| seconds.is_finite()).reduce(f64::max)
}

/// All failures of the run.
pub(super) fn failures(results: &Results) -> u64 {
    results.failures.iter().map(|failure| failure.count).fold(0, u64::saturating_add)
}

/// The run in a sentence: whether it passed, and if not, what counts against it.
pub(super) fn verdict(results: &Results) -> String {
    if results.passed {
        return "PASSED: all that was waited for came, and every secret was what it has to be".to_owned();
    }
    let incomplete = results.phases.iter().filter(|phase| phase.reached < phase.expected).count();
    let failures = failures(results);
    let plural = if failures == 1 { "" } else { "s" };
    format!("FAILED: {failures} failure{plural}; {incomplete} of {} phases incomplete", results.phases.len())
}

/// `9990 of 10000`, or one number if they are the same.
pub(super) fn reached(phase: &Phase) -> String {
    match phase.kind {
        PhaseKind::Rest if phase.expected == 0 => NONE.to_owned(),
        _ if phase.reached == phase.expected => phase.reached.to_string(),
        _ => format!("{}/{}", phase.reached, phase.expected),
    }
}

/// What is to be known of churn that was held up.
pub(super) fn left_out(results: &Results) -> Option<String> {
    let missed: u64 = results.phases.iter().filter_map(|phase| phase.missed).fold(0, u64::saturating_add);
    (missed > 0).then(|| format!("Of churn, {missed} departures were left out: nobody was served who could leave"))
}

/// Three digits that count, no more than two decimals.
pub(super) fn figure(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => NONE.to_owned(),
        0.0 => "0".to_owned(),
        size if size < 9.995 => format!("{value:.2}"),
        size if size < 99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// The same for a figure that may not be there.
pub(super) fn figure_or_none(value: Option<f64>) -> String {
    value.map_or_else(|| NONE.to_owned(), figure)
}

/// A figure of a distribution of `count` things; of none, there is no figure.
pub(super) fn of_some(count: u64, value: f64) -> String {
    figure_or_none((count > 0).then_some(value))
}

/// A size: `512 B`, `61.2 MiB`.
pub(super) fn bytes(bytes: u64) -> String {
    let mut size = bytes as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        // What would be written as 1024 is one of the larger unit.
        if size < 1023.5 {
            break;
        }
        size /= KIB;
        unit = larger;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{} {unit}", figure(size)) }
}

/// Bytes as MiB.
pub(super) fn mib(bytes: u64) -> f64 {
    bytes as f64 / KIB / KIB
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_that_count() {
        let written: Vec<String> = [0.0, 0.004, 9.994, 9.996, 99.94, 99.96, 12_345.6, -1.5].map(figure).to_vec();
        assert_eq!(written, ["0", "0.00", "9.99", "10.0", "99.9", "100", "12346", "-1.50"]);
        assert_eq!([f64::NAN, f64::INFINITY].map(figure), ["-", "-"]);
    }

    #[test]
    fn sizes_are_in_the_unit_that_keeps_them_short() {
        let written: Vec<String> = [0, 1023, 1024, 64_172_851, 1024 * 1024 - 1, u64::MAX].map(bytes).to_vec();
        assert_eq!(written, ["0 B", "1023 B", "1.00 KiB", "61.2 MiB", "1.00 MiB", "16777216 TiB"]);
    }
}
