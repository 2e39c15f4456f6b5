//! Bootstraps: what `envoy-sds bootstrap` prints, and those that other systems publish, the files of `tests/fixtures/bootstraps/`.
//!
//! Each of these has what the system's documentation or source has between an Envoy and its SDS server, but for what
//! docs/migrating.md says has to change: where the server is, whom it is trusted by, and the proof of identity. What the tests
//! add to look at the outcome comes in by placeholders: ports, SPIFFE IDs, and what the two listeners do with a request.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::envoy::StartedBy;
use super::server::{PROGRAM, Server};

/// The names under which an Envoy asks for its secrets.
#[derive(Debug, Clone)]
pub struct Names {
    pub certificates: Vec<String>,
    pub bundles: Vec<String>,
    /// Whether all of them are asked for on one ADS stream.
    pub aggregated: bool,
}

impl Default for Names {
    /// Those of `envoy-sds bootstrap`.
    fn default() -> Self {
        Self { certificates: vec!["default".into()], bundles: vec!["ROOTCA".into()], aggregated: false }
    }
}

impl Names {
    pub fn all(&self) -> impl Iterator<Item = &str> {
        self.certificates.iter().chain(&self.bundles).map(String::as_str)
    }

    /// The statistics that are 1 while Envoy is connected.
    pub fn connected(&self) -> Vec<String> {
        match self.aggregated {
            true => vec!["control_plane.connected_state".into()],
            false => self.all().map(|name| stat_of(name, "control_plane.connected_state")).collect(),
        }
    }
}

/// A statistic of a secret: in names of statistics, Envoy replaces colons and the slashes that follow them.
pub fn stat_of(secret: &str, stat: &str) -> String {
    format!("sds.{}.{stat}", secret.replace("://", "_").replace(":/", "_").replace(':', "_"))
}

/// A file of `tests/fixtures/bootstraps/`.
#[derive(Debug, Clone, Copy)]
pub struct Bootstrap<'a> {
    pub file: &'a str,
    /// What it asks for; `${OWN_ID}` and other placeholders may stand in them.
    pub certificates: &'a [&'a str],
    pub bundles: &'a [&'a str],
    pub aggregated: bool,
    /// Further placeholders and what they stand for.
    pub values: &'a [(&'a str, &'a str)],
}

/// One of two proxies that call each other.
#[derive(Debug, Clone, Copy)]
pub struct Party<'a> {
    /// Its node id, and the name of its workload.
    pub name: &'a str,
    pub spiffe_id: &'a str,
    /// What it proves who it is with.
    pub proof: Proof<'a>,
}

/// What such a proxy has to prove who it is with.
#[derive(Debug, Clone, Copy)]
pub enum Proof<'a> {
    /// A token, in its bootstrap or in a file.
    Token(&'a str),
    /// The group of its process.
    Group(u32),
}

impl<'a> Party<'a> {
    pub fn started_by(&self) -> StartedBy<'a> {
        match self.proof {
            Proof::Token(_) => StartedBy::Test,
            Proof::Group(group) => StartedBy::Group(group),
        }
    }
}

/// Where in a test a bootstrap is used.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub own: Party<'a>,
    /// The proxy that it calls.
    pub peer: Party<'a>,
    pub inbound: SocketAddr,
    pub outbound: SocketAddr,
    /// The inbound listener of its peer.
    pub to: SocketAddr,
    /// For further files.
    pub dir: &'a Path,
}

impl Bootstrap<'_> {
    /// The bootstrap for one proxy, and what its secrets are called. A file `NAME-clusters.yaml` beside `NAME.yaml` has
    /// clusters that the proxy is to read from a file.
    pub fn render(&self, server: &Server, place: &Place<'_>) -> (String, Names) {
        let (own, peer) = (place.own, place.peer);
        let namespace = |id: &str| id.split('/').skip_while(|part| *part != "ns").nth(1).unwrap_or_default().to_owned();
        let clusters = place.dir.join("clusters.yaml");
        let token = if let Proof::Token(token) = own.proof { token } else { "" };
        let (token_file, secret_file) = (place.dir.join("token"), place.dir.join("secret.yaml"));
        for (file, text) in [(&token_file, token), (&secret_file, secret_of(&token_file).as_str())] {
            fs::write(file, text).expect("the scratch folder can be written");
        }
        let ca = fs::read(server.ca_file()).expect("it can be read");
        let mut values = vec![
            ("NODE_ID", own.name.to_owned()),
            ("NODE_CLUSTER", own.name.to_owned()),
            ("OWN_NAME", own.name.to_owned()),
            ("PEER_NAME", peer.name.to_owned()),
            ("OWN_ID", own.spiffe_id.to_owned()),
            ("PEER_ID", peer.spiffe_id.to_owned()),
            ("NAMESPACE", namespace(own.spiffe_id)),
            ("TOKEN", token.to_owned()),
            ("TOKEN_FILE", token_file.display().to_string()),
            ("SECRET_FILE", secret_file.display().to_string()),
            ("SDS_SOCKET", server.socket.display().to_string()),
            ("SDS_HOST", "localhost".to_owned()),
            ("SDS_PORT", server.tls_port.to_string()),
            ("SDS_CA", STANDARD.encode(ca)),
            ("SDS_CA_FILE", server.ca_file().display().to_string()),
            ("CLUSTERS_FILE", clusters.display().to_string()),
            ("INBOUND_PORT", place.inbound.port().to_string()),
            ("OUTBOUND_PORT", place.outbound.port().to_string()),
            ("PEER_PORT", place.to.port().to_string()),
            ("INBOUND_FILTERS", inbound_filters(own.name).to_string()),
            ("OUTBOUND_FILTERS", outbound_filters().to_string()),
            ("ONE_REQUEST_A_CONNECTION", one_request_a_connection().to_string()),
        ];
        // These may have placeholders of their own.
        let further: Vec<_> = self.values.iter().map(|(name, value)| (*name, fill(value, &values))).collect();
        values.extend(further);
        let folder = Path::new("tests/fixtures/bootstraps");
        let of_clusters = folder.join(self.file.replace(".yaml", "-clusters.yaml"));
        if root().join(&of_clusters).exists() {
            fs::write(&clusters, render(&of_clusters, &values)).expect("the scratch folder can be written");
        }
        let names = |names: &[&str]| names.iter().map(|name| fill(name, &values)).collect();
        let asked =
            Names { certificates: names(self.certificates), bundles: names(self.bundles), aggregated: self.aggregated };
        (render(&folder.join(self.file), &values), asked)
    }
}

