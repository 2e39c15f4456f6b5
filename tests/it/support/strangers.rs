//! Clients that must never be let in, trying all the time.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::pki::Identity;
use super::wire;

/// How often each door is tried.
const PAUSE: Duration = Duration::from_millis(300);

/// Rogues that try every door, one with no certificate and one with each of the given identities, until they leave.
#[derive(Debug)]
pub struct Strangers {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Refused in the handshake, by a proxy that showed its certificate and asked for theirs.
    refused: u32,
    /// Not even that.
    shut: u32,
    let_in: Vec<String>,
}

impl Strangers {
    pub fn at(doors: &[SocketAddr], identities: Vec<Identity>) -> Self {
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let (doors, record) = (doors.to_vec(), seen.clone());
        let task = tokio::spawn(async move {
            loop {
                for door in &doors {
                    for identity in std::iter::once(None).chain(identities.iter().map(Some)) {
                        let tried = tokio::time::timeout(Duration::from_secs(10), wire::get(*door, identity)).await;
                        let mut seen = record.lock().expect("not poisoned");
                        match tried {
                            Ok(Ok(accepted)) => seen.let_in.push(format!(
                                "{door} let in {} and answered {}",
                                if identity.is_some() { "a rogue" } else { "somebody without a certificate" },
                                accepted.status
                            )),
                            Ok(Err(refused)) if !refused.chain.is_empty() && refused.asked_for_certificate => {
                                seen.refused += 1;
                            }
                            Ok(Err(_)) | Err(_) => seen.shut += 1,
                        }
                    }
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        Self { seen, task }
    }

    /// Fails the test if any of them has been let in so far.
    pub fn assert_outside(&self, stage: &str) {
        let seen = self.seen.lock().expect("not poisoned");
        assert!(seen.let_in.is_empty(), "{stage}: {:?}", seen.let_in);
        assert!(!self.task.is_finished(), "{stage}: the strangers have given up");
    }

    /// Ends their tries; fails the test if one was let in, or if they were never really refused.
    pub fn leave(self) {
        self.assert_outside("at the end");
        let seen = self.seen.lock().expect("not poisoned");
        assert!(seen.refused > 0, "no stranger came as far as being refused: {seen:?}");
        println!("strangers: {} refused, {} before an open door", seen.refused, seen.shut);
    }
}

impl Drop for Strangers {
    fn drop(&mut self) {
        self.task.abort();
    }
}
