//! The integration tests: real Envoy, real Kubernetes API server, real cert-manager, each a process of its own.
//!
//! Run them with `tests/run`, which installs those parts first. One binary holds every test, so that they share one
//! cluster; a test that stops something starts a cluster for itself.

// Clippy's own exception for tests covers test functions only, not what they call.
#![allow(clippy::expect_used, reason = "in a test, to fail with a message is the right answer to the unexpected")]
#![allow(clippy::disallowed_methods, reason = "the tests watch real processes, in real time and with their own tasks")]
#![allow(clippy::print_stdout, reason = "only a failed test's output is shown")]

mod architecture;
mod conformance;
mod docs;
mod e2e;
mod rig;
mod rules;
#[allow(dead_code, unreachable_pub, reason = "a rig offers more than the tests of one day use")]
mod support;
mod vendored;
