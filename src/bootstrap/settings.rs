//! What a bootstrap is made from.

use std::net::IpAddr;

use spiffe::SpiffeId;

use super::names::{NameStyle, Names, Owner};
use super::template::Text;
use crate::config::{Endpoint, HostPort};

/// The file that says where the CA of the server's certificate is, in the folder of [`Settings::secret_file`].
pub const SERVER_CA_FILE: &str = "server-ca.yaml";

/// What a bootstrap is made from. Paths are absolute: Envoy takes others relative to wherever it was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the SDS server is.
    pub server: Endpoint,
    /// How to know that it is the server; without it there is no TLS.
    pub server_tls: Option<ServerTls>,
    /// How the proxy proves who it is.
    pub identity: Identity,
    /// Which of Envoy's gRPC clients talks to the server.
    pub grpc_client: GrpcClient,
    /// The file that [`Bootstrap::secret`](super::Bootstrap::secret) is for; in its folder is that of
    /// [`Bootstrap::server_ca`](super::Bootstrap::server_ca).
    pub secret_file: Text,
    /// The mesh, where it has to be said: in names of secrets, SPIFFE IDs and the node id of `insecureNodeId`.
    pub mesh: Option<Text>,
    /// The proxy's own name.
    pub name: Text,
    /// Its workload; in Kubernetes, its service account.
    pub workload: Text,
    /// Its namespace, if it is in Kubernetes.
    pub namespace: Option<Text>,
    /// Its SPIFFE ID, if a MeshIdentity gives it another than the default.
    pub spiffe_id: Option<SpiffeId>,
    /// Whose names for secrets.
    pub names: NameStyle,
    /// Which variant of the protocol.
    pub api: Api,
    /// The mTLS listener.
    pub listen: HostPort,
    /// The listener for the local application.
    pub outbound: HostPort,
    /// The mTLS listener that `outbound` goes to.
    pub upstream: HostPort,
    /// Envoy's own admin interface.
    pub admin: HostPort,
    /// Where the mTLS listener forwards to; it answers by itself without one.
    pub application: Option<HostPort>,
    /// Who may call; any workload of the mesh if empty.
    pub client_ids: Vec<SpiffeId>,
    /// Who the upstream may be; any workload of the mesh if empty.
    pub upstream_ids: Vec<SpiffeId>,
    /// Whether every request to the upstream has a connection of its own, and so sees the certificates of its time: for demonstrations.
    pub one_request_a_connection: bool,
}

/// How a proxy knows the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// A file with the CAs of the server's own certificate.
    pub ca_file: Text,
    /// The name that the certificate is for, if not the host of the address.
    pub name: Option<Text>,
}

/// How the proxy proves who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// `proxyToken`
    ProxyToken {
        /// The token's file.
        file: Text,
    },
    /// `serviceAccountToken`
    ServiceAccount {
        /// The token's file.
        file: Text,
    },
    /// `clientCertificate`
    ClientCertificate {
        /// The folder of `tls.crt` and `tls.key`.
        folder: Text,
    },
    /// `unixPeer`
    UnixPeer,
    /// `insecureNodeId`
    NodeId,
}

/// One of Envoy's gRPC clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GrpcClient {
    /// Envoy's own: `envoy_grpc`.
    #[default]
    Envoy,
    /// Google's: `google_grpc`.
    Google,
}

/// A variant of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Api {
    /// State of the world, a stream for each secret.
    #[default]
    Sotw,
    /// Incremental, a stream for each secret.
    Delta,
    /// State of the world, one stream for the listener's secrets.
    Ads,
}

impl Api {
    /// Its word.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Sotw => "sotw",
            Self::Delta => "delta",
            Self::Ads => "ads",
        }
    }
}

impl GrpcClient {
    /// Its word.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Envoy => "envoy",
            Self::Google => "google",
        }
    }
}

