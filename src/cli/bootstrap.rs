//! `envoy-sds bootstrap`: what Envoy is started with.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use spiffe::SpiffeId;

use super::{Failure, output};
use crate::bootstrap::{Api, GrpcClient, Identity, NameStyle, SERVER_CA_FILE, ServerTls, Settings, Text};
use crate::config::{Endpoint, HostPort, Surroundings};

/// Where a projected service account token is expected to be.
const SERVICE_ACCOUNT_TOKEN: &str = "/var/run/secrets/envoy-sds/token";

/// Where a client certificate is expected to be.
const CERTIFICATE_FOLDER: &str = "/etc/envoy-sds/client";

/// Files of the current folder, or of --folder.
const TOKEN_FILE: &str = "token";
const SECRET_FILE: &str = "secret.yaml";
const BOOTSTRAP_FILE: &str = "envoy.yaml";

/// Print a ready Envoy bootstrap, with an mTLS listener and an mTLS cluster
///
/// It has comments that say why each line is there. With no flag at all it fits `envoy-sds serve` with none, on the same machine: Envoy then calls
/// itself by mTLS, and `curl 127.0.0.1:8080` shows it. Where the proof of identity is in a file that is replaced as time goes by, Envoy needs a second
/// file that says where (--print secret), and so it does for the CA of the server's certificate (--print server-ca); --folder writes all of them.
#[derive(Debug, Args)]
#[command(
    args_override_self = true,
    after_help = "Examples:\n  \
        envoy-sds token issue --name web-0 --workload web --out token && envoy-sds bootstrap --folder . && envoy -c envoy.yaml\n      \
            a first Envoy, beside envoy-sds serve\n  \
        envoy-sds bootstrap --identity service-account --server sds.example.com:5678 --server-ca ca.crt --listen 0.0.0.0:8443 --upstream api:8443 --folder .\n      \
            one in Kubernetes\n\n\
        docs/envoy.md says what each setting is for; envoy-config/ has what this prints, for each identity, API and source of names."
)]
pub(super) struct Bootstrap {
    /// The SDS server: host:port or unix:PATH [default: unix:STATE_DIR/sds.sock]
    #[arg(long, value_name = "ADDRESS")]
    server: Option<Endpoint>,

    /// The CA of the server's certificate, a file; the server is reached by TLS then, as it has to be unless it is on this machine
    #[arg(long, value_name = "FILE")]
    server_ca: Option<PathBuf>,

    /// The name that the server's certificate is for [default: the host of --server]
    #[arg(long, value_name = "NAME", requires = "server_ca")]
    server_name: Option<Text>,

    /// The state directory of a server on this machine, for the default of --server
    /// [default: $XDG_STATE_HOME/envoy-sds or ~/.local/state/envoy-sds]
    #[arg(long, env = "ENVOY_SDS_STATE_DIR", value_name = "FOLDER")]
    state_dir: Option<PathBuf>,

    /// How the proxy proves who it is
    #[arg(long, value_name = "METHOD", default_value = "token")]
    identity: Method,

    /// Which of Envoy's gRPC clients talks to the server
    #[arg(long, value_name = "CLIENT", default_value = "envoy")]
    grpc_client: Client,

    /// The token [default: ./token; of a service account, /var/run/secrets/envoy-sds/token]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// The folder with the client certificate: tls.crt and tls.key
    #[arg(long, value_name = "FOLDER", default_value = CERTIFICATE_FOLDER)]
    certificate_folder: PathBuf,

    /// Where Envoy finds the file of --print secret; in its folder, as server-ca.yaml, that of --print server-ca
    /// [default: ./secret.yaml]
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,

    /// The proxy's mesh; with --identity node-id, what it claims [default: default]
    #[arg(long, value_name = "MESH")]
    mesh: Option<Text>,

    /// The proxy's own name, such as its pod's [default: WORKLOAD-0]
    #[arg(long, value_name = "NAME")]
    name: Option<Text>,

    /// The proxy's workload; in Kubernetes, its service account
    #[arg(long, value_name = "WORKLOAD", default_value = "web")]
    workload: Text,

    /// The namespace of the proxy's service account, for names of secrets that have it in them
    #[arg(long, value_name = "NAMESPACE")]
    namespace: Option<Text>,

