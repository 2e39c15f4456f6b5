//! README's quick start for one machine, typed as it stands: with the addresses that it has, which is why it has a network of its own,
//! and with nothing but the two programs that the demo leaves.

use std::process::Command;

use super::markdown::sessions;
use super::{PROGRAM, root};
use crate::support::eventually::eventually;
use crate::support::process::Process;
use crate::support::{PATIENCE, parts, scratch};

/// A network in which nobody has taken a port, and processes that end when the shell does.
const ALONE: [&str; 6] = ["--net", "--pid", "--fork", "--kill-child", "bash", "-c"];

/// Its loopback interface is down at first; not every machine has `ip`. The request is SIOCSIFFLAGS, the flag IFF_UP.
const LOOPBACK_UP: &str =
    r#"import fcntl, socket, struct; fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh14x", b"lo", 1))"#;

/// Between what two commands answer.
const NEXT: &str = "-- next --\n";

#[tokio::test]
async fn the_quick_start_answers_as_it_is_shown() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("it is there");
    let (_, section) = readme.split_once("## Quick start: one machine\n").expect("it has a quick start");
    let (section, _) = section.split_once("\n## ").expect("another section follows");
    let sessions = sessions(section);
    let [(path, _), (folder, _), typed @ ..] = sessions.as_slice() else { panic!("no commands in {section}") };
    assert!(path.starts_with("PATH=$PWD/target/release:"), "{path}");
    assert!(folder.contains("mktemp"), "it leaves its files in a folder of its own: {folder}");
    assert!(section.contains("`kill %1 %2` ends both, and `cd -` leads back."), "{section}");

    let mut script = format!("set -em\nexec 2>errors.log\npython3 -c '{LOOPBACK_UP}'\n{folder}\n");
    for (command, _) in typed {
        script += &format!("{command}\nprintf -- '{NEXT}'\n", NEXT = NEXT.escape_default());
    }
    script += "kill %1 %2\nwait\ncd -\n";
    let home = tempfile::Builder::new().prefix("sds").tempdir().expect("a temporary folder can be made");
    let dir = scratch::dir("quick-start");
    let programs = [PROGRAM.into(), parts::program("envoy")].map(|program| program.parent().map(ToOwned::to_owned));
    let mut paths: Vec<_> = programs.into_iter().flatten().collect();
    paths.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.args(ALONE).arg(script).current_dir(&dir).env_clear();
    command.env("HOME", home.path()).env("TMPDIR", &dir);
    command.env("PATH", std::env::join_paths(paths).expect("paths without colons"));
    let mut typing = Process::start("quick-start", command, &dir);
    let logs = || Command::new("sh").args(["-c", "tail -n 20 errors.log */*.log"]).current_dir(&dir).output();
    let why = || String::from_utf8_lossy(&logs().expect("sh starts").stdout).into_owned();
    let ended = eventually("all is typed", PATIENCE, async || match typing.exited() {
        Some(status) => Ok(status),
        None => Err(typing.log_tail()),
    })
    .await;
    let said = typing.log();
    assert!(ended.success(), "{said}\n{}", why());

    let answers: Vec<_> = said.split(NEXT).collect();
    assert_eq!(answers.len(), typed.len() + 1, "{said}");
    for ((command, shown), answer) in typed.iter().zip(&answers) {
        assert_eq!(lasting(answer), lasting(shown), "{command}\n{}", why());
    }
    assert_eq!(answers.last().map(|back| back.trim_end()), dir.to_str());
}

/// Of an answer, what is the same each time.
fn lasting(answer: &str) -> Vec<String> {
    let line = |line: &str| match line.split_once(": ") {
        Some((name @ ("date" | "x-client-serial" | "x-envoy-upstream-service-time"), _)) => name.to_owned(),
        _ if line.starts_with("default   ") => line.split_whitespace().take(4).collect::<Vec<_>>().join(" "),
        _ => line.split_whitespace().collect::<Vec<_>>().join(" "),
    };
    answer.lines().map(line).collect()
}
