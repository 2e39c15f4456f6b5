//! Connections of which nobody makes any use.

use super::super::{IDLE, UNPROVEN};
use super::*;

#[tokio::test]
async fn a_peer_that_never_proves_who_it_is_does_not_keep_its_connection() {
    let server = TestServer::start(ServeSettings::default(), &[tcp()]).await;
    let mut proven = Attacker::connect(&server, &[]).await;
    proven.open(1, "web").await.unwrap();
    proven.send(&frame(DATA, 0, 1, &framed(&request(&["default"])))).await.unwrap();
    let mut refused = Attacker::connect(&server, &[]).await;
    refused.open(1, "bad").await.unwrap();
    refused.until(|frame| frame.kind == HEADERS).await;
    let mut idle = Attacker::connect(&server, &[]).await;
    for attacker in [&mut proven, &mut refused, &mut idle] {
        attacker.send(&frame(PING, 0, 0, b"are you?")).await.unwrap();
        attacker.until(|frame| frame.kind == PING && frame.flags == ACK).await;
    }
    tokio::time::pause();
    // Short of our own keep-alive, which none of these would answer.
    tokio::time::advance(UNPROVEN).await;
    tokio::time::resume();
    for attacker in [&mut refused, &mut idle] {
        attacker.until(|frame| frame.kind == GOAWAY).await;
    }
    drop((refused, idle));
    assert_ne!(proven.next().await.map(|frame| frame.kind), Some(GOAWAY));
}

impl Attacker {
    /// Answers the server's pings up to now; says whether there was a `GOAWAY`.
    async fn is_told_to_go(&mut self) -> bool {
        self.send(&frame(PING, 0, 0, b"are you?")).await.unwrap();
        loop {
            let got = self.until(|frame| matches!(frame.kind, PING | GOAWAY)).await;
            match got.kind {
                GOAWAY => return true,
                _ if got.flags == ACK => return false,
                _ => self.send(&frame(PING, ACK, 0, &got.payload)).await.unwrap(),
            }
        }
    }
}

#[tokio::test]
async fn a_connection_without_streams_is_not_kept_for_ever() {
    let server = TestServer::start(ServeSettings::default(), &[tcp()]).await;
    server.issue();
    let mut peers = [Attacker::connect(&server, &[]).await, Attacker::connect(&server, &[]).await];
    for peer in &mut peers {
        peer.open(1, "web").await.unwrap();
        peer.send(&frame(DATA, 0, 1, &framed(&request(&["default"])))).await.unwrap();
        peer.until(|frame| frame.kind == DATA).await;
    }
    let [left, stays] = &mut peers;
    left.send(&frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes())).await.unwrap();
    eventually(|| server.service.counts() == [1, 0, 1, 0]).await;
    // Both answer whenever the server wants a sign of life.
    let step = Duration::from_secs(5);
    let mut passed = Duration::ZERO;
    let mut ended = None;
    while ended.is_none() && passed < 2 * IDLE {
        tokio::time::pause();
        tokio::time::advance(step).await;
        tokio::time::resume();
        passed += step;
        assert!(!stays.is_told_to_go().await, "it has a stream");
        ended = left.is_told_to_go().await.then_some(passed);
    }
    let ended = ended.expect("a GOAWAY");
    assert!((IDLE..=IDLE + step).contains(&ended), "it ended after {ended:?}");
    server.issue();
    stays.until(|frame| frame.kind == DATA && frame.stream == 1).await;
}
