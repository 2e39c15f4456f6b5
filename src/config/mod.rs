//! The configuration of `serve`: from a file, the environment and flags to one validated [`Config`], or to all that is
//! wrong with it. Relative paths, in the file too, are relative to the current directory.

mod defaults;
mod endpoint;
mod file;
mod identify;
mod listener;
mod membership;
mod merge;
mod naming;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use defaults::Surroundings;
pub use endpoint::{Endpoint, HostPort};
pub use identify::{
    Identify, ProxyToken, PublicKey, Revocations, ServiceAccountToken, UnixPeerIs, UnixPeerRule, VerifyTokens,
};
pub use listener::{Listener, ListenerTls};
pub use membership::{AllowRule, Membership, ServiceAccountName};
pub use naming::{Naming, NamingProfile, SecretName};

use self::file::File;
use crate::document;
use crate::model::diagnostic::{Location, Problem};

/// The namespace in which cert-manager's issuers and requests are, unless told otherwise (S0-8).
pub const DEFAULT_SYSTEM_NAMESPACE: &str = "kong-mesh-system";

/// What `serve` is to do; always valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where Envoys connect; at least one.
    pub listeners: Vec<Listener>,
    /// Where the admin API listens.
    pub admin: HostPort,
    /// Names that its pages are asked for by, beside those that nobody can publish; lower-case.
    pub admin_host_names: Vec<String>,
    /// Where `/metrics` and `/livez` are by themselves, for a scraper that is not to reach the rest.
    pub metrics: Option<HostPort>,
    /// Resource files and folders to watch; none means a mesh `default` with the builtin CA, unless a cluster has meshes or is
    /// to have them ([`Config::has_meshes_of_the_cluster_alone`]).
    pub resources: Vec<PathBuf>,
    /// Where builtin CAs and token-signing keys are kept.
    pub state_dir: PathBuf,
    /// Where CertificateRequests are created (S0-8).
    pub system_namespace: String,
    /// Stamped on what this server creates; may be empty.
    pub zone: String,
    /// Whether to use a cluster.
    pub kubernetes: Kubernetes,
    /// Whether the cluster's Mesh, MeshIdentity and MeshTrust objects count. If so, nobody is let in before they are known.
    pub cluster_resources: bool,
    /// A kubeconfig given by flag; otherwise `KUBECONFIG`, or the pod's own service account.
    pub kubeconfig: Option<PathBuf>,
    /// What proves an identity.
    pub identify: Identify,
    /// Which mesh proxies belong to, and whom meshes let in.
    pub membership: Membership,
    /// What the names of secrets mean.
    pub naming: Naming,
    /// Bounds.
    pub limits: Limits,
    /// How ADS streams are served.
    pub ads: Ads,
}

/// How streams of the AggregatedDiscoveryService are served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ads {
    /// Send everything again about this often; `None` for never (xds-conformance item 88).
    pub resync: Option<Duration>,
}

/// Whether to use a Kubernetes cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kubernetes {
    /// If one is configured and answers.
    #[default]
    Auto,
    /// It is an error if there is none.
    On,
    /// Not even if there is one.
    Off,
}

/// Bounds on what peers can make the server hold or do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Open xDS streams.
    pub streams: usize,
    /// Open xDS streams of one proxy.
    pub streams_per_proxy: usize,
    /// Open xDS streams of all proxies of one identity whose credential names no instance; and such proxies, those that have
    /// gone but are still remembered included.
    pub streams_per_identity: usize,
    /// New xDS streams a second; `None` for no bound.
    pub new_streams_per_second: Option<u32>,
    /// Names of secrets on one xDS stream.
    pub names_per_stream: usize,
    /// How long a connection lives, a tenth more or less; `None` for as long as the proxy wants.
    pub max_connection_age: Option<Duration>,
    /// Requests to CAs at one time.
    pub issuances_in_flight: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams: 50_000,
            streams_per_proxy: 64,
            streams_per_identity: 4096,
            new_streams_per_second: None,
            names_per_stream: 256,
            max_connection_age: None,
            issuances_in_flight: 64,
        }
    }
}

