//! Commands that end by themselves.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use crate::support::mesh::builtin_mesh;
use crate::support::server::PROGRAM;
use crate::support::{parts, scratch};

/// Runs the program to its end, with nothing from this environment that it could take for configuration.
pub(super) async fn run(arguments: &[&str], dir: &Path, deadline: Duration) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).current_dir(dir).kill_on_drop(true).env_clear();
    command.env("HOME", dir).env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let output = timeout(deadline, command.output()).await.expect("it ends by itself in time");
    output.expect("it starts")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// `check` finds nothing in good files and ends with 0; in bad ones it tells every error at once, with file, line and
/// field, and ends with 64.
#[tokio::test]
async fn check_tells_every_error_at_once() {
    let dir = scratch::dir("check");
    let minute = Duration::from_secs(60);
    let write = |name: &str, text: &str| fs::write(dir.join(name), text).expect("the scratch folder can be written");
    write("mesh.yaml", &builtin_mesh("1h"));
    write(
        "server.yaml",
        "listeners: [{address: 127.0.0.1:0}]\nkubernetes: off\nresources: [mesh.yaml]\nstateDir: state\n",
    );
    let good = run(&["check", "--config", "server.yaml"], &dir, minute).await;
    assert_eq!(good.status.code(), Some(0), "{}", text(&good));

    write(
        "server.yaml",
        "listeners: [{address: 127.0.0.1:0}]\nlisten: nowhere\nkubernetes: off\nresources: [mesh.yaml]\nstateDir: state\n",
    );
    write(
        "mesh.yaml",
        "type: Mesh
name: default
mtls:
  enabledBackend: ca-9
  backends:
  - name: ca-1
    type: builtin
    dpCert: {rotation: {expiration: soon}}
    colour: blue
",
    );
    let bad = run(&["check", "--config", "server.yaml"], &dir, minute).await;
    let told = text(&bad);
    assert_eq!(bad.status.code(), Some(64), "{told}");
    for (file, line, part) in
        [("server.yaml", 2, "listen"), ("mesh.yaml", 4, "ca-9"), ("mesh.yaml", 8, "soon"), ("mesh.yaml", 9, "colour")]
    {
        let place = format!("{file}:{line}");
        let found = told.lines().any(|told| told.contains(&place) && told.contains(part));
        assert!(found, "nothing about {part} at {place}:\n{told}");
    }
    let served = run(&["serve", "--config", "server.yaml"], &dir, minute).await;
    assert_eq!(served.status.code(), Some(64), "{}", text(&served));
    assert!(text(&served).contains("server.yaml:2"), "{}", text(&served));

    let usage = run(&["serve", "--no-such-flag"], &dir, minute).await;
    assert_eq!(usage.status.code(), Some(2), "{}", text(&usage));
}

/// The demo runs the server and two Envoys for as long as it is told to, and ends well.
#[tokio::test]
async fn the_demo_runs_for_a_while_and_ends_well() {
    let dir = scratch::dir("demo");
    let envoy = parts::program("envoy").display().to_string();
    let demo = run(&["demo", "--for", "10s", "--envoy", &envoy], &dir, Duration::from_secs(90)).await;
    assert_eq!(demo.status.code(), Some(0), "{}", text(&demo));
}
