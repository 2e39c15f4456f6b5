//! Which charts a page has, and what they are of.
//!
//! How to read them:
//!
//! - **Latency**: for each share of the proxies (to the right, by how many are left: 90 %, 99 %, 99.9 % are as far apart as each
//!   other, as in HdrHistogram's plots), the time within which they had it. A flat line is a server that treats all alike; where it
//!   turns up is the tail. A line ends at the share that the count can tell: 1,000 proxies say nothing of 99.99 %.
//! - **Proxies**: connected and served over time. The distance between the two is who waits.
//! - **Secrets**: received since the run began. A step is a push; a slope is the server's rate.
//! - **Server CPU**: cores in use between two samples. Its area is the CPU time.
//! - **Server memory**: resident. What does not come down after a peak is kept.
//!
//! Vertical lines are where a phase began.

use super::chart::{Axis, COLOURS, Chart};
use super::figures::mib;
use crate::load::results::{Latency, Results, Sample};
use crate::model::text::escaped;

/// Samples that a chart shows at most: it has no more pixels than that. Of more, every second, third, … is taken.
const MOST_SAMPLES: usize = 1000;

/// A chart with the words around it.
#[derive(Debug)]
pub(super) struct Plot {
    pub title: String,
    /// How to read it, in a sentence.
    pub help: &'static str,
    /// What the lines are, in the order of the colours.
    pub legend: Vec<String>,
    pub chart: Chart,
}

/// A chart for each thing that was timed, with a line for each phase; several if there are more phases than colours.
pub(super) fn latencies(results: &Results) -> Vec<Plot> {
    let mut names: Vec<&String> = results.phases.iter().flat_map(|phase| phase.latencies.keys()).collect();
    names.sort();
    names.dedup();
    let plots_of = |name: &String| {
        let timed: Vec<(String, &Latency)> = results
            .phases
            .iter()
            .filter_map(|phase| Some((escaped(&phase.name), phase.latencies.get(name)?)))
            .filter(|(_, latency)| latency.count > 0 && !latency.curve.is_empty())
            .collect();
        timed.chunks(COLOURS.len()).map(|timed| latency(name, timed)).collect::<Vec<_>>()
    };
    names.into_iter().flat_map(plots_of).collect()
}

fn latency(name: &str, timed: &[(String, &Latency)]) -> Plot {
    let most = timed.iter().map(|(_, latency)| latency.count).max().unwrap_or(1);
    let lines: Vec<Vec<(f64, f64)>> = timed.iter().map(|(_, latency)| curve(latency)).collect();
    let longest = largest(lines.iter().flatten().map(|(_, milliseconds)| *milliseconds));
    Plot {
        title: format!("Latency: {}", escaped(name)),
        help: "The time (up) within which a share of all (right) had it. The further right a line turns up, the fewer wait long.",
        legend: timed.iter().map(|(phase, _)| phase.clone()).collect(),
        chart: Chart { x: quantile_axis(most), y: Axis::reaching("milliseconds", longest), lines, marks: Vec::new() },
    }
}

/// Where on the axis a quantile is: how often the share above it can be divided by ten.
fn place(quantile: f64, count: u64) -> f64 {
    -(1.0 - quantile).max(1.0 / count.max(1) as f64).log10()
}

fn curve(latency: &Latency) -> Vec<(f64, f64)> {
    latency.curve.iter().map(|(quantile, milliseconds)| (place(*quantile, latency.count), *milliseconds)).collect()
}

/// From the fastest to the one that `count` can tell: 0 %, 50 %, 90 %, 99 % and so on.
fn quantile_axis(count: u64) -> Axis {
    let end = place(1.0, count).max(1.0);
    let nines = (0..).map(f64::from).take_while(|nines| *nines <= end);
    let mut ticks: Vec<f64> = nines.chain([place(0.5, 2)]).collect();
    ticks.sort_by(f64::total_cmp);
    let format = |place: f64| {
        // 1 - 10^-4 as a float would have digits of its own.
        let decimals = (place.floor() - 2.0).max(0.0) as usize;
        format!("{:.decimals$} %", 100.0 * (1.0 - 10f64.powf(-place)))
    };
    Axis { name: "share of all".to_owned(), end, ticks, format }
}

