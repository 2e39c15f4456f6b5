//! `envoy-sds serve`: the server.

use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, ServerFlags, runtime};
use crate::app::{App, StartError};
use crate::observe::logging;

/// Serve certificates and trust bundles to Envoys
///
/// With nothing at all, it serves the mesh `default` with a builtin CA, to Envoys on this machine.
#[derive(Debug, Args)]
#[command(after_help = "Example: envoy-sds serve --config server.yaml --resources mesh.yaml\n\n\
                        Flags override the environment, which overrides the file. --listen takes the place of all of the \
                        file's listeners, their TLS included.\nRelative paths, in the file too, are relative to the current \
                        directory.")]
pub(super) struct Serve {
    #[command(flatten)]
    flags: ServerFlags,
}

impl Serve {
    pub(super) fn run(self) -> Result<(), Failure> {
        let config = self.flags.load().map_err(Failure::Configuration)?;
        logging::init(&self.flags.log.level, self.flags.log.format.into()).map_err(anyhow::Error::from)?;
        let runtime = runtime()?;
        let served = runtime.block_on(async {
            let mut stop = std::pin::pin!(stop_signal()?);
            let app = tokio::select! {
                app = App::start(config) => app.map_err(|error| match error {
                    StartError::Configuration(problems) => Failure::Configuration(problems),
                    StartError::Runtime(error) => Failure::Runtime(error),
                })?,
                // Nobody is served yet, so there is nothing to end well.
                signal = &mut stop => {
                    tracing::info!(signal, "told to end before it had started");
                    return Ok(());
                }
            };
            let died = tokio::select! {
                signal = stop => {
                    tracing::info!(signal, "shutting down");
                    None
                }
                died = app.died() => Some(died),
            };
            app.stop().await;
            match died {
                None => Ok(()),
                Some(task) => Err(anyhow!("{task} has ended, without which nothing works; see the log").into()),
            }
        });
        // A read that hangs on a dead file system must not keep the process.
        runtime.shutdown_timeout(Duration::from_secs(1));
        served
    }
}

/// Waits for SIGTERM or SIGINT; a second one ends the program at once.
pub(super) fn stop_signal() -> Result<impl Future<Output = &'static str>, Failure> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    Ok(async move {
        let first = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        #[expect(clippy::disallowed_methods, reason = "it lives until the process ends, and nobody waits for it")]
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::warn!("a second signal: ending at once");
            std::process::exit(1);
        });
        first
    })
}
