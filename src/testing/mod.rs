//! What the unit tests of several modules share. Compiled for tests only.

pub(crate) mod asked;
pub(crate) mod certs;
pub(crate) mod fake_cluster;
