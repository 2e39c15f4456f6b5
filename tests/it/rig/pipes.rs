//! That a test which waits for a program's command sees it run, and can end without.

use std::process::Stdio;
use std::sync::mpsc;
use std::thread;

use futures::FutureExt;
use tokio::process::Command;

use crate::support::pipes::Pipes;
use crate::support::{PATIENCE, scratch};

#[tokio::test]
async fn a_command_says_that_it_has_begun_and_goes_on_when_it_may() {
    let (command, mut pipes) = Pipes::make(&scratch::dir("pipes"));
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{command} && echo done")]).stdout(Stdio::piped()).kill_on_drop(true);
    let mut output = Box::pin(shell.spawn().expect("there is a shell").wait_with_output());
    tokio::select! {
        () = pipes.begun() => {}
        ended = &mut output => panic!("it has not waited: {ended:?}"),
    }
    pipes.go_on().await;
    let output = tokio::time::timeout(PATIENCE, output).await.expect("it goes on").expect("it was waited for");
    assert!(output.status.success() && output.stdout == b"done\n", "{output:?}");
}

/// Who has waited for nothing takes its runtime with it, all of whose threads have to end.
#[test]
fn a_command_that_never_runs_holds_nobody_up() {
    let (ended, wait) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let (_, mut pipes) = Pipes::make(&scratch::dir("pipes"));
            assert!(pipes.begun().now_or_never().is_none(), "nobody has begun");
        });
        drop(runtime);
        ended.send(()).expect("somebody waits");
    });
    wait.recv_timeout(PATIENCE).expect("the runtime ends");
}
