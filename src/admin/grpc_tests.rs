//! The admin address as clients see it, on a real socket.

use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use super::super::connections::{self, Speaks};
use super::super::proto::envoy::service::status::v3::ClientStatusRequest;
use super::super::proto::envoy::service::status::v3::client_status_discovery_service_client::ClientStatusDiscoveryServiceClient;
use super::super::proto::v1::admin_client::AdminClient;
use super::super::proto::v1::{ListProxiesRequest, ListRefusalsRequest, RotateRequest};
use super::super::testing::{FakeCertificates, identity, lives, status, stream};
use super::*;
use crate::observe::readiness::Readiness;
use crate::testing::certs::timestamp;

struct Rig {
    roster: Roster,
    refusals: Refusals,
    certificates: Arc<FakeCertificates>,
    readiness: Readiness,
    address: SocketAddr,
    channel: Channel,
    shutdown: CancellationToken,
    server: JoinSet<()>,
}

impl Rig {
    async fn new(certificates: FakeCertificates) -> Self {
        let shutdown = CancellationToken::new();
        let mut server = JoinSet::new();
        let (roster, refusals) = (Roster::default(), Refusals::default());
        let (readiness, certificates) = (Readiness::new(), Arc::new(certificates));
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let router = Router::new()
            .route("/livez", axum::routing::get(async || "ok\n"))
            .merge(routes(roster.clone(), refusals.clone(), certificates.clone(), readiness.watch()))
            .fallback(unknown);
        server.spawn(connections::serve(socket, router, Speaks::Http1And2, shutdown.clone()));
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        Self { roster, refusals, certificates, readiness, address, channel, shutdown, server }
    }

    async fn list(&self, request: ListProxiesRequest) -> Vec<v1::Proxy> {
        let messages = AdminClient::new(self.channel.clone()).list_proxies(request).await.unwrap().into_inner();
        messages.map(|message| message.unwrap().proxy.unwrap()).collect().await
    }

    async fn rotate(&self, request: RotateRequest) -> Result<u32, Status> {
        Ok(AdminClient::new(self.channel.clone()).rotate(request).await?.into_inner().proxies)
    }

    /// An HTTP/1 request and the first line of what comes back.
    async fn http1(&self, request: &str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut socket = tokio::net::TcpStream::connect(self.address).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer.lines().next().unwrap_or_default().to_owned()
    }
}

fn some_certificates() -> FakeCertificates {
    let proxies = [("default", "web-0"), ("default", "web-1"), ("other", "web-0")];
    let held = proxies.map(|(mesh, name)| (identity(mesh, name).proxy_key(), (None, status(None, None))));
    FakeCertificates { held: held.into(), ..FakeCertificates::default() }
}

