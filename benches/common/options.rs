//! What benchmarks that start programs are told alike.

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct Common {
    /// The envoy-sds that is the client
    #[arg(long, default_value = env!("CARGO_BIN_EXE_envoy-sds"))]
    pub(crate) client: String,
    /// The envoy-sds that is measured
    #[arg(long, default_value = env!("CARGO_BIN_EXE_envoy-sds"))]
    pub(crate) server: String,
    /// Only see whether it works
    #[arg(long)]
    smoke: bool,
    /// Name the cases
    #[arg(long)]
    pub(crate) list: bool,
    /// What `cargo bench` says, and `cargo test` does not
    #[arg(long, hide = true)]
    bench: bool,
}

impl Common {
    /// Whether nothing is to be measured.
    pub(crate) fn is_smoke(&self) -> bool {
        self.smoke || !self.bench
    }
}
