//! Which fragments a bootstrap has, and what is put into them.

use std::net::IpAddr;

use super::command;
use super::names::{NameStyle, Names};
use super::settings::{Api, GrpcClient, Identity, Settings};
use super::template::{Text, fill, quoted};
use crate::config::{Endpoint, HostPort};

macro_rules! fragment {
    ($name:literal) => {
        include_str!(concat!("fragments/", $name, ".yaml"))
    };
}

/// How long a connection may live that has a certificate in it, for which that is checked once only.
const CONNECTION_LIFE: &str = "max_connection_duration: 3600s";

pub(super) fn bootstrap(settings: &Settings, names: &Names) -> String {
    let source = Source { settings };
    let clusters = [source.cluster(), Some(peer(settings, names)), application(settings)];
    let clusters: Vec<String> = clusters.into_iter().flatten().collect();
    let (node_id, means) = node_id(settings);
    let values = [
        ("HEADER", header(settings, names)),
        ("NODE_ID", quoted(node_id)),
        ("NODE_ID_IS", means.to_owned()),
        ("NODE_CLUSTER", quoted(&settings.workload)),
        ("ADMIN", socket_address(&settings.admin)),
        ("DYNAMIC_RESOURCES", source.dynamic_resources()),
        ("INBOUND", inbound(settings, names)),
        ("OUTBOUND", fill(fragment!("outbound"), &[("OUTBOUND", socket_address(&settings.outbound))])),
        ("CLUSTERS", clusters.join("\n\n")),
    ];
    fill(fragment!("bootstrap"), &values) + "\n"
}

pub(super) fn secret(settings: &Settings) -> Option<String> {
    let header = |what: &str| {
        let line = command::line(settings);
        comment(&format!("{line} --print secret\n\nTells Envoy where {what}. It belongs at {}, which the bootstrap names: it is the output of the same \
                          command without --print.", settings.secret_file))
    };
    let filled = match &settings.identity {
        _ if !settings.needs_secret() => return None,
        Identity::ProxyToken { file } | Identity::ServiceAccount { file } => {
            let header = header("the token is, that its credential injector sends");
            fill(fragment!("token-secret"), &[("HEADER", header), ("TOKEN_FILE", quoted(file))])
        }
        Identity::ClientCertificate { folder } => {
            let file = |name: &str| quoted(format!("{}/{name}", folder.as_str().trim_end_matches('/')));
            let values = [
                ("HEADER", header("the certificate is that it shows to the server (tls.crt: the chain, leaf first), and its key")),
                ("CERTIFICATE", file("tls.crt")),
                ("KEY", file("tls.key")),
                ("FOLDER", quoted(folder)),
            ];
            fill(fragment!("certificate-secret"), &values)
        }
        Identity::UnixPeer | Identity::NodeId => return None,
    };
    Some(filled + "\n")
}

/// What is before the first line that counts: the command, what proves who the proxy is, and what the file is made of.
fn header(settings: &Settings, names: &Names) -> String {
    let mut text = vec![command::line(settings), proof(settings)];
    if settings.needs_secret() {
        text.push(format!(
            "Beside this file it needs {}: the output of the same command with `--print secret`.",
            settings.secret_file
        ));
    }
    if settings.names != NameStyle::Common {
        text.push(naming(settings.names, names));
    }
    let inbound = match settings.application {
        Some(_) => "which goes on to the application",
        None => "which it answers by itself, saying who called (--application sends it on)",
    };
    text.push(format!(
        "It has a listener for what others send by mutual TLS (`inbound`), {inbound}; and one for what the local application sends \
         (`outbound`), which goes to the inbound listener of another Envoy (`peer`) by mutual TLS. docs/envoy.md says more."
    ));
    comment(&text.join("\n\n"))
}

