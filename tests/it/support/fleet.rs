//! Many simulated proxies, which reconnect as Envoy does: with the version that they accepted last and without a nonce.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::PATIENCE;
use super::eventually::eventually;
use super::sds::{self, Content, SECRET};
use super::wire::Certificate;

/// How many proxies have a connection in common, so that thousands of them need few.
const PROXIES_A_CONNECTION: usize = 50;

/// How a proxy speaks to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    StateOfTheWorld,
    Incremental,
}

/// The way to the server, which may be another one after a while.
#[derive(Debug, Clone)]
pub struct Route(Arc<Mutex<PathBuf>>);

impl Route {
    pub fn to(socket: &Path) -> Self {
        Self(Arc::new(Mutex::new(socket.to_owned())))
    }

    /// New connections go here from now on.
    pub fn change(&self, socket: &Path) {
        *self.0.lock().expect("not poisoned") = socket.to_owned();
    }

    /// A connection that is made when it is needed, and made again when it has broken.
    pub fn channel(&self) -> Channel {
        let route = self.0.clone();
        let connector = tower::service_fn(move |_| {
            let path = route.lock().expect("not poisoned").clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The address is not used.
        Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector)
    }
}

/// What a subscription has come to.
#[derive(Debug, Clone, Default)]
pub struct Held {
    /// The version that was accepted last, and its secret.
    pub version: Option<String>,
    pub content: Option<Content>,
    /// How many responses with the secret there were.
    pub updates: u64,
    /// How many said that there is no such secret.
    pub removals: u64,
    /// How its streams have ended.
    pub ends: Vec<Code>,
    /// The first response that Envoy would have been hurt by.
    pub problem: Option<String>,
}

impl Held {
    /// For the message of a failure.
    fn summary(&self) -> String {
        let Self { version, updates, ends, problem, .. } = self;
        let last = ends.last();
        format!(
            "{version:?}, {updates} updates, {} streams ended, the last by {last:?}, problem {problem:?}",
            ends.len()
        )
    }

    pub fn leaf(&self) -> Option<Certificate> {
        self.content.as_ref().map(|content| content.certificates().remove(0))
    }
}

/// One secret of one proxy, on a stream of its own that is opened again whenever it ends. Ends when dropped.
#[derive(Debug)]
pub struct Subscription {
    held: Arc<Mutex<Held>>,
    task: JoinHandle<()>,
}

impl Subscription {
    /// `claims` is the version that the first request reports.
    pub fn open(channel: Channel, variant: Variant, node: &str, name: &str, claims: Option<String>) -> Self {
        let held = Arc::new(Mutex::new(Held { version: claims, ..Held::default() }));
        let follower = Follower { channel, node: node.into(), name: name.into(), held: held.clone() };
        let task = tokio::spawn(async move {
            loop {
                let end = match variant {
                    Variant::StateOfTheWorld => follower.state_of_the_world().await,
                    Variant::Incremental => follower.incremental().await,
                };
                follower.held().ends.push(end.err().map_or(Code::Ok, |status| status.code()));
                tokio::time::sleep(Duration::from_millis(fastrand::u64(100..600))).await;
            }
        });
        Self { held, task }
    }

    pub fn held(&self) -> Held {
        self.held.lock().expect("not poisoned").clone()
    }

    /// Looks without a copy; for many of them.
    fn is(&self, wanted: impl Fn(&Held) -> bool) -> bool {
        wanted(&self.held.lock().expect("not poisoned"))
    }

