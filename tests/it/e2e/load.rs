//! `envoy-sds load` against a good server, in every way that it can connect, and against one that is not.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::SHUTDOWN;
use super::cli::run;
use crate::support::eventually::eventually;
use crate::support::mesh::builtin_mesh;
use crate::support::pipes::Pipes;
use crate::support::pki::{Leaf, TestCa};
use crate::support::process::Process;
use crate::support::server::{Listeners, NODE_ID, PROGRAM, Server, Settings};
use crate::support::{PATIENCE, scratch};

const DEADLINE: Duration = Duration::from_secs(90);

/// Runs it with these arguments; gives what it said, and its exit code.
pub(super) async fn load(arguments: &[&str], dir: &Path) -> (Value, Option<i32>) {
    let mut common = vec!["load", "--output", "json"];
    for (flag, value) in [("--rest", "0s"), ("--timeout", "60s")] {
        if !arguments.contains(&flag) {
            common.extend([flag, value]);
        }
    }
    let Output { status, stdout, stderr } = run(&[&common, arguments].concat(), dir, DEADLINE).await;
    let told = serde_json::from_slice(&stdout);
    let told = told.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&stderr)));
    let text = String::from_utf8_lossy(&stdout);
    assert!(!text.contains("PRIVATE KEY") && !text.contains("eyJ"), "no key and no token is told");
    (told, status.code())
}

/// The same, for a run that has to pass.
async fn passes(arguments: &[&str], dir: &Path) -> Value {
    let (told, code) = load(arguments, dir).await;
    assert_eq!((&told["passed"], code), (&Value::Bool(true), Some(0)), "{arguments:?}: {:#}", told["failures"]);
    assert_eq!(told["samples"][0]["connected"], 0, "the server is looked at before anybody connects");
    told
}

pub(super) fn phase<'v>(told: &'v Value, name: &str) -> &'v Value {
    let phases = told["phases"].as_array().expect("there are phases");
    phases.iter().find(|phase| phase["name"] == name).unwrap_or_else(|| panic!("no {name} in {told:#}"))
}

fn count(phase: &Value, what: &str) -> u64 {
    phase["latencies"][what]["count"].as_u64().unwrap_or_default()
}

/// Every variant of the protocol over a unix socket, with connections of their own and shared, small requests and real ones.
#[tokio::test]
async fn proxies_get_their_secrets_in_every_way() {
    let (mesh, dir) = (builtin_mesh("1h"), scratch::dir("load"));
    let mut server = Server::start(Settings { mesh: &mesh, ..NODE_ID }).await;
    server.ready().await;
    let target = format!("unix:{}", server.socket.display());
    let pid = server.pid().to_string();
    for (api, more, connections, streams) in [
        ("sotw", &[][..], 200, 400),
        ("delta", &["--like-envoy"], 200, 400),
        ("ads", &["--one-stream", "--like-envoy"], 200, 200),
        ("ads-delta", &["--connections", "10"], 10, 400),
    ] {
        let common =
            ["--proxies", "200", "--api", api, "--server-pid", &pid, "--expect-identity", "spiffe://default/load"];
        let told = passes(&[&common, more, &[&target]].concat(), &dir).await;
        assert_eq!((&told["connections"], &told["streams"]), (&connections.into(), &streams.into()), "{api}");
        let connect = phase(&told, "connect");
        assert_eq!((&connect["expected"], &connect["reached"]), (&200.into(), &200.into()), "{api}");
        assert_eq!((count(connect, "first-secret"), count(connect, "handshake")), (200, connections), "{api}");
        let traffic = &connect["traffic"];
        assert_eq!(
            (&traffic["secrets"], &traffic["unchanged"], &traffic["nacks"]),
            (&400.into(), &0.into(), &0.into())
        );
        let sent = traffic["bytes_out"].as_u64().expect("it is a number");
        assert_eq!(sent > 200 * 100_000, more.contains(&"--like-envoy"), "{api}: {sent} bytes");
        assert!(connect["server"]["rss_bytes"].as_u64().is_some_and(|rss| rss > 1 << 20), "{connect:#}");
    }
    // As many streams as the server allows on one connection, none of them silent for long.
    let told = passes(&["--proxies", "512", "--connections", "1", &target], &dir).await;
    assert_eq!((&told["streams"], &phase(&told, "connect")["reached"]), (&1024.into(), &512.into()));
    server.assert_discreet();
    assert!(server.stop(SHUTDOWN).await.success());
}

