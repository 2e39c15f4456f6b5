//! Peers that mean harm, against a real listener: frames written by hand, since no library sends these. Each test shows
//! that the attacker is cut off or bounded, that somebody else is served meanwhile, and that nothing is left of it.

use std::cell::Cell;
use std::future::pending;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::super::raw_http2::*;
use super::{CONCURRENT_STREAMS, Lifetimes, STREAM_WINDOW};
use crate::serve::client_testing::{Sotw, client, eventually, framed, request, soon};
use crate::serve::testing::{TestServer, tcp};
use crate::serve::{ServeSettings, StreamLimits};

#[path = "http2_unused_tests.rs"]
mod unused;

/// Flag of `DATA` and `HEADERS`.
const END_STREAM: u8 = 1;

/// Somebody who is served before, during and after.
struct Bystander {
    server: TestServer,
    stream: Sotw,
}

impl Bystander {
    async fn new(settings: ServeSettings) -> Self {
        let lifetimes = Lifetimes { drain: Duration::from_secs(5), max_age: None };
        let server = TestServer::start_with(settings, &[tcp()], lifetimes).await;
        server.issue();
        let mut stream = Sotw::open(&mut client(&server).await, "bystander").await.unwrap();
        stream.send(request(&["default"])).await;
        stream.next().await;
        Self { server, stream }
    }

    /// What is new comes to the old stream, and to a new one on another connection.
    async fn is_served(&mut self) {
        self.server.issue();
        self.stream.next().await;
        let mut new = Sotw::open(&mut client(&self.server).await, "another").await.unwrap();
        new.send(request(&["default"])).await;
        new.next().await;
    }

    /// Nothing of the attacker is left.
    async fn alone(mut self) {
        self.is_served().await;
        let one = "streams{protocol=\"sotw\"} 1";
        eventually(|| self.server.metrics().contains(one) && self.server.service.counts() == [1, 0, 1, 0]).await;
    }
}

#[tokio::test]
async fn streams_that_are_opened_and_reset_at_once() {
    let mut bystander = Bystander::new(ServeSettings::default()).await;
    let attacker = Attacker::connect(&bystander.server, &[]).await;
    let mut storm = Vec::new();
    for stream in (1..20_000).step_by(2) {
        storm.extend(frame(HEADERS, END_HEADERS, stream, &headers("web")));
        storm.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    let code = attacker.flood(&storm, 1).await;
    assert_eq!(code, Some(ENHANCE_YOUR_CALM));
    bystander.is_served().await;
    bystander.alone().await;
}

#[tokio::test]
async fn pings_settings_window_updates_and_priorities_without_end() {
    let mut bystander = Bystander::new(ServeSettings::default()).await;
    for bytes in [
        frame(PING, 0, 0, b"12345678"),
        frame(SETTINGS, 0, 0, &[]),
        frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255, 0, 1, 0, 0, 0, 0]),
        frame(2, 0, 1, &[0, 0, 0, 3, 7]),
    ] {
        let attacker = Attacker::connect(&bystander.server, &[]).await;
        // Whether it answers all of them or hangs up is the server's choice; that it does neither would be a failure.
        attacker.flood(&bytes.repeat(100), 300).await;
        bystander.is_served().await;
    }
    // One that reads none of the answers is not read from either, once what TCP holds is full.
    let mut deaf = Attacker::connect(&bystander.server, &[]).await;
    let pings = frame(PING, 0, 0, b"12345678").repeat(1000);
    let sent = Cell::new(0_usize);
    let flood = async {
        while deaf.send(&pings).await.is_ok() {
            sent.set(sent.get() + 1);
            assert!(sent.get() < 5_000, "the server reads what it cannot answer");
        }
    };
    let stuck = async {
        let mut before = None;
        while before.replace(sent.get()) != Some(sent.get()) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        () = flood => panic!("it is not cut off before it has had its time to read"),
        () = stuck => {}
    }
    bystander.is_served().await;
    drop(deaf);
    bystander.alone().await;
}

#[tokio::test]
async fn window_updates_that_overflow_end_the_connection() {
    let bystander = Bystander::new(ServeSettings::default()).await;
    let attacker = Attacker::connect(&bystander.server, &[]).await;
    let code = attacker.flood(&frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes()), 1000).await;
    assert_eq!(code, Some(3), "FLOW_CONTROL_ERROR");
    bystander.alone().await;
}

#[tokio::test]
async fn headers_without_end() {
    let mut bystander = Bystander::new(ServeSettings::default()).await;
    let mut attacker = Attacker::connect(&bystander.server, &[]).await;
    attacker.send(&frame(HEADERS, 0, 1, &headers("web"))).await.unwrap();
    let code = attacker.flood(&frame(CONTINUATION, 0, 1, &field("x", "y")), 100_000).await;
    assert_eq!(code, Some(ENHANCE_YOUR_CALM));
    // Large ones.
    let mut attacker = Attacker::connect(&bystander.server, &[]).await;
    attacker.send(&frame(HEADERS, 0, 1, &headers("web"))).await.unwrap();
    let large = field("x", &"y".repeat(120)).repeat(100);
    let code = attacker.flood(&frame(CONTINUATION, 0, 1, &large), 10_000).await;
    assert!(code.is_some_and(|code| code != 0), "{code:?}");
    bystander.is_served().await;
    bystander.alone().await;
}

