//! What a client cannot make the server do: ask for too much, hear too much, or stay for too long. Numbers are items of the
//! conformance list.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use http_body_util::BodyExt;
use jiff::{SignedDuration, Timestamp};
use prost::Message;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::Service;
use tracing_subscriber::fmt::MakeWriter;

use super::super::ServeSettings;
use super::super::client_testing::{
    Delta, Raw, Sotw, ads, call, chain, client, delta, eventually, framed, request, server, soon, with_token,
};
use super::super::listen::Peer;
use super::super::testing::{TestServer, bundle, svid, svid_until, tcp};
use crate::model::bundle_set::BundleSet;
use crate::runtime::clock::Clock;

/// A Fetch without a socket.
fn fetch(server: &TestServer, token: &str, names: &[&str]) -> http::Request<Body> {
    let body = Body::new(http_body_util::Full::new(framed(&request(names))));
    let mut call = call("FetchSecrets", token).header("grpc-timeout", "9999H").body(body).unwrap();
    call.extensions_mut().insert(Peer { leave: server.tasks.shutdown().child_token(), ..Peer::default() });
    call
}

async fn answered(server: &TestServer, request: http::Request<Body>) -> Result<http::Response<Body>, Code> {
    let response = server.service.clone().call(request).await.unwrap();
    match response.headers().get("grpc-status") {
        Some(_) => Err(Status::from_header_map(response.headers()).unwrap().code()),
        None => Ok(response),
    }
}

