//! `envoy-sds load`: simulated Envoys against any SDS server.

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::parser::ValueSource;
use clap::{Args, CommandFactory, ValueEnum};

use super::load_course::{Behaviour, CourseFlags};
use super::load_identity::{IdentityFlags, TlsFlags};
use super::{Failure, output, runtime};
use crate::config::Endpoint;
use crate::load::progress::Progress;
use crate::load::report::{html, json, table};
use crate::load::results::Results;
use crate::load::{Plan, ServerProcess, Target, Variant, run};
use crate::runtime::clock::Clock;

/// Simulate Envoys against an SDS server, and measure it
///
/// Any SDS server: this one, SPIRE's agent, Istio's, one made with go-control-plane. Every proxy connects, asks for its secrets and stays;
/// then whatever else is asked for happens, one after the other: --trigger, --expect-bundle-pushes, --expect-rotations, --storms,
/// --storm-command, --churn. What the proxies have got is checked each time: the key is the leaf's, the leaf leads to the bundle, the
/// identity stays. The run passes if everything came and nothing was wrong.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    envoy-sds load --proxies 1000\n      \
        1000 Envoys on plain TCP, with what envoy-sds serve --insecure-node-id asks for\n  \
    envoy-sds load --proxies 5000 --like-envoy --tls-ca ca.crt --state-dir /var/lib/envoy-sds sds.example.com:5678\n      \
        5000 with a real Envoy's requests, over TLS, with proxy tokens signed here\n  \
    envoy-sds load --proxies 200 --trigger 'touch ca/rotate' --trigger-changes ROOTCA --server-pid $(pgrep envoy-sds) --html report.html\n      \
        how long a new CA takes to reach all of them, and what that costs the server\n  \
    envoy-sds load --proxies 10000 --reconnect --storm-command 'systemctl restart envoy-sds' --server-admin 127.0.0.1:9901\n      \
        how long it takes until all are served again after a restart, and that it costs no certificate\n  \
    envoy-sds load --proxies 500 --churn 50 --churn-for 1h --timeout 2h unix:/run/envoy-sds/sds.sock\n      \
        an hour in which 50 proxies a second leave and come back\n\n\
    ack is the time from a response to when all of its answer has gone out, the server's windows permitting.\n\
    Exit codes: 0 passed, 1 not, 2 wrong usage")]
pub(super) struct Load {
    /// The server: host:port or unix:PATH
    #[arg(value_name = "TARGET", default_value = "127.0.0.1:5678")]
    target: Endpoint,

    /// How many Envoys
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    proxies: u32,

    /// Connections that they share [default: one each]
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    connections: Option<u32>,

    /// How they ask
    #[arg(long, value_name = "API", default_value = "sotw")]
    api: Api,

    /// Secrets that each asks for; the proxy's number takes the place of "n" in braces
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "default,ROOTCA")]
    names: Vec<String>,

    /// One stream for all names [default: one for each, as Envoy has it]
    #[arg(long)]
    one_stream: bool,

    /// Requests like a real Envoy's: a node of 61 KB in each of them
    #[arg(long)]
    like_envoy: bool,

    #[command(flatten)]
    identity: IdentityFlags,

    #[command(flatten)]
    tls: TlsFlags,

    #[command(flatten)]
    behaviour: Behaviour,

    #[command(flatten)]
    course: CourseFlags,

    #[command(flatten)]
    report: Report,
}

/// How it is told.
#[derive(Debug, Args)]
#[command(next_help_heading = "Results")]
struct Report {
    /// Process of the server, whose memory and CPU are to be measured (Linux)
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,

    /// File with that process's number, which may change when the server is started again
    #[arg(long, value_name = "FILE", conflicts_with = "server_pid")]
    server_pid_file: Option<PathBuf>,

    /// Admin address of an envoy-sds, host:port: how many certificates it issues is told by phase
    #[arg(long, value_name = "HOST:PORT")]
    server_admin: Option<String>,

    /// What is written to stdout
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    output: Format,