/// With TLS and tokens that it signs itself, a leaf rotation reaches everybody who reads and accepts; who refuses or does not
/// read is not waited for. Without a token, and with one of another workload, the run does not pass.
#[tokio::test]
async fn a_rotation_reaches_all_and_who_is_not_let_in_is_told() {
    let (mesh, dir) = (builtin_mesh("1h"), scratch::dir("load"));
    let identify = "{proxyToken: {}}";
    let mut server = Server::start(Settings { mesh: &mesh, identify, ..NODE_ID }).await;
    server.ready().await;
    let (ca, state) = (server.ca_file().display().to_string(), server.state_dir().display().to_string());
    let target = format!("localhost:{}", server.tls_port);
    let rotate = format!("{PROGRAM} rotate --all --admin {}", server.admin);
    let common = ["--tls-ca", &ca, &target];
    let signed = [&common[..], &["--state-dir", &state, "--token-workload", "web"]].concat();
    let course =
        ["--nack", "0.1", "--slow", "0.2", "--trigger", &rotate, "--trigger-changes", "default", "--rest", "1s"];
    let told = passes(
        &[&signed[..], &course, &["--proxies", "100", "--expect-identity", "spiffe://default/web"]].concat(),
        &dir,
    )
    .await;
    let (connect, rotation) = (phase(&told, "connect"), phase(&told, "leaf-rotation"));
    assert_eq!(connect["reached"], 90, "a tenth refuses everything");
    assert_eq!((&rotation["reached"], count(rotation, "fan-out")), (&70.into(), 70));
    for phase in [rotation, phase(&told, "rest-2")] {
        assert_eq!(phase["traffic"]["unchanged"], 0, "only leaves are sent, not the bundle again: {phase:#}");
    }
    assert!(connect["traffic"]["nacks"].as_u64().is_some_and(|nacks| nacks > 0), "{connect:#}");

    let (told, code) = load(&[&common[..], &["--proxies", "5"]].concat(), &dir).await;
    assert_eq!((&told["passed"], code), (&Value::Bool(false), Some(1)));
    assert_eq!(
        (&told["failures"][0]["what"], &phase(&told, "connect")["reached"]),
        (&Value::from("stream ended: UNAUTHENTICATED"), &0.into())
    );
    let other = ["--proxies", "5", "--expect-identity", "spiffe://default/other"];
    let (told, code) = load(&[&signed[..], &other].concat(), &dir).await;
    assert_eq!((&told["passed"], code), (&Value::Bool(false), Some(1)));
    let failure = &told["failures"][0];
    assert_eq!((&failure["what"], &failure["count"]), (&Value::from("another identity than expected"), &5.into()));
    server.assert_discreet();
    assert!(server.stop(SHUTDOWN).await.success());
}

/// Proxies lose their connections and come back: all at once, also because the server is started again, and at a rate. With
/// what they had, nobody needs another leaf.
#[tokio::test]
async fn proxies_come_back() {
    let (mesh, dir) = (builtin_mesh("1h"), scratch::dir("load"));
    let mut server = Server::start(Settings { mesh: &mesh, ..NODE_ID }).await;
    server.ready().await;
    let target = format!("unix:{}", server.socket.display());
    let course = ["--proxies", "100", "--storms", "1", "--churn", "100", "--churn-for", "1s", &target];
    let told = passes(&course, &dir).await;
    let (storm, churn) = (phase(&told, "storm"), phase(&told, "churn"));
    assert_eq!((&storm["reached"], &storm["traffic"]["connections"]), (&100.into(), &100.into()));
    let back = churn["reached"].as_u64().expect("it is a number");
    assert!(back > 0 && churn["expected"] == back, "all who left are back: {churn:#}");
    assert_eq!([count(churn, "let-in"), count(churn, "served-again")], [back; 2], "and each says how long it took");
    let shared = ["--connections", "10", "--churn", "100", "--churn-for", "1s", "--proxies", "100", &target];
    let told = passes(&shared, &dir).await;
    let cut = phase(&told, "churn")["traffic"]["connections"].as_u64().expect("it is a number");
    assert!((1..=10).contains(&cut), "100 proxies have left in a second, ten with each connection: {cut}");
    assert_eq!(server.metric("issuances_total", &[("outcome", "issued")]).await, Ok(100.0), "the same hundred");

    // The storm's command says that it runs, and ends when this test has started the server again.
    let (command, mut pipes) = Pipes::make(&dir);
    let admin = server.admin.to_string();
    let course = ["--proxies", "100", "--api", "delta", "--reconnect", "--storm-command", &command, &target];
    let course = [&course[..], &["--server-admin", &admin, "--expect-issued", "0"]].concat();
    let restart = async {
        pipes.begun().await;
        server.kill();
        server.start_again().await;
        server.ready().await;
        pipes.go_on().await;
    };
    let (told, ()) = tokio::join!(passes(&course, &dir), restart);
    assert_eq!(phase(&told, "storm")["reached"], 100);
    assert_eq!(server.metric("issuances_total", &[("outcome", "issued")]).await, Ok(0.0), "{}", server.log_tail());

    let (told, code) =
        load(&["-n", "5", "--storms", "1", "--server-admin", &admin, "--expect-issued", "5", &target], &dir).await;
    assert_eq!((&told["passed"], code), (&Value::Bool(false), Some(1)));
    let (failure, expected) = (&told["failures"][0], "another number of certificates was issued than expected");
    assert_eq!((&failure["what"], told["failures"].as_array().map(Vec::len)), (&expected.into(), Some(1)), "{failure}");
    assert!(server.stop(SHUTDOWN).await.success());
}

