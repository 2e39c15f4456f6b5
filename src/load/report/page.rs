//! A run as a page, which is complete in itself: it can be kept as an artifact, sent, and read offline.
//!
//! `maud` writes every text escaped; only the style sheet and what [`super::chart`] drew go in as they are.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::figures::{
    self, base_rss, bytes, cpu_micros_per_proxy, figure, figure_or_none, left_out, of_some, reached, rss_kib_per_proxy,
    run_seconds, target, verdict,
};
use super::plots::{self, Plot};
use crate::load::results::{FailureCount, Phase, Results};
use crate::model::text::escaped;

/// A browser that reads this loads nothing and runs nothing, whatever got into the page.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// Heads of columns, with what they mean.
type Head<'a> = &'a [(&'a str, &'a str)];

pub(super) fn html(results: &Results) -> String {
    let latencies = plots::latencies(results);
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (if results.passed { "Passed" } else { "Failed" }) ": load on " (escaped(&results.target)) }
                style { (PreEscaped(include_str!("page.css"))) }
            }
            body {
                header {
                    h1 { "Load on " code { (target(results)) } }
                    p class=(if results.passed { "verdict passed" } else { "verdict failed" }) { (verdict(results)) }
                    p.quiet { (escaped(&results.started)) ", envoy-sds " (escaped(&results.version)) }
                }
                main {
                    (key_figures(results))
                    (plan(results))
                    (phases(results))
                    (latency_table(results))
                    (charts("latency", "Latency", &latencies))
                    (charts("time", "Time line", &plots::time_line(results)))
                    (counts("failures", "Failures", &results.failures))
                    @if !results.interruptions.is_empty() {
                        (counts("interruptions", "Interruptions, after which proxies came back", &results.interruptions))
                    }
                }
            }
        }
    };
    markup.into_string()
}

/// What is looked for first.
fn key_figures(results: &Results) -> Markup {
    let figures = [
        ("proxies", results.proxies.to_string()),
        ("connections", results.connections.to_string()),
        ("streams", results.streams.to_string()),
        ("seconds", figure_or_none(run_seconds(results))),
        ("failures", figures::failures(results).to_string()),
    ];
    html! {
        dl.figures { @for (name, value) in figures { div { dt { (name) } dd { (value) } } } }
    }
}

fn plan(results: &Results) -> Markup {
    html! {
        @if !results.plan.is_empty() {
            section aria-labelledby="plan" {
                h2 #plan { "What was run" }
                dl.plan {
                    @for (name, value) in &results.plan { div { dt { (escaped(name)) } dd { (escaped(value)) } } }
                }
            }
        }
    }
}

/// The columns of the table of phases after the name, with what they mean.
const PHASE_HEADS: Head<'_> = &[
    ("Reached", "proxies or streams that got what the phase waits for, of those that were to"),
    ("Seconds", "how long the phase took"),
    ("Connections", "connections opened"),
    ("Secrets", "secrets received"),
    ("Same", "secrets received that said nothing new"),
    ("ACK", "responses accepted"),
    ("NACK", "responses refused"),
    ("In", "bytes from the server"),
    ("Out", "bytes to the server"),
    ("Issued", "certificates that the server issued, as it says"),
    ("CPU µs/proxy", "CPU time of the server for each proxy"),
    ("RSS KiB/proxy", "resident memory of the server for each proxy"),
    ("RSS", "resident memory of the server at the end of the phase"),
    ("Peak RSS", "most resident memory of the server in a sample"),
    ("Files", "open file descriptors of the server"),
    ("Client CPU s", "CPU time of the load tester itself"),
];

fn phases(results: &Results) -> Markup {
    let rows = results.phases.iter().map(|phase| (vec![escaped(&phase.name)], phase_cells(results, phase))).collect();
    let note = match base_rss(results) {
        Some(base) => {
            format!("Memory for each proxy is above the {} that the server had before the first one.", bytes(base))
        }
        None => "Memory for each proxy includes what the server had before the first one.".to_owned(),
    };
    let measured = results.phases.iter().any(|phase| phase.server.is_some());
    html! {
        section aria-labelledby="phases" {
            h2 #phases { "Phases" }
            (table(&[("Phase", "")], PHASE_HEADS, rows))
            @if measured { p.quiet { (note) } }
            @if let Some(note) = left_out(results) { p.quiet { (note) "." } }
        }
    }
}

