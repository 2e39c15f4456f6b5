//! By which a command of a program that is tested says that it has begun, and is told to go on.

use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{OpenOptions, Receiver, Sender};

/// What the one end says to the other.
const NOW: &[u8] = b"now\n";

/// The test's ends of two named pipes. Both are open for reading and writing from the first: a command that never runs leaves
/// no thread behind that opens a pipe, which would outlive the test and hold the end of its runtime up.
pub struct Pipes {
    begun: Receiver,
    go_on: Sender,
}

impl Pipes {
    /// Makes them in this folder; gives the command with them, for a shell.
    pub fn make(dir: &Path) -> (String, Self) {
        let [begun, go_on] = ["begun", "go-on"].map(|name| dir.join(name));
        let made = std::process::Command::new("mkfifo").args([&begun, &go_on]).status().expect("mkfifo starts");
        assert!(made.success(), "mkfifo in {}", dir.display());
        let command = format!("echo now > {} && read -r _ < {}", begun.display(), go_on.display());
        let mut both = OpenOptions::new();
        both.read_write(true);
        let begun = both.open_receiver(begun).expect("the pipe can be opened");
        let go_on = both.open_sender(go_on).expect("the pipe can be opened");
        (command, Self { begun, go_on })
    }

    /// Returns when the command has begun.
    pub async fn begun(&mut self) {
        self.begun.read_exact(&mut [0; NOW.len()]).await.expect("the pipe can be read");
    }

    /// Lets the command end.
    pub async fn go_on(&mut self) {
        self.go_on.write_all(NOW).await.expect("the pipe can be written");
    }
}