    /// Waits until it is as wanted.
    pub async fn becomes(&self, what: &str, wanted: impl Fn(&Held) -> bool) -> Held {
        eventually(what, PATIENCE, async || {
            let held = self.held();
            if wanted(&held) { Ok(held) } else { Err(held.summary()) }
        })
        .await
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a subscription's task has.
struct Follower {
    channel: Channel,
    node: String,
    name: String,
    held: Arc<Mutex<Held>>,
}

impl Follower {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("not poisoned")
    }

    fn client(&self) -> SecretDiscoveryServiceClient<Channel> {
        SecretDiscoveryServiceClient::new(self.channel.clone())
    }

    fn node(&self) -> Option<Node> {
        let (id, cluster) = (self.node.clone(), self.node.rsplit('.').next().unwrap_or_default().to_owned());
        Some(Node { id, cluster, ..Node::default() })
    }

    async fn state_of_the_world(&self) -> Result<(), Status> {
        let (send, requests) = mpsc::unbounded_channel();
        let request = |node, version_info, response_nonce| DiscoveryRequest {
            node,
            version_info,
            response_nonce,
            resource_names: vec![self.name.clone()],
            type_url: SECRET.to_owned(),
            ..DiscoveryRequest::default()
        };
        let _ = send.send(request(self.node(), self.held().version.clone().unwrap_or_default(), String::new()));
        let mut responses = self.client().stream_secrets(UnboundedReceiverStream::new(requests)).await?.into_inner();
        while let Some(response) = responses.message().await? {
            for resource in &response.resources {
                self.take(&response.version_info, &resource.value);
            }
            let _ = send.send(request(None, response.version_info, response.nonce));
        }
        Ok(())
    }

    async fn incremental(&self) -> Result<(), Status> {
        let (send, requests) = mpsc::unbounded_channel();
        let version = self.held().version.clone();
        let _ = send.send(DeltaDiscoveryRequest {
            node: self.node(),
            type_url: SECRET.to_owned(),
            resource_names_subscribe: vec![self.name.clone()],
            initial_resource_versions: version.map(|version| (self.name.clone(), version)).into_iter().collect(),
            ..DeltaDiscoveryRequest::default()
        });
        let mut responses = self.client().delta_secrets(UnboundedReceiverStream::new(requests)).await?.into_inner();
        while let Some(response) = responses.message().await? {
            for resource in &response.resources {
                self.take(
                    &resource.version,
                    &resource.resource.as_ref().map(|any| any.value.clone()).unwrap_or_default(),
                );
            }
            self.held().removals +=
                response.removed_resources.iter().filter(|removed| **removed == self.name).count() as u64;
            let _ = send.send(DeltaDiscoveryRequest {
                type_url: SECRET.to_owned(),
                response_nonce: response.nonce,
                ..DeltaDiscoveryRequest::default()
            });
        }
        Ok(())
    }

    /// Keeps a secret, if it is what was asked for.
    fn take(&self, version: &str, bytes: &[u8]) {
        let mut held = self.held();
        match sds::content(bytes) {
            Ok((name, content)) if name == self.name => {
                held.version = Some(version.to_owned());
                held.content = Some(content);
                held.updates += 1;
            }
            Ok((name, _)) => drop(held.problem.get_or_insert(format!("{name} came for {}", self.name))),
            Err(problem) => drop(held.problem.get_or_insert(problem)),
        }
    }
}

/// Proxies with a certificate and a trust bundle each, every other one of each variant.
#[derive(Debug)]
pub struct Fleet {
    members: Vec<Member>,
    route: Route,
}

/// One of them.
#[derive(Debug)]
pub struct Member {
    pub node: String,
    pub variant: Variant,
    pub certificate: Subscription,
    pub bundle: Subscription,
}

impl Fleet {
    /// So many of them, with node ids `PREFIX0`, `PREFIX1`, …
    pub fn start(socket: &Path, count: usize, prefix: &str) -> Self {
        let route = Route::to(socket);
        let channels: Vec<_> = (0..count.div_ceil(PROXIES_A_CONNECTION)).map(|_| route.channel()).collect();
        let member = |number: usize| {
            let node = format!("{prefix}{number}");
            let variant = [Variant::StateOfTheWorld, Variant::Incremental][number % 2];
            let channel = &channels[number / PROXIES_A_CONNECTION];
            let open = |name| Subscription::open(channel.clone(), variant, &node, name, None);
            let (certificate, bundle) = (open("default"), open("ROOTCA"));
            Member { node, variant, certificate, bundle }
        };
        Self { members: (0..count).map(member).collect(), route }
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The way that all of them take.
    pub fn route(&self) -> &Route {
        &self.route
    }

    /// Waits until all of them are as wanted.
    pub async fn all(&self, what: &str, deadline: Duration, wanted: impl Fn(&Held, &Held) -> bool) {
        self.each(what, deadline, |_, certificate, bundle| wanted(certificate, bundle)).await;
    }

    /// Waits until each, by its number, is as wanted.
    pub async fn each(&self, what: &str, deadline: Duration, wanted: impl Fn(usize, &Held, &Held) -> bool) {
        eventually(what, deadline, async || {
            let lacks = |(number, member): &(usize, &Member)| {
                !member.certificate.is(|certificate| member.bundle.is(|bundle| wanted(*number, certificate, bundle)))
            };
            let lacking: Vec<_> = self.members.iter().enumerate().filter(lacks).collect();
            match lacking.first() {
                None => Ok(()),
                Some((_, one)) => {
                    let (leaf, bundle) = (one.certificate.held(), one.bundle.held());
                    let state = format!("certificate: {}; bundle: {}", leaf.summary(), bundle.summary());
                    Err(format!("{} of them are not; {} has {state}", lacking.len(), one.node))
                }
            }
        })
        .await;
    }

    /// How many responses with a certificate and with a bundle each has had.
    pub fn updates(&self) -> Vec<(u64, u64)> {
        self.members.iter().map(|one| (one.certificate.held().updates, one.bundle.held().updates)).collect()
    }

    /// Fails the test if anyone was sent what Envoy would be hurt by.
    pub fn assert_sound(&self) {
        for Member { node, certificate, bundle, .. } in &self.members {
            for held in [certificate.held(), bundle.held()] {
                assert_eq!(held.problem, None, "{node}");
            }
        }
    }
}
