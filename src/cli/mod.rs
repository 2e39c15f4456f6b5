//! The command line: what each command reads, and how it ends. One file per command.

mod admin_api;
mod bootstrap;
mod check;
mod crds;
mod demo;
mod flags;
mod load;
mod load_course;
mod load_identity;
mod output;
mod proxies;
mod proxy_json;
mod proxy_table;
mod ready;
mod refusals;
mod rotate;
mod serve;
mod table;
mod token;

use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

pub use flags::{KubernetesMode, LogFlags, LogFormat, ServerFlags};

use crate::model::diagnostic::Problem;

/// Exit code of a run that was refused because of what is configured (`EX_USAGE` of sysexits.h).
const BAD_CONFIGURATION: u8 = 64;

/// Exit code of wrong usage, which is clap's.
const BAD_USAGE: u8 = 2;

/// An xDS secret discovery (SDS) server for Envoy that gets workload certificates through cert-manager
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example: envoy-sds serve\n  starts with a builtin CA, for Envoys on this machine; see also envoy-sds serve --help\n\n\
                  Exit codes: 0 done, 1 failed at run time, 2 wrong usage, 64 bad configuration"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Demo(demo::Demo),
    Load(Box<load::Load>),
    Check(check::Check),
    Bootstrap(Box<bootstrap::Bootstrap>),
    Crds(crds::Crds),
    Proxies(proxies::Proxies),
    Ready(ready::Ready),
    Rotate(rotate::Rotate),
    Token(token::Token),
}

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub enum Failure {
    /// What is configured is wrong; nothing was started.
    Configuration(Vec<Problem>),
    /// What was asked for cannot be, which clap could not tell.
    Usage(String),
    /// Nothing went wrong, and nothing came of it: somebody ended it too soon.
    Interrupted(&'static str),
    /// Something went wrong at run time.
    Runtime(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Runtime(error)
    }
}

impl Cli {
    /// Runs the command to its end; what went wrong is on stderr then.
    pub fn run(self) -> ExitCode {
        let result = match self.command {
            Command::Serve(command) => command.run(),
            Command::Demo(command) => command.run(),
            Command::Load(command) => command.run(),
            Command::Check(command) => command.run(),
            Command::Bootstrap(command) => command.run(),
            Command::Crds(command) => command.run(),
            Command::Proxies(command) => command.run(),
            Command::Ready(command) => command.run(),
            Command::Rotate(command) => command.run(),
            Command::Token(command) => command.run(),
        };
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(Failure::Configuration(problems)) => {
                for problem in &problems {
                    output::error(problem);
                }
                output::error(counted(problems.len(), "problem"));
                ExitCode::from(BAD_CONFIGURATION)
            }
            Err(Failure::Usage(what)) => {
                output::error(format_args!("error: {what}"));
                ExitCode::from(BAD_USAGE)
            }
            Err(Failure::Interrupted(when)) => {
                output::error(when);
                ExitCode::FAILURE
            }
            Err(Failure::Runtime(error)) => {
                output::error(format_args!("error: {error:#}"));
                ExitCode::FAILURE
            }
        }
    }
}

/// The runtime that every command that waits for something runs on.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?)
}

/// `1 mesh`, `2 problems`.
fn counted(count: usize, what: &str) -> String {
    match (count, what) {
        (1, _) => format!("1 {what}"),
        (_, "mesh") => format!("{count} meshes"),
        (_, "proxy") => format!("{count} proxies"),
        _ => format!("{count} {what}s"),
    }
}

#[cfg(test)]
mod reference_tests;
#[cfg(test)]
mod tests;
