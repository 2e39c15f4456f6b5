//! What HTTP/2 itself has to do and what it must not be asked: pings, time limits, compression, and headers that say who
//! somebody is. Numbers are items of the conformance list.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::TokioIo;
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tower::{Service, ServiceExt};

use super::http2;
use super::raw_http2::*;
use super::{Connection, HELLO, Lifetimes, connection::Io};
use crate::identify::Evidence;
use crate::identify::chain::Identifiers;
use crate::identify::membership::Rules;
use crate::model::policy::{MeshPolicy, PolicySet};
use crate::serve::ServeSettings;
use crate::serve::client_testing::{
    AdsClient, Client, Delta, Sotw, chain, channel, delta, eventually, framed, request, server, soon,
};
use crate::serve::testing::TestServer;

const SDS: &str = "envoy.service.secret.v3.SecretDiscoveryService";
const ADS: &str = "envoy.service.discovery.v3.AggregatedDiscoveryService";

/// The client's end of a connection that goes through memory, so that time can be paused, and is served like any other.
async fn in_memory(server: &TestServer) -> DuplexStream {
    let (theirs, ours) = tokio::io::duplex(1 << 20);
    let (accepted, connections) = mpsc::channel(1);
    accepted.send(Connection::new(Io::Memory(ours), Instant::now() + HELLO)).await.unwrap();
    let lifetimes = Lifetimes { drain: Duration::from_secs(5), max_age: None };
    server.tasks.spawn_to_end(http2::serve(connections, server.service.clone(), server.tasks.clone(), lifetimes));
    theirs
}

#[tokio::test]
async fn item_10_nothing_is_compressed_whatever_the_client_offers() {
    let server = server().await;
    server.issue();
    let mut channel = channel(&server).await;
    for offered in [None, Some("gzip"), Some("identity,deflate,gzip")] {
        for (service, method) in [
            (SDS, "StreamSecrets"),
            (SDS, "DeltaSecrets"),
            (SDS, "FetchSecrets"),
            (ADS, "StreamAggregatedResources"),
            (ADS, "DeltaAggregatedResources"),
        ] {
            let (requests, outgoing) = mpsc::channel(1);
            let is_delta = method.starts_with("Delta");
            let first = if is_delta { framed(&delta(&["default"])) } else { framed(&request(&["default"])) };
            requests.send(first).await.unwrap();
            let requests = Some(requests).filter(|_| method != "FetchSecrets");
            let frames = ReceiverStream::new(outgoing).map(|data| Ok::<_, Status>(http_body::Frame::data(data)));
            let call = http::Request::post(format!("http://sds/{service}/{method}"))
                .header("content-type", "application/grpc")
                .header("authorization", "Bearer web");
            let call = offered.into_iter().fold(call, |call, offered| call.header("grpc-accept-encoding", offered));
            let call = call.body(Body::new(StreamBody::new(frames))).unwrap();

            let ready = ServiceExt::<http::Request<Body>>::ready(&mut channel).await.unwrap();
            let mut response = soon(ready.call(call)).await.unwrap();
            assert_eq!(response.status(), 200);
            for header in ["grpc-encoding", "content-encoding"] {
                assert_eq!(response.headers().get(header), None, "{method}, {offered:?}");
            }
            let mut message = BytesMut::new();
            while message.len() < 5 || message.len() < 5 + length(&message) {
                let frame = soon(response.body_mut().frame()).await.unwrap().unwrap();
                message.extend_from_slice(&frame.into_data().unwrap());
            }
            assert_eq!(message[0], 0, "the flag of a compressed message; {method}, {offered:?}");
            let plain = b"-----BEGIN CERTIFICATE-----";
            assert!(message.windows(plain.len()).any(|part| part == plain), "{method}, {offered:?}");
            drop(requests);
        }
    }
}

/// What a message's header says of the length of the rest.
fn length(message: &[u8]) -> usize {
    u32::from_be_bytes(message[1..5].try_into().unwrap()) as usize
}

