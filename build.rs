//! Generates the messages that this server reads and writes from `proto/`, without `protoc`.

use std::env;
use std::error::Error;
use std::fs;
use std::path::Path;

use prost::Message;

/// The root files of the xDS side; what they import is found from there.
const SDS: [&str; 1] = ["envoy/service/secret/v3/sds.proto"];

/// Those of the admin API.
const ADMIN: [&str; 2] = ["envoy_sds/admin/v1/admin.proto", "envoy/service/status/v3/csds.proto"];

/// What a simulated Envoy reads and writes.
const LOAD: [&str; 1] = ["envoy_sds/load/v1/client.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    // Messages only: `src/serve/wire` says why the services are routed by hand.
    // What a client writes into an error may hold a private key, so how that is shown is written by hand.
    prost_build::Config::new()
        .skip_debug([".google.rpc.Status"])
        .include_file("proto.rs")
        .compile_fds(protox::compile(SDS, ["proto"])?)?;

    let out = Path::new(&env::var("OUT_DIR")?).join("load");
    fs::create_dir_all(&out)?;
    // A secret's content is a slice of what was received, and never shown.
    prost_build::Config::new()
        .bytes(["."])
        .skip_debug([".envoy_sds.load.v1.Any", ".envoy_sds.load.v1.DataSource"])
        .out_dir(&out)
        .include_file("load.rs")
        .compile_fds(protox::compile(LOAD, ["proto"])?)?;

    let out = Path::new(&env::var("OUT_DIR")?).join("admin");
    fs::create_dir_all(&out)?;
    let mut descriptors = protox::compile(ADMIN, ["proto"])?;
    tonic_prost_build::configure().out_dir(&out).include_file("admin.rs").compile_fds(descriptors.clone())?;
    // For reflection, which has no use for comments.
    descriptors.file.iter_mut().for_each(|file| file.source_code_info = None);
    fs::write(out.join("descriptors.binpb"), descriptors.encode_to_vec())?;
    Ok(())
}
