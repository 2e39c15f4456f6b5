//! Storms and long runs, on one server each: all proxies come back at once after it was killed, with what they had or with
//! nothing, with its own CA or a real cert-manager; and proxies come and go for as long as you like. It prints what each has
//! shown.
//!
//! `cargo bench --bench storms [-- [--proxies N] [--for DURATION] [--rate R] [--in-flight N] [--json FOLDER] [--client PROGRAM]
//! [--server PROGRAM] [CASE…]]`
//!
//! Without cases, `restart` and `nothing`; `--list` names them. `cert-manager` needs the real parts (`tests/run --parts-only`).
//! Under `cargo test --bench storms`, or with `--smoke`, it only shows that all of it still works: every case, with 20 proxies.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that measures and prints")]
#![expect(clippy::expect_used, clippy::disallowed_methods, reason = "likewise")]
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    missing_docs,
    reason = "the rig is the integration tests', and more than is needed here"
)]

mod line;
#[path = "../common/options.rs"]
mod options;
mod print;
mod run;
mod server;
#[path = "../../tests/it/support/mod.rs"]
mod support;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use options::Common;

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Case {
    /// The server is killed and started again; proxies come back with what they had. The CA is the server's own.
    Restart,
    /// The same, but they have nothing left.
    Nothing,
    /// They have nothing left, and cert-manager is the CA.
    CertManager,
    /// They leave and come back, a few each second, for as long as is said. The CA is the server's own.
    Churn,
}

#[derive(Debug, Parser)]
struct Options {
    /// What happens
    cases: Vec<Case>,
    /// Proxies
    #[arg(long, default_value_t = 10_000)]
    proxies: u64,
    /// How long churn lasts
    #[arg(long = "for", default_value = "10m")]
    lasts: String,
    /// Proxies that leave and come back in a second of churn
    #[arg(long, default_value_t = 50)]
    rate: u64,
    /// limits.issuancesInFlight of the server
    #[arg(long, default_value_t = 64)]
    in_flight: usize,
    /// As a real Envoy: its node of 61 KB in each request
    #[arg(long)]
    like_envoy: bool,
    /// Where to write what the client measured, and its pages
    #[arg(long)]
    json: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

fn main() -> ExitCode {
    let mut options = Options::parse();
    if options.common.list {
        for case in Case::value_variants().iter().filter_map(ValueEnum::to_possible_value) {
            println!("{}: {}", case.get_name(), case.get_help().map(ToString::to_string).unwrap_or_default());
        }
        return ExitCode::SUCCESS;
    }
    if options.common.is_smoke() {
        options.proxies = 20;
        options.lasts = "2s".to_owned();
        options.cases = Case::value_variants().to_vec();
    }
    if options.cases.is_empty() {
        options.cases = vec![Case::Restart, Case::Nothing];
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut code = ExitCode::SUCCESS;
    for case in &options.cases {
        eprintln!("storms: {case:?} with {} proxies", options.proxies);
        if let Err(error) = runtime.block_on(run::run(&options, *case)) {
            eprintln!("storms: {case:?}: {error}");
            code = ExitCode::FAILURE;
        }
    }
    code
}
