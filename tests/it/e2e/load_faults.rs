//! `envoy-sds load` against servers that are wrong, each in a way of its own: the run finds it out, and says what it was.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate, secret,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use envoy_types::pb::google::protobuf::Any;
use futures::{Stream, StreamExt};
use prost::Message;
use serde_json::Value;
use tokio::task::JoinHandle;
use tonic::{Request, Response, Status, Streaming};

use super::load::{load, phase};
use crate::support::pki::{Identity, Leaf, TestCa, new_key};
use crate::support::scratch;
use crate::support::sds::SECRET;

/// What is wrong with a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Its leaves come with other leaves' keys.
    OtherKeys,
    /// It sends what nobody has asked for.
    Strangers,
    /// It lets nobody in.
    LetsNobodyIn,
    /// It lets everybody in, and says nothing.
    Mute,
    /// It says nothing to who comes back with what it has said before.
    MuteToComers,
    /// It lets in all but who shows one token.
    RefusesOneToken,
    /// It takes [`LATE`] for an answer.
    Late,
}

const LATE: Duration = Duration::from_millis(200);

/// A server with a fault, until it is dropped.
struct Wrong {
    address: SocketAddr,
    dir: PathBuf,
    task: JoinHandle<()>,
}

impl Wrong {
    async fn start(fault: Fault) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let incoming = futures::stream::unfold(listener, async |listener| {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            Some((accepted, listener))
        });
        let ca = TestCa::root("CA");
        let identity = ca.issue(&Leaf::spiffe("spiffe://default/web"));
        let service = SecretDiscoveryServiceServer::new(Service { fault, ca, identity });
        let server = tonic::transport::Server::builder().add_service(service).serve_with_incoming(Box::pin(incoming));
        let task = tokio::spawn(async move { server.await.expect("it serves") });
        Self { address, dir: scratch::dir("load"), task }
    }

    async fn load(&self, arguments: &[&str]) -> (Value, Option<i32>) {
        load(&[arguments, &[&self.address.to_string()]].concat(), &self.dir).await
    }

    /// Runs it, which does not pass; what is told, and the failures by their kinds.
    async fn fails(&self, arguments: &[&str]) -> (Value, Vec<(String, u64)>) {
        let (told, code) = self.load(arguments).await;
        assert_eq!((&told["passed"], code), (&Value::Bool(false), Some(1)), "{arguments:?}");
        let failures = told["failures"].as_array().expect("there are failures").iter().map(|failure| {
            let what = failure["what"].as_str().expect("it is text").to_owned();
            (what, failure["count"].as_u64().expect("it is a number"))
        });
        let failures = failures.collect();
        (told, failures)
    }
}

