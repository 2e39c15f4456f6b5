//! Our server and one made with go-control-plane, the library that most SDS servers are made with, side by side: the same
//! client against each, a fresh server for each run, turn by turn. It prints a table in Markdown, and writes all that was
//! measured as JSON.
//!
//! `cargo bench --bench compare [-- [--runs N] [--proxies N] [--json FILE] [--client PROGRAM] [--server PROGRAM] [CASE…]]`
//!
//! Without cases, all that the table needs; `--list` names them. `--client` and `--server` take builds of envoy-sds other
//! than this one. It needs Go, which builds the peer (`peer/`), and as many file descriptors as there are proxies.
//!
//! Under `cargo test --bench compare`, or with `--smoke`, it only shows that all of it still works: one run of each kind of
//! case, with 20 proxies.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that measures and prints")]

mod cases;
mod client;
mod figures;
#[path = "../common/options.rs"]
mod options;
#[path = "../../tests/it/support/pki.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::expect_used,
    reason = "the integration tests', and more than is needed here"
)]
mod pki;
#[path = "../../tests/it/support/process.rs"]
#[allow(dead_code, unreachable_pub, clippy::expect_used, reason = "likewise")]
mod process;
mod report;
mod servers;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Parser;

use cases::{CASES, Case, FEW, When};
use figures::Figures;
use options::Common;
use report::{Report, Run, Scene};
use servers::{Server, Side};

#[derive(Debug, Parser)]
struct Options {
    /// Cases by name, or by a part of it
    cases: Vec<String>,
    /// Runs of each case; the table has their medians
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// As many proxies in every case
    #[arg(long)]
    proxies: Option<u64>,
    /// Where to write everything [default: compare.json in Cargo's target folder]
    #[arg(long)]
    json: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if options.common.list {
        CASES
            .iter()
            .for_each(|case| println!("{}{}", case.name, if case.when == When::Named { " (if named)" } else { "" }));
        return ExitCode::SUCCESS;
    }
    match compare(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(options: &Options) -> Result<(), String> {
    let smoke = options.common.is_smoke();
    let (runs, proxies) = if smoke { (1, Some(FEW)) } else { (options.runs, options.proxies) };
    let is_wanted = |case: &&Case| match options.cases.as_slice() {
        [] if smoke => case.when == When::Always,
        [] => case.when != When::Named,
        parts => parts.iter().any(|part| case.name.contains(part.as_str())),
    };
    let cases: Vec<&Case> = CASES.iter().filter(is_wanted).collect();
    if cases.is_empty() {
        return Err("there is no such case; --list names them".to_owned());
    }
    let target = target_folder();
    let peer = build_peer(&target)?;
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let mut report = Report::new(Scene::now(&arguments, runs, proxies));
    let mut failed = Vec::new();
    for number in 1..=runs {
        for case in &cases {
            // Who is first has the warmer or the colder machine, so they take turns.
            let sides = if number % 2 == 1 { [Side::Peer, Side::Ours] } else { [Side::Ours, Side::Peer] };
            for side in sides {
                let proxies = proxies.unwrap_or(case.proxies);
                eprintln!("compare: run {number} of {runs}: {} with {proxies} proxies, {side:?}", case.name);
                match run(options, &peer, case, proxies, side) {
                    Ok(run) => report.add(run),
                    Err(error) => {
                        eprintln!("compare: {error}");
                        failed.push(format!("{}, {side:?}", case.name));
                    }
                }
            }
        }
    }
    let file = options.json.clone().unwrap_or_else(|| target.join("compare.json"));
    fs::write(&file, report.to_json()?).map_err(|error| format!("{}: {error}", file.display()))?;
    println!("{}", report.to_markdown());
    eprintln!("compare: everything is in {}", file.display());
    if failed.is_empty() { Ok(()) } else { Err(format!("these runs have failed: {}", failed.join("; "))) }
}

fn run(options: &Options, peer: &Path, case: &'static Case, proxies: u64, side: Side) -> Result<Run, String> {
    let wrong = |error: String| format!("{}, {side:?}: {error}", case.name);
    let mut server = match side {
        Side::Ours => Server::ours(&options.common.server, case),
        Side::Peer => Server::peer(peer, case),
    }
    .map_err(wrong)?;
    let results = client::run(&options.common.client, case, proxies, &server.target)
        .map_err(|error| wrong(format!("{error}\nThe server: {}", server.log())))?;
    let memory = server.memory().map_err(wrong)?;
    let mut figures = Figures::new();
    figures::add(&mut figures, &results, memory);
    match figures::missing(&figures, case.rotates).as_slice() {
        [] => {}
        missing => return Err(wrong(format!("the client does not say: {}", missing.join(", ")))),
    }
    Ok(Run { case: case.name, side, server: server.command.clone(), memory, results })
}

/// Cargo's `target`, where this program is in `PROFILE/deps`.
fn target_folder() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    program.ancestors().nth(3).map_or_else(|| "target".into(), Path::to_path_buf)
}

/// Builds the peer; Go does so anew only if something has changed.
fn build_peer(target: &Path) -> Result<PathBuf, String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/compare/peer");
    let program = target.join("compare-peer");
    eprintln!("compare: go build {}", source.display());
    let mut command = Command::new("go");
    command.arg("build").arg("-C").arg(&source).args(["-trimpath", "-o"]).arg(&program).arg(".");
    let status = command.status().map_err(|error| format!("go, which the peer is built with: {error}"))?;
    if status.success() { Ok(program) } else { Err(format!("the peer is not built: {command:?}")) }
}