impl Identity {
    /// Its word.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::ProxyToken { .. } => "token",
            Self::ServiceAccount { .. } => "service-account",
            Self::ClientCertificate { .. } => "client-certificate",
            Self::UnixPeer => "unix",
            Self::NodeId => "node-id",
        }
    }

    /// The file of the token, if it is one.
    pub(super) fn token_file(&self) -> Option<&Text> {
        match self {
            Self::ProxyToken { file } | Self::ServiceAccount { file } => Some(file),
            Self::ClientCertificate { .. } | Self::UnixPeer | Self::NodeId => None,
        }
    }
}

impl Settings {
    /// What holds unless something else is said: listeners on this machine alone, of which the outbound one calls the inbound one.
    pub fn new(server: Endpoint, identity: Identity, secret_file: Text, name: Text, workload: Text) -> Self {
        let loopback = |port| HostPort { host: "127.0.0.1".to_owned(), port };
        Self {
            server,
            server_tls: None,
            identity,
            grpc_client: GrpcClient::default(),
            secret_file,
            mesh: None,
            name,
            workload,
            namespace: None,
            spiffe_id: None,
            names: NameStyle::default(),
            api: Api::default(),
            listen: loopback(8443),
            outbound: loopback(8080),
            upstream: loopback(8443),
            admin: loopback(9901),
            application: None,
            client_ids: Vec::new(),
            upstream_ids: Vec::new(),
            one_request_a_connection: false,
        }
    }

    /// Whether Envoy needs a second file, that says where the proof of identity is.
    pub fn needs_secret(&self) -> bool {
        match self.identity {
            Identity::ProxyToken { .. } | Identity::ServiceAccount { .. } => self.grpc_client == GrpcClient::Envoy,
            Identity::ClientCertificate { .. } => true,
            Identity::UnixPeer | Identity::NodeId => false,
        }
    }

    /// The CA of the server's certificate, if Envoy needs a file that says where that is. Google's client reads the CA itself, once.
    pub(super) fn server_ca(&self) -> Option<&Text> {
        let tls = self.server_tls.as_ref().filter(|_| self.grpc_client == GrpcClient::Envoy)?;
        Some(&tls.ca_file)
    }

    /// Where that file is.
    pub(super) fn server_ca_file(&self) -> String {
        format!("{}/{SERVER_CA_FILE}", folder(self.secret_file.as_str()))
    }

    /// Whether Envoy needs a file beside the bootstrap.
    pub(super) fn needs_files(&self) -> bool {
        self.needs_secret() || self.server_ca().is_some()
    }

    pub(super) fn mesh(&self) -> &str {
        self.mesh.as_ref().map_or("default", Text::as_str)
    }

    /// What it asks for.
    ///
    /// # Errors
    /// If a name cannot be made of what is known.
    pub(super) fn asks_for(&self) -> Result<Names, String> {
        let namespace = self.namespace.as_ref().map(Text::as_str);
        let owner = Owner {
            mesh: self.mesh(),
            namespace,
            workload: self.workload.as_str(),
            spiffe_id: self.spiffe_id.as_ref(),
        };
        Names::new(self.names, owner)
    }

