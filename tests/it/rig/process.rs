//! That nothing is left behind when a test process dies without any chance to clean up.

use std::env;
use std::path::Path;
use std::process::Command;

use crate::support::eventually::eventually;
use crate::support::process::Process;
use crate::support::{PATIENCE, parts, ports, scratch};

const ROLE: &str = "RIG_TEST_DIES";

/// Plays both roles: the test, and the test process that dies (this binary again, told so by its environment).
#[tokio::test]
async fn children_die_with_the_test_process() {
    if env::var_os(ROLE).is_some() {
        start_children_and_die();
    }
    let output = Command::new(env::current_exe().expect("this program has a path"))
        .args(["--exact", "rig::process::children_die_with_the_test_process", "--nocapture"])
        .env(ROLE, "1")
        .output()
        .expect("this program starts again");
    let text = String::from_utf8_lossy(&output.stdout);
    let pids: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("child ")).collect();
    assert_eq!(pids.len(), 2, "{output:?}");
    for pid in pids {
        eventually("the child is gone", PATIENCE, async || {
            let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
            // Where nobody reaps orphans (a container without an init), it stays as a zombie.
            if stat.is_empty() || stat.contains(") Z ") { Ok(()) } else { Err(stat) }
        })
        .await;
    }
}

fn start_children_and_die() -> ! {
    let dir = scratch::dir("dies");
    let mut sleep = Command::new("sleep");
    sleep.arg("1000");
    let sleep = Process::start("sleep", sleep, &dir);
    let mut etcd = Command::new(parts::program("etcd"));
    let (client, peer) = (format!("http://127.0.0.1:{}", ports::free()), format!("http://127.0.0.1:{}", ports::free()));
    etcd.arg(format!("--data-dir={}", dir.join("data").display()))
        .args([format!("--listen-client-urls={client}"), format!("--advertise-client-urls={client}")])
        .args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")])
        .arg(format!("--initial-cluster=default={peer}"));
    let etcd = Process::start_part("etcd", etcd, &dir);
    // A new line first: the test runner's own words may stand on the current one.
    println!("\nchild {}\nchild {}", sleep.pid(), etcd.pid());
    std::process::abort();
}