    /// Write the results as JSON too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Write a page with plots, which needs nothing else
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Variants of the protocol, by service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Api {
    /// SDS, state of the world.
    Sotw,
    /// SDS, Delta.
    Delta,
    /// ADS, state of the world.
    Ads,
    /// ADS, Delta.
    AdsDelta,
}

/// What is written to stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

impl Load {
    pub(super) fn run(self) -> Result<(), Failure> {
        let plan = self.plan()?;
        let results = runtime()?.block_on(async {
            // Ctrl-C ends the run with what there is; if it cannot be heard, it ends the program.
            let stop = async {
                if tokio::signal::ctrl_c().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let mut progress = Progress::new(plan.proxies as u64, true);
            let results = run(plan, Clock::system(), stop, &mut |sample, phase| progress.update(sample, phase)).await;
            progress.finish();
            results
        });
        self.tell(&results.map_err(|why| anyhow!(why))?)
    }

    fn plan(&self) -> Result<Plan, Failure> {
        let Self { behaviour, course, .. } = self;
        let usage = |what: &str| Err(Failure::Usage(what.to_owned()));
        if behaviour.nack + behaviour.slow > 1.0 {
            return usage("--nack and --slow are together more than all proxies");
        }
        if behaviour.nack >= 1.0 {
            return usage("with --nack 1 nobody is left whose secrets could be checked");
        }
        let shared = self.connections.is_some_and(|connections| connections < self.proxies);
        if behaviour.slow > 0.0 && shared {
            return usage(
                "--slow is for connections of their own: who shares one (--connections) cannot read it slowly alone",
            );
        }
        if behaviour.slow > 0.0 && behaviour.slow_pause.is_zero() && !course.storm_command.is_empty() {
            return usage(
                "with --storm-command, --slow proxies have to look now and then, or they never notice that they were cut off: say \
                 how long they look away (--slow-pause 5s)",
            );
        }
        let names: Vec<String> = self.names.iter().map(|name| name.trim().to_owned()).collect();
        let distinct: HashSet<&String> = names.iter().collect();
        if distinct.len() != names.len() || names.iter().any(String::is_empty) {
            return usage("--names has an empty one in it, or one twice");
        }
        let triggers = course.triggers(&names)?;
        course.is_possible(&names, self.identity.expect_identity.is_some())?;
        self.report.can_be_written()?;
        let proxies = self.proxies as usize;
        let (variant, ads) = match self.api {
            Api::Sotw => (Variant::Sotw, false),
            Api::Delta => (Variant::Delta, false),
            Api::Ads => (Variant::Sotw, true),
            Api::AdsDelta => (Variant::Delta, true),
        };
        Ok(Plan {
            proxies,
            connections: self.connections.map(|connections| connections as usize),
            target: match &self.target {
                Endpoint::Tcp(at) => Target::Tcp(at.host.clone(), at.port),
                Endpoint::Unix(path) => Target::Unix(path.clone()),
            },
            target_text: self.target.to_string(),
            variant,
            ads,
            names: names.iter().map(|name| Arc::from(name.as_str())).collect(),
            one_stream: self.one_stream,
            like_envoy: self.like_envoy,
            node_id: self.identity.node_id.clone(),
            node_cluster: self.identity.node_cluster.clone(),
            tls: self.tls.configs(self.connections.unwrap_or(self.proxies).min(self.proxies) as usize)?,
            server_name: self.tls.server_name.clone(),
            credentials: self.identity.credentials(proxies)?,
            metadata: self.identity.metadata.clone(),
            expect_identity: self.identity.expect_identity.clone(),
            rate: behaviour.rate,
            in_flight: behaviour.in_flight as usize,
            nack: behaviour.nack,
            slow: behaviour.slow,
            slow_pause: behaviour.slow_pause,
            reconnect: behaviour.reconnect,
            forget: behaviour.forget,
            resends: behaviour.resends.into(),
            rest: course.rest,
            triggers,
            bundle_pushes: course.expect_bundle_pushes,
            rotations: course.expect_rotations,
            expect_issued: course.expect_issued,
            storms: course.storms,
            storm_commands: course.storm_command.clone(),
            churn: course.churn.zip(course.churn_for),
            renew_by: course.renew_by,
            server_process: self.report.server_process(),
            server_admin: self.report.server_admin.clone(),
            timeout: course.timeout,
            max_failures: course.max_failures,
            told: told(),
        })
    }

    fn tell(&self, results: &Results) -> Result<(), Failure> {
        // What cannot be written in one place is not to be lost in the others.
        let told = match self.report.output {
            Format::Table => output::text(table(results)),
            Format::Json => output::text(json(results)),
        };
        let as_json = self.report.json.as_ref().map_or(Ok(()), |file| write(file, &json(results)));
        let as_html = self.report.html.as_ref().map_or(Ok(()), |file| write(file, &html(results)));
        told.and(as_json).and(as_html)?;
        if results.passed { Ok(()) } else { Err(anyhow!("the run did not pass: {}", why(results)).into()) }
    }
}

impl Report {
    /// Whether its files can be written: known before the run, which may take hours, and not only after it. What they have in
    /// them stays until then.
    fn can_be_written(&self) -> Result<(), Failure> {
        // Who reads from a pipe would take this for the whole of it.
        let is_kept = |file: &&PathBuf| !file.exists() || file.is_file() || file.is_dir();
        for file in [&self.json, &self.html].into_iter().flatten().filter(is_kept) {
            let opened = OpenOptions::new().create(true).append(true).open(file);
            opened.map_err(|error| Failure::Usage(format!("cannot write {}: {error}", file.display())))?;
        }
        Ok(())
    }

    fn server_process(&self) -> Option<ServerProcess> {
        let in_file = self.server_pid_file.clone().map(ServerProcess::InFile);
        self.server_pid.map(ServerProcess::Numbered).or(in_file)
    }
}

/// The worst of it, in a line.
fn why(results: &Results) -> String {
    match results.failures.first() {
        Some(failure) => failure.in_short(),
        None => "not everything that was waited for came".to_owned(),
    }
}

/// The flags that this process was given, in the order of the help.
fn told() -> Vec<(String, String)> {
    let command = super::Cli::command();
    let flags: Vec<String> = command
        .find_subcommand("load")
        .map(|load| load.get_arguments().map(|flag| flag.get_id().to_string()).collect())
        .unwrap_or_default();
    let Ok(matches) = command.try_get_matches_from(std::env::args_os()) else { return Vec::new() };
    let Some(matches) = matches.subcommand_matches("load") else { return Vec::new() };
    let given = |flag: &&String| matches.value_source(flag).is_some_and(|source| source != ValueSource::DefaultValue);
    let value = |flag: &String| {
        let values = matches.get_raw(flag)?.map(|value| value.to_string_lossy().into_owned());
        Some((flag.replace('_', "-"), values.collect::<Vec<_>>().join(" ")))
    };
    // A header may be a secret, and the target is told before anything else.
    flags
        .iter()
        .filter(|flag| !["metadata", "target"].contains(&flag.as_str()))
        .filter(given)
        .filter_map(value)
        .collect()
}

fn write(file: &PathBuf, text: &str) -> Result<(), Failure> {
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display())).map_err(Failure::from)
}
