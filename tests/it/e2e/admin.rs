//! The admin API and its commands, with a client that says what the test wants.

use std::path::Path;
use std::time::Duration;

use envoy_sds::admin::proto::envoy::service::status::v3::ClientStatusRequest;
use envoy_sds::admin::proto::envoy::service::status::v3::client_status_discovery_service_client::ClientStatusDiscoveryServiceClient;
use envoy_sds::admin::proto::v1::admin_client::AdminClient;
use envoy_sds::admin::proto::v1::{ListProxiesRequest, Proxy, RotateRequest, SubscriptionState};
use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use envoy_types::pb::google::rpc::Status as ErrorDetail;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::SHUTDOWN;
use super::cli::run;
use crate::support::eventually::eventually;
use crate::support::mesh::builtin_mesh;
use crate::support::sds::{self, Caller, Content};
use crate::support::server::{NODE_ID, Server, Settings};
use crate::support::{PATIENCE, http};

/// A stream for one name, which the test answers.
struct Subscriber {
    name: String,
    send: mpsc::UnboundedSender<DiscoveryRequest>,
    responses: Streaming<DiscoveryResponse>,
}

impl Subscriber {
    async fn start(socket: &Path, caller: Caller<'_>, name: &str) -> Self {
        let (send, requests) = mpsc::unbounded_channel();
        send.send(sds::first_request(caller, &[name])).expect("nobody has closed it");
        let channel = sds::channel(socket).await.expect("the server listens");
        let mut client = SecretDiscoveryServiceClient::new(channel);
        let responses = client.stream_secrets(UnboundedReceiverStream::new(requests)).await.expect("it is let in");
        Self { name: name.to_owned(), send, responses: responses.into_inner() }
    }

    async fn next(&mut self) -> DiscoveryResponse {
        let message = tokio::time::timeout(PATIENCE, self.responses.message()).await.expect("a response comes");
        message.expect("the stream lives").expect("the stream lives")
    }

    fn answer(&self, response: &DiscoveryResponse, error: Option<&str>) {
        let error_detail =
            error.map(|message| ErrorDetail { code: 13, message: message.to_owned(), ..ErrorDetail::default() });
        let version = if error.is_none() { response.version_info.clone() } else { String::new() };
        let request = DiscoveryRequest {
            version_info: version,
            response_nonce: response.nonce.clone(),
            resource_names: vec![self.name.clone()],
            type_url: sds::SECRET.to_owned(),
            error_detail,
            ..DiscoveryRequest::default()
        };
        self.send.send(request).expect("the stream lives");
    }
}

/// A client of the admin API.
struct Api(Channel);

impl Api {
    async fn proxy(&self, name: &str) -> Result<Proxy, String> {
        let request = ListProxiesRequest { name: name.to_owned(), ..ListProxiesRequest::default() };
        let answer =
            AdminClient::new(self.0.clone()).list_proxies(request).await.map_err(|status| status.to_string())?;
        let found: Vec<_> = answer.into_inner().collect().await;
        match <[_; 1]>::try_from(found) {
            Ok([Ok(message)]) => message.proxy.ok_or_else(|| "an empty message".to_owned()),
            other => Err(format!("{other:?}")),
        }
    }

    /// Waits until each of these names of a proxy is as far as said.
    async fn shows(&self, proxy: &str, expected: &[(&str, SubscriptionState)]) -> Proxy {
        eventually(&format!("{proxy} is shown as {expected:?}"), PATIENCE, async || {
            let proxy = self.proxy(proxy).await?;
            let states: Vec<_> = proxy
                .streams
                .iter()
                .flat_map(|stream| &stream.subscriptions)
                .map(|subscription| (subscription.name.as_str(), subscription.state()))
                .collect();
            if states == expected { Ok(proxy.clone()) } else { Err(format!("{proxy:?}")) }
        })
        .await
    }
}

fn out(output: &std::process::Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("it is text")
}

