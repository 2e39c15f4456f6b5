//! Child processes that never outlive the test, however it ends.

use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

/// A running program with its output in a log file. Killed when dropped, and when the test process dies.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    _guard: Guard,
}

/// What ends the child when the test process dies without dropping it: the kernel closes the test process's end of a
/// pipe, and whoever reads the other end sees that.
#[derive(Debug)]
enum Guard {
    /// The program itself reads its standard input (the parts in `tests/parts` do).
    Stdin { _pipe: ChildStdin },
    /// A shell reads, and then kills the program.
    Watcher(Child),
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Self::Watcher(shell) = self {
            let _ = shell.kill();
            let _ = shell.wait();
        }
    }
}

impl Process {
    /// Starts any program; its output is appended to `NAME.log` in `dir`.
    pub fn start(name: &str, mut command: Command, dir: &Path) -> Self {
        let (log, child) = spawn(name, command.stdin(Stdio::null()), dir);
        // A group of its own, so that an interrupt from the keyboard cannot end the watcher before its work is done.
        let watcher = Command::new("sh")
            .args(["-c", "read -r _; kill -KILL \"$0\"", &child.id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("sh starts");
        Self { name: name.into(), child, log, _guard: Guard::Watcher(watcher) }
    }

    /// Starts a program of `tests/parts`, which ends by itself when its standard input does.
    pub fn start_part(name: &str, mut command: Command, dir: &Path) -> Self {
        let (log, mut child) = spawn(name, command.env("EXIT_WITH_STDIN", "1").stdin(Stdio::piped()), dir);
        let pipe = child.stdin.take().expect("standard input is piped");
        Self { name: name.into(), child, log, _guard: Guard::Stdin { _pipe: pipe } }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Fails the test if the program has ended.
    pub fn assert_running(&mut self) {
        if let Some(status) = self.exited() {
            panic!("{} ended ({status}):\n{}", self.name, self.log_tail());
        }
    }

    /// Asks it to end, and waits until it has. Fails the test if it has not by the deadline.
    pub async fn stop(&mut self, deadline: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        let end = Instant::now() + deadline;
        loop {
            if let Some(status) = self.exited() {
                return status;
            }
            assert!(Instant::now() < end, "{} ignores SIGTERM for {deadline:?}:\n{}", self.name, self.log_tail());
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        let _ = self.child.kill(); // an error says that it has ended already
        self.child.wait().expect("a child can be waited for");
    }

    /// Freezes it: its connections stay open and nobody answers.
    pub fn pause(&mut self) {
        self.signal(Signal::STOP);
    }

    pub fn resume(&mut self) {
        self.signal(Signal::CONT);
    }

    pub fn signal(&mut self, signal: Signal) {
        self.assert_running();
        kill_process(Pid::from_child(&self.child), signal).expect("a child can be signalled");
    }

    /// All that it has written so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The last lines of [`log`](Self::log), for a failure's message.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        format!("{}:\n{}", self.log.display(), lines[lines.len().saturating_sub(40)..].join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(name: &str, command: &mut Command, dir: &Path) -> (PathBuf, Child) {
    let log = dir.join(format!("{name}.log"));
    let file = OpenOptions::new().create(true).append(true).open(&log).expect("the log file opens");
    let errors = file.try_clone().expect("a file handle can be cloned");
    let child = command
        .stdout(file)
        .stderr(errors)
        .process_group(0)
        .spawn()
        .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
    (log, child)
}
