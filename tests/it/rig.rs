//! Tests of the test rig: that the real parts do what the other tests take for granted.

mod cluster;
mod envoy;
mod issuers;
mod pipes;
mod process;
