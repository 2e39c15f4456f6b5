//! Waiting for what no event tells.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

const PAUSE: Duration = Duration::from_millis(50);

/// Asks `condition` until it says `Ok`, and returns that. Panics at the deadline with the last reason why not.
pub async fn eventually<T>(what: &str, deadline: Duration, mut condition: impl AsyncFnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + deadline;
    let mut reason = String::from("it did not answer");
    loop {
        match timeout_at(end, condition()).await {
            Ok(Ok(value)) => return value,
            Ok(Err(why)) => reason = why,
            Err(_) => {}
        }
        assert!(Instant::now() < end, "not within {deadline:?}: {what}: {reason}");
        sleep(PAUSE).await;
    }
}

/// Checks that `condition` keeps saying `Ok` for as long as `span`; panics at the first `Err`.
pub async fn throughout(what: &str, span: Duration, mut condition: impl AsyncFnMut() -> Result<(), String>) {
    let end = Instant::now() + span;
    while Instant::now() < end {
        if let Err(why) = condition().await {
            panic!("{what}: {why}");
        }
        sleep(PAUSE).await;
    }
}
