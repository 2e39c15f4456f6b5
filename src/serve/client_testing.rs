//! The client of the tests that go over real sockets.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use envoy_types::pb::envoy::config::core::v3::{Extension, Node, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{Secret, secret};
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use http::HeaderMap;
use http_body_util::{BodyExt, StreamBody};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use tower::Service;

use super::ServeSettings;
use super::server::{AGGREGATED, SECRETS};
use super::testing::{TestServer, tcp};
use super::wire::SECRET_TYPE;

/// envoy-types has one.
pub(super) type Client = SecretDiscoveryServiceClient<Channel>;

/// Likewise.
pub(super) type AdsClient = AggregatedDiscoveryServiceClient<Channel>;

pub(super) async fn server() -> TestServer {
    TestServer::start(ServeSettings::default(), &[tcp()]).await
}

pub(super) async fn channel(server: &TestServer) -> Channel {
    // A small window, so that a reader that does not read is soon a slow one.
    let endpoint = Endpoint::from_shared(format!("http://{}", server.addresses[0])).unwrap();
    endpoint.initial_stream_window_size(65_535).connect().await.unwrap()
}

pub(super) async fn client(server: &TestServer) -> Client {
    Client::new(channel(server).await)
}

pub(super) async fn ads(server: &TestServer) -> AdsClient {
    AdsClient::new(channel(server).await)
}

pub(super) fn node() -> Option<Node> {
    Some(Node { id: "proxy-0".to_owned(), cluster: "web".to_owned(), ..Default::default() })
}

/// As a real Envoy sends it, with its list of extensions.
pub(super) fn full_node() -> Option<Node> {
    let extension = |number: usize| Extension {
        name: format!("envoy.filters.http.some_extension_{number:03}"),
        category: "envoy.filters.http".to_owned(),
        type_urls: vec![format!("envoy.extensions.filters.http.some_extension_{number:03}.v3.SomeExtension")],
        ..Default::default()
    };
    let node = Node { extensions: (0..516).map(extension).collect(), ..node().unwrap() };
    assert!(node.encoded_len() > 61_000, "{}", node.encoded_len());
    Some(node)
}

pub(super) fn request(names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        node: node(),
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        type_url: SECRET_TYPE.to_owned(),
        ..Default::default()
    }
}

pub(super) fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

/// Names that are subscribed to with a Delta request.
pub(super) fn delta(subscribe: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: node(),
        type_url: SECRET_TYPE.to_owned(),
        resource_names_subscribe: subscribe.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    }
}

/// A client's end of a stream.
pub(super) struct Talk<Request, Response> {
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) responses: Streaming<Response>,
}

/// A client's end of a SotW stream.
pub(super) type Sotw = Talk<DiscoveryRequest, DiscoveryResponse>;

/// A client's end of a Delta stream.
pub(super) type Delta = Talk<DeltaDiscoveryRequest, DeltaDiscoveryResponse>;

impl<Request, Response: std::fmt::Debug> Talk<Request, Response> {
    pub(super) async fn send(&self, request: Request) {
        self.requests.send(request).await.ok().unwrap();
    }

    pub(super) async fn status(mut self) -> Status {
        soon(self.responses.message()).await.unwrap_err()
    }

    pub(super) async fn silent(&mut self) {
        let message = tokio::time::timeout(Duration::from_millis(150), self.responses.message()).await;
        assert!(message.is_err(), "silence, not {message:?}");
    }
}

impl Sotw {
    pub(super) async fn open(client: &mut Client, token: &str) -> Result<Self, Status> {
        let (requests, outgoing) = mpsc::channel(16);
        let responses = client.stream_secrets(with_token(ReceiverStream::new(outgoing), token)).await?.into_inner();
        Ok(Self { requests, responses })
    }

    pub(super) async fn open_ads(client: &mut AdsClient, token: &str) -> Result<Self, Status> {
        let (requests, outgoing) = mpsc::channel(16);
        let requested = with_token(ReceiverStream::new(outgoing), token);
        let responses = client.stream_aggregated_resources(requested).await?.into_inner();
        Ok(Self { requests, responses })
    }

    pub(super) async fn next(&mut self) -> (DiscoveryResponse, Secret) {
        let response = soon(self.responses.message()).await.unwrap().expect("a response");
        assert_eq!(response.type_url, SECRET_TYPE, "item 32");
        let [resource] = response.resources.as_slice() else { panic!("item 78: {response:?}") };
        assert_eq!(resource.type_url, SECRET_TYPE);
        let secret = Secret::decode(&*resource.value).unwrap();
        (response, secret)
    }

    pub(super) async fn ack(&self, response: &DiscoveryResponse, names: &[&str]) {
        self.send(DiscoveryRequest {
            version_info: response.version_info.clone(),
            response_nonce: response.nonce.clone(),
            ..request(names)
        })
        .await;
    }
}

