//! `identify`: what proves who a proxy is. Only what is listed is accepted.

mod proxy_token;
mod service_account_token;
mod unix_peer;

pub use proxy_token::{ProxyToken, PublicKey, Revocations};
pub use service_account_token::{ServiceAccountToken, VerifyTokens};
pub use unix_peer::{UnixPeerIs, UnixPeerRule};

use crate::document::{Field, Fields};
use crate::model::diagnostic::Location;

/// The methods that are accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identify {
    /// Kubernetes service account tokens.
    pub service_account_token: Option<ServiceAccountToken>,
    /// Proxy tokens.
    pub proxy_token: Option<ProxyToken>,
    /// Client certificates with a SPIFFE ID.
    pub client_certificate: bool,
    /// Who is behind which peer of a unix socket.
    pub unix_peers: Vec<UnixPeerRule>,
    /// Believe what the proxy says of itself.
    pub insecure_node_id: bool,
}

impl Identify {
    /// Whether proxies are identified by tokens of this server's own keys, and by nothing else: so it is without a
    /// configuration.
    pub fn is_by_own_tokens_alone(&self) -> bool {
        let own = |method: &ProxyToken| method.public_keys.is_empty();
        self.proxy_token.as_ref().is_some_and(own)
            && *self == Self { proxy_token: self.proxy_token.clone(), ..Self::default() }
    }

    /// Whether mesh Secrets are needed to tell who is who.
    pub fn names_secrets(&self) -> bool {
        let revocations = self.proxy_token.as_ref().and_then(|method| method.revocations.as_ref());
        matches!(revocations, Some(Revocations::Secret(_)))
    }
}

/// Where the methods were written that need a listener of some kind.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) client_certificate: Option<Location>,
    pub(super) unix_peer: Option<Location>,
}

impl Identify {
    /// Whether a peer of a unix socket may be the pod behind it.
    pub fn asks_for_pods(&self) -> bool {
        self.unix_peers.iter().any(UnixPeerRule::is_pod)
    }

    /// Whether nothing is accepted.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn decode(field: &Field<'_>) -> Option<(Self, Places)> {
        let fields = field.map()?;
        let client_certificate = fields.given("clientCertificate");
        let unix_peer = fields.given("unixPeer");
        let identify = Self {
            service_account_token: fields.given("serviceAccountToken").and_then(|f| ServiceAccountToken::decode(&f)),
            proxy_token: fields.given("proxyToken").and_then(|f| ProxyToken::decode(&f)),
            client_certificate: client_certificate
                .as_ref()
                .and_then(|field| field.map())
                .map(Fields::refuse_others)
                .is_some(),
            unix_peers: unix_peer.as_ref().map(unix_peer::decode).unwrap_or_default(),
            insecure_node_id: fields.optional("insecureNodeId").and_then(|f| f.boolean()).unwrap_or_default(),
        };
        fields.refuse_others();
        let places = Places {
            client_certificate: client_certificate.map(|field| field.location()),
            unix_peer: unix_peer.map(|field| field.location()),
        };
        Some((identify, places))
    }
}
