//! The test rig: starts the real parts and looks at them from outside.

pub mod bootstrap;
pub mod cluster;
pub mod deployment;
pub mod docker;
pub mod envoy;
pub mod eventually;
pub mod fleet;
pub mod http;
pub mod in_flight;
pub mod ledger;
pub mod mesh;
pub mod parts;
pub mod pipes;
pub mod pki;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod scratch;
pub mod sds;
pub mod server;
pub mod strangers;
pub mod traffic;
pub mod upstream;
pub mod wire;

use std::sync::Once;
use std::time::Duration;

/// How long a test waits for something that should take moments. Wide, because a loaded machine with two cores runs
/// other tests at the same time; a passing test never waits for it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Makes aws-lc-rs the process's TLS provider; every way into the rig that needs TLS calls it.
pub fn crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        rustls::crypto::aws_lc_rs::default_provider()
            .install_default()
            .expect("no other TLS provider is installed in this process");
    });
}
