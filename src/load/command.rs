//! Shell commands that make something happen at the server.

use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::{ChildStderr, Command};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::meters::lock;
use crate::runtime::tasks::Tasks;

/// So much of what a command says is kept: the end of it.
const KEPT: usize = 4096;

/// How long the end of what it says may take to be read after it has ended itself. It takes longer only if what it has started
/// in the background may still write.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Runs `command` in a shell until that ends, whatever it leaves running in the background. What is written to its standard
/// error is read for as long as `tasks` run, so that nobody is stopped by it.
///
/// # Errors
/// How it failed, with the end of what it said.
pub(crate) async fn run(command: &str, tasks: &Tasks) -> Result<(), String> {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = shell.spawn().map_err(|error| format!("{command}: {error}"))?;
    let said = Arc::<Mutex<Vec<u8>>>::default();
    let (at_end, ended) = oneshot::channel::<()>();
    if let Some(stderr) = child.stderr.take() {
        let said = said.clone();
        tasks.spawn(async move {
            read(stderr, &said).await;
            drop(at_end);
        });
    }
    let status = child.wait().await.map_err(|error| format!("{command}: {error}"))?;
    if status.success() {
        return Ok(());
    }
    let _ = timeout(LAST_WORDS, ended).await;
    let said = lock(&said);
    let said = String::from_utf8_lossy(&said);
    let said = match said.trim() {
        "" => String::new(),
        said => format!(": {said}"),
    };
    Err(format!("{command}: {status}{said}"))
}

/// Reads to the end, and keeps the last of it.
async fn read(mut from: ChildStderr, kept: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let mut kept = lock(kept);
        kept.extend_from_slice(&buffer[..count]);
        let surplus = kept.len().saturating_sub(KEPT);
        kept.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Far longer than any of these commands needs.
    const DEADLINE: Duration = Duration::from_secs(30);

    async fn ran(command: &str) -> Result<(), String> {
        let (tasks, _deaths) = Tasks::new();
        timeout(DEADLINE, run(command, &tasks)).await.expect("it ends with the shell")
    }

    #[tokio::test]
    async fn what_runs_in_the_background_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        // Whoever reads the pipe has this command's standard error, until somebody has written.
        let background = format!("cat {} >&2 & ", pipe.display());
        assert_eq!(ran(&background).await, Ok(()));
        std::fs::write(&pipe, "").unwrap();
        let failed = ran(&format!("{background} echo no >&2; exit 3")).await.unwrap_err();
        assert!(failed.ends_with("exit status: 3: no"), "{failed}");
        std::fs::write(&pipe, "").unwrap();
    }

    #[tokio::test]
    async fn of_what_is_said_the_end_is_kept() {
        let failed = ran("yes | head -c 1000000 >&2; echo the end >&2; false").await.unwrap_err();
        assert!(failed.ends_with("y\nthe end") && failed.len() < KEPT + 200, "{}", failed.len());
        assert_eq!(ran("yes | head -c 1000000").await, Ok(()));
        assert_eq!(ran("exit 3").await.unwrap_err(), "exit 3: exit status: 3", "or none");
    }
}
