//! The `envoy-sds` program.

fn main() {}
