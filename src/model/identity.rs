//! Who a proxy is, and what proved it.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use jiff::Timestamp;
use spiffe::SpiffeId;

/// The longest that a SPIFFE ID may be, in bytes (SPIFFE-ID §2.3).
pub const MAX_SPIFFE_ID: usize = 2048;

/// A workload's labels, as policy reads them: proven, or read by the server; never what the proxy says of itself.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// A proxy's proven identity: the result of authentication, and the only thing that authorization looks at.
///
/// What the xDS `node` says is not in here, except for the instance where the proof names none (see [`Instance`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The mesh that the proxy belongs to.
    pub mesh: Arc<str>,
    /// The SPIFFE ID that its leaf certificate carries.
    pub spiffe_id: SpiffeId,
    /// Name of the identity policy (`MeshIdentity`) that gave it the SPIFFE ID, and whose provider signs; `None` for the
    /// default one, which the mesh's enabled backend signs.
    pub identity_policy: Option<Arc<str>>,
    /// Which of the proxies that share the SPIFFE ID it is.
    pub instance: Instance,
    /// What the proof says about the workload; for templates, labels and operators.
    pub workload: Workload,
    /// The method that proved it, such as `serviceAccountToken`.
    pub method: &'static str,
    /// When the proof ends (a token's `exp`); the stream it opened ends with it.
    pub proven_until: Option<Timestamp>,
}

impl Identity {
    /// The key under which this proxy's private key and leaf are kept.
    pub fn proxy_key(&self) -> ProxyKey {
        ProxyKey {
            mesh: self.mesh.clone(),
            spiffe_id: self.spiffe_id.to_string().into(),
            identity_policy: self.identity_policy.clone(),
            instance: self.instance.clone(),
        }
    }
}

/// What distinguishes proxies that share a SPIFFE ID.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Instance {
    /// Named by the proof itself: a pod (name and uid), a token's name, a socket peer.
    Proven(Arc<str>),
    /// The proof names no instance, so the proxy's own `node.id` tells its siblings apart. A proxy that lies here gets
    /// another leaf for the identity it has proven anyway.
    Node(Arc<str>),
}

impl Instance {
    /// The name, whoever gave it.
    pub fn name(&self) -> &str {
        match self {
            Self::Proven(name) | Self::Node(name) => name,
        }
    }
}

/// What is known of the workload behind an identity; absent parts are `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Workload {
    /// Kubernetes namespace.
    pub namespace: Option<Arc<str>>,
    /// Kubernetes service account.
    pub service_account: Option<Arc<str>>,
    /// The pod that the token is bound to.
    pub pod: Option<Pod>,
    /// The workload's name outside Kubernetes (`node.cluster` or a token claim).
    pub name: Option<Arc<str>>,
}

/// A Kubernetes pod, as a bound token names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.uid`.
    pub uid: Arc<str>,
}

/// Identifies one proxy: its identity and which instance of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProxyKey {
    /// The mesh that the proxy belongs to.
    pub mesh: Arc<str>,
    /// The SPIFFE ID, in text.
    pub spiffe_id: Arc<str>,
    /// The identity policy that decides who signs; see [`Identity::identity_policy`].
    pub identity_policy: Option<Arc<str>>,
    /// Which of the proxies that share it.
    pub instance: Instance,
}

/// Of the two texts that tell proxies apart, but for a few: a key is looked up a dozen times while its proxy connects.
impl Hash for ProxyKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.spiffe_id.hash(state);
        self.instance.name().hash(state);
    }
}

impl fmt::Display for ProxyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.spiffe_id, self.instance.name())
    }
}
