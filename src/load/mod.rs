//! `envoy-sds load`: many simulated Envoys against any SDS server, and what they have measured.

pub mod results;