#[tokio::test(start_paused = true)]
async fn item_11_streams_on_a_connection_that_only_pings_stay_for_days() {
    let server = TestServer::start(ServeSettings::default(), &[]).await;
    server.issue();
    let mut io = Some(in_memory(&server).await);
    // tonic's client answers pings, and says no `grpc-timeout` unless it is told to.
    let connect = tower::service_fn(move |_: http::Uri| {
        let io = io.take().expect("one connection, and never another");
        async move { Ok::<_, std::io::Error>(TokioIo::new(io)) }
    });
    let channel: Channel = Endpoint::from_static("http://sds").connect_with_connector(connect).await.unwrap();
    let (mut sds, mut ads) = (Client::new(channel.clone()), AdsClient::new(channel));
    let mut sotw = [Sotw::open(&mut sds, "web").await.unwrap(), Sotw::open_ads(&mut ads, "web").await.unwrap()];
    let mut incremental =
        [Delta::open_delta(&mut sds, "web").await.unwrap(), Delta::open_delta_ads(&mut ads, "web").await.unwrap()];
    for stream in &mut sotw {
        stream.send(request(&["default"])).await;
        stream.next().await;
    }
    for stream in &mut incremental {
        stream.send(delta(&["default"])).await;
        stream.next().await;
    }
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
        let renewed = server.issue();
        for stream in &mut sotw {
            assert_eq!(chain(&stream.next().await.1), renewed.chain_pem());
        }
        for stream in &mut incremental {
            assert_eq!(chain(&stream.next().await.1), renewed.chain_pem());
        }
    }
    assert_eq!(server.service.counts()[0], 4, "the streams of the first day");
}

#[tokio::test(start_paused = true)]
async fn item_13_a_silent_peer_is_pinged_and_stays_only_if_it_answers() {
    const HOUR: Duration = Duration::from_secs(3600);
    for answers in [true, false] {
        let server = TestServer::start(ServeSettings::default(), &[]).await;
        server.issue();
        let mut peer = Attacker::over(in_memory(&server).await, &[]).await;
        peer.open(1, "web").await.unwrap();
        peer.send(&frame(DATA, 0, 1, &framed(&request(&["default"])))).await.unwrap();
        peer.until(|frame| frame.kind == DATA && frame.stream == 1).await;
        let began = Instant::now();
        let mut pings = Vec::new();
        let watched = async {
            while let Some(received) = peer.next().await {
                if received.kind == PING && received.flags != ACK {
                    pings.push(began.elapsed().as_secs());
                    if answers {
                        peer.send(&frame(PING, ACK, 0, &received.payload)).await.unwrap();
                    }
                }
            }
        };
        let ended = tokio::time::timeout(HOUR, watched).await;
        assert_eq!(pings.first(), Some(&30), "{pings:?}");
        if answers {
            assert!(ended.is_err(), "it has ended after {:?}", began.elapsed());
            assert!((100..=120).contains(&pings.len()), "{}", pings.len());
            assert_eq!(server.service.counts()[0], 1);
        } else {
            assert!(ended.is_ok(), "it is still there");
            assert_eq!((pings.len(), began.elapsed().as_secs()), (1, 40));
            // What the stream held is free.
            tokio::task::yield_now().await;
            assert_eq!((server.service.counts(), Arc::strong_count(&server.source.interest)), ([0; 4], 1));
        }
    }
}