/// A proxy that accepts one secret, rejects another with the private key in its reason, and asks for one that is not there:
/// every view shows all of that, and none the key. `rotate` gives it another leaf. A health watcher does not hold up the end.
#[tokio::test]
async fn items_45_105_and_106_operators_see_everything_but_secrets() {
    let mesh = builtin_mesh("1h");
    let settings = Settings { mesh: &mesh, ..NODE_ID };
    let mut server = Server::start(settings).await;
    server.ready().await;
    let endpoint = Endpoint::from_shared(format!("http://{}", server.admin)).expect("an address");
    let api = Api(endpoint.connect().await.expect("the admin API listens"));
    let caller = Caller { node: "web-0", workload: "web", token: None };

    let mut bundle = Subscriber::start(&server.socket, caller, "ROOTCA").await;
    let accepted = bundle.next().await;
    bundle.answer(&accepted, None);
    let mut leaf = Subscriber::start(&server.socket, caller, "default").await;
    let rejected = leaf.next().await;
    let fetched = sds::fetch(&server.socket, caller, &["default"]).await.expect("it is served");
    let Some(Content::Certificate { key_pem, .. }) = fetched.get("default") else { panic!("{:?}", fetched.keys()) };
    leaf.answer(&rejected, Some(&format!("Failed to load private key: {key_pem}")));
    let _unknown = Subscriber::start(&server.socket, caller, "somebody-elses").await;

    use SubscriptionState::{Acked, Nacked, Withheld};
    let proxy = api.shows("web-0", &[("ROOTCA", Acked), ("default", Nacked), ("somebody-elses", Withheld)]).await;
    let serial = proxy.certificate.clone().expect("it has a certificate").serial;
    let reason = &proxy.streams[1].subscriptions[0].nacked.as_ref().expect("it was rejected").reason;
    assert!(reason.contains("Failed to load private key") && reason.contains("[redacted]"), "{reason}");
    assert_eq!(proxy.streams[1].subscriptions[0].sent.as_ref().expect("it was sent").version, rejected.version_info);
    assert_eq!(proxy.streams[0].proof.as_ref().expect("it has proven itself").method, "insecureNodeId");

    let mut csds = ClientStatusDiscoveryServiceClient::new(api.0.clone());
    let clients = csds.fetch_client_status(ClientStatusRequest::default()).await.expect("it answers").into_inner();
    assert_eq!(clients.config[0].generic_xds_configs.len(), 3, "{clients:?}");

    let admin = server.admin.to_string();
    let dir = server.state_dir();
    let command = async |words: &str| {
        let words: Vec<&str> = words.split(' ').chain(["--admin", &admin]).collect();
        run(&words, &dir, Duration::from_secs(60)).await
    };
    let (table, wide) = (command("proxies").await, command("proxies -o wide").await);
    let json = command("proxies default/web-0 -o json").await;
    for output in [&table, &wide, &json] {
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    for part in ["web-0", "spiffe://default/web", "ROOTCA ACKED, default NACKED, somebody-elses WITHHELD", &serial] {
        assert!(out(&table).contains(part), "{part} is not in\n{}", out(&table));
    }
    let document: Value = serde_json::from_str(&out(&json)).expect("it is JSON");
    assert_eq!(document["proxies"][0]["certificate"]["serial"], serial.as_str());
    let mut shown = vec![format!("{proxy:?}"), format!("{clients:?}"), out(&table), out(&wide), out(&json)];
    for page in ["/", "/readyz", "/metrics"] {
        shown.push(http::get(server.admin, page).await.expect("the page is there").body);
    }
    assert!(shown[5].contains("default: nacked"), "{}", shown[5]);
    assert!(shown[5].contains("of the CAs that certificates in use lead through, "), "{}", shown[5]);
    // A page in a browser whose name has come to mean this address reads nothing.
    for page in ["/", "/readyz", "/metrics", "/livez"] {
        let to_itself = http::get_from(server.admin, "evil.example:5681", page).await.expect("it answers");
        assert_eq!(to_itself.status, 403, "{page}: {}", to_itself.body);
        assert!(!to_itself.body.contains("web-0"), "{page}: {}", to_itself.body);
        let by_its_name = http::get_from(server.admin, "sds.example:5681", page).await.expect("it answers");
        assert_eq!(by_its_name.status, 200, "{page}: {}", by_its_name.body);
    }
    for shown in shown {
        assert!(!shown.contains("-----"), "{shown}");
        for line in key_pem.lines().filter(|line| line.len() > 16) {
            assert!(!shown.contains(line), "{shown}");
        }
    }
    server.assert_discreet();

    let rotated = command("rotate default/web-0").await;
    assert_eq!((rotated.status.code(), &*out(&rotated)), (Some(0), "renewal queued: 1 proxy\n"), "{rotated:?}");
    let renewed = leaf.next().await;
    assert_ne!(renewed.version_info, rejected.version_info);
    leaf.answer(&renewed, None);
    let proxy = api.shows("web-0", &[("ROOTCA", Acked), ("default", Acked), ("somebody-elses", Withheld)]).await;
    assert_ne!(proxy.certificate.expect("it has a certificate").serial, serial);
    let all = command("rotate --all").await;
    assert_eq!((all.status.code(), &*out(&all)), (Some(0), "renewal queued: 1 proxy\n"), "{all:?}");
    assert_ne!(leaf.next().await.version_info, renewed.version_info);

    for (words, code, told) in [
        ("rotate nobody", 1, "there is no proxy named \"nobody\""),
        ("rotate --mesh none", 1, "there is no proxy in mesh \"none\""),
        ("proxies nobody", 1, "there is no proxy \"nobody\""),
        ("rotate", 2, "required arguments"),
    ] {
        let output = command(words).await;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), errors.contains(told)), (Some(code), true), "{words}: {errors}");
        assert_eq!(out(&output), "", "{words}");
    }
    let nothing = AdminClient::new(api.0.clone()).rotate(RotateRequest::default()).await.expect_err("nothing is said");
    assert_eq!(nothing.code(), tonic::Code::InvalidArgument);

    let mut health = HealthClient::new(api.0.clone()).watch(HealthCheckRequest::default()).await.expect("it is there");
    let first = health.get_mut().message().await.expect("it answers").expect("it answers");
    assert_eq!(first.status(), ServingStatus::Serving);
    let (stopped, last) = tokio::join!(server.stop(SHUTDOWN), health.get_mut().message());
    assert!(stopped.success());
    assert_eq!(last.expect("it is told").expect("it is told").status(), ServingStatus::NotServing);
}
