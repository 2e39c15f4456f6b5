//! One stream of a simulated Envoy as a state machine: what it asks for, what it makes of a response, how it answers.
//! No clock, no socket.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hasher;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::messages::{
    DELTA_NODE, DeltaRequest, DeltaResponse, Node, SECRET_TYPE, SOTW_NODE, Secret, SotwRequest, SotwResponse, Status,
    frame, secret,
};

/// `google.rpc.Code.INTERNAL`, with which Envoy rejects.
const REJECTED: i32 = 13;

/// Variants of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// State of the world.
    Sotw,
    /// Delta, or incremental.
    Delta,
}

/// What a secret is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A certificate with its key.
    Certificate,
    /// CA certificates.
    ValidationContext,
}

/// How a simulated Envoy behaves, the same for all of its streams.
#[derive(Debug, Clone)]
pub(crate) struct Manner {
    pub(crate) variant: Variant,
    /// Says its node in every request, as Envoy does, and not only in the first of a stream.
    pub(crate) repeats_node: bool,
    /// Rejects everything.
    pub(crate) refuses: bool,
}

/// What a server may leave unsaid to a client that comes back with it, and still have served it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Silence {
    /// Nothing.
    Never,
    /// Certificates: what the client says that it holds is heard, and may be all that there is to say.
    OnCertificates,
    /// All of it: to be let in is enough.
    Always,
}

/// The client's side of one stream, and of those that follow it.
#[derive(Debug)]
pub(crate) struct Subscription {
    node: Node,
    held: Vec<Held>,
    /// The last version that was accepted (SotW).
    version: String,
}

/// What is known of a name.
#[derive(Debug)]
struct Held {
    name: Arc<str>,
    version: String,
    digest: Option<u64>,
    /// What it was when it came last.
    kind: Option<Kind>,
    /// Whether it came on the stream that is open now.
    came: bool,
}

/// What a response brought.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) changes: Vec<Change>,
    /// The request that answers it.
    pub(crate) answer: [Bytes; 2],
}

/// One secret of a response.
#[derive(Debug)]
pub(crate) struct Change {
    /// Which of the stream's names.
    pub(crate) index: usize,
    pub(crate) kind: Kind,
    pub(crate) news: News,
    /// The version that was held before.
    pub(crate) before: String,
    /// The Secret, encoded: a part of what was read, all of which stays in memory for as long as this does.
    pub(crate) secret: Bytes,
    /// Its digest.
    pub(crate) digest: u64,
}

/// What a secret says to who had one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// There was none.
    First,
    /// It is another.
    Changed,
    /// It is the same, on a new stream.
    Again,
    /// It is the same on the same stream.
    Unchanged,
}

/// A response that no server should send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// Which one it is, without what differs from case to case.
    pub(crate) what: &'static str,
    pub(crate) detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.detail.is_empty() { f.write_str(self.what) } else { write!(f, "{}: {}", self.what, self.detail) }
    }
}

fn violation(what: &'static str, detail: impl Into<String>) -> Violation {
    Violation { what, detail: detail.into() }
}

/// A resource of either variant.
struct Item {
    /// As the variant's envelope calls it; SotW's has no name.
    name: Option<String>,
    version: String,
    type_url: String,
    value: Bytes,
}

impl Subscription {
    pub(crate) fn new(names: &[Arc<str>], node: Node) -> Self {
        let held = |name: &Arc<str>| {
            let (name, version) = (name.clone(), String::new());
            Held { name, version, digest: None, kind: None, came: false }
        };
        Self { node, held: names.iter().map(held).collect(), version: String::new() }
    }

    /// Forgets what it has, as a process that was started anew.
    pub(crate) fn forget(&mut self) {
        self.version.clear();
        for held in &mut self.held {
            (held.version, held.digest, held.kind) = (String::new(), None, None);
        }
    }

    /// Whether one of its names is known to be of this kind.
    pub(crate) fn holds(&self, kind: Kind) -> bool {
        self.held.iter().any(|held| held.kind == Some(kind))
    }

    /// Whether it has a secret for every name, and has heard of each on this stream, but for what may be left unsaid.
    pub(crate) fn is_settled(&self, silence: Silence) -> bool {
        let may_be_unsaid = |held: &Held| match silence {
            Silence::Never => false,
            Silence::OnCertificates => held.kind == Some(Kind::Certificate),
            Silence::Always => true,
        };
        self.held.iter().all(|held| held.digest.is_some() && (held.came || may_be_unsaid(held)))
    }

    /// Whether it has a secret for every name.
    pub(crate) fn is_complete(&self) -> bool {
        self.held.iter().all(|held| held.digest.is_some())
    }

    /// The first request of a new stream. What is held is told, as Envoy does after it lost its connection.
    pub(crate) fn first(&mut self, manner: &Manner) -> [Bytes; 2] {
        self.held.iter_mut().for_each(|held| held.came = false);
        match manner.variant {
            Variant::Sotw => frame(&self.sotw(String::new(), None), Some((SOTW_NODE, &self.node))),
            Variant::Delta => {
                let known = self.held.iter().filter(|held| held.digest.is_some());
                let versions: HashMap<_, _> = known.map(|held| (held.name.to_string(), held.version.clone())).collect();
                let request = DeltaRequest {
                    type_url: SECRET_TYPE.to_owned(),
                    resource_names_subscribe: self.held.iter().map(|held| held.name.to_string()).collect(),
                    initial_resource_versions: versions,
                    ..DeltaRequest::default()
                };
                frame(&request, Some((DELTA_NODE, &self.node)))
            }
        }
    }

