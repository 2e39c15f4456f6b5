//! Which fragments a bootstrap has, and what is put into them.

use std::net::IpAddr;

use super::header::{comment, header};
use super::names::Names;
use super::settings::{Api, GrpcClient, Identity, Settings, folder};
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
        ("ADMIN_IS", admin_is(settings)),
        ("ADMIN", socket_address(&settings.admin)),
        ("DYNAMIC_RESOURCES", source.dynamic_resources()),
        ("INBOUND", inbound(settings, names)),
        ("OUTBOUND", outbound(settings)),
        ("CLUSTERS", clusters.join("\n\n")),
    ];
    fill(fragment!("bootstrap"), &values) + "\n"
}

pub(super) fn secret(settings: &Settings) -> Option<String> {
    let header = |what: &str| header_of_file(settings, "secret", what, settings.secret_file.as_str());
    let filled = match &settings.identity {
        _ if !settings.needs_secret() => return None,
        Identity::ProxyToken { file } | Identity::ServiceAccount { file } => {
            let header = header("the token is, that its credential injector sends");
            fill(fragment!("token-secret"), &[("HEADER", header), ("TOKEN_FILE", quoted(file))])
        }
        Identity::ClientCertificate { folder } => {
            let file = |name: &str| quoted(format!("{}/{name}", folder.as_str().trim_end_matches('/')));
            let values = [
                (
                    "HEADER",
                    header(
                        "the certificate is that it shows to the server (tls.crt: the chain, leaf first), and its key",
                    ),
                ),
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

pub(super) fn server_ca(settings: &Settings) -> Option<String> {
    let ca = settings.server_ca()?;
    let what = "the CA is that the server's certificate has to be of: a file with all CAs that it may be of, if it is about to change. \
                Put the new one beside the old one first, let the server have its certificate of the new one when all Envoys have \
                both, and take the old one out last; no Envoy has to be started anew";
    let header = header_of_file(settings, "server-ca", what, &settings.server_ca_file());
    let watched = match folder(ca.as_str()) {
        "" => "/",
        folder => folder,
    };
    let values = [("HEADER", header), ("CA", quoted(ca)), ("FOLDER", quoted(watched))];
    Some(fill(fragment!("server-ca-secret"), &values) + "\n")
}

/// What a file beside the bootstrap says before its first line that counts.
fn header_of_file(settings: &Settings, print: &str, what: &str, file: &str) -> String {
    let line = super::command::line(settings);
    comment(&format!(
        "{line} --print {print}\n\nTells Envoy where {what}. It belongs at {file}, which the bootstrap names: it is \
         the output of the same command without --print."
    ))
}

/// The id, and what it is good for.
fn node_id(settings: &Settings) -> (String, &'static str) {
    match (&settings.identity, &settings.mesh) {
        (Identity::NodeId, Some(mesh)) => (format!("{mesh}.{}", settings.name), "# believed: mesh and name"),
        (Identity::NodeId, None) => (settings.name.to_string(), "# believed; the cluster, too, as its workload"),
        (Identity::ServiceAccount { .. } | Identity::ClientCertificate { .. }, _) => {
            (settings.name.to_string(), "# its own, or --service-node: it tells apart proxies that share a SPIFFE ID")
        }
        (Identity::ProxyToken { .. } | Identity::UnixPeer, _) => {
            (settings.name.to_string(), "# for people to read; it proves nothing")
        }
    }
}

/// Who reaches Envoy's admin interface.
fn admin_is(settings: &Settings) -> String {
    let what = "Whoever reaches this port may read the configuration and stop this Envoy";
    match settings.admin.is_loopback() {
        true => format!("# {what}: this machine only."),
        false => {
            format!("# {what}, and other machines may reach\n# it: keep them out, or let it be 127.0.0.1 (--admin).")
        }
    }
}

fn outbound(settings: &Settings) -> String {
    let who = match settings.outbound.is_loopback() {
        true => "# What the local application calls; it goes to the cluster `peer`, by mutual TLS.",
        false => {
            "# What the local application calls; it goes to the cluster `peer`, by mutual TLS. Other machines may reach it, without TLS, \
             and call as\n# this workload: keep them out, or let it be 127.0.0.1 (--outbound)."
        }
    };
    let values = [("OUTBOUND_IS", who.to_owned()), ("OUTBOUND", socket_address(&settings.outbound))];
    fill(fragment!("outbound"), &values)
}

fn inbound(settings: &Settings, names: &Names) -> String {
    let source = Source { settings };
    let anchor = if settings.api == Api::Ads { "ads" } else { "sds" };
    let secrets = [format!("&{anchor}"), format!("*{anchor}")];
    let [first, second] = [source.sds_config(&secrets[0], settings.api), secrets[1].clone()];
    let who = matchers(&settings.client_ids, fragment!("any-caller"), settings);
    let tls = tls_context(&names.certificate, &names.callers, first, second, who);
    let (caller, headers, action) = match settings.application {
        Some(_) => (
            fragment!("tells-application"),
            "",
            "route: {cluster: application, timeout: 0s} # no limit, as in `outbound`".to_owned(),
        ),
        None => {
            let greeting = quoted(format_args!("hello from {}\n", settings.name));
            (
                "",
                fragment!("says-who-called"),
                format!("direct_response: {{status: 200, body: {{inline_string: {greeting}}}}}"),
            )
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
        return fill(anybody, &[("EXAMPLE", quoted(example(settings)))]);
    }
    let matchers: Vec<_> =
        ids.iter().map(|id| format!("- {{san_type: URI, matcher: {{exact: {}}}}}", quoted(id))).collect();
    fill(fragment!("some"), &[("MATCHERS", matchers.join("\n"))])
}

/// The SPIFFE ID that another workload of the same kind has by default.
fn example(settings: &Settings) -> String {
    let mesh = settings.mesh();
    match (&settings.namespace, &settings.identity) {
        (Some(namespace), _) => format!("spiffe://{mesh}/ns/{namespace}/sa/shop"),
        (None, Identity::ServiceAccount { .. }) => format!("spiffe://{mesh}/ns/NAMESPACE/sa/shop"),
        (None, _) => format!("spiffe://{mesh}/shop"),
    }
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
        let credentials = ca.map(|ca| {
            format!(
                "# The CA is read once. Before the server has a certificate of another, have both in the file, and start Envoy \
                 anew.\nchannel_credentials:\n  ssl_credentials: {{root_certs: {{filename: {ca}}}}}"
            )
        });
        let token =
            settings.identity.token_file().map(|file| fill(fragment!("google-token"), &[("TOKEN_FILE", quoted(file))]));
        let override_of = |name: &Text| format!("grpc.ssl_target_name_override: {{string_value: {}}}", quoted(name));
        let (target, name) = match &settings.server {
            Endpoint::Tcp(at) => {
                let name = settings.server_tls.as_ref().and_then(|tls| tls.name.as_ref());
                (at.to_string(), name.map(override_of))
            }
            Endpoint::Unix(path) => {
                // Without it, the client sends the socket's path as :authority, which HTTP/2 servers refuse.
                let name = "# Else it would send the socket's path as :authority, which HTTP/2 servers \
                    refuse.\ngrpc.default_authority: {string_value: localhost}";
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
        let tls = settings.server_name().map(|(is_address, name)| {
            let is_certificate = matches!(settings.identity, Identity::ClientCertificate { .. });
            let certificate = is_certificate.then(|| fill(fragment!("client-certificate"), &[secret_file()]));
            let values = [
                // An address cannot be asked for by SNI (RFC 6066, section 3).
                ("SNI", if is_address { String::new() } else { format!("sni: {}", quoted(&name)) }),
                ("CLIENT_CERTIFICATE", certificate.unwrap_or_default()),
                ("SERVER_CA_FILE", quoted(settings.server_ca_file())),
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