fn phase_cells(results: &Results, phase: &Phase) -> Vec<String> {
    let traffic = &phase.traffic;
    let server = |text: fn(u64) -> String, of: Option<u64>| of.map_or_else(|| figure_or_none(None), text);
    vec![
        reached(phase),
        figure(phase.seconds),
        traffic.connections.to_string(),
        traffic.secrets.to_string(),
        traffic.unchanged.to_string(),
        traffic.acks.to_string(),
        traffic.nacks.to_string(),
        bytes(traffic.bytes_in),
        bytes(traffic.bytes_out),
        server(|count| count.to_string(), phase.issued),
        figure_or_none(cpu_micros_per_proxy(results, phase)),
        figure_or_none(rss_kib_per_proxy(results, phase)),
        server(bytes, phase.server.map(|usage| usage.rss_bytes)),
        server(bytes, phase.server.map(|usage| usage.peak_rss_bytes)),
        // Nobody may count those of another user's process.
        server(|count| count.to_string(), phase.server.map(|usage| usage.descriptors).filter(|count| *count > 0)),
        figure(phase.client.cpu_seconds),
    ]
}

fn latency_table(results: &Results) -> Markup {
    const HEADS: Head<'_> = &[
        ("Count", "how many were timed"),
        ("Min", "the shortest"),
        ("Mean", "arithmetic mean"),
        ("p50", "half took no longer"),
        ("p90", "90 % took no longer"),
        ("p99", "99 % took no longer"),
        ("p99.9", "99.9 % took no longer"),
        ("Max", "the longest"),
    ];
    let rows: Vec<_> = results
        .phases
        .iter()
        .flat_map(|phase| phase.latencies.iter().map(|(name, latency)| (escaped(&phase.name), escaped(name), latency)))
        .map(|(phase, name, latency)| {
            let figures = [
                latency.min_ms,
                latency.mean_ms,
                latency.p50_ms,
                latency.p90_ms,
                latency.p99_ms,
                latency.p999_ms,
                latency.max_ms,
            ];
            let figures = figures.map(|figure| of_some(latency.count, figure));
            (vec![phase, name], [latency.count.to_string()].into_iter().chain(figures).collect())
        })
        .collect();
    html! {
        @if !rows.is_empty() {
            section aria-labelledby="latencies" {
                h2 #latencies { "Latencies, in milliseconds" }
                (table(&[("Phase", ""), ("What was timed", "")], HEADS, rows))
            }
        }
    }
}

/// A table whose rows have names and then numbers.
fn table(names: Head<'_>, heads: Head<'_>, rows: Vec<(Vec<String>, Vec<String>)>) -> Markup {
    html! {
        // Can be scrolled with the keyboard too.
        div.scroll tabindex="0" {
            table {
                thead {
                    tr {
                        @for (head, _) in names { th scope="col" { (head) } }
                        @for (head, meaning) in heads { th.number scope="col" title=(meaning) { (head) } }
                    }
                }
                tbody {
                    @for (names, numbers) in rows {
                        tr {
                            @for name in names { th scope="row" { (name) } }
                            @for number in numbers { td.number { (number) } }
                        }
                    }
                }
            }
        }
    }
}

/// A section of charts. `id` makes their ids different from other sections'.
fn charts(id: &str, heading: &str, plots: &[Plot]) -> Markup {
    html! {
        @if !plots.is_empty() {
            section aria-labelledby=(id) {
                h2 id=(id) { (heading) }
                @for (at, plot) in plots.iter().enumerate() { (chart(&format!("{id}-{at}"), plot)) }
            }
        }
    }
}

fn chart(id: &str, plot: &Plot) -> Markup {
    let Some(svg) = plot.chart.svg() else { return Markup::default() };
    html! {
        figure {
            figcaption {
                h3 { (plot.title) }
                p.quiet { (plot.help) }
                @if plot.legend.len() > 1 {
                    ul.legend {
                        @for (at, line) in plot.legend.iter().enumerate() {
                            li { span class=(format!("swatch line-{at}")) {} (line) }
                        }
                    }
                }
            }
            div.scroll tabindex="0" {
                svg role="img" aria-labelledby=(format!("{id}-title {id}-desc")) viewBox="0 0 1800 600" {
                    title id=(format!("{id}-title")) { (plot.title) }
                    desc id=(format!("{id}-desc")) { (plot.help) " Lines: " (plot.legend.join(", ")) "." }
                    (PreEscaped(svg))
                }
            }
        }
    }
}

fn counts(id: &str, heading: &str, counts: &[FailureCount]) -> Markup {
    html! {
        section aria-labelledby=(id) {
            h2 id=(id) { (heading) }
            @if counts.is_empty() {
                p { "None." }
            } @else {
                div.scroll tabindex="0" {
                    table.failures {
                        thead { tr { th scope="col" { "What" } th.number scope="col" { "Count" } th scope="col" { "Example" } } }
                        tbody {
                            @for FailureCount { what, count, example } in counts {
                                tr {
                                    th scope="row" { (escaped(what)) }
                                    td.number { (count) }
                                    td { code { (escaped(example)) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
