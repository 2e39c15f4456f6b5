//! The table, and what has to be known to read it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::process::Command;

use envoy_sds::load::results::Results;
use envoy_sds::runtime::clock::Clock;
use serde::Serialize;

use crate::cases::{APART, GROWS, GROWTH, Goal, ROWS, Row};
use crate::figures::{self, Figure, Figures};
use crate::servers::{Memory, Side};

/// Where and when it was.
#[derive(Debug, Serialize)]
pub(crate) struct Scene {
    date: String,
    machine: String,
    kernel: String,
    /// Load of the machine before anything was started, over one minute: what else was running.
    load_before: String,
    envoy_sds: String,
    peer: String,
    command: String,
    runs: usize,
    /// In every case, if not what the case itself has: nothing to compare with the goals then.
    proxies: Option<u64>,
}

/// One run of one server.
#[derive(Debug, Serialize)]
pub(crate) struct Run {
    pub(crate) case: &'static str,
    pub(crate) side: Side,
    /// The server's command line, without its folder.
    pub(crate) server: String,
    pub(crate) memory: Memory,
    pub(crate) results: Results,
}

/// All that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    scene: Scene,
    runs: Vec<Run>,
}

impl Scene {
    pub(crate) fn now(arguments: &[String], runs: usize, proxies: Option<u64>) -> Self {
        let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
        let (cpus, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
        let cores = cpus.lines().filter(|line| line.starts_with("processor")).count();
        let memory: f64 = memory.split_whitespace().nth(1).and_then(|kilobytes| kilobytes.parse().ok()).unwrap_or(0.0);
        let go = Command::new("go").args(["env", "GOVERSION"]).output().map(|output| output.stdout).unwrap_or_default();
        let profile = if cfg!(debug_assertions) { " (debug build: of no use as a measurement)" } else { "" };
        let library = include_str!("peer/go.mod").lines().map(str::trim).find(|line| line.starts_with("github.com"));
        Self {
            date: Clock::system().now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
            machine: format!(
                "{cores} × {}, {:.0} GiB",
                model.trim_start_matches([':', ' ', '\t']).trim(),
                memory / f64::from(1 << 20)
            ),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_before: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
            envoy_sds: format!("{}{profile}", env!("CARGO_PKG_VERSION")),
            peer: format!("{}, {}", library.unwrap_or_default(), String::from_utf8_lossy(&go).trim()),
            command: ["cargo bench --bench compare --"]
                .into_iter()
                .chain(arguments.iter().map(String::as_str))
                .collect::<Vec<_>>()
                .join(" "),
            runs,
            proxies,
        }
    }
}

impl Report {
    pub(crate) fn new(scene: Scene) -> Self {
        Self { scene, runs: Vec::new() }
    }

    pub(crate) fn add(&mut self, run: Run) {
        self.runs.push(run);
    }

    /// All of it, for whoever wants to look closer.
    pub(crate) fn to_json(&self) -> Result<String, String> {
        serde_json::to_string_pretty(self).map_err(|error| error.to_string())
    }

    /// The tables. A row whose case was not run is left out.
    pub(crate) fn to_markdown(&self) -> String {
        let Scene { date, machine, kernel, load_before, envoy_sds, peer, command, runs, proxies } = &self.scene;
        let with = proxies.map(|proxies| format!(", **{proxies} proxies in every case**")).unwrap_or_default();
        let mut text = format!(
            "{date}, {machine}, Linux {kernel} (load before: {load_before}), envoy-sds {envoy_sds}, peer {peer}; \
             medians of {runs} runs, each with a fresh server{with}; `{command}`\n\n{}\n\n\
             | | peer | ours | ours / peer | must | bold | |\n|---|---|---|---|---|---|---|\n",
            self.servers()
        );
        let measured = self.figures();
        let of = |case: &str, side, figure: Figure| {
            let figures: &Figures = measured.get(&(case.to_owned(), side))?;
            figure.of_all(figures.get(&figure)?)
        };
        for row in ROWS {
            let [peer, ours] = [Side::Peer, Side::Ours].map(|side| of(row.case, side, row.figure));
            if let (Some(peer), Some(ours)) = (peer, ours) {
                line(&mut text, row, [peer, ours], proxies.is_none());
            }
        }
        text.push_str(
            "| rate through cert-manager / of a bare client | | | `cargo bench --bench cert_manager` | 0.90 | 0.97 | |\n",
        );
        text.push_str(&growth(of, proxies.is_some()));
        for (case, what) in APART {
            let lines: Vec<String> = figures::ALL
                .into_iter()
                .filter_map(|figure| Some(apart(figure, of(case, Side::Peer, figure)?, of(case, Side::Ours, figure)?)))
                .collect();
            if !lines.is_empty() {
                let _ =
                    write!(text, "\n{what}:\n\n| | peer | ours | ours / peer |\n|---|---|---|---|\n{}", lines.concat());
            }
        }
        text
    }