#[tokio::test]
async fn item_12_more_streams_than_there_may_be_on_a_connection() {
    let bystander = Bystander::new(ServeSettings::default()).await;
    let mut attacker = Attacker::connect(&bystander.server, &[]).await;
    // The limit holds for those who know it.
    attacker.until(|frame| frame.kind == SETTINGS && frame.flags == ACK).await;
    attacker.send(&frame(SETTINGS, ACK, 0, &[])).await.unwrap();
    for number in 0..CONCURRENT_STREAMS {
        let stream = 2 * number + 1;
        attacker.open(stream, &format!("proxy-{number}")).await.unwrap();
        attacker.send(&frame(DATA, 0, stream, &framed(&request(&[])))).await.unwrap();
        // Not so many at a time that it is silence what they are refused for.
        if number % 128 == 127 {
            let proxies = number as usize + 2;
            eventually(|| bystander.server.service.counts() == [proxies, 0, proxies, 0]).await;
        }
    }
    attacker.open(2 * CONCURRENT_STREAMS + 1, "one-too-many").await.unwrap();
    let refused = attacker.until(|frame| frame.kind == RST_STREAM).await;
    assert_eq!(refused.code(), REFUSED_STREAM);
    drop(attacker);
    bystander.alone().await;
}

#[tokio::test]
async fn item_63_streams_that_say_nothing_do_not_use_up_the_total() {
    let mut bystander = Bystander::new(ServeSettings::default()).await;
    let mut attackers = Vec::new();
    for _ in 0..3 {
        let mut attacker = Attacker::connect(&bystander.server, &[]).await;
        for stream in 0..200 {
            attacker.open(2 * stream + 1, "web").await.unwrap();
        }
        attacker.send(&frame(PING, 0, 0, b"the last")).await.unwrap();
        attackers.push(attacker);
    }
    let refused = "refused_total{reason=\"silent_streams\"} 536";
    eventually(|| bystander.server.metrics().contains(refused)).await;
    // Of all 600, as many are there as one proxy may have.
    assert_eq!(bystander.server.service.counts(), [65, 1, 1, 0]);
    bystander.is_served().await;
    drop(attackers);
    bystander.alone().await;
}

#[tokio::test]
async fn items_63_and_97_strangers_take_no_place_of_those_who_prove_who_they_are() {
    let limits = StreamLimits { streams: 20, new_per_second: Some(10), ..StreamLimits::default() };
    let mut bystander = Bystander::new(ServeSettings { limits, ..ServeSettings::default() }).await;
    let mut attacker = Attacker::connect(&bystander.server, &[]).await;
    for stream in 0..50 {
        // Verifying the others takes longer than this test.
        let token = if stream < 25 { "bad" } else { "slowly" };
        attacker.open(2 * stream + 1, token).await.unwrap();
    }
    let refused = |reason, count| {
        let line = format!("refused_total{{reason=\"{reason}\"}} {count}");
        bystander.server.metrics().contains(&line)
    };
    eventually(|| refused("unproven", 25) && refused("verifying", 5)).await;
    bystander.is_served().await;
    drop(attacker);
    bystander.alone().await;
}

#[tokio::test]
async fn item_96_a_peer_whose_window_does_not_open() {
    let limit = Duration::from_millis(600);
    let mut bystander = Bystander::new(ServeSettings { send_limit: limit, ..ServeSettings::default() }).await;
    // SETTINGS_INITIAL_WINDOW_SIZE
    let mut attacker = Attacker::connect(&bystander.server, &[(4, 0)]).await;
    for stream in [1, 3, 5] {
        attacker.open(stream, "web").await.unwrap();
        attacker.send(&frame(DATA, 0, stream, &framed(&request(&["default"])))).await.unwrap();
    }
    bystander.is_served().await;
    // It answers our PINGs and takes whatever needs no window, and is cut off all the same.
    soon(async { while attacker.next().await.is_some() {} }).await;
    assert!(bystander.server.metrics().contains("stalled_connections_total 1"));
    bystander.alone().await;
}

#[tokio::test]
async fn data_that_is_empty_or_nearly_so() {
    let mut bystander = Bystander::new(ServeSettings::default()).await;
    // A window of 0 keeps its stream waiting for leave to send, so that nobody takes what comes in.
    for data in [frame(DATA, 0, 1, &[]), frame(DATA, 0, 1, &[0])] {
        let mut attacker = Attacker::connect(&bystander.server, &[(4, 0)]).await;
        attacker.open(1, "web").await.unwrap();
        attacker.send(&frame(DATA, 0, 1, &framed(&request(&["default"])))).await.unwrap();
        let code = attacker.flood(&data.repeat(100), 1000).await;
        assert_eq!(code, Some(ENHANCE_YOUR_CALM));
        bystander.is_served().await;
    }
    bystander.alone().await;
}