    /// The proxy's SPIFFE ID, for --names spire, if a MeshIdentity gives it another
    /// [default: spiffe://MESH/WORKLOAD; with --namespace, spiffe://MESH/ns/NAMESPACE/sa/WORKLOAD]
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<SpiffeId>,

    /// What the secrets are called: common is `default` and `ROOTCA`, which SPIRE's agent and Istio's sidecars have, too
    #[arg(long, value_name = "SYSTEM", default_value = "common", value_parser = names())]
    names: NameStyle,

    /// The variant of the protocol: state of the world and incremental with a stream for each secret; ads has the listener's on one
    #[arg(long, value_name = "API", default_value = "sotw")]
    api: Variant,

    /// The listener that others call by mTLS
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8443")]
    listen: HostPort,

    /// The listener that the local application calls
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080")]
    outbound: HostPort,

    /// The mTLS listener of the Envoy that this one calls; the default is its own
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8443")]
    upstream: HostPort,

    /// Envoy's own admin interface
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9901")]
    admin: HostPort,

    /// Where the mTLS listener sends requests on to; without it, it answers by itself
    #[arg(long, value_name = "HOST:PORT")]
    application: Option<HostPort>,

    /// Who may call, by SPIFFE ID; repeatable [default: any workload of the mesh]
    #[arg(long = "client-id", value_name = "ID", action = clap::ArgAction::Append)]
    client_ids: Vec<SpiffeId>,

    /// Who the upstream may be, by SPIFFE ID; repeatable [default: any workload of the mesh]
    #[arg(long = "upstream-id", value_name = "ID", action = clap::ArgAction::Append)]
    upstream_ids: Vec<SpiffeId>,

    /// Which of the files to print
    #[arg(long, value_name = "FILE", default_value = "bootstrap")]
    print: Print,