impl Drop for Wrong {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const TIMEOUT: &str = "given up at the timeout (--timeout)";

#[tokio::test]
async fn a_key_that_is_not_the_leafs_is_found_out() {
    let server = Wrong::start(Fault::OtherKeys).await;
    let (told, failures) = server.fails(&["-n", "10"]).await;
    assert_eq!(phase(&told, "connect")["reached"], 10, "they all came");
    assert_eq!(failures, [("a leaf does not match its key".to_owned(), 10)]);
}

/// Who comes back forgives that a connection ends, but not what no server should say; and it says why it does not get further.
#[tokio::test]
async fn who_comes_back_forgives_only_what_may_happen() {
    let server = Wrong::start(Fault::Strangers).await;
    for more in [&[][..], &["--reconnect"]] {
        let (told, failures) = server.fails(&[&["-n", "10", "--names", "default"], more].concat()).await;
        assert_eq!(failures, [("a secret that was not asked for".to_owned(), 10)], "{more:?}");
        assert_eq!(told["interruptions"], Value::Array(Vec::new()));
    }

    let server = Wrong::start(Fault::LetsNobodyIn).await;
    let (told, failures) = server.fails(&["-n", "10", "--reconnect", "--timeout", "2s"]).await;
    assert_eq!(failures, [(TIMEOUT.to_owned(), 1)]);
    let interruption = &told["interruptions"][0];
    assert_eq!(interruption["what"], "stream ended: UNAUTHENTICATED");
    assert!(interruption["count"].as_u64().is_some_and(|count| count >= 10), "{interruption}");
    let example = told["failures"][0]["example"].as_str().expect("there is one");
    assert!(example.contains("stream ended: UNAUTHENTICATED") && example.contains("not today"), "{example}");
}

/// A storm and churn are over when proxies have what they came for, which a server that only lets them in does not give them.
#[tokio::test]
async fn to_be_let_in_is_not_to_be_served() {
    let server = Wrong::start(Fault::MuteToComers).await;
    let storm = ["-n", "10", "--storms", "1", "--timeout", "4s"];
    let (told, failures) = server.fails(&storm).await;
    assert_eq!((&phase(&told, "connect")["reached"], &phase(&told, "storm")["reached"]), (&10.into(), &0.into()));
    assert_eq!(failures, [(TIMEOUT.to_owned(), 1)]);
    let churn = ["-n", "10", "--churn", "20", "--churn-for", "1s", "--timeout", "4s"];
    let (told, failures) = server.fails(&churn).await;
    let churn = phase(&told, "churn");
    assert_eq!((&churn["expected"], &churn["reached"]), (&10.into(), &0.into()), "each has left once: {churn:#}");
    assert!(churn["missed"].as_u64() > Some(0), "nobody is left who could leave: {churn:#}");
    assert_eq!(failures, [(TIMEOUT.to_owned(), 1)]);
    let (told, code) = server.load(&[&storm[..], &["--resends", "nothing"]].concat()).await;
    assert_eq!((&told["passed"], code), (&Value::Bool(true), Some(0)), "who asks for no more: {:#}", told["failures"]);
}

/// Who waits does not leave again before it is served, so the wait of each is seen; what the rate would have been more is told.
#[tokio::test]
async fn churn_does_not_hide_a_slow_server() {
    let server = Wrong::start(Fault::Late).await;
    let (told, code) = server.load(&["-n", "20", "--churn", "200", "--churn-for", "1s"]).await;
    assert_eq!((&told["passed"], code), (&Value::Bool(true), Some(0)), "{:#}", told["failures"]);
    let churn = phase(&told, "churn");
    assert!(churn["expected"].as_u64() >= Some(20) && churn["reached"] == churn["expected"], "{churn:#}");
    for what in ["let-in", "served-again"] {
        let timed = &churn["latencies"][what];
        assert_eq!(timed["count"], churn["reached"]);
        assert!(
            timed["min_ms"].as_f64().is_some_and(|ms| ms > 0.95 * LATE.as_secs_f64() * 1000.0),
            "{what}: {timed:#}"
        );
    }
    assert!(churn["missed"].as_u64() > Some(0), "{churn:#}");
}

/// A proxy that is not let in tries again by itself, on the connection that it shares with others: they notice nothing of it.
#[tokio::test]
async fn a_refused_proxy_takes_nobody_else_with_it() {
    let server = Wrong::start(Fault::RefusesOneToken).await;
    std::fs::write(server.dir.join("tokens"), "good\n".repeat(9) + "bad\n").expect("the scratch folder can be written");
    let shared = ["-n", "10", "--connections", "1", "--tokens", "tokens"];
    let (told, failures) = server.fails(&[&shared[..], &["--reconnect", "--timeout", "3s"]].concat()).await;
    assert_eq!(failures, [(TIMEOUT.to_owned(), 1)]);
    let connect = phase(&told, "connect");
    assert_eq!((&connect["reached"], &connect["traffic"]["connections"]), (&9.into(), &1.into()), "{connect:#}");
    assert_eq!(
        told["samples"].as_array().and_then(|samples| samples.last()).map(|last| &last["served"]),
        Some(&9.into())
    );
    let interruptions = told["interruptions"].as_array().expect("there are some");
    assert!(
        interruptions.len() == 1 && interruptions[0]["what"] == "stream ended: UNAUTHENTICATED",
        "{interruptions:?}"
    );
    let (told, _) = server.fails(&shared).await;
    assert_eq!(phase(&told, "connect")["reached"], 9, "no more than without");
}

/// What nobody can reach has not passed: here, all names are bundles, and none is expected to have another SPIFFE ID.
#[tokio::test]
async fn a_phase_that_nobody_waits_for_does_not_pass() {
    let server = Wrong::start(Fault::MuteToComers).await;
    let bundles = ["-n", "10", "--names", "spiffe://default"];
    for more in [&["--expect-rotations", "1"][..], &["--slow", "1", "--trigger", "true"]] {
        let (_, failures) = server.fails(&[&bundles[..], more].concat()).await;
        assert_eq!(failures, [("a phase that no proxy can reach".to_owned(), 1)], "{more:?}");
    }
    let (_, failures) = server.fails(&[&bundles[..], &["--expect-identity", "spiffe://default/web"]].concat()).await;
    assert_eq!(failures, [("no identity was compared".to_owned(), 1)]);
}

/// At a rate, a server that is slow gets no fewer proxies, and those that it has not served hold nobody back.
#[tokio::test]
async fn a_rate_is_kept_whatever_the_server_does() {
    let server = Wrong::start(Fault::Mute).await;
    let (told, _) = server.fails(&["-n", "300", "--rate", "1000", "--timeout", "6s"]).await;
    assert_eq!(phase(&told, "connect")["traffic"]["connections"], 300, "more than --in-flight");
    let (told, _) = server.fails(&["-n", "30", "--in-flight", "20", "--timeout", "2s"]).await;
    assert_eq!(phase(&told, "connect")["traffic"]["connections"], 20);
}

/// The same leaf for everybody, or what the fault makes of it.
struct Service {
    fault: Fault,
    ca: TestCa,
    identity: Identity,
}

impl Service {
    fn answer(&self, name: &str) -> DiscoveryResponse {
        let inline = |text: &str| {
            Some(DataSource { specifier: Some(Specifier::InlineString(text.to_owned())), ..DataSource::default() })
        };
        let content = match name {
            "ROOTCA" | "spiffe://default" => secret::Type::ValidationContext(CertificateValidationContext {
                trusted_ca: inline(&self.ca.root_pem),
                ..CertificateValidationContext::default()
            }),
            _ => secret::Type::TlsCertificate(TlsCertificate {
                certificate_chain: inline(&self.identity.chain_pem),
                private_key: match self.fault {
                    Fault::OtherKeys => inline(&new_key().serialize_pem()),
                    _ => inline(&self.identity.key_pem),
                },
                ..TlsCertificate::default()
            }),
        };
        let name = if self.fault == Fault::Strangers { "stranger" } else { name };
        let secret = Secret { name: name.to_owned(), r#type: Some(content) };
        DiscoveryResponse {
            version_info: "1".to_owned(),
            nonce: "1".to_owned(),
            type_url: SECRET.to_owned(),
            resources: vec![Any { type_url: SECRET.to_owned(), value: secret.encode_to_vec() }],
            ..DiscoveryResponse::default()
        }
    }
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SecretDiscoveryService for Service {
    type DeltaSecretsStream = Responses<DeltaDiscoveryResponse>;
    type StreamSecretsStream = Responses<DiscoveryResponse>;

    async fn delta_secrets(
        &self,
        _requests: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn stream_secrets(
        &self,
        requests: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        if self.fault == Fault::LetsNobodyIn {
            return Err(Status::unauthenticated("not today"));
        }
        let is_refused = requests.metadata().get("authorization").is_some_and(|token| token == "Bearer bad");
        if self.fault == Fault::RefusesOneToken && is_refused {
            return Err(Status::unauthenticated("not this one"));
        }
        let mut requests = requests.into_inner();
        let first = requests.message().await?.ok_or_else(|| Status::invalid_argument("nothing was asked for"))?;
        if self.fault == Fault::Late {
            tokio::time::sleep(LATE).await;
        }
        let is_mute = match self.fault {
            Fault::Mute => true,
            Fault::MuteToComers => !first.version_info.is_empty(),
            _ => false,
        };
        let answer = (!is_mute).then(|| Ok(self.answer(&first.resource_names[0])));
        // What answers it is read, until the client is gone.
        let rest = requests.filter_map(async |_request| None);
        Ok(Response::new(Box::pin(futures::stream::iter(answer).chain(rest))))
    }

    async fn fetch_secrets(&self, _request: Request<DiscoveryRequest>) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}
