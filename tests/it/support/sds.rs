//! An SDS client that is no Envoy: it looks at each response as it is on the wire.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use envoy_types::pb::envoy::config::core::v3::{DataSource, Node, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, SpiffeCertValidatorConfig, secret,
};
use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::pki::Identity;
use super::wire::Certificate;

/// The type of every resource here.
pub const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// Who asks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Caller<'a> {
    pub node: &'a str,
    pub workload: &'a str,
    pub token: Option<&'a str>,
}

/// A secret, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Certificate { chain_pem: String, key_pem: String },
    TrustBundle { pem: String },
}

impl Content {
    /// The certificates in it, a leaf first.
    pub fn certificates(&self) -> Vec<Certificate> {
        match self {
            Self::Certificate { chain_pem: pem, .. } | Self::TrustBundle { pem } => Certificate::parse_all(pem),
        }
    }

    /// What the certificates in it are called, sorted.
    pub fn common_names(&self) -> Vec<String> {
        let name = |cert: Certificate| cert.subject.rsplit_once("CN=").map(|(_, name)| name.to_owned());
        let mut names: Vec<_> = self.certificates().into_iter().filter_map(name).collect();
        names.sort();
        names
    }

    /// Of a certificate: what its proxy can show.
    pub fn identity(&self) -> Identity {
        match self {
            Self::Certificate { chain_pem, key_pem } => {
                Identity { chain_pem: chain_pem.clone(), key_pem: key_pem.clone() }
            }
            Self::TrustBundle { .. } => panic!("a trust bundle is nobody's identity"),
        }
    }
}

/// Asks once for these names, over the server's unix socket.
pub async fn fetch(socket: &Path, caller: Caller<'_>, names: &[&str]) -> Result<BTreeMap<String, Content>, Status> {
    let request = with_token(Request::new(first_request(caller, names)), caller);
    let response = SecretDiscoveryServiceClient::new(channel(socket).await?).fetch_secrets(request).await?;
    Ok(contents(response.get_ref()).expect("the response is sound").into_iter().collect())
}

/// Subscribes to one secret and rejects the first that comes, for the reason that `reason` makes of it; gives what was
/// rejected, and what keeps the stream open.
pub async fn reject(
    socket: &Path,
    caller: Caller<'_>,
    name: &str,
    reason: impl Fn(&Content) -> String,
) -> Result<(Content, Box<dyn Send>), Status> {
    let (send, requests) = mpsc::unbounded_channel();
    let _ = send.send(first_request(caller, &[name]));
    let request = with_token(Request::new(UnboundedReceiverStream::new(requests)), caller);
    let mut client = SecretDiscoveryServiceClient::new(channel(socket).await?);
    let mut responses = client.stream_secrets(request).await?.into_inner();
    let response = responses.message().await?.ok_or_else(|| Status::unavailable("no response came"))?;
    let (_, content) = contents(&response).expect("the response is sound").remove(0);
    let error_detail =
        Some(envoy_types::pb::google::rpc::Status { code: 13, message: reason(&content), details: vec![] });
    let _ = send.send(DiscoveryRequest {
        response_nonce: response.nonce,
        resource_names: vec![name.to_owned()],
        type_url: SECRET.to_owned(),
        error_detail,
        ..DiscoveryRequest::default()
    });
    Ok((content, Box::new((send, responses))))
}

/// A stream that stays open and checks every response; what it got is kept.
#[derive(Debug)]
pub struct Watcher {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Seen {
    history: Vec<Content>,
    problem: Option<String>,
    /// Why streams have ended.
    ends: Vec<String>,
}

impl Watcher {
    /// Subscribes to one secret, and again whenever the stream ends.
    pub fn start(socket: &Path, caller: Caller<'_>, name: &str) -> Self {
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let (record, socket, name) = (seen.clone(), socket.to_owned(), name.to_owned());
        let (node, workload) = (caller.node.to_owned(), caller.workload.to_owned());
        let token = caller.token.map(str::to_owned);
        let task = tokio::spawn(async move {
            let caller = Caller { node: &node, workload: &workload, token: token.as_deref() };
            loop {
                let end = follow(&socket, caller, &name, &record).await;
                record.lock().expect("not poisoned").ends.push(format!("{end:?}"));
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            }
        });
        Self { seen, task }
    }

    /// Everything that it got, in order.
    pub fn history(&self) -> Vec<Content> {
        self.seen.lock().expect("not poisoned").history.clone()
    }

    /// How often a stream has ended or could not be opened, with the reasons.
    pub fn ends(&self) -> Vec<String> {
        self.seen.lock().expect("not poisoned").ends.clone()
    }

