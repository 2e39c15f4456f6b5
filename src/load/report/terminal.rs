//! A run as tables on a terminal.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

use super::figures::{
    NONE, base_rss, bytes, cpu_micros_per_proxy, figure, figure_or_none, left_out, of_some, reached, rss_kib_per_proxy,
    run_seconds, target, verdict,
};
use crate::load::results::{FailureCount, Phase, PhaseKind, Results, Usage};
use crate::model::text::escaped;

/// What everything fits into; longer texts go on in the next line.
const COLUMNS: u16 = 100;

/// Blocks with an empty line between them: the run, its phases, what the server went through, latencies, failures and
/// interruptions, the verdict.
pub(super) fn table(results: &Results) -> String {
    let mut blocks = vec![run(results)];
    if !results.phases.is_empty() {
        let notes: Vec<String> = [note(results)].into_iter().chain(left_out(results)).collect();
        blocks.push(format!("{}\n{}", phases(results), notes.join("\n")));
    }
    blocks.extend(server(results));
    if results.phases.iter().any(|phase| !phase.latencies.is_empty()) {
        blocks.push(latencies(results));
    }
    if !results.failures.is_empty() {
        blocks.push(counts("FAILURE", &results.failures));
    }
    if !results.interruptions.is_empty() {
        blocks.push(counts("INTERRUPTION", &results.interruptions));
    }
    blocks.push(verdict(results));
    blocks.join("\n\n") + "\n"
}

fn run(results: &Results) -> String {
    let mut rows = vec![
        ["target".to_owned(), target(results)],
        ["started".to_owned(), format!("{}, envoy-sds {}", escaped(&results.started), escaped(&results.version))],
        [
            "load".to_owned(),
            format!(
                "{} proxies, {} connections, {} streams, {} s",
                results.proxies,
                results.connections,
                results.streams,
                figure_or_none(run_seconds(results))
            ),
        ],
    ];
    rows.extend(results.plan.iter().map(|(name, value)| [escaped(name), escaped(value)]));
    let mut table = empty();
    table.add_rows(rows.into_iter().map(|row| row.map(|text| if text.is_empty() { NONE.to_owned() } else { text })));
    text(&mut table)
}

fn phases(results: &Results) -> String {
    let mut table = empty();
    table.set_header([
        "PHASE",
        "REACHED",
        "SECONDS",
        "SECRETS",
        "OF THEM\nSAME",
        "CPU µs\n/PROXY",
        "RSS KiB\n/PROXY",
        "BYTES\nIN",
        "BYTES\nOUT",
    ]);
    for phase in &results.phases {
        table.add_row(numbers(
            1,
            [
                escaped(&phase.name),
                reached(phase),
                figure(phase.seconds),
                phase.traffic.secrets.to_string(),
                phase.traffic.unchanged.to_string(),
                figure_or_none(cpu_micros_per_proxy(results, phase)),
                figure_or_none(rss_kib_per_proxy(results, phase)),
                bytes(phase.traffic.bytes_in),
                bytes(phase.traffic.bytes_out),
            ],
        ));
    }
    align_heads(&mut table, 1);
    text(&mut table)
}

/// What the two columns of the server's use are of.
fn note(results: &Results) -> String {
    if results.phases.iter().all(|phase| phase.server.is_none()) {
        return "CPU and RSS: the server's process was not given".to_owned();
    }
    match base_rss(results) {
        Some(base) => format!("CPU and RSS: the server's; RSS above the {} that it had before", bytes(base)),
        None => "CPU and RSS: the server's; RSS with what it had before".to_owned(),
    }
}

/// What the server went through, as far as it is known: worth a look after storms, and where it says what it has issued.
fn server(results: &Results) -> Option<String> {
    let under_stress =
        |phase: &Phase| matches!(phase.kind, PhaseKind::Storm | PhaseKind::Churn) && phase.server.is_some();
    let is_told = |phase: &&Phase| phase.issued.is_some() || under_stress(phase);
    let mut table = empty();
    table.set_header(["PHASE", "CERTIFICATES\nISSUED", "MOST\nRSS", "RSS", "CPU\nSECONDS"]);
    for phase in results.phases.iter().filter(is_told) {
        let of_server = |text: fn(Usage) -> String| phase.server.map_or_else(|| NONE.to_owned(), text);
        table.add_row(numbers(
            1,
            [
                escaped(&phase.name),
                phase.issued.map_or_else(|| NONE.to_owned(), |issued| issued.to_string()),
                of_server(|used| bytes(used.peak_rss_bytes)),
                of_server(|used| bytes(used.rss_bytes)),
                of_server(|used| figure(used.cpu_seconds)),
            ],
        ));
    }
    align_heads(&mut table, 1);
    (table.row_count() > 0).then(|| text(&mut table))
}

fn latencies(results: &Results) -> String {
    let mut table = empty();
    table.set_header(["PHASE", "LATENCY, ms", "COUNT", "MIN", "P50", "P90", "P99", "P99.9", "MAX"]);
    for phase in &results.phases {
        for (name, latency) in &phase.latencies {
            let figures =
                [latency.min_ms, latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.p999_ms, latency.max_ms];
            let names = [escaped(&phase.name), escaped(name), latency.count.to_string()];
            table.add_row(numbers(2, names.into_iter().chain(figures.map(|figure| of_some(latency.count, figure)))));
        }
    }
    align_heads(&mut table, 2);
    text(&mut table)
}

fn counts(head: &str, counts: &[FailureCount]) -> String {
    let mut table = empty();
    table.set_header([head, "COUNT", "EXAMPLE"]);
    for FailureCount { what, count, example } in counts {
        table.add_row([Cell::new(escaped(what)), right(count.to_string()), Cell::new(escaped(example))]);
    }
    text(&mut table)
}

/// A row with `names` texts at its left, and numbers, whose ends are below each other.
fn numbers(names: usize, texts: impl IntoIterator<Item = String>) -> Vec<Cell> {
    let aligned = |(at, text)| if at < names { Cell::new(text) } else { right(text) };
    texts.into_iter().enumerate().map(aligned).collect()
}

fn right(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

/// The heads of numbers are above them.
fn align_heads(table: &mut Table, names: usize) {
    for column in table.column_iter_mut().skip(names) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

fn empty() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(COLUMNS);
    table
}

/// The table with two spaces between its columns, and none at the ends of its lines.
fn text(table: &mut Table) -> String {
    let last = table.column_count().saturating_sub(1);
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if at == last { 0 } else { 2 }));
    }
    table.trim_fmt()
}
