//! Peers that cost the program something: descriptors that run out, and connections without end. Proxies that are there
//! notice neither.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::SHUTDOWN;
use crate::support::PATIENCE;
use crate::support::eventually::eventually;
use crate::support::mesh::builtin_mesh;
use crate::support::sds::{self, Caller, Watcher};
use crate::support::server::{NODE_ID, Server, Settings};

const WEB: Caller<'_> = Caller { node: "web-0", workload: "web", token: None };

async fn server() -> Server {
    let mesh = builtin_mesh("1h");
    let mut server = Server::start(Settings { mesh: &mesh, ..NODE_ID }).await;
    server.ready().await;
    server
}

/// A watcher that has got something.
async fn watcher(server: &Server, caller: Caller<'_>, name: &str) -> Watcher {
    let watcher = Watcher::start(&server.socket, caller, name);
    eventually("a first secret", PATIENCE, async || {
        if watcher.history().is_empty() { Err(format!("{:?}", watcher.ends())) } else { Ok(()) }
    })
    .await;
    watcher
}

/// What changes still comes to it, over the stream that it had.
async fn still_receives(watcher: &Watcher, server: &Server, roots: usize) {
    let backends = ["ca-1", "ca-2", "ca-3", "ca-4"].map(backend);
    server.set_mesh(&format!(
        "type: Mesh\nname: default\nmtls:\n  enabledBackend: ca-1\n  backends:\n{}",
        backends[..roots].concat()
    ));
    eventually("the new bundle", PATIENCE, async || {
        let history = watcher.history();
        let newest = history.last().map_or(0, |content| content.certificates().len());
        if newest == roots { Ok(()) } else { Err(format!("{newest} roots; {:?}", watcher.ends())) }
    })
    .await;
    assert_eq!(watcher.ends(), [""; 0], "its stream has ended");
    watcher.assert_sound();
}

fn backend(name: &str) -> String {
    format!("  - name: {name}\n    type: builtin\n    dpCert: {{rotation: {{expiration: 1h}}}}\n")
}

fn open_descriptors(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("it runs").count()
}

fn limit_descriptors(server: &Server, limit: u64) -> Rlimit {
    let pid = Pid::from_raw(i32::try_from(server.pid()).expect("a pid")).expect("a pid");
    // The hard limit is inherited, and stays.
    let new = Rlimit { current: Some(limit), maximum: getrlimit(Resource::Nofile).maximum };
    prlimit(Some(pid), Resource::Nofile, new).expect("a child's limits can be set")
}

/// With no descriptor left, the streams that there are go on, and the processor is not burnt; once there are some again,
/// who was waiting is served.
#[tokio::test]
async fn descriptors_run_out_and_come_back() {
    let mut server = server().await;
    let watcher = watcher(&server, WEB, "ROOTCA").await;
    let limit = u64::try_from(open_descriptors(&server)).expect("a number") + 40;
    let before = limit_descriptors(&server, limit);
    let mut hoard = Vec::new();
    for _ in 0..200 {
        // The kernel's queue takes those that the server cannot.
        match UnixStream::connect(&server.socket).await {
            Ok(stream) => hoard.push(stream),
            Err(_full) => break,
        }
    }
    server.logs("WARN", &["cannot accept a connection"]).await;
    let late = Watcher::start(&server.socket, Caller { node: "web-1", ..WEB }, "default");
    server.assert_running();
    assert_eq!(watcher.ends(), [""; 0]);

    drop(hoard);
    eventually("the proxy that waited", PATIENCE, async || {
        if late.history().is_empty() { Err(format!("{:?}", late.ends())) } else { Ok(()) }
    })
    .await;
    limit_descriptors(&server, before.current.unwrap_or(1024));
    still_receives(&watcher, &server, 2).await;
    let refused: Vec<_> = server.log().into_iter().filter(|line| line.to_string().contains("cannot accept")).collect();
    assert!(refused.len() < 200, "{} times told that there are no descriptors", refused.len());
}

/// Thousands of connections that are opened, say nothing, nonsense or half of a preface, and are dropped; and streams that
/// are opened and left. A proxy that is there gets what changes, a new one is served, and nothing is left in the end.
#[tokio::test]
async fn a_storm_of_connections() {
    let mut server = server().await;
    let watcher = watcher(&server, WEB, "ROOTCA").await;
    let before = open_descriptors(&server);
    let socket = server.socket.clone();
    let calm = Arc::new(AtomicBool::new(false));
    let over = calm.clone();
    let storm = tokio::spawn(async move {
        let mut round = 0_usize;
        while round < 4000 || !over.load(Ordering::Relaxed) {
            // A full queue is an error at once.
            tokio::task::yield_now().await;
            let Ok(mut stream) = UnixStream::connect(&socket).await else { continue };
            round += 1;
            let said: &[u8] = match round % 5 {
                0 => b"",
                1 => b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
                2 => b"PRI * HTTP/2.0\r\n",
                3 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
                _ => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\x40\0\x01\0\0\0\0\x01",
            };
            let _ = stream.write_all(said).await;
            if round % 50 == 3 {
                let _ = stream.read(&mut [0; 16]).await;
            }
        }
    });
    for roots in 2..=4 {
        still_receives(&watcher, &server, roots).await;
        let node = format!("web-{roots}");
        let caller = Caller { node: &node, ..WEB };
        sds::fetch(&server.socket, caller, &["default", "ROOTCA"]).await.expect("a new proxy is served");
    }
    calm.store(true, Ordering::Relaxed);
    storm.await.expect("the storm ends");
    eventually("nothing is left of the storm", PATIENCE, async || {
        let now = open_descriptors(&server);
        if now <= before + 8 { Ok(()) } else { Err(format!("{now} descriptors, {before} before")) }
    })
    .await;
    server.metric_becomes("streams", &[("protocol", "sotw")], |streams| streams == 1.0).await;
    let ended = server.stop(SHUTDOWN).await;
    assert!(ended.success(), "{ended}");
}