    /// Fails the test if any response was not what Envoy is safe with, or if there was none at all.
    pub fn assert_sound(&self) {
        let seen = self.seen.lock().expect("not poisoned");
        assert_eq!(seen.problem, None);
        assert!(!seen.history.is_empty(), "nothing was sent; {:?}", seen.ends);
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(socket: &Path, caller: Caller<'_>, name: &str, seen: &Mutex<Seen>) -> Result<(), Status> {
    let (send, requests) = mpsc::unbounded_channel();
    let _ = send.send(first_request(caller, &[name]));
    let request = with_token(Request::new(UnboundedReceiverStream::new(requests)), caller);
    let mut client = SecretDiscoveryServiceClient::new(channel(socket).await?);
    let mut responses = client.stream_secrets(request).await?.into_inner();
    while let Some(response) = responses.message().await? {
        let got = contents(&response).and_then(|got| match <[_; 1]>::try_from(got) {
            Ok([(got, content)]) if got == name => Ok(content),
            Ok(other) => Err(format!("{name:?} was asked for, and this came: {other:?}")),
            Err(others) => Err(format!("{name:?} was asked for, and this came: {others:?}")),
        });
        let mut seen = seen.lock().expect("not poisoned");
        match got {
            Ok(content) => seen.history.push(content),
            Err(problem) => drop(seen.problem.get_or_insert(problem)),
        }
        drop(seen);
        let _ = send.send(DiscoveryRequest {
            version_info: response.version_info,
            response_nonce: response.nonce,
            resource_names: vec![name.to_owned()],
            type_url: SECRET.to_owned(),
            ..DiscoveryRequest::default()
        });
    }
    Ok(())
}

/// A connection to a server's unix socket.
pub async fn channel(socket: &Path) -> Result<Channel, Status> {
    let path: PathBuf = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The address is not used.
    let connected = Endpoint::from_static("http://localhost").connect_with_connector(connector).await;
    connected.map_err(|error| Status::unavailable(format!("{error:?}")))
}

pub fn first_request(caller: Caller<'_>, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        node: Some(Node { id: caller.node.to_owned(), cluster: caller.workload.to_owned(), ..Node::default() }),
        resource_names: names.iter().map(ToString::to_string).collect(),
        type_url: SECRET.to_owned(),
        ..DiscoveryRequest::default()
    }
}

fn with_token<T>(mut request: Request<T>, caller: Caller<'_>) -> Request<T> {
    if let Some(token) = caller.token {
        let value = format!("Bearer {token}").parse().expect("a token is ASCII");
        request.metadata_mut().insert("authorization", value);
    }
    request
}

/// What is in a response; an error if Envoy would take it and be less safe than before.
fn contents(response: &DiscoveryResponse) -> Result<Vec<(String, Content)>, String> {
    if response.type_url != SECRET {
        return Err(format!("the type is {:?}", response.type_url));
    }
    response.resources.iter().map(|any| content(&any.value)).collect()
}

/// A secret and its name; an error as above.
pub fn content(bytes: &[u8]) -> Result<(String, Content), String> {
    let secret = Secret::decode(bytes).map_err(|error| error.to_string())?;
    let name = secret.name.clone();
    let is_bundle = name == "ROOTCA" || name.starts_with("mesh_ca") || name == "system_trust_bundle";
    let content = match (secret.r#type, is_bundle) {
        (Some(secret::Type::TlsCertificate(pair)), false) => Content::Certificate {
            chain_pem: inline(pair.certificate_chain.as_ref())?,
            key_pem: inline(pair.private_key.as_ref())?,
        },
        (Some(secret::Type::ValidationContext(context)), true) => {
            if !context.match_typed_subject_alt_names.is_empty() || context.trust_chain_verification != 0 {
                return Err(format!("{name} says more than whom to trust: {context:?}"));
            }
            Content::TrustBundle { pem: inline(context.trusted_ca.as_ref())? }
        }
        (Some(secret::Type::ValidationContext(context)), false) if name == "ALL" || name.starts_with("spiffe://") => {
            Content::TrustBundle { pem: of_trust_domains(&context)? }
        }
        (other, _) => return Err(format!("{name} is a {other:?}")),
    };
    let certificates = content.certificates();
    let are_cas = matches!(content, Content::TrustBundle { .. });
    if certificates.is_empty() || certificates[0].is_ca != are_cas {
        return Err(format!("{name} has {certificates:?}"));
    }
    Ok((name, content))
}

/// The CAs of all trust domains of a SPIFFE validator, together.
fn of_trust_domains(context: &CertificateValidationContext) -> Result<String, String> {
    let config = context.custom_validator_config.as_ref().and_then(|config| config.typed_config.as_ref());
    let config = config.ok_or_else(|| format!("no validator in {context:?}"))?;
    let config = SpiffeCertValidatorConfig::decode(config.value.as_slice()).map_err(|error| error.to_string())?;
    config.trust_domains.iter().map(|domain| inline(domain.trust_bundle.as_ref())).collect()
}

fn inline(source: Option<&DataSource>) -> Result<String, String> {
    match source.and_then(|source| source.specifier.as_ref()) {
        Some(Specifier::InlineBytes(bytes)) => String::from_utf8(bytes.clone()).map_err(|error| error.to_string()),
        Some(Specifier::InlineString(text)) => Ok(text.clone()),
        other => Err(format!("it is not inline: {other:?}")),
    }
}