#[tokio::test]
async fn item_15_headers_that_say_who_somebody_is_change_nothing() {
    let server = server().await;
    server.issue();
    let mut peer = Attacker::connect(&server, &[]).await;
    let from = peer.io.local_addr().unwrap();
    let lies = [
        headers_to("admin.prod.mesh"),
        field("x-forwarded-for", "10.1.2.3"),
        field("x-envoy-internal", "true"),
        field("x-envoy-external-address", "10.1.2.3"),
        field("x-forwarded-client-cert", "URI=spiffe://prod/admin"),
    ]
    .concat();
    let token = field("authorization", "Bearer web");
    for (stream, headers) in [(1, headers("web")), (3, [lies.clone(), token].concat())] {
        peer.send(&frame(HEADERS, END_HEADERS, stream, &headers)).await.unwrap();
        peer.send(&frame(DATA, 0, stream, &framed(&request(&["default"])))).await.unwrap();
        peer.until(|frame| frame.kind == DATA && frame.stream == stream).await;
    }
    // Nor are they a proof where there is no other.
    peer.send(&frame(HEADERS, END_HEADERS, 5, &lies)).await.unwrap();
    let refused = peer.until(|frame| frame.stream == 5).await;
    assert_eq!((refused.kind, refused.flags), (HEADERS, END_HEADERS | END_STREAM), "a status and nothing else");

    let seen = server.authenticate.seen.lock().unwrap();
    let tokens = [Some("web"), Some("web"), None];
    assert_eq!(seen.len(), tokens.len());
    for (evidence, token) in seen.iter().zip(tokens) {
        // All fields, so that a new one is looked at here.
        let Evidence { address, bearer_token, client_certificate, unix_peer } = evidence;
        assert_eq!((*address, bearer_token.as_ref().map(|token| token.expose())), (Some(from), token));
        assert!(client_certificate.is_none() && unix_peer.is_none());
    }
    let streams = server.service.roster().snapshot();
    let [honest, lying] = streams.as_slice() else { panic!("{streams:?}") };
    assert_eq!((&honest.identity, &honest.peer), (&lying.identity, &lying.peer));
}

#[tokio::test]
async fn item_23_a_node_that_says_it_is_somebody_else_gets_what_its_token_proves() {
    let server = server().await;
    server.issue();
    // As the program does it, node ids being believed where there is no proof.
    let policy = |name: &str| MeshPolicy::classic(name.into(), "".into(), Vec::new());
    let meshes = ["default", "prod"].map(|name| (name.into(), Arc::new(policy(name))));
    let policies = watch::channel(Arc::new(PolicySet { meshes: meshes.into(), ..PolicySet::default() })).1;
    server
        .authenticate
        .completes
        .set(Identifiers::new(Vec::new(), true, policies, Rules::default(), "".into()))
        .unwrap();

    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let metadata = [
        ("spiffe_id", "spiffe://prod/admin"),
        ("mesh", "prod"),
        ("MESH_ID", "prod"),
        ("NAMESPACE", "kube-system"),
        ("SERVICE_ACCOUNT", "admin"),
        ("dataplane.token", "admin"),
    ];
    let metadata = Struct { fields: metadata.iter().map(|(key, value)| ((*key).to_owned(), text(value))).collect() };
    let mut sds = Client::new(channel(&server).await);
    for id in ["prod.admin", "spiffe://prod/admin", "prod/admin", "sidecar~10.0.0.1~admin.prod~prod.svc.cluster.local"]
    {
        let node =
            Node { id: id.to_owned(), cluster: "prod".to_owned(), metadata: Some(metadata.clone()), ..Node::default() };
        let names = ["default", "spiffe://prod/admin", "spiffe://default/admin", "identity_cert:secret:prod", "ROOTCA"];
        let mut stream = Sotw::open(&mut sds, "web").await.unwrap();
        stream.send(DiscoveryRequest { node: Some(node), ..request(&names) }).await;
        // Its own, and none of those that the node would have.
        assert_eq!(stream.next().await.1.name, "default");
        stream.silent().await;
        let streams = server.service.roster().snapshot();
        let [record] = streams.as_slice() else { panic!("{streams:?}") };
        assert_eq!((&*record.node_id, &*record.identity.mesh), (id, "default"));
        assert_eq!(record.identity.spiffe_id.to_string(), "spiffe://default/web");
        drop(stream);
        eventually(|| server.service.counts() == [0; 4]).await;
    }
    // Somebody whose token is not good is not believed either.
    assert_eq!(Sotw::open(&mut sds, "bad").await.err().unwrap().code(), tonic::Code::Unauthenticated);
}