/// What flags and environment variables say. Each replaces what the file says; lists are replaced as a whole.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--listen`
    pub listen: Vec<Endpoint>,
    /// `--admin`
    pub admin: Option<HostPort>,
    /// `--resources`
    pub resources: Vec<PathBuf>,
    /// `--state-dir`
    pub state_dir: Option<PathBuf>,
    /// `--kubernetes`
    pub kubernetes: Option<Kubernetes>,
    /// `--kubeconfig`
    pub kubeconfig: Option<PathBuf>,
    /// `--system-namespace`
    pub system_namespace: Option<String>,
    /// `--zone`
    pub zone: Option<String>,
    /// `--insecure-node-id`: turns that method on, and leaves the others as they are.
    pub insecure_node_id: bool,
}

impl Config {
    /// Reads `file`, if one is given, and puts `overrides` on top.
    ///
    /// # Errors
    /// Every problem that there is.
    pub fn load(file: Option<&Path>, overrides: Overrides, surroundings: &Surroundings) -> Result<Self, Vec<Problem>> {
        let (config, problems) = Self::inspect(file, overrides, surroundings);
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }

    /// The same for `check`, which goes on to look at the resources: with problems, the configuration is what could be
    /// understood, and nothing to run a server with.
    pub fn inspect(file: Option<&Path>, overrides: Overrides, surroundings: &Surroundings) -> (Self, Vec<Problem>) {
        let file = file.map(|path| match std::fs::read_to_string(path) {
            Ok(text) => read(&text, path),
            Err(error) => {
                let at = Location { file: Some(Arc::new(path.to_owned())), ..Location::default() };
                (File::default(), vec![Problem { at, what: format!("cannot be read: {error}"), hint: None }])
            }
        });
        merge::merge(file, overrides, surroundings)
    }

    /// Whether meshes can only be objects of a cluster: there has to be one, its objects count, and no files are named.
    pub fn has_meshes_of_the_cluster_alone(&self) -> bool {
        self.kubernetes == Kubernetes::On && self.cluster_resources && self.resources.is_empty()
    }

    /// The meshes that it names, and where: they may not be there yet, but a typing error should be told.
    pub fn named_meshes(&self) -> Vec<(String, String)> {
        let rules = self.identify.unix_peers.iter().enumerate();
        let of_rules = rules.filter_map(|(index, rule)| match &rule.is {
            UnixPeerIs::Proxy { mesh, .. } => Some((format!("identify.unixPeer[{index}].mesh"), mesh.clone())),
            UnixPeerIs::Pod => None,
        });
        self.membership.meshes().into_iter().chain(of_rules).collect()
    }

    /// Those of them that there are not.
    pub fn unknown_meshes(&self, is_known: impl Fn(&str) -> bool) -> Vec<(String, String)> {
        self.named_meshes().into_iter().filter(|(_, mesh)| !is_known(mesh)).collect()
    }

    /// What the operator should know before the first proxy comes.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.identify.is_empty() {
            warnings.push("nothing is listed under identify: no proxy is accepted".to_owned());
        }
        if self.identify.insecure_node_id {
            warnings
                .push("identify.insecureNodeId is on: whoever connects is believed; for development only".to_owned());
        }
        for listener in &self.listeners {
            match &listener.at {
                Endpoint::Tcp(at) if !at.is_loopback() && listener.tls.is_none() => warnings.push(format!(
                    "the listener at {at} has no TLS: private keys and tokens cross the network in the clear; give it \
                     listeners[].tls in the configuration file (a listener of --listen has none)"
                )),
                Endpoint::Tcp(_) | Endpoint::Unix(_) => {}
            }
        }
        if !self.admin.is_loopback() {
            warnings.push(format!(
                "admin.address is {}: whoever reaches it can list the proxies and have certificates renewed, as it has no \
                 authentication",
                self.admin
            ));
        }
        warnings
    }
}

/// What the text of a configuration file says, as far as it can be understood, and what is wrong with it.
fn read(text: &str, path: &Path) -> (File, Vec<Problem>) {
    let path = Arc::new(path.to_owned());
    let problem = |line, what: String, hint| {
        let at = Location { file: Some(path.clone()), line, ..Location::default() };
        Problem { at, what, hint }
    };
    match document::parse(text) {
        Err(errors) => {
            (File::default(), errors.into_iter().map(|error| problem(error.line, error.what, None)).collect())
        }
        Ok(documents) => {
            let (file, mut problems) = file::decode(documents.first(), path.clone());
            if let Some(second) = documents.get(1) {
                let hint = "resources such as a Mesh go into files of their own, listed under resources".to_owned();
                let what = "a second document; a configuration file has one".to_owned();
                problems.push(problem(second.line, what, Some(hint)));
            }
            (file, problems)
        }
    }
}

#[cfg(test)]
mod tests;