    /// What opens something to other machines that is meant for this one.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let Self { admin, outbound, .. } = self;
        if !admin.is_loopback() {
            warnings.push(format!(
                "--admin {admin}: Envoy's admin interface has no authentication, so whoever reaches it may read the \
                 configuration and stop this Envoy"
            ));
        }
        if !outbound.is_loopback() {
            warnings.push(format!(
                "--outbound {outbound}: whoever reaches it, without TLS, calls others in the name of this workload"
            ));
        }
        warnings
    }

    /// Everything that is wrong with how the settings go together.
    pub(super) fn problems(&self) -> Vec<String> {
        let identity = self.identity.word();
        let mut problems = Vec::new();
        let mut wrong = |is_wrong: bool, what: String| is_wrong.then(|| problems.push(what));
        let is_unix = matches!(self.server, Endpoint::Unix(_));
        let is_certificate = matches!(self.identity, Identity::ClientCertificate { .. });
        let is_google = self.grpc_client == GrpcClient::Google;
        match &self.server {
            Endpoint::Unix(path) => {
                let trouble = path.to_str().map_or(Err("it is not UTF-8".to_owned()), Text::new).err();
                wrong(trouble.is_some(), format!("--server: {}", trouble.clone().unwrap_or_default()));
                let odd = path.to_str().and_then(|path| path.chars().find(|c| !fits_grpc_address(*c)));
                wrong(
                    is_google && trouble.is_none() && odd.is_some(),
                    format!(
                        "--server: Google's gRPC client reads the path of a unix socket as a part of an address, where {:?} does \
                         not stand for itself: name the socket with letters, digits and - . _ ~, or leave --grpc-client out",
                        odd.unwrap_or_default()
                    ),
                );
                wrong(
                    self.server_tls.is_some(),
                    "--server-ca is for a server at host:port: there is no TLS on a unix socket".into(),
                );
            }
            Endpoint::Tcp(at) => {
                wrong(at.port == 0, "--server needs the port that the server listens at, which is not 0".into());
                wrong(
                    self.server_tls.is_none() && !is_certificate && !at.is_loopback(),
                    format!(
                        "private keys come from {at}, so it has to be reached by TLS: give --server-ca FILE, the CA of its certificate"
                    ),
                );
            }
        }
        wrong(
            is_certificate && (is_unix || self.server_tls.is_none()),
            "a client certificate is shown in TLS: give --server host:port and --server-ca FILE".into(),
        );
        wrong(
            self.identity == Identity::UnixPeer && !is_unix,
            "--identity unix is who is at the other end of a unix socket: give --server unix:PATH".into(),
        );
        wrong(
            matches!(self.identity, Identity::ServiceAccount { .. })
                && self.names == NameStyle::Spire
                && self.namespace.is_none()
                && self.spiffe_id.is_none(),
            "--names spire has the proxy's SPIFFE ID in it, and that of a service account has its namespace: give --namespace, or \
             --spiffe-id"
                .into(),
        );
        wrong(
            self.needs_secret() && self.server_ca().is_some() && self.secret_file.as_str() == self.server_ca_file(),
            format!("--secret-file: {SERVER_CA_FILE} is the name of the other file in its folder: give it another"),
        );
        wrong(
            is_google && is_certificate,
            "Google's gRPC client reads a client certificate once and never again: leave --grpc-client out".into(),
        );
        wrong(
            is_google && self.identity.token_file().is_some() && self.server_tls.is_none(),
            "Google's gRPC client sends a token by TLS only: give --server host:port and --server-ca FILE, or leave --grpc-client out".into(),
        );
        wrong(
            self.identity == Identity::NodeId && self.mesh.is_none() && self.name.as_str().contains('.'),
            format!("--identity {identity}: what is before a dot in a name may be read as a mesh: give --mesh"),
        );
        wrong(self.upstream.port == 0, "--upstream needs a port, which is not 0".into());
        wrong(
            self.application.as_ref().is_some_and(|at| at.port == 0),
            "--application needs a port, which is not 0".into(),
        );
        problems
    }

    /// What the server's certificate has to be for: a name, or an address.
    pub(super) fn server_name(&self) -> Option<(bool, String)> {
        let tls = self.server_tls.as_ref()?;
        let name = match (&tls.name, &self.server) {
            (Some(name), _) => name.to_string(),
            (None, Endpoint::Tcp(at)) => at.host.clone(),
            (None, Endpoint::Unix(_)) => return None,
        };
        Some((name.parse::<IpAddr>().is_ok(), name))
    }
}

/// The folder of a file whose path is absolute; empty for the root, so that a name can be put behind it and a slash.
pub(super) fn folder(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Whether a character of a socket's path is one that gRPC takes as it is in `unix:PATH`: it reads that as a URI (RFC 3986, section
/// 3.3), so that `%` begins an escape and a blank cannot be, and as a list of addresses with commas between them.
fn fits_grpc_address(c: char) -> bool {
    c.is_ascii_alphanumeric() || "/-._~:@!$&'()*+;=".contains(c)
}