#[tokio::test]
async fn more_proxies_than_fit_into_one_message_are_listed() {
    let rig = Rig::new(FakeCertificates::default()).await;
    let reason: Arc<str> = "é".repeat(512).into();
    let mut record = lives()[7].1.clone();
    record.nacked.as_mut().unwrap().2 = reason;
    let names = [("default", record.clone()), ("ROOTCA", record)];
    let streams: Vec<_> = (0..4000).map(|i| stream("default", &format!("web-{i}"), &names)).collect();
    let _listings: Vec<_> = streams.into_iter().map(|stream| rig.roster.enter(stream)).collect();
    let _other = rig.roster.enter(stream("other", "web-7", &[]));
    let proxies = rig.list(ListProxiesRequest::default()).await;
    assert_eq!(proxies.len(), 4001);
    let size: usize = proxies.iter().map(prost::Message::encoded_len).sum();
    assert!(size > 4 << 20, "{size}");
    let request = ListProxiesRequest { mesh: "default".to_owned(), name: "web-7".to_owned(), ..Default::default() };
    let found = rig.list(request).await;
    assert_eq!(found.iter().map(|proxy| (&*proxy.mesh, &*proxy.name)).collect::<Vec<_>>(), [("default", "web-7")]);

    let mut csds = ClientStatusDiscoveryServiceClient::new(rig.channel.clone());
    let refused = csds.fetch_client_status(ClientStatusRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let asked = futures::stream::iter([ClientStatusRequest::default()]);
    let responses = csds.stream_client_status(asked).await.unwrap().into_inner();
    let clients = responses.fold(0, async |sum, response| sum + response.unwrap().config.len()).await;
    assert_eq!(clients, 4001);
}

#[tokio::test]
async fn refusals_are_listed_the_last_first() {
    let rig = Rig::new(FakeCertificates::default()).await;
    let (one, other) = ("192.0.2.1".into(), "192.0.2.2".into());
    for second in [1, 2] {
        rig.refusals.record(&one, Some("web-0"), Some("proxyToken"), "not allowed: no such mesh", timestamp(second));
    }
    rig.refusals.record(&other, None, None, "no proof", timestamp(3));
    let mut client = AdminClient::new(rig.channel.clone());
    let listed = client.list_refusals(ListRefusalsRequest::default()).await.unwrap().into_inner().refusals;
    let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let refusal = |peer: &str, node: &str, method: &str, reason: &str| v1::Refusal {
        peer: peer.to_owned(),
        node_id: node.to_owned(),
        method: method.to_owned(),
        reason: reason.to_owned(),
        ..v1::Refusal::default()
    };
    let expected = [
        v1::Refusal { count: 1, first: time(3), last: time(3), ..refusal("192.0.2.2", "", "", "no proof") },
        v1::Refusal {
            count: 2,
            first: time(1),
            last: time(2),
            ..refusal("192.0.2.1", "web-0", "proxyToken", "not allowed: no such mesh")
        },
    ];
    assert_eq!(listed, expected);
}

#[tokio::test]
async fn certificates_are_renewed_of_those_that_are_named() {
    let rig = Rig::new(some_certificates()).await;
    let key = |mesh, name| identity(mesh, name).proxy_key();
    let request = |mesh: &str, name: &str, spiffe_id: &str, all| RotateRequest {
        mesh: mesh.to_owned(),
        name: name.to_owned(),
        spiffe_id: spiffe_id.to_owned(),
        all,
    };
    let (web0, web1, other) = (key("default", "web-0"), key("default", "web-1"), key("other", "web-0"));
    for (request, expected) in [
        (request("default", "web-1", "", false), vec![web1.clone()]),
        (request("", "web-0", "", false), vec![web0.clone(), other.clone()]),
        (request("default", "", "", false), vec![web0.clone(), web1.clone()]),
        (request("", "", "spiffe://other/web", false), vec![other.clone()]),
        (request("", "", "", true), vec![web0, web1, other]),
    ] {
        let count = rig.rotate(request.clone()).await.unwrap();
        assert_eq!(usize::try_from(count).unwrap(), expected.len(), "{request:?}");
        assert_eq!(rig.certificates.rotated.lock().unwrap().pop(), Some(expected), "{request:?}");
    }
    for (request, code, text) in [
        (request("", "", "", false), Code::InvalidArgument, "say which proxies"),
        (request("default", "", "", true), Code::InvalidArgument, "exclude each other"),
        (request("default", "web-9", "", false), Code::NotFound, "no proxy named \"web-9\" in mesh \"default\""),
        (request("none", "", "", false), Code::NotFound, "no proxy in mesh \"none\""),
    ] {
        let error = rig.rotate(request.clone()).await.unwrap_err();
        assert_eq!(error.code(), code, "{request:?}");
        assert!(error.message().contains(text), "{error}");
    }
    assert_eq!(rig.certificates.rotated.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn item_16_health_follows_readiness() {
    let rig = Rig::new(FakeCertificates::default()).await;
    let mut client = HealthClient::new(rig.channel.clone());
    let of = |service: &str| HealthCheckRequest { service: service.to_owned() };
    let mut watched = client.watch(of("")).await.unwrap().into_inner();
    let mut next = async || watched.message().await.unwrap().unwrap().status();
    assert_eq!(next().await, ServingStatus::Serving);
    let blocker = rig.readiness.block("trust", "mesh default has none");
    assert_eq!(next().await, ServingStatus::NotServing);
    for service in super::super::health::SERVICES {
        assert_eq!(client.check(of(service)).await.unwrap().get_ref().status(), ServingStatus::NotServing, "{service}");
    }
    drop(blocker);
    assert_eq!(next().await, ServingStatus::Serving);
    assert_eq!(client.check(of("")).await.unwrap().get_ref().status(), ServingStatus::Serving);
    assert_eq!(client.check(of("default")).await.unwrap_err().code(), Code::NotFound);
    let mut unknown = client.watch(of("default")).await.unwrap().into_inner();
    assert_eq!(unknown.message().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);
}

#[tokio::test]
async fn item_16_reflection_tells_of_services_and_of_no_secret() {
    let rig = Rig::new(some_certificates()).await;
    let _listing = rig.roster.enter(stream("default", "web-0", &[("name-of-a-secret", lives()[4].1.clone())]));
    let mut client = ServerReflectionClient::new(rig.channel.clone());
    let mut ask = async |request| -> ServerReflectionResponse {
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(request) };
        let mut answers = client.server_reflection_info(futures::stream::iter([request])).await.unwrap().into_inner();
        answers.message().await.unwrap().unwrap()
    };
    let listed = ask(MessageRequest::ListServices(String::new())).await;
    let Some(MessageResponse::ListServicesResponse(listed)) = listed.message_response else { panic!("{listed:?}") };
    let mut services: Vec<String> = listed.service.into_iter().map(|service| service.name).collect();
    services.sort();
    assert_eq!(
        services,
        [
            "envoy.service.status.v3.ClientStatusDiscoveryService",
            "envoy_sds.admin.v1.Admin",
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
        ]
    );
    for service in services {
        let answer = ask(MessageRequest::FileContainingSymbol(service.clone())).await;
        let text = format!("{answer:?}");
        let Some(MessageResponse::FileDescriptorResponse(files)) = answer.message_response else { panic!("{text}") };
        let holds = |text: &str| {
            files.file_descriptor_proto.iter().any(|file| file.windows(text.len()).any(|part| part == text.as_bytes()))
        };
        assert!(holds(service.rsplit('.').next().unwrap()), "{service}");
        assert!(!holds("name-of-a-secret"), "{service}");
    }
    let imported = ask(MessageRequest::FileByFilename("google/protobuf/timestamp.proto".to_owned())).await;
    assert!(matches!(imported.message_response, Some(MessageResponse::FileDescriptorResponse(_))), "{imported:?}");
}

#[tokio::test]
async fn what_is_no_call_is_answered_in_its_own_terms() {
    let rig = Rig::new(some_certificates()).await;
    let mut unknown = tonic::client::Grpc::new(rig.channel.clone());
    for path in ["/envoy_sds.admin.v1.Admin/Nothing", "/nobody.knows.It/Do"] {
        unknown.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<RotateRequest, v1::RotateResponse>::default();
        let call = unknown.unary(tonic::Request::new(RotateRequest::default()), path.parse().unwrap(), codec);
        assert_eq!(call.await.unwrap_err().code(), Code::Unimplemented, "{path}");
    }
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert_eq!(rig.http1(&get("/livez")).await, "HTTP/1.1 200 OK");
    assert_eq!(rig.http1(&get("/no-such-page")).await, "HTTP/1.1 404 Not Found");
    // What a web page can make a browser send.
    for content_type in ["text/plain", "application/grpc"] {
        let post = format!(
            "POST /envoy_sds.admin.v1.Admin/Rotate HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: \
             {content_type}\r\ncontent-length: 7\r\n\r\n\0\0\0\0\x02\x20\x01"
        );
        assert_eq!(rig.http1(&post).await, "HTTP/1.1 505 HTTP Version Not Supported");
    }
    assert_eq!(rig.certificates.rotated.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn a_client_that_stays_does_not_hold_up_the_end() {
    let mut rig = Rig::new(FakeCertificates::default()).await;
    let mut client = HealthClient::new(rig.channel.clone());
    let mut watched = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    watched.message().await.unwrap();
    rig.shutdown.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(60), rig.server.join_next()).await;
    ended.expect("it ends").unwrap().unwrap();
}