fn proof(settings: &Settings) -> String {
    let reads = match settings.grpc_client {
        GrpcClient::Envoy => "Envoy's own gRPC client sends it: the credential injector puts it into each stream that is opened",
        GrpcClient::Google => "Google's gRPC client sends it, by TLS only, and reads the file whenever it opens a stream",
    };
    match &settings.identity {
        Identity::ProxyToken { file } => {
            let word = |text: &Text| command::for_shell(text.as_str());
            let mesh = settings.mesh.as_ref().map(|mesh| format!(" --mesh {}", word(mesh))).unwrap_or_default();
            format!(
                "An Envoy that proves who it is with a proxy token. {reads}. Replace the token before it ends, by moving another file over \
                 it; the next stream carries the new one. The server's operator issues it:\n\n  envoy-sds token issue{mesh} --name {} \
                 --workload {} > {}",
                word(&settings.name),
                word(&settings.workload),
                word(file)
            )
        }
        Identity::ServiceAccount { file } => format!(
            "An Envoy in Kubernetes that proves who it is with a service account token, at {file}: a projected volume (serviceAccountToken, \
             audience envoy-sds). {reads}. kubelet replaces the file; the next stream carries the new token."
        ),
        Identity::ClientCertificate { folder } => format!(
            "An Envoy that proves who it is with a client certificate, {folder}/tls.crt with its key tls.key: one with a SPIFFE ID, from the CA \
             that the server's listener has as tls.clientCa, such as one that cert-manager's CSI driver gives to each pod. \
             spiffe://<trust domain>/ns/<namespace>/sa/<service account> and spiffe://<trust domain>/<workload> are understood."
        ),
        Identity::UnixPeer => "An Envoy that proves who it is by its process: the server asks the kernel who is at the other end of the unix socket, and \
             goes by identify.unixPeer. A rule names a user (and group) and the proxy that it is: give each proxy a user of its own. On a \
             Kubernetes node, `{pod: true}` takes whoever connects for the pod that it runs in; the server then runs on the node (a DaemonSet \
             with hostPID: true), and its socket is mounted into the pods. Let the socket have mode 0666: who may connect proves nothing yet."
            .to_owned(),
        Identity::NodeId => "An Envoy that proves nothing: for development. `envoy-sds serve --insecure-node-id` believes the node id below, so whoever can \
             reach the server can be anybody."
            .to_owned(),
    }
}

fn naming(style: NameStyle, names: &Names) -> String {
    let whose = match style {
        NameStyle::Common => "",
        NameStyle::Spire => {
            "Its secrets have names as an Envoy beside SPIRE's agent uses them: the certificate is called by the SPIFFE ID, the CAs by the trust \
             domain (ALL: those of every trust domain that is known). If the ID is another, Envoy gets nothing: see `envoy-sds proxies`, and --spiffe-id. \
             `default` and `ROOTCA` work too."
        }
        NameStyle::Istio => {
            "Its secrets have names as a gateway of Istio uses them for an external SDS server (credentialName: sds://…). What is behind sds:// is free. \
             Sidecars ask for `default` and `ROOTCA`, as the same command without --names does."
        }
        NameStyle::Kuma => {
            "Its secrets have the names of Kuma and Kong Mesh. Newer releases have others (system_mtls_identity_<mesh>, system_mtls_ca_<mesh>, KRIs), \
             which the server knows as well; for all trust domains, mesh_ca:secret:all."
        }
        NameStyle::Osm => {
            "Its secrets have the names of Open Service Mesh. OSM sent the names of who may call along with the CAs; here they have to be in this file: \
             --client-id, --upstream-id."
        }
        NameStyle::EnvoyGateway => {
            "Its secrets have names as Envoy Gateway makes them of Kubernetes objects: <namespace>/<service account>, and the same with /ca.crt."
        }
    };
    let profile = style.word();
    let configure = match style.is_off_by_default() {
        true => format!(" The server's configuration needs `naming: {{profiles: [spire, istio, kuma, {profile}]}}`."),
        false => String::new(),
    };
    format!("{whose} Here: {} and {}.{configure}", names.certificate, names.callers)
}

/// The id, and what it is good for.
fn node_id(settings: &Settings) -> (String, &'static str) {
    match (&settings.identity, &settings.mesh) {
        (Identity::NodeId, Some(mesh)) => (format!("{mesh}.{}", settings.name), "# believed: mesh and name"),
        (Identity::NodeId, None) => (settings.name.to_string(), "# believed; the cluster, too, as its workload"),
        (Identity::ServiceAccount { .. } | Identity::ClientCertificate { .. }, _) => {
            (settings.name.to_string(), "# its own: it tells apart proxies that share a SPIFFE ID")
        }
        (Identity::ProxyToken { .. } | Identity::UnixPeer, _) => (settings.name.to_string(), "# for people to read; it proves nothing"),
    }
}

