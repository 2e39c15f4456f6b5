//! What a server says and does at its start: who else has its state directory or its addresses, and how to go on from there.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use rustix::process::Signal;
use serde_json::Value;

use super::SHUTDOWN;
use super::cli::run;
use crate::support::eventually::eventually;
use crate::support::mesh::builtin_mesh;
use crate::support::process::Process;
use crate::support::server::{NODE_ID, PROGRAM, Server, Settings};
use crate::support::{PATIENCE, http, ports, scratch};

/// A second server with the same state directory, or the same address, ends at once and says which and what to do; one that was
/// killed leaves nothing that keeps its successor from starting.
#[tokio::test]
async fn a_second_server_is_told_whom_it_is_in_the_way_of() {
    let mesh = builtin_mesh("1h");
    let mut server = Server::start(Settings { mesh: &mesh, ..NODE_ID }).await;
    let (dir, state, admin) = (scratch::dir("second"), server.state_dir(), server.admin.to_string());
    let serve = async |state: &Path, admin: &str| {
        let state = state.display().to_string();
        let flags =
            ["serve", "--kubernetes", "off", "--listen", "127.0.0.1:0", "--admin", admin, "--state-dir", &state];
        failed(&run(&flags, &dir, PATIENCE).await)
    };
    let told = serve(&state, "127.0.0.1:0").await;
    assert!(told.contains(&state.display().to_string()) && told.contains("is in use"), "{told}");
    assert!(told.contains("--state-dir"), "{told}");
    let told = serve(&dir.join("state"), &admin).await;
    assert!(told.contains(&format!("cannot listen at {admin}: ")) && told.contains("(--admin, "), "{told}");

    // Commands share it with the server.
    let state_dir = state.display().to_string();
    let issue = ["token", "issue", "--state-dir", &state_dir, "--name", "web-0", "--workload", "web", "--out", "token"];
    assert!(run(&issue, &dir, PATIENCE).await.status.success());
    let lock = state.join("lock").metadata().expect("the lock is there");
    assert_eq!(lock.permissions().mode() & 0o777, 0o600);

    server.kill();
    server.start_again().await;
    server.ready().await;
    assert!(server.stop(SHUTDOWN).await.success());
}

/// What it says on stderr, which is all that there is to it.
fn failed(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The commands for a first Envoy work as they are told, from any folder, also where the server has an address and no socket.
#[tokio::test]
async fn what_a_server_names_for_a_first_envoy_works_as_it_is() {
    let (dir, elsewhere) = (scratch::dir("named"), scratch::dir("elsewhere"));
    let mut command = Command::new(PROGRAM);
    let addresses = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    command.args(["serve", "--kubernetes", "off", "--state-dir", "a state"]).args(addresses).current_dir(&dir);
    let mut server = Process::start("envoy-sds", command, &dir);
    let named = eventually("it says how to connect a first Envoy", PATIENCE, async || {
        server.assert_running();
        let log = server.log();
        let named = log.lines().find_map(|line| line.split_once("to connect a first Envoy: "));
        named.map(|(_, commands)| commands.to_owned()).ok_or(log)
    })
    .await;
    let (prepare, start) = named.rsplit_once(" && ").expect("there are several commands");
    assert_eq!(start, "envoy -c envoy.yaml");
    let programs = Path::new(PROGRAM).parent().expect("it is in a folder").display().to_string();
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap_or_default());
    let done = Command::new("sh").args(["-c", prepare]).current_dir(&elsewhere).env("PATH", path).output();
    let done = done.expect("sh starts");
    assert!(done.status.success(), "{prepare}: {done:?}");
    let bootstrap = std::fs::read_to_string(elsewhere.join("envoy.yaml")).expect("it was written");
    let port = named.split("--server 127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()).expect("it is there");
    assert!(port != "0" && bootstrap.contains(port), "{named}\n{bootstrap}");
    assert!(elsewhere.join("token").is_file());
    assert_eq!(server.stop(SHUTDOWN).await.code(), Some(0), "{}", server.log_tail());
}

/// Whoever interrupts the demo before there was anything to see is told that, and of no error.
#[tokio::test]
async fn a_demo_that_is_interrupted_early_says_so() {
    let dir = scratch::dir("interrupted");
    // An Envoy that takes its time.
    let envoy = dir.join("envoy");
    std::fs::write(&envoy, "#!/bin/sh\nexec sleep 30\n").expect("the scratch folder can be written");
    std::fs::set_permissions(&envoy, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    let mut command = Command::new(PROGRAM);
    command.arg("demo").arg("--envoy").arg(&envoy);
    let mut demo = Process::start("demo", command, &dir);
    eventually("it has begun", PATIENCE, async || {
        demo.assert_running();
        let log = demo.log();
        if log.contains("A server with its own CA") { Ok(()) } else { Err(log) }
    })
    .await;
    demo.signal(Signal::INT);
    let status = eventually("it ends", PATIENCE, async || demo.exited().ok_or_else(|| "it runs".to_owned())).await;
    let log = demo.log();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.ends_with("interrupted before the first request\n") && !log.contains("error"), "{log}");
}

/// A cluster that does not know the kind Mesh: with `kubernetes: on` nothing is made up in its place, as each replica would have
/// another CA; with `auto` it is, and warned of.
#[tokio::test]
async fn no_ca_is_made_up_where_meshes_are_to_be_objects() {
    for (kubernetes, ready) in [("on", false), ("auto", true)] {
        let (dir, admin) = (scratch::dir(kubernetes), SocketAddr::from(([127, 0, 0, 1], ports::free())));
        let (kubeconfig, state) = (dir.join("kubeconfig"), dir.join("state"));
        std::fs::write(&kubeconfig, kubeconfig_of(knows_nothing())).expect("the scratch folder can be written");
        let mut command = Command::new(PROGRAM);
        command.args(["serve", "--kubernetes", kubernetes, "--listen", "127.0.0.1:0"]);
        command
            .args(["--admin", &admin.to_string()])
            .arg("--kubeconfig")
            .arg(&kubeconfig)
            .arg("--state-dir")
            .arg(&state);
        let mut server = Process::start("envoy-sds", command, &dir);
        eventually("it is told what to do", PATIENCE, async || {
            server.assert_running();
            let answer = http::get(admin, "/readyz").await?;
            let body: Value = serde_json::from_str(&answer.body).map_err(|error| error.to_string())?;
            let told = if ready { &body["warnings"]["configuration"][0] } else { &body["reasons"]["meshes"] };
            let says = |text: &str| told.as_str().is_some_and(|told| told.contains(text));
            let all =
                body["ready"] == ready && ["envoy-sds crds", "resources", "clusterResources"].into_iter().all(says);
            if all { Ok(()) } else { Err(format!("{body}\n{}", server.log_tail())) }
        })
        .await;
        assert!(server.log().contains("WARN no resource files are named"), "{}", server.log_tail());
        assert_eq!(state.join("ca").exists(), ready);
        assert_eq!(server.stop(SHUTDOWN).await.code(), Some(0), "{}", server.log_tail());
    }
}

/// An API server that has nothing of what it is asked for.
fn knows_nothing() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let address = listener.local_addr().expect("it is bound");
    // It ends with the tests.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                while stream.read_line(&mut line).is_ok_and(|read| read > 2) {
                    line.clear();
                }
                let answer = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                let _ = stream.get_mut().write_all(answer.as_bytes()); // who has gone needs none
            });
        }
    });
    address
}

fn kubeconfig_of(server: SocketAddr) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{server: 'http://{server}'}}}}]\n\
         users: [{{name: u, user: {{}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n"
    )
}
