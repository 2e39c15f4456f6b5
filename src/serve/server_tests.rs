//! The service over real sockets. Numbers are items of the conformance list.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;
use envoy_types::pb::google::rpc;
use jiff::SignedDuration;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::super::admission::StreamLimits;
use super::super::client_testing::{
    Sotw, call, chain, client, eventually, framed, full_node, request, server, soon, with_token,
};
use super::super::testing::{TestServer, ca, tcp};
use super::super::version::Version;
use super::{Body, ServeSettings, Service, StatusCode};
use crate::model::bundle::Bundle;
use crate::runtime::clock::Clock;

#[tokio::test]
async fn first_push_rotation_acks_and_nacks() {
    let server = server().await;
    let (svid, bundle) = (server.issue(), server.trust());
    let mut stream = Sotw::open(&mut client(&server).await, "web").await.unwrap();
    let names = ["default", "ROOTCA"];
    stream.send(request(&names)).await;

    let (first, secret) = stream.next().await;
    assert_eq!((&*secret.name, &*first.version_info), ("ROOTCA", Version::of_bundle(&bundle).as_str()), "item 92");
    let (second, secret) = stream.next().await;
    assert_eq!((&*secret.name, &*second.version_info), ("default", Version::of_certificate(&svid).as_str()));
    assert_eq!(chain(&secret), svid.chain_pem());
    assert_eq!(second.control_plane.as_ref().unwrap().identifier, "envoy-sds", "item 50");
    assert_ne!(first.nonce, second.nonce, "item 33");
    stream.ack(&first, &names).await;
    stream.ack(&second, &names).await;
    stream.silent().await;

    let renewed = server.issue();
    let (third, secret) = stream.next().await;
    assert_eq!(chain(&secret), renewed.chain_pem(), "item 91, and nothing that has not changed");
    let error_detail = Some(rpc::Status { code: 3, message: "bad".to_owned(), details: Vec::new() });
    let nack = DiscoveryRequest { response_nonce: third.nonce, error_detail, ..request(&names) };
    stream.send(DiscoveryRequest { version_info: second.version_info, ..nack }).await;
    stream.silent().await;
    server.source.certificate.send_replace(Some(renewed));
    stream.silent().await;
    let again = server.issue();
    assert_eq!(chain(&stream.next().await.1), again.chain_pem(), "item 43");

    let metrics = server.metrics();
    for line in [
        "streams{protocol=\"sotw\"} 1",
        "pushes_total{secret=\"certificate\"} 3",
        "pushes_total{secret=\"bundle\"} 1",
        "acks_total{secret=\"certificate\"} 1",
        "nacks_total{secret=\"certificate\"} 1",
        "push_duration_seconds_count 2",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn item_68_silence_while_pending_then_a_push() {
    let server = server().await;
    let mut stream = Sotw::open(&mut client(&server).await, "web").await.unwrap();
    stream.send(request(&["default"])).await;
    stream.silent().await;
    let svid = server.issue();
    assert_eq!(chain(&stream.next().await.1), svid.chain_pem());
}

#[tokio::test]
async fn items_70_and_73_unknown_names_are_withheld_and_the_rest_is_served() {
    let server = server().await;
    server.trust();
    let mut stream = Sotw::open(&mut client(&server).await, "web").await.unwrap();
    stream.send(request(&["kubernetes://x", "ROOTCA", "spiffe://default/other"])).await;
    assert_eq!(stream.next().await.1.name, "ROOTCA");
    stream.silent().await;
    assert!(server.metrics().contains("withheld_total{reason=\"forbidden_name\"} 2"));
    assert_eq!(Arc::strong_count(&server.source.interest), 1, "item 64: nothing was issued");
}

#[tokio::test]
async fn items_53_59_and_101_subscriptions_end_and_begin_again() {
    let server = server().await;
    server.issue();
    let mut stream = Sotw::open(&mut client(&server).await, "web").await.unwrap();
    let interest = || Arc::strong_count(&server.source.interest) - 1;
    stream.send(request(&["default"])).await;
    let (first, _) = stream.next().await;
    assert_eq!(interest(), 1);
    stream.ack(&first, &[]).await;
    eventually(|| interest() == 0).await;
    server.issue();
    stream.silent().await;
    stream.send(request(&["default"])).await;
    stream.next().await;
    // A reset, as Envoy does when the last user of a secret is gone.
    drop(stream);
    eventually(|| interest() == 0 && server.metrics().contains("streams{protocol=\"sotw\"} 0")).await;
}

#[tokio::test]
async fn items_18_19_22_29_and_105_who_is_refused_and_how() {
    let server = server().await;
    let mut client = client(&server).await;
    for (token, code) in [("bad", Code::Unauthenticated), ("away", Code::Unavailable)] {
        let status = Sotw::open(&mut client, token).await.err().unwrap();
        assert_eq!(status.code(), code);
        assert!(!status.message().contains("token"), "item 105: {status:?}");
    }
    let none = client.stream_secrets(ReceiverStream::new(mpsc::channel(1).1)).await;
    assert_eq!(none.unwrap_err().code(), Code::Unauthenticated);

    let anonymous = Some(Node { cluster: "web".to_owned(), ..Default::default() });
    let other_type = "type.googleapis.com/envoy.api.v2.auth.Secret".to_owned();
    for (token, first, code) in [
        ("web", DiscoveryRequest { node: None, ..request(&[]) }, Code::InvalidArgument),
        ("web", DiscoveryRequest { node: anonymous, ..request(&[]) }, Code::InvalidArgument),
        ("web", DiscoveryRequest { type_url: other_type, ..request(&[]) }, Code::InvalidArgument),
        ("forbidden", request(&[]), Code::PermissionDenied),
    ] {
        let stream = Sotw::open(&mut client, token).await.unwrap();
        stream.send(first).await;
        assert_eq!(stream.status().await.code(), code);
    }

    let mut stream = Sotw::open(&mut client, "web").await.unwrap();
    stream.send(request(&["x"])).await;
    stream.send(DiscoveryRequest { node: None, ..request(&["x"]) }).await;
    stream.silent().await;
    let other = Some(Node { id: "proxy-1".to_owned(), ..Default::default() });
    stream.send(DiscoveryRequest { node: other, ..request(&["x"]) }).await;
    assert_eq!(stream.status().await.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn items_17_and_63_readiness_and_limits() {
    let limits = StreamLimits { streams: 2, per_proxy: 1, ..StreamLimits::default() };
    let server = TestServer::start(ServeSettings { limits, ..Default::default() }, &[tcp()]).await;
    let mut client = client(&server).await;
    server.ready.send_replace(false);
    assert_eq!(Sotw::open(&mut client, "web").await.err().unwrap().code(), Code::Unavailable);
    server.ready.send_replace(true);

    let first = Sotw::open(&mut client, "web").await.unwrap();
    first.send(request(&["x"])).await;
    eventually(|| server.metrics().contains("unknown_name\"} 1")).await;
    let second = Sotw::open(&mut client, "web").await.unwrap();
    assert_eq!(Sotw::open(&mut client, "api").await.err().unwrap().code(), Code::ResourceExhausted);
    second.send(request(&["x"])).await;
    assert_eq!(second.status().await.code(), Code::ResourceExhausted);
    Sotw::open(&mut client, "api").await.unwrap();
}

#[tokio::test]
async fn item_26_a_stream_ends_with_its_proof() {
    let server = server().await;
    let until = Clock::system().now() + SignedDuration::from_millis(400);
    server.authenticate.until.lock().unwrap().insert("web".to_owned(), until);
    let stream = Sotw::open(&mut client(&server).await, "web").await.unwrap();
    stream.send(request(&["default"])).await;
    let status = stream.status().await;
    assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "proof of identity expired"));
}

#[tokio::test]
async fn item_102_shutdown_ends_streams() {
    let settings = ServeSettings { drain: Duration::from_millis(50), ..Default::default() };
    let server = TestServer::start(settings, &[tcp()]).await;
    server.issue();
    let mut stream = Sotw::open(&mut client(&server).await, "web").await.unwrap();
    stream.send(request(&["default"])).await;
    stream.next().await;
    server.tasks.shutdown().cancel();
    assert_eq!(stream.status().await.code(), Code::Unavailable);
    assert!(server.tasks.stop(Duration::from_secs(8)).await, "every task has ended");
}

#[tokio::test]
async fn items_94_and_95_a_slow_reader_gets_the_newest_and_holds_nobody_up() {
    let server = server().await;
    let mut slow = Sotw::open(&mut client(&server).await, "slow").await.unwrap();
    let mut quick = Sotw::open(&mut client(&server).await, "quick").await.unwrap();
    slow.send(request(&["ROOTCA"])).await;
    quick.send(request(&["ROOTCA"])).await;
    // Some 16 KB each; another order is another version.
    let mut certificates: Vec<_> = (0..30).map(|number| ca(&number.to_string()).certificate).collect();
    let mut newest = String::new();
    for _ in 0..100 {
        certificates.rotate_left(1);
        let swapped = fastrand::usize(1..30);
        certificates.swap(0, swapped);
        let bundle = Arc::new(Bundle::from_certificates(certificates.clone()).unwrap());
        newest = Version::of_bundle(&bundle).to_string();
        server.source.bundle.send_replace(Some(bundle));
        assert_eq!(quick.next().await.0.version_info, newest);
    }
    let mut read = 1;
    while slow.next().await.0.version_info != newest {
        read += 1;
    }
    assert!(read < 30, "{read} of 100 versions were kept for a reader that did not read");
    assert!(read > 1, "it was slow");
}

#[tokio::test]
async fn item_7_the_node_of_a_real_envoy_in_every_request() {
    let server = server().await;
    server.issue();
    let mut stream = Sotw::open(&mut client(&server).await, "web").await.unwrap();
    let request = DiscoveryRequest { node: full_node(), ..request(&["default"]) };
    stream.send(request.clone()).await;
    for _ in 0..20 {
        let (response, _) = stream.next().await;
        let (version_info, response_nonce) = (response.version_info, response.nonce);
        stream.send(DiscoveryRequest { version_info, response_nonce, ..request.clone() }).await;
        server.issue();
    }
    eventually(|| server.metrics().contains("acks_total{secret=\"certificate\"} 20\n")).await;
}

#[tokio::test]
async fn items_4_and_5_fetch() {
    let server = server().await;
    let mut client = client(&server).await;
    assert_eq!(client.fetch_secrets(request(&["default"])).await.unwrap_err().code(), Code::Unauthenticated);
    let empty = client.fetch_secrets(with_token(request(&[]), "web")).await;
    assert_eq!(empty.unwrap_err().code(), Code::InvalidArgument);

    let mut hasty = with_token(request(&["default"]), "web");
    hasty.set_timeout(Duration::from_millis(500));
    assert_eq!(client.fetch_secrets(hasty).await.unwrap_err().code(), Code::Unavailable);

    let names = ["default", "unknown", "ROOTCA"];
    let mut waiting = client.clone();
    let answer = async { waiting.fetch_secrets(with_token(request(&names), "web")).await.unwrap().into_inner() };
    let later = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        (server.issue(), server.trust())
    };
    let (answer, (svid, _)) = soon(Box::pin(async { tokio::join!(answer, later) })).await;
    let secrets: Vec<_> = answer.resources.iter().map(|any| Secret::decode(&*any.value).unwrap()).collect();
    assert_eq!(secrets.iter().map(|secret| &*secret.name).collect::<Vec<_>>(), ["default", "ROOTCA"]);
    assert_eq!(chain(&secrets[0]), svid.chain_pem());
    assert!(answer.version_info.starts_with("several."));
    let one = client.fetch_secrets(with_token(request(&["default"]), "web")).await.unwrap().into_inner();
    assert_eq!(one.version_info, Version::of_certificate(&svid).as_str());
}

/// Calls the service without a socket.
async fn answer(server: &TestServer, request: http::Request<Body>) -> http::Response<Body> {
    server.service.clone().call(request).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn item_5_a_callers_deadline_counts_from_its_call() {
    let server = TestServer::start(ServeSettings::default(), &[]).await;
    let body = Body::new(http_body_util::Full::new(framed(&request(&["default"]))));
    let began = tokio::time::Instant::now();
    let response = answer(&server, call("FetchSecrets", "slowly").header("grpc-timeout", "10S").body(body).unwrap());
    assert_eq!(response.await.headers()["grpc-status"], "14");
    assert!((9..10).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn what_is_no_call_of_ours_is_told_so() {
    let server = TestServer::start(ServeSettings::default(), &[]).await;
    for (content_type, is_grpc) in [
        ("application/grpc", true),
        ("application/grpc+proto", true),
        ("application/grpc; charset=utf-8", true),
        ("application/grpc-web", false),
        ("application/grpc-web+proto", false),
        ("application/grpc+json", false),
        ("application/grpcx", false),
        ("application/json", false),
    ] {
        let mut request = call("DeltaSecrets", "web").body(Body::empty()).unwrap();
        request.headers_mut().insert("content-type", content_type.parse().unwrap());
        let status = answer(&server, request).await.status();
        assert_eq!(status == StatusCode::OK, is_grpc, "{content_type}");
        assert!(is_grpc || status == StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    for path in ["/v3/discovery:secrets", "/", "/x.Y/Z"] {
        let mut rest = call("", "web").uri(path).body(Body::empty()).unwrap();
        rest.headers_mut().insert("content-type", "application/json".parse().unwrap());
        assert_eq!(answer(&server, rest).await.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "item 6: {path}");
    }
    let get = call("StreamSecrets", "web").method("GET").body(Body::empty()).unwrap();
    assert_eq!(answer(&server, get).await.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn item_1_older_and_other_services_are_unimplemented() {
    let server = server().await;
    for path in ["/envoy.service.discovery.v2.SecretDiscoveryService/StreamSecrets", "/x.Y/Z"] {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", server.addresses[0])).unwrap();
        let mut channel = endpoint.connect().await.unwrap();
        let request = call("", "web").uri(format!("http://sds{path}")).body(Body::empty()).unwrap();
        std::future::poll_fn(|cx| Service::<http::Request<Body>>::poll_ready(&mut channel, cx)).await.unwrap();
        let response = soon(channel.call(request)).await.unwrap();
        assert_eq!(response.headers()["grpc-status"], "12", "{path}");
    }
}
