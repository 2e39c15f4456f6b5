//! `envoy-sds serve` with nothing at all.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use tonic::Code;

use super::{SHUTDOWN, cli};
use crate::support::eventually::eventually;
use crate::support::process::Process;
use crate::support::sds::{self, Caller};
use crate::support::server::PROGRAM;
use crate::support::{PATIENCE, http, scratch};

const SDS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 5678);
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 5681);

/// Without a flag, a file or a variable it serves the mesh `default` with a CA of its own making on the documented
/// addresses, believes nobody without a proof, says how to get the first Envoy connected, and ends when asked to.
#[tokio::test]
async fn serve_works_without_any_configuration() {
    // These ports are part of the interface, so this test needs them: whoever has them may be another test run.
    eventually("ports 5678 and 5681 of this machine are free", PATIENCE, async || {
        [SDS, ADMIN].iter().try_for_each(|port| TcpListener::bind(port).map(drop)).map_err(|error| error.to_string())
    })
    .await;
    let dir = scratch::dir("default");
    // The socket's path has a limit, wherever the checkout is.
    let home = tempfile::Builder::new().prefix("sds").tempdir().expect("a temporary folder can be made");
    let mut command = Command::new(PROGRAM);
    command.arg("serve").current_dir(&dir).env_clear().env("HOME", home.path());
    let mut process = Process::start("envoy-sds", command, &dir);
    eventually("it is ready", PATIENCE, async || {
        process.assert_running();
        let answer = http::get(ADMIN, "/readyz").await?;
        if answer.status == 200 { Ok(()) } else { Err(format!("{}\n{}", answer.body, process.log_tail())) }
    })
    .await;
    let state = home.path().join(".local/state/envoy-sds");
    let socket = state.join("sds.sock");
    let key = find(&state, "ca.key").expect("the CA's key is kept");
    assert_eq!(key.metadata().expect("it is there").permissions().mode() & 0o777, 0o600);

    let caller = Caller { node: "web", workload: "web", token: None };
    let refused = sds::fetch(&socket, caller, &["default", "ROOTCA"]).await.expect_err("nothing proves who this is");
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
    // The command that it names.
    let hint = format!("token issue --state-dir {} --name web-0 --workload web --out token", state.display());
    let started = format!("envoy-sds bootstrap --server unix:{} --folder . && envoy -c envoy.yaml", socket.display());
    assert!(process.log().contains(&format!("envoy-sds {hint} && {started}")), "{}", process.log());
    let issued = cli::run(&hint.split(' ').collect::<Vec<_>>(), &dir, PATIENCE).await;
    assert!(issued.status.success() && issued.stdout.is_empty(), "{issued:?}");
    let token = dir.join("token");
    assert_eq!(token.metadata().expect("it is there").permissions().mode() & 0o777, 0o600);
    let token = std::fs::read_to_string(token).expect("a token is text");
    let caller = Caller { token: Some(&token), ..caller };
    let served = sds::fetch(&socket, caller, &["default", "ROOTCA"]).await.expect("it proves who this is");
    assert_eq!(served.len(), 2);
    assert!(std::net::TcpStream::connect(SDS).is_ok(), "SDS is on {SDS}");
    let page = http::get(ADMIN, "/").await.expect("there is a status page");
    assert!(page.status == 200 && page.body.contains("default"), "{page:?}");

    let log = process.log();
    assert!(!log.contains("PRIVATE KEY"), "{log}");
    assert_eq!(process.stop(SHUTDOWN).await.code(), Some(0), "{}", process.log_tail());
}

fn find(dir: &std::path::Path, name: &str) -> Option<std::fs::File> {
    std::fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path()).find_map(|path| {
        if path.is_dir() { find(&path, name) } else { path.ends_with(name).then(|| std::fs::File::open(path).ok())? }
    })
}
