//! `envoy-sds demo`: everything on one machine.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::Failure;
use crate::model::duration;

/// Show it on this machine: a server, two Envoys, mTLS between them, rotation to watch
#[derive(Debug, Args)]
#[command(after_help = "Example: envoy-sds demo --for 1m")]
pub(super) struct Demo {
    /// The Envoy to run [default: envoy, as found in PATH]
    #[arg(long, env = "ENVOY_SDS_ENVOY", value_name = "PATH")]
    envoy: Option<PathBuf>,

    /// End after this time, such as 30s or 5m [default: run until interrupted]
    #[arg(long = "for", value_name = "DURATION", value_parser = duration::parse)]
    run_for: Option<Duration>,
}

impl Demo {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { envoy, run_for } = self;
        Err(anyhow::anyhow!("demo is being wired (envoy {envoy:?}, for {run_for:?})").into())
    }
}