/// Each proxy has a client certificate of its own, and is who that says; it asks for names that have its number in them, as
/// SPIRE has names.
#[tokio::test]
async fn proxies_show_certificates_of_their_own_and_ask_by_their_own_names() {
    let (mesh, dir, clients) = (builtin_mesh("1h"), scratch::dir("load"), TestCa::root("clients"));
    let crl = clients.crl(&[]);
    let listeners = Listeners { clients: Some((&clients.root_pem, &crl)), ..Listeners::default() };
    let settings = Settings { mesh: &mesh, identify: "{clientCertificate: {}}", ..NODE_ID };
    let mut server = Server::start_with(settings, listeners).await;
    server.ready().await;
    for number in 0..20 {
        let shown = clients.issue(&Leaf::spiffe(&format!("spiffe://default/web-{number}")));
        for (end, text) in [("crt", &shown.chain_pem), ("key", &shown.key_pem)] {
            fs::write(dir.join(format!("web-{number}.{end}")), text).expect("the scratch folder can be written");
        }
    }
    let (ca, target) = (server.ca_file().display().to_string(), format!("localhost:{}", server.tls_port));
    let names = "spiffe://default/web-{n},spiffe://default,ALL";
    let common = ["--tls-ca", &ca, "--expect-identity", "spiffe://default/web-{n}", &target];
    for (api, more) in [("sotw", &[][..]), ("delta", &["--one-stream"]), ("ads", &[]), ("ads-delta", &["--one-stream"])]
    {
        let own = ["--api", api, "--names", names, "--tls-cert", "web-{n}.crt", "--tls-key", "web-{n}.key", "-n", "20"];
        let told = passes(&[&common[..], &own, more].concat(), &dir).await;
        let connect = phase(&told, "connect");
        assert_eq!((&connect["reached"], &connect["traffic"]["secrets"]), (&20.into(), &60.into()), "{api}");
    }

    let same = ["--names", "default,ROOTCA", "--tls-cert", "web-7.crt", "--tls-key", "web-7.key", "-n", "2"];
    let (told, code) = load(&[&common[..], &same].concat(), &dir).await;
    assert_eq!(code, Some(1));
    let failure = &told["failures"][0];
    assert_eq!((&failure["what"], &failure["count"]), (&Value::from("another identity than expected"), &2.into()));
    let missing = ["--tls-cert", "web-{n}.crt", "--tls-key", "web-{n}.key", "-n", "21"];
    let output = run(&[&["load"], &common[..], &missing].concat(), &dir, DEADLINE).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("cannot read web-20.key"), "{said}");
    server.assert_discreet();
    assert!(server.stop(SHUTDOWN).await.success());
}

