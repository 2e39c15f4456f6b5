//! Stage 1, who is on the stream: from what the transport proves to an [`Identity`].

pub mod chain;
pub mod client_ca;
pub mod client_certificate;
pub mod directory;
pub mod membership;
pub mod node_id;
pub mod pod_cgroup;
pub mod pods;
pub mod process;
pub mod proxy_token;
mod revocation_lists;
pub mod service_account;
pub mod standing;
pub mod unix_peer;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use jiff::Timestamp;
use spiffe::SpiffeId;
use zeroize::Zeroizing;

use self::client_certificate::ClientChain;
use self::standing::Standing;
use crate::model::identity::{Identity, Labels, Workload};

/// What the transport and the call's metadata prove. The xDS `node` is not in it: that is text of the peer's choice.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// Where the connection comes from; `None` for a unix socket.
    pub address: Option<SocketAddr>,
    /// The token of `authorization`, if there is one: after `Bearer `, or a JWT by itself. A call with several such headers,
    /// or with one that is something else, is refused before it gets here.
    pub bearer_token: Option<BearerToken>,
    /// The client certificate's chain, if there is one.
    pub client_certificate: Option<Arc<ClientChain>>,
    /// The peer's credentials on a unix socket.
    pub unix_peer: Option<UnixPeer>,
}

/// A bearer token: wiped when dropped, redacted in `Debug`.
#[derive(Clone)]
pub struct BearerToken(Zeroizing<String>);

impl BearerToken {
    /// Takes over `token`.
    pub fn new(token: impl Into<Zeroizing<String>>) -> Self {
        Self(token.into())
    }

    /// The token itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerToken([redacted])")
    }
}

/// SO_PEERCRED of a unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnixPeer {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Process id, where the system tells it; 0 for a process of a PID namespace that this server cannot see.
    pub pid: Option<i32>,
    /// When that process began, as it was when the connection was accepted; see [`process::started`].
    pub started: Option<u64>,
}

/// What a proxy says of itself in its first request (`envoy.config.core.v3.Node`). Labels; see [`Evidence`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeClaim {
    /// `node.id`; never empty here (an empty one is refused by the protocol).
    pub id: String,
    /// `node.cluster`; may be empty.
    pub cluster: String,
    /// Whether it asks for CAs without Envoy's SPIFFE validator: all that is read of `node.metadata`.
    pub plain_trust: bool,
}

/// What one method has proven about a peer, before it is known which mesh's policy applies to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proof {
    /// The method, as configured: `serviceAccountToken`, `insecureNodeId`, …
    pub method: &'static str,
    /// The mesh, where the proof names it.
    pub mesh: Option<String>,
    /// The trust domain, where the proof names that instead: the mesh is the one that has it.
    pub trust_domain: Option<Arc<str>>,
    /// The SPIFFE ID, where the proof is of one: then no other is given.
    pub spiffe_id: Option<SpiffeId>,
    /// The instance, where the proof names it: a pod's `<namespace>/<name>/<uid>`, a token's name.
    pub instance: Option<String>,
    /// The workload.
    pub workload: Workload,
    /// The workload's labels, where the proof has them in it: a token's claims, a rule of the configuration.
    pub labels: Labels,
    /// When the proof ends.
    pub until: Option<Timestamp>,
    /// What else may end it, and what the server knows of the workload by itself.
    pub standing: Standing,
}

/// One way to prove an identity; one file each.
#[async_trait]
pub trait Identify: fmt::Debug + Send + Sync + 'static {
    /// The name of the method, as configured under `identify`.
    fn method(&self) -> &'static str;

    /// Looks at what the transport proves. `Ok(None)` means: nothing here for me, ask the next one. An error means that
    /// there is evidence of this method's kind and it is bad: the peer is refused, no weaker method is asked.
    ///
    /// # Errors
    /// [`IdentifyError`].
    async fn identify(&self, evidence: &Evidence) -> Result<Option<Proof>, IdentifyError>;
}

/// Why a peer is not let in. The reason is for the log and the operator; the peer is told the bare minimum.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentifyError {
    /// No evidence that any configured method understands.
    #[error("no proof of identity that this server accepts ({0})")]
    NoEvidence(String),
    /// Bad evidence.
    #[error("{method}: {reason}")]
    Refused {
        /// Which method refused it.
        method: &'static str,
        /// Why.
        reason: String,
    },
    /// Proven, but not allowed to use this server (no such mesh, …).
    #[error("not allowed: {0}")]
    Forbidden(String),
    /// It could not be decided now (the API server is away); the peer may try again.
    #[error("{method}: cannot be verified at the moment: {reason}")]
    Unavailable {
        /// Which method could not decide.
        method: &'static str,
        /// Why.
        reason: String,
    },
}

/// The configured methods in order, and the rule which mesh a proven peer belongs to. Both steps of a stream's
/// authentication go through it.
#[async_trait]
pub trait Authenticate: fmt::Debug + Send + Sync + 'static {
    /// At the opening of a stream, before any message is read: the proof, or `None` if only the node id could tell (and
    /// `insecureNodeId` is on).
    ///
    /// # Errors
    /// [`IdentifyError`].
    async fn open(&self, evidence: &Evidence) -> Result<Option<Proof>, IdentifyError>;

    /// With the first message: the identity.
    ///
    /// # Errors
    /// [`IdentifyError`].
    fn complete(&self, proof: Option<&Proof>, node: &NodeClaim) -> Result<Identity, IdentifyError>;

    /// An item whenever [`Authenticate::complete`] may have another answer for this proof, from the moment of the call on.
    fn changes(&self, proof: Option<&Proof>) -> BoxStream<'static, ()>;
}
