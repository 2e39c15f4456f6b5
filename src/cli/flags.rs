//! The flags of `serve`, which `check` has too. Each has an environment variable; both override the file.

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, ValueEnum};

use crate::app::naming;
use crate::config::{Config, Endpoint, HostPort, Kubernetes, Overrides, Surroundings};
use crate::model::diagnostic::Problem;
use crate::observe::logging;

/// What configures a server.
#[derive(Debug, Clone, Args)]
pub struct ServerFlags {
    /// Configuration file; without one, there is a mesh `default` with a builtin CA
    #[arg(long, env = "ENVOY_SDS_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Where Envoys connect, without TLS: host:port (port 0 picks one) or unix:PATH; repeatable
    /// [default: the file's listeners, else 127.0.0.1:5678 and unix:STATE_DIR/sds.sock]
    #[arg(long, env = "ENVOY_SDS_LISTEN", value_name = "ADDRESS", value_delimiter = ',')]
    pub listen: Vec<Endpoint>,

    /// Where the admin API listens [default: 127.0.0.1:5681]
    #[arg(long, env = "ENVOY_SDS_ADMIN", value_name = "HOST:PORT")]
    pub admin: Option<HostPort>,

    /// Resource file or folder (Mesh, mesh Secret), watched; repeatable
    #[arg(long, env = "ENVOY_SDS_RESOURCES", value_name = "PATH", value_delimiter = ',')]
    pub resources: Vec<PathBuf>,

    /// Where builtin CAs and token-signing keys are kept
    /// [default: $XDG_STATE_HOME/envoy-sds or ~/.local/state/envoy-sds]
    #[arg(long, env = "ENVOY_SDS_STATE_DIR", value_name = "FOLDER")]
    pub state_dir: Option<PathBuf>,

    /// Whether to use a cluster: if one is configured, in any case, or never [default: the file's, else auto]
    #[arg(long, env = "ENVOY_SDS_KUBERNETES", value_name = "WHETHER")]
    pub kubernetes: Option<KubernetesMode>,

    /// Kubeconfig file [default: KUBECONFIG, or the pod's service account]
    #[arg(long, env = "ENVOY_SDS_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Namespace of CertificateRequests and mesh Secrets [default: kong-mesh-system]
    #[arg(long, env = "ENVOY_SDS_SYSTEM_NAMESPACE", value_name = "NAMESPACE")]
    pub system_namespace: Option<String>,

    /// Stamped on what this server creates [default: none]
    #[arg(long, env = "ENVOY_SDS_ZONE", value_name = "ZONE")]
    pub zone: Option<String>,

    /// Development only: believe what a proxy says of itself in node.id and node.cluster
    #[arg(long, env = "ENVOY_SDS_INSECURE_NODE_ID", action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub insecure_node_id: bool,

    /// How to log.
    #[command(flatten)]
    pub log: LogFlags,
}

/// How to log.
#[derive(Debug, Clone, Args)]
pub struct LogFlags {
    /// off, error, warn, info, debug, trace, or filter directives such as info,envoy_sds::serve=debug
    #[arg(long = "log-level", env = "ENVOY_SDS_LOG_LEVEL", value_name = "LEVEL", default_value = "info", value_parser = log_level)]
    pub level: String,

    /// How log lines are written
    #[arg(long = "log-format", env = "ENVOY_SDS_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub format: LogFormat,
}

/// Whether to use a Kubernetes cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KubernetesMode {
    /// If one is configured, by --kubeconfig, KUBECONFIG or a pod's service account.
    Auto,
    /// It is an error if there is none.
    On,
    /// Not even if one is configured.
    Off,
}

impl From<KubernetesMode> for Kubernetes {
    fn from(mode: KubernetesMode) -> Self {
        match mode {
            KubernetesMode::Auto => Self::Auto,
            KubernetesMode::On => Self::On,
            KubernetesMode::Off => Self::Off,
        }
    }
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl From<LogFormat> for logging::LogFormat {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Text => Self::Text,
            LogFormat::Json => Self::Json,
        }
    }
}

impl ServerFlags {
    /// The configuration: the file, if there is one, with the other flags on top.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(&self) -> Result<Config, Vec<Problem>> {
        let (config, problems) = self.inspect();
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }

    /// The same for `check`; see [`Config::inspect`]. Names that mean two things are among the problems.
    pub fn inspect(&self) -> (Config, Vec<Problem>) {
        let (config, mut problems) =
            Config::inspect(self.config.as_deref(), self.overrides(), &Surroundings::of_process());
        problems.extend(naming::names(&config.naming).err().unwrap_or_default());
        (config, problems)
    }

    fn overrides(&self) -> Overrides {
        Overrides {
            listen: self.listen.clone(),
            admin: self.admin.clone(),
            resources: self.resources.clone(),
            state_dir: self.state_dir.clone(),
            kubernetes: self.kubernetes.map(Into::into),
            kubeconfig: self.kubeconfig.clone(),
            system_namespace: self.system_namespace.clone(),
            zone: self.zone.clone(),
            insecure_node_id: self.insecure_node_id,
        }
    }
}

/// A filter takes any word for the name of a module, so a misspelt level would silence everything without a word.
fn log_level(text: &str) -> Result<String, String> {
    let is_level = |word: &str| word.parse::<tracing::level_filters::LevelFilter>().is_ok();
    let usable = text.split(',').all(|directive| match directive.rsplit_once('=') {
        Some((_, level)) => is_level(level.trim()),
        None => is_level(directive.trim()),
    });
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) if usable && !text.is_empty() => Ok(text.to_owned()),
        _ => {
            Err("expected off, error, warn, info, debug, trace, or directives such as info,envoy_sds=debug".to_owned())
        }
    }
}