/// What `envoy-sds bootstrap` prints for these arguments, and the files that there have to be beside it, by what `--print` calls them.
pub fn printed(arguments: &[String]) -> (String, Vec<(&'static str, String)>) {
    let print = |what: &str| {
        let mut command = Command::new(PROGRAM);
        command.arg("bootstrap").args(arguments).args(["--print", what]);
        let output = command.output().expect("the program starts");
        let text = |bytes| String::from_utf8(bytes).expect("it is text");
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    };
    let bootstrap = print("bootstrap").unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
    // Envoy does not start without those that the bootstrap names.
    let files = ["secret", "server-ca"].into_iter().filter_map(|what| Some((what, print(what).ok()?))).collect();
    (bootstrap, files)
}

/// A file with a secret, which says where the token is, as `envoy-sds bootstrap --print secret` prints one.
fn secret_of(token_file: &Path) -> String {
    let kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
    let secret = json!({"secret": {"filename": token_file}});
    json!({"resources": [{"@type": kind, "name": "token", "generic_secret": secret}]}).to_string()
}

/// A file of the repository with its placeholders replaced.
fn render(file: &Path, values: &[(&str, String)]) -> String {
    let text = fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let text = fill(&text, values);
    let left = text.lines().find(|line| line.contains("${") && !line.trim_start().starts_with('#'));
    assert_eq!(left, None, "{} has a placeholder that nobody fills", file.display());
    text
}

fn fill(text: &str, values: &[(&str, String)]) -> String {
    values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("${{{name}}}"), value))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Answers by itself, and says who called.
fn inbound_filters(name: &str) -> Value {
    let answer = json!({"status": 200, "body": {"inline_string": format!("hello from {name}\n")}});
    http_filters(
        "inbound",
        &json!({"match": {"prefix": "/"}, "direct_response": answer}),
        &[("x-client", "%DOWNSTREAM_PEER_URI_SAN%"), ("x-client-serial", "%DOWNSTREAM_PEER_SERIAL%")],
    )
}

/// Forwards to the cluster `peer`, and says who answered.
fn outbound_filters() -> Value {
    http_filters(
        "outbound",
        &json!({"match": {"prefix": "/"}, "route": {"cluster": "peer"}}),
        &[("x-server", "%UPSTREAM_PEER_URI_SAN%"), ("x-server-issuer", "%UPSTREAM_PEER_ISSUER%")],
    )
}

fn http_filters(name: &str, route: &Value, headers: &[(&str, &str)]) -> Value {
    let header = |(key, value): &(&str, &str)| json!({"header": {"key": key, "value": value}});
    let headers: Vec<_> = headers.iter().map(header).collect();
    let router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
    let manager = "http_connection_manager";
    json!([{
        "name": format!("envoy.filters.network.{manager}"),
        "typed_config": {
            "@type": format!("type.googleapis.com/envoy.extensions.filters.network.{manager}.v3.HttpConnectionManager"),
            "stat_prefix": name,
            "route_config": {
                // The cluster may come from a file, after the listener.
                "validate_clusters": false,
                "virtual_hosts": [{
                    "name": name,
                    "domains": ["*"],
                    "response_headers_to_add": headers,
                    "routes": [route],
                }],
            },
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": router}}],
        },
    }])
}

/// Options of a cluster whose every request is to see the certificates of its time.
fn one_request_a_connection() -> Value {
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    json!({
        options: {
            "@type": format!("type.googleapis.com/{options}"),
            "common_http_protocol_options": {"max_requests_per_connection": 1},
            "explicit_http_config": {"http_protocol_options": {}},
        },
    })
}
