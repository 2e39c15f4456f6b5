//! Generates the request messages that this server reads from `proto/`, without `protoc`.

use std::error::Error;

/// The root files; what they import is found from there.
const PROTOS: [&str; 1] = ["envoy/service/secret/v3/sds.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    // Messages only: `src/serve/wire` says why the services are routed by hand.
    prost_build::Config::new().include_file("proto.rs").compile_fds(descriptors)?;
    Ok(())
}
