//! The `envoy-sds` program.

use std::process::ExitCode;

use clap::Parser;
use envoy_sds::cli::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // The first call decides for the whole process, and this is the first; an error would mean that it is decided.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    cli.run()
}
