//! `envoy-sds load`: many simulated Envoys against any SDS server, and what they have measured.

pub mod progress;
pub mod report;
pub mod results;