#[tokio::test]
async fn requests_without_end_on_one_stream() {
    let mut bystander = Bystander::new(ServeSettings::default()).await;
    // It takes all that it is sent, and answers nothing.
    let mut attacker = Attacker::connect(&bystander.server, &[(4, 0x7fff_ffff)]).await;
    attacker.send(&frame(WINDOW_UPDATE, 0, 0, &0x7fff_0000_u32.to_be_bytes())).await.unwrap();
    // What the server's settings say of windows holds from here on.
    attacker.until(|frame| frame.kind == SETTINGS && frame.flags != ACK).await;
    attacker.send(&frame(SETTINGS, ACK, 0, &[])).await.unwrap();
    attacker.open(1, "web").await.unwrap();
    let small = frame(DATA, 0, 1, &framed(&request(&["default"])));
    let window = Cell::new(STREAM_WINDOW as usize);
    let (mut reader, mut writer) = attacker.io.split();
    let read = async {
        while let Some(frame) = read_frame(&mut reader).await {
            if frame.kind == WINDOW_UPDATE && frame.stream == 1 {
                window.set(window.get() + frame.code() as usize);
            }
        }
    };
    // What the server does not read stays within the window, which then closes.
    let flood = async {
        while window.get() >= small.len() {
            writer.write_all(&small).await.unwrap();
            window.set(window.get() - small.len());
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        closed = tokio::time::timeout(Duration::from_secs(60), flood) => closed.expect("the window closes"),
        () = read => panic!("it is within its rights, and was cut off"),
        () = async { bystander.is_served().await; pending().await } => {}
    }
    bystander.is_served().await;
    drop(attacker);
    bystander.alone().await;
}

#[tokio::test]
async fn item_13_pings_are_answered() {
    let bystander = Bystander::new(ServeSettings::default()).await;
    let mut peer = Attacker::connect(&bystander.server, &[]).await;
    peer.send(&frame(PING, 0, 0, b"are you?")).await.unwrap();
    let answer = peer.until(|frame| frame.kind == PING && frame.flags == ACK).await;
    assert_eq!(answer.payload, b"are you?");
}

#[tokio::test]
async fn item_102_on_the_way_out_there_is_a_goaway_and_no_new_stream() {
    let settings = ServeSettings { drain: Duration::from_millis(500), ..ServeSettings::default() };
    let bystander = Bystander::new(settings).await;
    let mut peer = Attacker::connect(&bystander.server, &[]).await;
    peer.open(1, "web").await.unwrap();
    peer.send(&frame(DATA, 0, 1, &framed(&request(&["default"])))).await.unwrap();
    peer.until(|frame| frame.kind == DATA && frame.stream == 1).await;
    bystander.server.tasks.shutdown().cancel();
    let (mut told, mut ended) = (false, false);
    let to_its_end = async {
        while let Some(got) = peer.next().await {
            let is_last = got.flags & END_STREAM != 0;
            match (got.kind, got.stream) {
                (GOAWAY, _) if !told => {
                    told = true;
                    // By now it may be gone altogether.
                    let _ = peer.open(3, "web").await;
                    let _ = peer.send(&frame(DATA, 0, 3, &framed(&request(&["default"])))).await;
                }
                (HEADERS, 1) => ended |= is_last,
                // UNAVAILABLE, or reset, or ignored because the GOAWAY said so already.
                (HEADERS, 3) => assert!(is_last, "the new stream was let in"),
                (DATA, 3) => panic!("the new stream is served"),
                _ => {}
            }
        }
    };
    soon(to_its_end).await;
    assert!(told && ended, "a GOAWAY: {told}, the end of the stream: {ended}");
    assert!(TcpStream::connect(&bystander.server.addresses[0]).await.is_err(), "nobody accepts any more");
    assert!(bystander.server.tasks.stop(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn item_103_a_connection_has_its_time() {
    let settings = ServeSettings { drain: Duration::from_millis(200), ..ServeSettings::default() };
    let lifetimes = Lifetimes { drain: Duration::from_secs(5), max_age: Some(Duration::from_secs(3)) };
    let server = TestServer::start_with(settings, &[tcp()], lifetimes).await;
    server.issue();
    let mut stream = Sotw::open(&mut client(&server).await, "web").await.unwrap();
    stream.send(request(&["default"])).await;
    stream.next().await;
    let status = stream.status().await;
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert!(status.message().contains("maximum age"), "{status:?}");
    // It comes back, and is served.
    let mut stream = Sotw::open(&mut client(&server).await, "web").await.unwrap();
    stream.send(request(&["default"])).await;
    stream.next().await;
    drop(stream);
    eventually(|| server.service.counts() == [0; 4]).await;
}