    /// Print nothing, and write envoy.yaml and, if they are needed, secret.yaml and server-ca.yaml into this folder
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["print", "secret_file"])]
    folder: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Method {
    /// A proxy token, as envoy-sds token issue signs it.
    Token,
    /// A service account token of Kubernetes.
    ServiceAccount,
    /// A client certificate.
    ClientCertificate,
    /// The process at the other end of a unix socket.
    Unix,
    /// Nothing: for development.
    NodeId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Client {
    /// envoy_grpc.
    Envoy,
    /// google_grpc.
    Google,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Variant {
    Sotw,
    Delta,
    Ads,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Print {
    /// What Envoy is started with.
    Bootstrap,
    /// What says where the proof of identity is.
    Secret,
    /// What says where the CA of the server's certificate is.
    ServerCa,
}

/// The words for systems.
fn names() -> impl clap::builder::TypedValueParser<Value = NameStyle> {
    use clap::builder::TypedValueParser;
    let words = clap::builder::PossibleValuesParser::new(NameStyle::ALL.map(|(word, _)| word));
    words.try_map(|word| {
        let found = NameStyle::ALL.into_iter().find(|(known, _)| *known == word);
        found.map(|(_, style)| style).ok_or("unknown")
    })
}

impl Bootstrap {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (print, folder) = (self.print, self.folder.clone());
        let bootstrap = crate::bootstrap::Bootstrap::new(self.settings()?)
            .map_err(|problems| Failure::Usage(problems.join("\nerror: ")))?;
        bootstrap.warnings().iter().for_each(|warning| output::error(format_args!("warning: {warning}")));
        if let Some(folder) = folder {
            let files = [
                (BOOTSTRAP_FILE, Some(bootstrap.text())),
                (SECRET_FILE, bootstrap.secret()),
                (SERVER_CA_FILE, bootstrap.server_ca()),
            ];
            let mut needed = files.into_iter().filter_map(|(name, text)| Some((folder.join(name), text?)));
            return needed.try_for_each(|(file, text)| write(&file, &text));
        }
        let (word, text) = match print {
            Print::Bootstrap => return output::text(bootstrap.text()),
            Print::Secret => ("secret", bootstrap.secret()),
            Print::ServerCa => ("server-ca", bootstrap.server_ca()),
        };
        let none =
            || Failure::Usage(format!("--print {word}: there is no such file with these flags, and no need of one"));
        output::text(text.ok_or_else(none)?)
    }

    fn settings(self) -> Result<Settings, Failure> {
        let server = self.server()?;
        let here = self.folder.clone().unwrap_or_default();
        let path = |flag, given: Option<PathBuf>, default: PathBuf| absolute(flag, &given.unwrap_or(default));
        let tls = self.server_ca.map(|file| absolute("--server-ca", &file)).transpose()?;
        let token_file = |default: &str| path("--token-file", self.token_file, default.into());
        let identity = match self.identity {
            Method::Token => Identity::ProxyToken { file: token_file(TOKEN_FILE)? },
            Method::ServiceAccount => Identity::ServiceAccount { file: token_file(SERVICE_ACCOUNT_TOKEN)? },
            Method::ClientCertificate => {
                Identity::ClientCertificate { folder: absolute("--certificate-folder", &self.certificate_folder)? }
            }
            Method::Unix => Identity::UnixPeer,
            Method::NodeId => Identity::NodeId,
        };
        let name = self.name.map_or_else(|| Text::new(format!("{}-0", self.workload)), Ok);
        Ok(Settings {
            server,
            server_tls: tls.map(|ca_file| ServerTls { ca_file, name: self.server_name }),
            identity,
            grpc_client: match self.grpc_client {
                Client::Envoy => GrpcClient::Envoy,
                Client::Google => GrpcClient::Google,
            },
            secret_file: path("--secret-file", self.secret_file, here.join(SECRET_FILE))?,
            mesh: self.mesh,
            name: name.map_err(|why| Failure::Usage(format!("--workload: {why}")))?,
            workload: self.workload,
            namespace: self.namespace,
            spiffe_id: self.spiffe_id,
            names: self.names,
            api: match self.api {
                Variant::Sotw => Api::Sotw,
                Variant::Delta => Api::Delta,
                Variant::Ads => Api::Ads,
            },
            listen: self.listen,
            outbound: self.outbound,
            upstream: self.upstream,
            admin: self.admin,
            application: self.application,
            client_ids: self.client_ids,
            upstream_ids: self.upstream_ids,
            one_request_a_connection: false,
        })
    }

    /// Where the server is: where `envoy-sds serve` listens on this machine, unless it is said, or cannot be that.
    fn server(&self) -> Result<Endpoint, Failure> {
        let given = match (&self.server, self.identity) {
            (Some(server), _) => Some(server.clone()),
            (None, Method::ServiceAccount | Method::ClientCertificate) => {
                let word =
                    if self.identity == Method::ServiceAccount { "service-account" } else { "client-certificate" };
                return Err(Failure::Usage(format!(
                    "--identity {word} is for a server that is configured for it, so say where that is: --server host:port --server-ca FILE"
                )));
            }
            (None, Method::Token | Method::Unix | Method::NodeId) => None,
        };
        let path = match given {
            Some(Endpoint::Tcp(at)) => return Ok(Endpoint::Tcp(at)),
            Some(Endpoint::Unix(path)) => path,
            None => {
                let state_dir = self.state_dir.clone().or_else(|| Surroundings::of_process().state_dir());
                let state_dir = state_dir.ok_or_else(|| {
                    Failure::Usage(
                        "nobody says where the server is: give --server or --state-dir, or set HOME".to_owned(),
                    )
                })?;
                state_dir.join("sds.sock")
            }
        };
        // Its length counts as Envoy sees it.
        let path = absolute("--server", &path)?;
        format!("unix:{path}").parse().map_err(|why| Failure::Usage(format!("--server: {why}")))
    }
}

/// A path as Envoy can take it from wherever it is started.
fn absolute(flag: &str, path: &Path) -> Result<Text, Failure> {
    let wrong = |why: String| Failure::Usage(format!("{flag}: {why}"));
    let absolute = std::path::absolute(path).map_err(|error| wrong(error.to_string()))?;
    let text = absolute.to_str().ok_or_else(|| wrong("the path is not UTF-8, which YAML cannot say".to_owned()))?;
    Text::new(text).map_err(wrong)
}

/// Makes the file, unless there is another one.
fn write(file: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::Runtime(anyhow::anyhow!("cannot write {}: {error}", file.display()));
    match std::fs::read_to_string(file) {
        Ok(there) if there == text => return Ok(()),
        Ok(_) => {
            let what =
                format!("{} is there already, and is another: move it away, or give another --folder", file.display());
            return Err(Failure::Runtime(anyhow::anyhow!(what)));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    std::fs::write(file, text).map_err(failed)?;
    output::line(file.display())
}

#[cfg(test)]
#[path = "bootstrap_tests.rs"]
mod tests;