fn inbound(settings: &Settings, names: &Names) -> String {
    let source = Source { settings };
    let anchor = if settings.api == Api::Ads { "ads" } else { "sds" };
    let secrets = [format!("&{anchor}"), format!("*{anchor}")];
    let [first, second] = [source.sds_config(&secrets[0], settings.api), secrets[1].clone()];
    let who = matchers(&settings.client_ids, fragment!("any-caller"), settings);
    let tls = tls_context(&names.certificate, &names.callers, first, second, who);
    let (caller, headers, action) = match settings.application {
        Some(_) => (fragment!("tells-application"), "", "route: {cluster: application}".to_owned()),
        None => {
            let greeting = quoted(format_args!("hello from {}\n", settings.name));
            ("", fragment!("says-who-called"), format!("direct_response: {{status: 200, body: {{inline_string: {greeting}}}}}"))
        }
    };
    let values = [
        ("LISTEN", socket_address(&settings.listen)),
        ("TLS", tls),
        ("CALLER", caller.trim_end().to_owned()),
        ("HEADERS", headers.trim_end().to_owned()),
        ("ACTION", action),
    ];
    fill(fragment!("inbound"), &values)
}

fn peer(settings: &Settings, names: &Names) -> String {
    // On ADS, this is the first that has a stream of its own.
    let first = match settings.api {
        Api::Ads => Source { settings }.sds_config("&sds", Api::Sotw),
        Api::Sotw | Api::Delta => "*sds".to_owned(),
    };
    let who = matchers(&settings.upstream_ids, fragment!("any-server"), settings);
    let mut life = CONNECTION_LIFE.to_owned();
    if settings.one_request_a_connection {
        life.push_str(", max_requests_per_connection: 1");
    }
    let values = [
        ("TLS", tls_context(&names.certificate, &names.upstream, first, "*sds".to_owned(), who)),
        ("CONNECTION_LIFE", life),
        ("TYPE", cluster_type(&settings.upstream).to_owned()),
        ("ADDRESS", socket_address(&settings.upstream)),
    ];
    fill(fragment!("peer-cluster"), &values)
}

fn application(settings: &Settings) -> Option<String> {
    let at = settings.application.as_ref()?;
    let values = [("TYPE", cluster_type(at).to_owned()), ("ADDRESS", socket_address(at))];
    Some(fill(fragment!("application-cluster"), &values))
}

fn tls_context(certificate: &str, cas: &str, first: String, second: String, who: String) -> String {
    let values = [
        ("CERTIFICATE", quoted(certificate)),
        ("CAS", quoted(cas)),
        ("FIRST", first),
        ("SECOND", second),
        ("WHO", who),
    ];
    fill(fragment!("tls-context"), &values)
}

/// Who may be at the other end.
fn matchers(ids: &[spiffe::SpiffeId], anybody: &str, settings: &Settings) -> String {
    if ids.is_empty() {
        let example = quoted(format_args!("spiffe://{}/shop", settings.mesh()));
        return fill(anybody, &[("EXAMPLE", example)]);
    }
    let matchers: Vec<_> =
        ids.iter().map(|id| format!("- {{san_type: URI, matcher: {{exact: {}}}}}", quoted(id))).collect();
    fill(fragment!("some"), &[("MATCHERS", matchers.join("\n"))])
}

/// Where secrets come from.
#[derive(Clone, Copy)]
struct Source<'a> {
    settings: &'a Settings,
}

