//! `identify`: what proves who a proxy is. Only what is listed is accepted.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::document::{Field, Fields};
use crate::model::diagnostic::Location;

/// The audience that service account tokens must be for, unless told otherwise.
const DEFAULT_AUDIENCE: &str = "envoy-sds";

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
    /// Whether nothing is listed that is in the program already.
    pub fn accepts_nobody_yet(&self) -> bool {
        self.service_account_token.is_none() && !self.insecure_node_id
    }
}

/// `identify.serviceAccountToken`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccountToken {
    /// Audiences, one of which a token must be for; never empty.
    pub audiences: Vec<String>,
}

/// `identify.proxyToken`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyToken {
    /// Keys to verify with; empty means the key of the state directory.
    pub public_keys: Vec<PublicKey>,
}

/// A key that proxy tokens may be signed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// Key id, as in the token's header.
    pub kid: String,
    /// PEM file.
    pub file: PathBuf,
}

/// A peer of a unix socket, and the proxy that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixPeerRule {
    /// User id.
    pub uid: u32,
    /// Group id; any, if absent.
    pub gid: Option<u32>,
    /// Its mesh.
    pub mesh: String,
    /// Its name.
    pub name: String,
    /// Its workload.
    pub workload: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// Where the methods were written that need a listener of some kind.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) client_certificate: Option<Location>,
    pub(super) unix_peer: Option<Location>,
}

impl Identify {
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
            unix_peers: unix_peer.as_ref().map(decode_peers).unwrap_or_default(),
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

impl ServiceAccountToken {
    fn decode(field: &Field<'_>) -> Option<Self> {
        let fields = field.map()?;
        let audiences = fields.optional("audiences");
        fields.refuse_others();
        let audiences = match audiences {
            None => vec![DEFAULT_AUDIENCE.to_owned()],
            Some(field) => {
                let items = field.list()?;
                if items.is_empty() {
                    field.problem("must not be empty: a token for any audience could be replayed from elsewhere");
                }
                items.iter().filter_map(|item| item.name().map(str::to_owned)).collect()
            }
        };
        Some(Self { audiences })
    }
}

impl ProxyToken {
    fn decode(field: &Field<'_>) -> Option<Self> {
        let fields = field.map()?;
        let keys = fields.optional("publicKeys").and_then(|field| field.list()).unwrap_or_default();
        fields.refuse_others();
        let mut kids = BTreeSet::new();
        let mut public_keys = Vec::new();
        for item in keys {
            let Some(fields) = item.map() else { continue };
            let kid = fields.required("kid").and_then(|field| field.name());
            let file = fields.required("file").and_then(|field| field.name());
            fields.refuse_others();
            let (Some(kid), Some(file)) = (kid, file) else { continue };
            if !kids.insert(kid) {
                item.problem(format!("the kid {kid:?} is there twice"));
            }
            public_keys.push(PublicKey { kid: kid.to_owned(), file: PathBuf::from(file) });
        }
        Some(Self { public_keys })
    }
}

fn decode_peers(field: &Field<'_>) -> Vec<UnixPeerRule> {
    let mut rules: Vec<UnixPeerRule> = Vec::new();
    for item in field.list().unwrap_or_default() {
        let Some(rule) = UnixPeerRule::decode(&item) else { continue };
        if rules.iter().any(|other| (other.uid, other.gid) == (rule.uid, rule.gid)) {
            item.problem("the same peer is there twice");
        }
        rules.push(rule);
    }
    rules
}

impl UnixPeerRule {
    fn decode(field: &Field<'_>) -> Option<Self> {
        let fields = field.map()?;
        let id = |field: Field<'_>| field.integer(0..=i64::from(u32::MAX)).and_then(|id| u32::try_from(id).ok());
        let text = |field: Field<'_>| field.name().map(str::to_owned);
        let uid = fields.required("uid").and_then(id);
        let gid = fields.optional("gid").and_then(id);
        let mesh = fields.optional("mesh").map_or_else(|| Some("default".to_owned()), text);
        let name = fields.required("name").and_then(text);
        let workload = fields.required("workload").and_then(text);
        let labels = fields.optional("labels").and_then(|field| field.map());
        let labels = labels.iter().flat_map(Fields::entries);
        let labels = labels.filter_map(|(key, field)| Some((key.to_owned(), field.text()?.to_owned()))).collect();
        fields.refuse_others();
        Some(Self { uid: uid?, gid, mesh: mesh?, name: name?, workload: workload?, labels })
    }
}