    /// Takes a response.
    ///
    /// # Errors
    /// What is wrong with it; the stream is of no use then.
    pub(crate) fn receive(&mut self, message: Bytes, manner: &Manner) -> Result<Received, Violation> {
        match manner.variant {
            Variant::Sotw => {
                let response = SotwResponse::decode(message).map_err(undecodable)?;
                check_type(&response.type_url)?;
                check_nonce(&response.nonce)?;
                let version = response.version_info;
                let item = |any: super::messages::Any| Item {
                    name: None,
                    version: version.clone(),
                    type_url: any.type_url,
                    value: any.value,
                };
                let changes = self.take(response.resources.into_iter().map(item), manner)?;
                if !manner.refuses {
                    self.version = version;
                }
                let node = manner.repeats_node.then_some((SOTW_NODE, &self.node));
                Ok(Received { changes, answer: frame(&self.sotw(response.nonce, refusal(manner)), node) })
            }
            Variant::Delta => {
                let response = DeltaResponse::decode(message).map_err(undecodable)?;
                check_type(&response.type_url)?;
                check_nonce(&response.nonce)?;
                if let Some(name) = response.removed_resources.first() {
                    return Err(violation("the server says that there is no such secret", name.as_str()));
                }
                let mut items = Vec::with_capacity(response.resources.len());
                for resource in response.resources {
                    let any = resource.resource.ok_or_else(|| violation("a resource without content", ""))?;
                    let (name, version) = (Some(resource.name), resource.version);
                    items.push(Item { name, version, type_url: any.type_url, value: any.value });
                }
                let changes = self.take(items.into_iter(), manner)?;
                let request = DeltaRequest {
                    type_url: SECRET_TYPE.to_owned(),
                    response_nonce: response.nonce,
                    error_detail: refusal(manner),
                    ..DeltaRequest::default()
                };
                let node = manner.repeats_node.then_some((DELTA_NODE, &self.node));
                Ok(Received { changes, answer: frame(&request, node) })
            }
        }
    }

    fn sotw(&self, nonce: String, error_detail: Option<Status>) -> SotwRequest {
        SotwRequest {
            version_info: self.version.clone(),
            resource_names: self.held.iter().map(|held| held.name.to_string()).collect(),
            type_url: SECRET_TYPE.to_owned(),
            response_nonce: nonce,
            error_detail,
        }
    }

    fn take(&mut self, items: impl Iterator<Item = Item>, manner: &Manner) -> Result<Vec<Change>, Violation> {
        let mut changes = Vec::with_capacity(1);
        for item in items {
            check_type(&item.type_url)?;
            let secret = Secret::decode(item.value.clone()).map_err(undecodable)?;
            if item.name.is_some_and(|name| name != secret.name) {
                return Err(violation("a resource has another name than the secret in it", secret.name));
            }
            let Some(index) = self.held.iter().position(|held| *held.name == *secret.name) else {
                return Err(violation("a secret that was not asked for", secret.name));
            };
            let kind = match secret.r#type {
                Some(secret::Type::TlsCertificate(_)) => Kind::Certificate,
                Some(secret::Type::ValidationContext(_)) => Kind::ValidationContext,
                None => {
                    return Err(violation("a secret that is neither certificate nor validation context", secret.name));
                }
            };
            let held = &mut self.held[index];
            let digest = digest(&item.value);
            let before = held.version.clone();
            let news = match held.digest {
                None => News::First,
                Some(known) if known != digest => {
                    if before == item.version && (held.came || is_of_content(&before)) {
                        let detail = format!("{}: {before}", held.name);
                        return Err(violation("another content under the same version", detail));
                    }
                    News::Changed
                }
                Some(_) if held.came => News::Unchanged,
                Some(_) => News::Again,
            };
            if !manner.refuses {
                (held.version, held.digest, held.kind, held.came) = (item.version, Some(digest), Some(kind), true);
            }
            changes.push(Change { index, kind, news, before, secret: item.value, digest });
        }
        Ok(changes)
    }
}

/// Tells contents apart; nobody is out for collisions here.
pub(crate) fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = std::collections::hash_map::DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

fn check_type(url: &str) -> Result<(), Violation> {
    if url == SECRET_TYPE { Ok(()) } else { Err(violation("a resource of another type", url)) }
}

/// By which an answer is told from one to another response, and the first request of a stream from an answer.
fn check_nonce(nonce: &str) -> Result<(), Violation> {
    if nonce.is_empty() { Err(violation("a response without a nonce", "")) } else { Ok(()) }
}

/// Whether a version is of one content for ever, as this server makes them: `certificate.….<digest>` and `bundle.<digest>`. Others
/// may count anew on each stream, as SPIRE does, or when they were started again.
fn is_of_content(version: &str) -> bool {
    let is_digest = |part: &str| part.len() == 16 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let parts: Vec<&str> = version.split('.').collect();
    match parts.as_slice() {
        ["bundle", digest] => is_digest(digest),
        ["certificate", _, _, digests @ ..] => digests.len() == 3 && digests.iter().all(|digest| is_digest(digest)),
        _ => false,
    }
}

fn undecodable(error: prost::DecodeError) -> Violation {
    violation("a message that cannot be decoded", error.to_string())
}

fn refusal(manner: &Manner) -> Option<Status> {
    manner.refuses.then(|| Status { code: REJECTED, message: "refused, as the load test was told to".to_owned() })
}

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