/// Nobody tells the run what changes at the server: it waits for the new bundle and says so, and for the leaves' renewal.
#[tokio::test]
async fn what_comes_by_itself_is_waited_for() {
    let (mesh, dir) = (builtin_mesh("9s"), scratch::dir("load"));
    let mut server = Server::start(Settings { mesh: &mesh, ..NODE_ID }).await;
    server.ready().await;
    let (target, json) = (format!("unix:{}", server.socket.display()), dir.join("results.json"));
    let mut command = std::process::Command::new(PROGRAM);
    command.args([
        "load",
        "-n",
        "50",
        "--rest",
        "0s",
        "--expect-bundle-pushes",
        "1",
        "--expect-rotations",
        "1",
        "--json",
    ]);
    let mut load = Process::start(
        "load",
        {
            command.arg(&json).arg(&target);
            command
        },
        &dir,
    );
    let says = async |text: &str| {
        eventually("the load tester says what it waits for", PATIENCE, async || {
            let log = load.log();
            if log.contains(text) { Ok(()) } else { Err(log) }
        })
        .await;
    };
    says("bundle-push").await;
    let other: String = TestCa::root("other").root_pem.lines().map(|line| format!("        {line}\n")).collect();
    server.set_mesh(&format!(
        "{mesh}---\ntype: MeshTrust\nname: other\nmesh: default\nspec:\n  trustDomain: default\n  caBundles:\n  - type: Pem\n    \
         pem:\n      value: |\n{other}"
    ));
    says("PASSED").await;
    eventually("it ends", PATIENCE, async || load.exited().ok_or_else(|| load.log_tail())).await;
    let told = fs::read(&json).expect("the results are there");
    let told: Value = serde_json::from_slice(&told).expect("they are JSON");
    for (phase, latency) in [("bundle-push", "fan-out"), ("leaf-rotation", "renewal-lag")] {
        let phase = self::phase(&told, phase);
        assert_eq!((&phase["expected"], &phase["reached"]), (&50.into(), &50.into()), "{phase:#}");
        assert!(latency != "fan-out" || count(phase, latency) == 50, "{phase:#}");
    }
    assert!(server.stop(SHUTDOWN).await.success());
}

/// The server dies in the middle of a run, or was never there: the run ends, is not passed, and its reports are written.
#[tokio::test]
async fn a_run_ends_by_itself_when_the_server_does() {
    let (mesh, dir) = (builtin_mesh("1h"), scratch::dir("load"));
    let mut server = Server::start(Settings { mesh: &mesh, ..NODE_ID }).await;
    server.ready().await;
    let target = format!("unix:{}", server.socket.display());
    let (kill, pid) = (format!("kill -KILL {}", server.pid()), server.pid().to_string());
    let reports = ["--json", "results.json", "--html", "page.html"];
    let course =
        ["-n", "50", "--trigger", &kill, "--storms", "1", "--churn", "10", "--churn-for", "50s", "--server-pid", &pid];
    let began = Instant::now();
    let (told, code) = load(&[&reports[..], &course, &[&target]].concat(), &dir).await;
    assert!(began.elapsed() < Duration::from_secs(45), "it does not wait for those who cannot come");
    assert_eq!((&told["passed"], code), (&Value::Bool(false), Some(1)));
    let failures = told["failures"].as_array().expect("there are failures");
    assert_eq!(failures.iter().filter_map(|failure| failure["count"].as_u64()).sum::<u64>(), 50, "{failures:#?}");
    assert_eq!(phase(&told, "leaf-rotation")["reached"], 0);
    let read = |name: &str| fs::read_to_string(dir.join(name)).expect("the report is there");
    assert_eq!(serde_json::from_str::<Value>(&read("results.json")).expect("it is JSON"), told);
    assert!(read("page.html").contains("FAILED: 50 failures"));

    // It is not there, and is waited for as long as the run may take.
    let (told, code) =
        load(&[&reports[..], &["-n", "5", "--reconnect", "--timeout", "1s", &target]].concat(), &dir).await;
    assert_eq!(code, Some(1));
    assert_eq!(told["failures"][0]["what"], "given up at the timeout (--timeout)");
    assert_eq!(phase(&told, "connect")["reached"], 0);
    let interruption = told["interruptions"][0]["what"].as_str().expect("it says why nobody could connect");
    assert!(interruption.starts_with("cannot connect: "), "{interruption}");
    let page = read("page.html");
    assert!(page.contains("given up at the timeout") && page.contains(interruption));

    // Nor can a report be written: the other is there all the same.
    let (told, code) = load(&["-n", "5", "--json", "/dev/full", "--html", "last.html", &target], &dir).await;
    assert_eq!((&told["passed"], code), (&Value::Bool(false), Some(1)));
    assert!(read("last.html").contains("FAILED"));
}