    /// How the servers were started.
    fn servers(&self) -> String {
        let of = |side| {
            let lines: BTreeSet<&str> =
                self.runs.iter().filter(|run| run.side == side).map(|run| run.server.as_str()).collect();
            lines.iter().map(|line| format!("`{line}`")).collect::<Vec<_>>().join(" or ")
        };
        format!("Ours: {}. The peer, which logs nothing: {}.", of(Side::Ours), of(Side::Peer))
    }

    fn figures(&self) -> BTreeMap<(String, Side), Figures> {
        let mut all: BTreeMap<(String, Side), Figures> = BTreeMap::new();
        for run in &self.runs {
            figures::add(all.entry((run.case.to_owned(), run.side)).or_default(), &run.results, run.memory);
        }
        all
    }
}

/// What each proxy costs with so many of them, ours and the peer's; nothing unless there are two numbers at least to compare.
fn growth(of: impl Fn(&str, Side, Figure) -> Option<f64>, is_smoke: bool) -> String {
    let measured: Vec<_> =
        GROWTH.iter().filter(|(case, _)| of(case, Side::Ours, Figure::RestMemory).is_some()).collect();
    if measured.len() < 2 || is_smoke {
        return String::new();
    }
    let cell = |figure: Figure, value: Option<f64>| value.map_or("–".to_owned(), |value| shown(value, figure));
    let mut text = "\nBy the number of proxies, each without a shared connection or TLS:\n\n| proxies |".to_owned();
    GROWS.iter().for_each(|figure| text.push_str(&format!(" {}: ours | peer's |", figure.what())));
    text.push_str(&format!("\n|{}\n", "---|".repeat(1 + 2 * GROWS.len())));
    for (case, proxies) in measured {
        text.push_str(&format!("| {proxies} |"));
        for figure in GROWS {
            let [ours, peer] = [Side::Ours, Side::Peer].map(|side| cell(figure, of(case, side, figure)));
            text.push_str(&format!(" {ours} | {peer} |"));
        }
        text.push('\n');
    }
    text
}

fn line(text: &mut String, row: &Row, [peer, ours]: [f64; 2], judged: bool) {
    let ratio = ratio(peer, ours);
    let (must, bold) = match row.goal {
        Goal::Ratio(must, bold) => (format!("{must:.2}"), format!("{bold:.2}")),
        Goal::Must(must) => (format!("{must:.2}"), String::new()),
        Goal::Zero => ("0".to_owned(), "0".to_owned()),
        Goal::Known => Default::default(),
    };
    let mark = match (row.goal, ratio) {
        _ if !judged => "",
        (Goal::Known, _) => "",
        (Goal::Ratio(_, bold), Some(ratio)) if ratio <= bold => "bold",
        (Goal::Ratio(must, _) | Goal::Must(must), Some(ratio)) if ratio <= must => "must",
        (Goal::Zero, _) if ours == 0.0 => "bold",
        _ => "**missed**",
    };
    let cells = cells(row.figure, peer, ours);
    let _ = writeln!(text, "| {} | {cells} | {must} | {bold} | {mark} |", row.what);
}

/// A line of a table without goals.
fn apart(figure: Figure, peer: f64, ours: f64) -> String {
    format!("| {} | {} |\n", figure.what(), cells(figure, peer, ours))
}

/// Both values and their ratio.
fn cells(figure: Figure, peer: f64, ours: f64) -> String {
    let ratio = ratio(peer, ours).map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
    format!("{} | {} | {ratio}", shown(peer, figure), shown(ours, figure))
}

/// Ours by the peer's, which may have been too little to be measured.
fn ratio(peer: f64, ours: f64) -> Option<f64> {
    (peer > 0.0).then(|| ours / peer)
}

/// Three significant figures and the unit.
fn shown(value: f64, figure: Figure) -> String {
    let digits = match value.abs() {
        _ if figure == Figure::Unchanged => 0,
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$} {}", figure.unit()).trim_end().to_owned()
}
