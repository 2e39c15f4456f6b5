//! The integration tests: real Envoy, real Kubernetes API server, real cert-manager, each a process of its own.
//!
//! Run them with `tests/run`, which installs those parts first. One binary holds every test, so that they share one
//! cluster; a test that stops something starts a cluster for itself.

mod rig;
#[allow(dead_code, reason = "a rig offers more than the tests of one day use")]
mod support;
