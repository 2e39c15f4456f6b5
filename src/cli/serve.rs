//! `envoy-sds serve`: the server.

use clap::Args;

use super::{Failure, ServerFlags};

/// Serve certificates and trust bundles to Envoys
///
/// With nothing at all, it serves the mesh `default` with a builtin CA, to Envoys on this machine.
#[derive(Debug, Args)]
#[command(after_help = "Example: envoy-sds serve --config server.yaml --resources mesh.yaml --listen 0.0.0.0:5678\n\n\
                        Flags override the environment, which overrides the file. Relative paths, in the file too, are \
                        relative to the current directory.")]
pub(super) struct Serve {
    #[command(flatten)]
    flags: ServerFlags,
}

impl Serve {
    pub(super) fn run(self) -> Result<(), Failure> {
        run(&self.flags)
    }
}

fn run(flags: &ServerFlags) -> Result<(), Failure> {
    let _config = flags.load().map_err(Failure::Configuration)?;
    Err(anyhow::anyhow!("serve is being wired").into())
}