/// The charts over the time of the run; those of the server only if it was measured.
pub(super) fn time_line(results: &Results) -> Vec<Plot> {
    let samples = thinned(&results.samples);
    let end = largest(samples.iter().map(|sample| sample.at_seconds));
    let marks: Vec<_> = results.phases.iter().map(|phase| (phase.began_at_seconds, escaped(&phase.name))).collect();
    let over_time =
        |of: fn(&Sample) -> f64| samples.iter().map(move |sample| (sample.at_seconds, of(sample))).collect();
    let memory = samples.iter().filter_map(|sample| Some((sample.at_seconds, mib(sample.server_rss_bytes?)))).collect();
    let plot = |title: &str, help, legend: &[&str], unit: &str, lines: Vec<Vec<(f64, f64)>>| Plot {
        title: title.to_owned(),
        help,
        legend: legend.iter().map(|&line| line.to_owned()).collect(),
        chart: Chart {
            x: Axis::ending_at("seconds since the run began", end),
            y: Axis::reaching(unit, largest(lines.iter().flatten().map(|(_, value)| *value))),
            lines,
            marks: marks.clone(),
        },
    };
    let mut plots = vec![
        plot(
            "Proxies",
            "Who is connected, and who has all secrets. The distance between the two is who waits.",
            &["connected", "served"],
            "proxies",
            vec![over_time(|sample| sample.connected as f64), over_time(|sample| sample.served as f64)],
        ),
        plot(
            "Secrets received",
            "Since the run began. A step is a push, a slope is the rate at which the server sends.",
            &["secrets"],
            "secrets",
            vec![over_time(|sample| sample.secrets as f64)],
        ),
        plot(
            "Server CPU",
            "Cores in use between two samples. The area below the line is the CPU time.",
            &["cores"],
            "cores",
            vec![cores(&samples)],
        ),
        plot(
            "Server memory",
            "Resident memory. What does not come down after a peak is kept by the server or its allocator.",
            &["resident memory"],
            "MiB",
            vec![memory],
        ),
    ];
    plots.retain(|plot| plot.chart.lines.iter().any(|line| !line.is_empty()));
    plots
}

/// CPU seconds for each second from one sample to the next.
fn cores(samples: &[Sample]) -> Vec<(f64, f64)> {
    let used: Vec<_> =
        samples.iter().filter_map(|sample| Some((sample.at_seconds, sample.server_cpu_seconds?))).collect();
    used.windows(2)
        .filter_map(|pair| {
            let [(began, before), (ended, after)] = pair else { return None };
            (ended > began).then(|| (*ended, (after - before).max(0.0) / (ended - began)))
        })
        .collect()
}

/// No more than [`MOST_SAMPLES`] and the last one.
fn thinned(samples: &[Sample]) -> Vec<Sample> {
    let every = samples.len().div_ceil(MOST_SAMPLES).max(1);
    let last = samples.len().saturating_sub(1);
    samples.iter().enumerate().filter(|(at, _)| at % every == 0 || *at == last).map(|(_, sample)| *sample).collect()
}

fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.filter(|value| value.is_finite()).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_nine_of_a_quantile_is_as_far_as_the_one_before() {
        let axis = quantile_axis(10_000);
        let labels: Vec<String> = axis.ticks.iter().map(|tick| (axis.format)(*tick)).collect();
        assert_eq!(labels, ["0 %", "50 %", "90 %", "99 %", "99.9 %", "99.99 %"]);
        assert_eq!(axis.end, 4.0);
        assert_eq!(place(1.0, 1000), 3.0, "a thousand tell no more than 99.9 %");
        assert_eq!(place(1.0, 0), 0.0);
        assert_eq!(quantile_axis(1).end, 1.0, "also one thing has an axis");
    }

    #[test]
    fn cores_are_the_cpu_time_between_samples() {
        let sample = |at_seconds, used| Sample { at_seconds, server_cpu_seconds: used, ..Sample::default() };
        let samples = [
            sample(0.0, Some(1.0)),
            sample(2.0, Some(4.0)),
            sample(2.0, Some(4.0)),
            sample(3.0, None),
            sample(4.0, Some(4.0)),
        ];
        assert_eq!(cores(&samples), [(2.0, 1.5), (4.0, 0.0)]);
        assert_eq!(cores(&[]), []);
    }

    #[test]
    fn a_long_run_is_thinned_and_keeps_its_end() {
        let samples: Vec<Sample> =
            (0..86_400).map(|at| Sample { at_seconds: f64::from(at), ..Sample::default() }).collect();
        let thinned = thinned(&samples);
        assert!(thinned.len() <= MOST_SAMPLES + 1);
        assert_eq!(thinned.last(), samples.last());
    }
}