impl Delta {
    pub(super) async fn open_delta(client: &mut Client, token: &str) -> Result<Self, Status> {
        let (requests, outgoing) = mpsc::channel(16);
        let responses = client.delta_secrets(with_token(ReceiverStream::new(outgoing), token)).await?.into_inner();
        Ok(Self { requests, responses })
    }

    pub(super) async fn open_delta_ads(client: &mut AdsClient, token: &str) -> Result<Self, Status> {
        let (requests, outgoing) = mpsc::channel(16);
        let requested = with_token(ReceiverStream::new(outgoing), token);
        let responses = client.delta_aggregated_resources(requested).await?.into_inner();
        Ok(Self { requests, responses })
    }

    async fn message(&mut self) -> DeltaDiscoveryResponse {
        let response = soon(self.responses.message()).await.unwrap().expect("a response");
        assert_eq!(response.type_url, SECRET_TYPE, "item 32");
        assert!(!response.nonce.is_empty(), "item 33");
        assert_eq!(response.control_plane.as_ref().unwrap().identifier, "envoy-sds", "item 50");
        assert!(response.resource_errors.is_empty(), "item 77: Envoy ignores them");
        response
    }

    /// A response with a secret, and its version.
    pub(super) async fn next(&mut self) -> (DeltaDiscoveryResponse, Secret, String) {
        let response = self.message().await;
        let [resource] = response.resources.as_slice() else { panic!("item 78: {response:?}") };
        assert!(response.removed_resources.is_empty(), "item 76");
        assert_eq!(resource.ttl, None, "item 81");
        let any = resource.resource.as_ref().unwrap();
        assert_eq!(any.type_url, SECRET_TYPE);
        let secret = Secret::decode(&*any.value).unwrap();
        assert_eq!(secret.name, resource.name, "item 79");
        let version = resource.version.clone();
        (response, secret, version)
    }

    /// A response without a secret: the names that are removed, and its nonce.
    pub(super) async fn removed(&mut self) -> (Vec<String>, String) {
        let response = self.message().await;
        assert!(response.resources.is_empty(), "item 76");
        (response.removed_resources, response.nonce)
    }

    pub(super) async fn ack(&self, nonce: &str) {
        self.send(DeltaDiscoveryRequest { response_nonce: nonce.to_owned(), ..delta(&[]) }).await;
    }
}

pub(super) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("soon")
}

pub(super) async fn eventually(mut condition: impl FnMut() -> bool) {
    soon(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

pub(super) fn chain(secret: &Secret) -> String {
    let Some(secret::Type::TlsCertificate(tls)) = &secret.r#type else { panic!("not a certificate") };
    let Some(Specifier::InlineBytes(pem)) = &tls.certificate_chain.as_ref().unwrap().specifier else { panic!() };
    String::from_utf8(pem.clone()).unwrap()
}

/// A client's end of a SotW stream without a socket: the service is called as HTTP/2 would.
pub(super) struct Raw {
    pub(super) requests: mpsc::Sender<Bytes>,
    pub(super) body: Body,
}

impl Raw {
    pub(super) async fn open(server: &TestServer, token: &str) -> Self {
        Self::open_through(server, "StreamSecrets", token).await
    }

    pub(super) async fn open_through(server: &TestServer, method: &str, token: &str) -> Self {
        let (requests, outgoing) = mpsc::channel(16);
        let frames = ReceiverStream::new(outgoing).map(|data| Ok::<_, Status>(http_body::Frame::data(data)));
        let request = call(method, token).body(Body::new(StreamBody::new(frames))).unwrap();
        let response = server.service.clone().call(request).await.unwrap();
        Self { requests, body: response.into_body() }
    }

    pub(super) async fn send(&self, request: DiscoveryRequest) {
        self.requests.send(framed(&request)).await.unwrap();
    }

    /// The next response.
    pub(super) async fn next(&mut self) -> DiscoveryResponse {
        let mut bytes = BytesMut::new();
        while bytes.len() < 5 || bytes.len() < 5 + u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize {
            bytes.extend_from_slice(&self.body.frame().await.expect("a response").unwrap().into_data().unwrap());
        }
        DiscoveryResponse::decode(&bytes[5..]).unwrap()
    }

    /// Reads to the end: how many bytes came, and with which trailers it ended.
    pub(super) async fn ended(&mut self) -> (usize, HeaderMap) {
        let mut read = 0;
        loop {
            match self.body.frame().await.expect("trailers").unwrap().into_data() {
                Ok(data) => read += data.len(),
                Err(frame) => return (read, frame.into_trailers().unwrap()),
            }
        }
    }
}

/// A gRPC message as it is on the wire.
pub(super) fn framed(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut bytes).unwrap();
    bytes.freeze()
}

/// A call as HTTP/2 has it.
pub(super) fn call(method: &str, token: &str) -> http::request::Builder {
    let service = if method.contains("Aggregated") { AGGREGATED } else { SECRETS };
    http::Request::post(format!("/{service}/{method}"))
        .header("content-type", "application/grpc")
        .header("authorization", format!("Bearer {token}"))
}