impl Source<'_> {
    fn sds_config(self, anchor: &str, api: Api) -> String {
        let dedicated = |api_type: &str| {
            fill(fragment!("dedicated"), &[("API_TYPE", api_type.to_owned()), ("GRPC_SERVICE", self.grpc_service())])
        };
        let source = match api {
            Api::Sotw => dedicated("GRPC"),
            Api::Delta => dedicated("DELTA_GRPC"),
            Api::Ads => "ads: {}".to_owned(),
        };
        fill(fragment!("sds-config"), &[("ANCHOR", anchor.to_owned()), ("SOURCE", source)])
    }

    fn dynamic_resources(self) -> String {
        match self.settings.api {
            Api::Ads => fill(fragment!("ads"), &[("GRPC_SERVICE", self.grpc_service())]) + "\n",
            Api::Sotw | Api::Delta => String::new(),
        }
    }

    fn grpc_service(self) -> String {
        match self.settings.grpc_client {
            GrpcClient::Envoy => "- envoy_grpc: {cluster_name: sds}".to_owned(),
            GrpcClient::Google => self.google_grpc(),
        }
    }

    fn google_grpc(self) -> String {
        let settings = self.settings;
        let ca = settings.server_tls.as_ref().map(|tls| quoted(&tls.ca_file));
        let credentials = ca.map(|ca| format!("channel_credentials:\n  ssl_credentials: {{root_certs: {{filename: {ca}}}}}"));
        let token = settings.identity.token_file().map(|file| fill(fragment!("google-token"), &[("TOKEN_FILE", quoted(file))]));
        let override_of = |name: &Text| format!("grpc.ssl_target_name_override: {{string_value: {}}}", quoted(name));
        let (target, name) = match &settings.server {
            Endpoint::Tcp(at) => {
                let name = settings.server_tls.as_ref().and_then(|tls| tls.name.as_ref());
                (at.to_string(), name.map(override_of))
            }
            Endpoint::Unix(path) => {
                // Without it, the client sends the socket's path as :authority, which HTTP/2 servers refuse.
                let name = "# Else it would send the socket's path as :authority, which HTTP/2 servers refuse.\n\
                            grpc.default_authority: {string_value: localhost}";
                (format!("unix:{}", path.display()), Some(name.to_owned()))
            }
        };
        let values = [
            ("TARGET", quoted(target)),
            ("CHANNEL_CREDENTIALS", credentials.unwrap_or_default()),
            ("CALL_CREDENTIALS", token.unwrap_or_default()),
            ("NAME", name.unwrap_or_default()),
        ];
        fill(fragment!("google-grpc"), &values)
    }

    /// The cluster of the server, which Envoy's own client needs.
    fn cluster(self) -> Option<String> {
        let settings = self.settings;
        if settings.grpc_client == GrpcClient::Google {
            return None;
        }
        let secret_file = || ("SECRET_FILE", quoted(&settings.secret_file));
        let (kind, address) = match &settings.server {
            Endpoint::Tcp(at) => (cluster_type(at), socket_address(at)),
            Endpoint::Unix(path) => ("STATIC", format!("{{pipe: {{path: {}}}}}", quoted(path.display()))),
        };
        let filters = settings.identity.token_file().map(|_| fill(fragment!("token-filters"), &[secret_file()]));
        let tls = settings.server_tls.as_ref().zip(settings.server_name()).map(|(tls, (is_address, name))| {
            let is_certificate = matches!(settings.identity, Identity::ClientCertificate { .. });
            let certificate = is_certificate.then(|| fill(fragment!("client-certificate"), &[secret_file()]));
            let values = [
                // An address cannot be asked for by SNI (RFC 6066, section 3).
                ("SNI", if is_address { String::new() } else { format!("sni: {}", quoted(&name)) }),
                ("CLIENT_CERTIFICATE", certificate.unwrap_or_default()),
                ("SERVER_CA", quoted(&tls.ca_file)),
                ("SAN_TYPE", if is_address { "IP_ADDRESS" } else { "DNS" }.to_owned()),
                ("SERVER_NAME", quoted(&name)),
            ];
            fill(fragment!("sds-tls"), &values)
        });
        let values = [
            ("TYPE", kind.to_owned()),
            ("ADDRESS", address),
            ("HTTP_FILTERS", filters.unwrap_or_default()),
            ("TRANSPORT_SOCKET", tls.unwrap_or_default()),
        ];
        Some(fill(fragment!("sds-cluster"), &values))
    }
}

/// A name is looked up, again and again; an address is itself.
fn cluster_type(at: &HostPort) -> &'static str {
    if at.host.parse::<IpAddr>().is_ok() { "STATIC" } else { "STRICT_DNS" }
}

fn socket_address(at: &HostPort) -> String {
    format!("{{socket_address: {{address: {}, port_value: {}}}}}", quoted(&at.host), at.port)
}

/// Paragraphs as comments, their lines broken where they are too long; lines that are indented, and the first one, are left as they are.
fn comment(text: &str) -> String {
    const WIDTH: usize = 120;
    let mut lines = Vec::new();
    for (number, paragraph) in text.split('\n').enumerate() {
        let mut line = "#".to_owned();
        let is_command = number == 0 || paragraph.starts_with(' ');
        for word in paragraph.split(' ') {
            if !is_command && line.chars().count() + 1 + word.chars().count() > WIDTH && line.len() > 1 {
                lines.push(std::mem::replace(&mut line, "#".to_owned()));
            }
            line.push(' ');
            line.push_str(word);
        }
        lines.push(line.trim_end().to_owned());
    }
    lines.join("\n")
}
