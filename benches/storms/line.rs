//! Who waits for cert-manager, as the server itself says it.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, interval};

use crate::support::http;

/// Prints what `/readyz` says of who waits, every ten seconds, for ever.
pub(crate) async fn follow(admin: SocketAddr) {
    let (mut ticks, began) = (interval(Duration::from_secs(10)), Instant::now());
    loop {
        ticks.tick().await;
        let Ok(readyz) = http::get_json(admin, "/readyz").await else { continue };
        if let Some(outlook) = readyz["issuing"]["default"].as_str() {
            println!("  {:>4} s  {outlook}", began.elapsed().as_secs());
        }
    }
}
