//! What Compose v2 says of the compose files, which the other tests run with docker-compose 1.29. Its loader alone is asked, so
//! there needs to be no Docker.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{parts, scratch};

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");

/// Whether it takes the file without a warning (or one of ours), and what it says.
fn loads(file: &Path) -> (bool, String) {
    let output = Command::new(parts::program("compose-loader"))
        .arg(file)
        .env_clear() // whose variables could stand in for missing defaults
        .output()
        .expect("the loader starts");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn compose_v2_loads_each_file_without_a_warning() {
    for file in ["docker-compose.yml", "docker-compose.local.yml"] {
        assert_eq!(loads(&Path::new(REPOSITORY).join(file)), (true, String::new()), "{file}");
    }
}

/// docker-compose 1.29 takes each of these.
#[test]
fn what_compose_v2_minds_is_found() {
    let file = scratch::dir("newer-compose").join("docker-compose.yml");
    for (minded, text) in [
        ("`version` is obsolete", "version: '3'\nservices: {web: {image: web}}\n"),
        ("has no `pull_policy: never`", "services: {web: {image: web, build: {context: .}}}\n"),
        ("variable is not set", "services: {web: {image: \"web:$NONE\"}}\n"),
    ] {
        fs::write(&file, text).expect("the scratch folder can be written");
        let (taken, said) = loads(&file);
        assert!(!taken && said.contains(minded), "{text}: {said}");
    }
}