async fn secrets(response: http::Response<Body>) -> Vec<Secret> {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let response = DiscoveryResponse::decode(&bytes[5..]).unwrap();
    response.resources.iter().map(|any| Secret::decode(&*any.value).unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn item_5_a_fetch_waits_for_a_minute_at_most() {
    let server = TestServer::start(ServeSettings::default(), &[]).await;
    let began = Instant::now();
    assert_eq!(answered(&server, fetch(&server, "web", &["default"])).await.unwrap_err(), Code::Unavailable);
    assert!((60..62).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert_eq!((Arc::strong_count(&server.source.interest), server.service.counts()), (1, [0; 4]));
}

#[tokio::test]
async fn item_26_a_fetch_ends_with_its_proof_with_its_identity_and_with_its_connection() {
    let server = TestServer::start(ServeSettings::default(), &[]).await;
    let until = Clock::system().now() + SignedDuration::from_secs(1);
    server.authenticate.until.lock().unwrap().insert("short".to_owned(), until);
    let changes = async {
        eventually(|| Arc::strong_count(&server.source.interest) == 4).await;
        server.authenticate.moved.lock().unwrap().insert("moves".to_owned());
        server.authenticate.forbidden.lock().unwrap().insert("goes".to_owned());
        server.authenticate.policies.send_modify(|_| {});
    };
    let [short, moves, goes] =
        ["short", "moves", "goes"].map(|token| answered(&server, fetch(&server, token, &["default"])));
    let (short, moves, goes, ()) = soon(async { tokio::join!(short, moves, goes, changes) }).await;
    assert_eq!(short.unwrap_err(), Code::Unauthenticated);
    assert_eq!((moves.unwrap_err(), goes.unwrap_err()), (Code::Unavailable, Code::PermissionDenied));

    let changes = async {
        eventually(|| Arc::strong_count(&server.source.interest) == 2).await;
        server.authenticate.policies.send_modify(|_| {});
        server.issue();
    };
    let (stays, ()) =
        soon(async { tokio::join!(answered(&server, fetch(&server, "stays", &["default"])), changes) }).await;
    assert_eq!(secrets(stays.unwrap()).await.len(), 1);

    let leaves = fetch(&server, "web", &["default", "ROOTCA"]);
    let leave = leaves.extensions().get::<Peer>().unwrap().leave.clone();
    let ends = async {
        eventually(|| Arc::strong_count(&server.source.interest) == 2).await;
        leave.cancel();
    };
    let (left, ()) = soon(async { tokio::join!(answered(&server, leaves), ends) }).await;
    assert_eq!(left.unwrap_err(), Code::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn items_94_and_99_a_fetch_is_answered_with_the_newest_and_with_nothing_that_has_ended() {
    let server = TestServer::start(ServeSettings::default(), &[]).await;
    let ended = svid_until("web", Clock::system().now() - SignedDuration::from_secs(5));
    server.issue();
    let changes = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let renewed = server.issue();
        tokio::time::sleep(Duration::from_secs(1)).await;
        server.trust();
        renewed
    };
    let both = answered(&server, fetch(&server, "web", &["default", "ROOTCA"]));
    let (both, renewed) = tokio::join!(both, changes);
    let both = both.unwrap();
    // It has its places until it has been sent.
    assert_eq!(server.service.counts(), [1, 0, 1, 0]);
    assert_eq!(chain(&secrets(both).await[0]), renewed.chain_pem());
    assert_eq!(server.service.counts(), [0; 4]);

    server.source.certificate.send_replace(Some(Arc::new(ended)));
    let bundle = answered(&server, fetch(&server, "web", &["default", "ROOTCA"])).await.unwrap();
    assert_eq!(secrets(bundle).await.into_iter().map(|secret| secret.name).collect::<Vec<_>>(), ["ROOTCA"]);
}

#[tokio::test]
async fn item_4_a_fetch_of_nothing_that_there_is_says_a_version() {
    let server = server().await;
    let response = client(&server).await.fetch_secrets(with_token(request(&["unknown"]), "web")).await.unwrap();
    assert!(response.get_ref().resources.is_empty() && response.get_ref().version_info.starts_with("several."));
}

#[tokio::test]
async fn item_26_who_says_nothing_until_its_proof_has_ended_is_sent_nothing() {
    let server = server().await;
    server.issue();
    server.authenticate.until.lock().unwrap().insert("old".to_owned(), Timestamp::UNIX_EPOCH);
    let mut client = client(&server).await;
    let stream = Sotw::open(&mut client, "old").await.unwrap();
    stream.send(request(&["default"])).await;
    assert_eq!(stream.status().await.code(), Code::Unauthenticated, "and no response before");
    let fetched = client.fetch_secrets(with_token(request(&["default"]), "old")).await;
    assert_eq!(fetched.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn item_63_however_often_and_under_however_many_names_a_stream_has_one_certificate() {
    let server = server().await;
    let mut stream = Delta::open_delta(&mut client(&server).await, "web").await.unwrap();
    let names = ["default", "spiffe://default/web", "default~", "ROOTCA"];
    for _ in 0..20 {
        stream.send(delta(&names)).await;
        stream.removed().await;
        // Dropped and wanted in one message.
        let mut anew = delta(&["default"]);
        anew.resource_names_unsubscribe = names.iter().map(|name| (*name).to_owned()).collect();
        stream.send(anew).await;
    }
    stream.send(delta(&names)).await;
    stream.removed().await;
    assert_eq!(server.source.held.lock().unwrap().len(), 1, "subscriptions of the certificate");
    assert_eq!(Arc::strong_count(&server.source.interest), 2);
    let svid = server.issue();
    for name in ["default", "spiffe://default/web"] {
        let (_, secret, _) = stream.next().await;
        assert_eq!((&*secret.name, chain(&secret)), (name, svid.chain_pem()));
    }
    let mut nothing = delta(&[]);
    nothing.resource_names_unsubscribe = names.iter().map(|name| (*name).to_owned()).collect();
    stream.send(nothing).await;
    eventually(|| Arc::strong_count(&server.source.interest) == 1).await;
}

#[tokio::test(start_paused = true)]
async fn item_63_requests_are_read_at_a_bounded_rate_and_none_is_lost() {
    let server = TestServer::start(ServeSettings::default(), &[]).await;
    let mut stream = Raw::open(&server, "web").await;
    let requests = stream.requests.clone();
    let began = Instant::now();
    let flood = async {
        for _ in 0..1424 {
            requests.send(framed(&request(&["default"]))).await.unwrap();
        }
        server.issue();
        began.elapsed()
    };
    // 16 of them are on their way.
    let (elapsed, response) = tokio::join!(flood, stream.next());
    assert!((7..9).contains(&elapsed.as_secs()), "1024 at once, then 50 a second: {elapsed:?}");
    assert_eq!(response.resources.len(), 1);
    drop((requests, std::mem::replace(&mut stream.requests, tokio::sync::mpsc::channel(1).0)));
    assert_eq!(stream.ended().await.1["grpc-status"], "0", "its end is seen too");
}

#[tokio::test(start_paused = true)]
async fn item_87_a_repetition_too_many_is_answered_when_its_time_comes() {
    let server = TestServer::start(ServeSettings::default(), &[]).await;
    let svid = server.issue();
    let mut stream = Raw::open_through(&server, "StreamAggregatedResources", "web").await;
    stream.send(request(&["default"])).await;
    let began = Instant::now();
    for _ in 0..12 {
        let response = stream.next().await;
        let secret = Secret::decode(&*response.resources[0].value).unwrap();
        assert_eq!(chain(&secret), svid.chain_pem());
        for _ in 0..3 {
            let version_info = response.version_info.clone();
            let response_nonce = response.nonce.clone();
            stream.send(DiscoveryRequest { version_info, response_nonce, ..request(&["default"]) }).await;
        }
    }
    // The first is no repetition, and eight are answered at once.
    assert!((9..10).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn item_74_what_has_become_unknown_is_not_taken_away_when_all_is_sent_again() {
    let settings = ServeSettings { ads_resync: Some(Duration::from_millis(100)), ..ServeSettings::default() };
    let server = TestServer::start(settings, &[tcp()]).await;
    let there = BundleSet::of_one("other".into(), Arc::new(bundle("other")));
    server.source.domains.send_replace(Some(Arc::new(there)));
    server.issue();
    let mut stream = Delta::open_delta_ads(&mut ads(&server).await, "web").await.unwrap();
    stream.send(delta(&["spiffe://other", "default"])).await;
    stream.next().await;
    stream.next().await;
    server.source.domains.send_replace(None);
    // Whatever was on its way has come by then; a removal would be no secret.
    let mut last = 0;
    for _ in 0..8 {
        let (_, secret, _) = stream.next().await;
        last = if secret.name == "default" { last + 1 } else { 0 };
    }
    assert!(last >= 4, "only the certificate is there to be sent again");
    let metrics = server.metrics();
    let mut withheld = metrics.lines().filter(|line| line.starts_with("withheld_total{"));
    assert!(withheld.all(|line| line.ends_with(" 0")), "{metrics}");
}

#[tokio::test]
async fn item_70_an_unknown_trust_domain_is_listed_as_withheld_until_it_is_sent() {
    let server = server().await;
    let mut stream = Delta::open_delta(&mut client(&server).await, "web").await.unwrap();
    stream.send(delta(&["spiffe://other"])).await;
    stream.removed().await;
    let kind = || server.service.roster().snapshot()[0].names["spiffe://other"].kind;
    assert_eq!(kind(), None);
    server.source.pending_domains.lock().unwrap().insert("other".to_owned());
    stream.send(delta(&["spiffe://other"])).await;
    eventually(|| kind().is_some()).await;
    server.source.pending_domains.lock().unwrap().clear();
    stream.send(delta(&["spiffe://other"])).await;
    stream.removed().await;
    assert_eq!(kind(), None);
    let there = BundleSet::of_one("other".into(), Arc::new(bundle("other")));
    server.source.domains.send_replace(Some(Arc::new(there)));
    stream.next().await;
    assert!(kind().is_some());
}

/// Log lines of this thread.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn item_106_each_certificate_that_is_handed_out_is_a_line_of_the_log() {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt().with_writer(lines.clone()).with_ansi(false).finish();
    // With one subscriber, the thread that first comes by a span decides for all whether anybody is interested in it, and
    // that may be another test's, which has none.
    let _second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    let _guard = tracing::subscriber::set_default(subscriber);
    let server = TestServer::start(ServeSettings::default(), &[]).await;
    let (svid, _) = (Arc::new(svid("web")), server.trust());
    server.source.certificate.send_replace(Some(svid.clone()));
    let mut stream = Raw::open(&server, "web").await;
    stream.send(request(&["default", "ROOTCA"])).await;
    stream.next().await;
    stream.next().await;
    assert_eq!(secrets(answered(&server, fetch(&server, "api", &["default", "ROOTCA"])).await.unwrap()).await.len(), 2);
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let audit: Vec<_> = text.lines().filter(|line| line.contains("certificate handed out")).collect();
    assert_eq!(audit.len(), 2, "{text}");
    for (line, identity) in audit.iter().zip(["spiffe://default/web", "spiffe://default/api"]) {
        let version = super::super::version::Version::of_certificate(&svid).to_string();
        for part in [identity, &version, svid.leaf.serial(), "node=\"proxy-0\"", "name=\"default\"", "INFO"] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
    }
    assert!(!text.contains("PRIVATE KEY"));
}
