//! What a bootstrap says before its first line that counts.

use super::command;
use super::names::{NameStyle, Names};
use super::settings::{GrpcClient, Identity, Settings};
use super::template::Text;

/// What several proxies have to do whose proof of identity tells none of them from the others.
const OWN_NODE_ID: &str = "start each with a node id of its own, which takes the place of the one below (`envoy --service-node \
                           \"$POD_NAME\"`); those with the same one are one proxy to the server, with one key and the \
                           streams of one.";

/// What is before the first line that counts: the command, what proves who the proxy is, and what the file is made of.
pub(super) fn header(settings: &Settings, names: &Names) -> String {
    let mut text = vec![command::line(settings), proof(settings)];
    text.extend(files(settings));
    if settings.names != NameStyle::Common {
        text.push(naming(settings.names, names));
    }
    let inbound = match settings.application {
        Some(_) => "which goes on to the application",
        None => "which it answers by itself, saying who called (--application sends it on)",
    };
    text.push(format!(
        "It has a listener for what others send by mutual TLS (`inbound`), {inbound}; and one for what the local \
         application sends (`outbound`), which goes to the inbound listener of another Envoy (`peer`) by mutual TLS. \
         docs/envoy.md says more."
    ));
    comment(&text.join("\n\n"))
}

/// What it needs beside it.
fn files(settings: &Settings) -> Option<String> {
    let secret = settings.needs_secret().then(|| (settings.secret_file.to_string(), "secret"));
    let server_ca = settings.server_ca().map(|_| (settings.server_ca_file(), "server-ca"));
    let files = [secret, server_ca].into_iter().flatten();
    let files: Vec<_> = files.map(|(file, what)| format!("{file} (`--print {what}`)")).collect();
    (!files.is_empty()).then(|| {
        let files = files.join(" and ");
        format!("Beside this file it needs {files}: what the same command prints with that flag.")
    })
}

fn proof(settings: &Settings) -> String {
    let reads = match settings.grpc_client {
        GrpcClient::Envoy => {
            "Envoy's own gRPC client sends it: the credential injector puts it into each stream that is opened"
        }
        GrpcClient::Google => {
            "Google's gRPC client sends it, by TLS only, and reads the file whenever it opens a stream"
        }
    };
    match &settings.identity {
        Identity::ProxyToken { file } => {
            let word = |text: &Text| command::for_shell(text.as_str());
            let mesh = settings.mesh.as_ref().map(|mesh| format!(" --mesh {}", word(mesh))).unwrap_or_default();
            format!(
                "An Envoy that proves who it is with a proxy token. {reads}. The server's operator issues it, for 24 h \
                 unless --valid-for says otherwise:\n\n  envoy-sds token issue{mesh} --name {} --workload {} --out \
                 {}\n\nOnly the user who runs that can read the file, so let it be Envoy's own user. Run it again \
                 before the token ends: it moves the new one over the old one, and the next stream carries it. (A file \
                 that is written in place, as by `>`, Envoy does not notice.)",
                word(&settings.name),
                word(&settings.workload),
                word(file)
            )
        }
        Identity::ServiceAccount { file } => format!(
            "An Envoy in Kubernetes that proves who it is with a service account token, at {file}: a projected volume \
             (serviceAccountToken, audience envoy-sds). {reads}. kubelet replaces the file; the next stream carries \
             the new token. Such a token names its pod. One that is bound to no pod does not: if several proxies have \
             one of the same account, {OWN_NODE_ID}"
        ),
        Identity::ClientCertificate { folder } => format!(
            "An Envoy that proves who it is with a client certificate, {folder}/tls.crt with its key tls.key: one \
             with a SPIFFE ID, from the CA that the server's listener has as tls.clientCa, such as one that \
             cert-manager's CSI driver gives to each pod. spiffe://<trust domain>/ns/<namespace>/sa/<service account> \
             and spiffe://<trust domain>/<workload> are understood. It names no instance: where several proxies have \
             the same ID, {OWN_NODE_ID}"
        ),
        Identity::UnixPeer => "An Envoy that proves who it is by its process: the server asks the kernel who is at \
            the other end of the unix socket, and goes by identify.unixPeer. A rule names a user (and group) and the \
            proxy that it is: give each proxy a user of its own. On a Kubernetes node, `{pod: true}` takes whoever \
            connects for the pod that it runs in; the server then runs on the node (a DaemonSet with hostPID: true), \
            and its socket is mounted into the pods. Let the socket have mode 0666: who may connect proves nothing \
            yet."
            .to_owned(),
        Identity::NodeId => "An Envoy that proves nothing: for development. `envoy-sds serve --insecure-node-id` \
            believes the node id below, so whoever can reach the server can be anybody."
            .to_owned(),
    }
}

fn naming(style: NameStyle, names: &Names) -> String {
    let whose = match style {
        NameStyle::Common => "",
        NameStyle::Spire => {
            "Its secrets have names as an Envoy beside SPIRE's agent uses them: the certificate is called by the \
             SPIFFE ID, the CAs by the trust domain (ALL: those of every trust domain that is known). If the ID is \
             another, Envoy gets nothing: see `envoy-sds proxies`, and --spiffe-id. `default` and `ROOTCA` work too."
        }
        NameStyle::Istio => {
            "Its secrets have names as a gateway of Istio uses them for an external SDS server (credentialName: \
             sds://…). What is behind sds:// is free. Sidecars ask for `default` and `ROOTCA`, as the same command \
             without --names does."
        }
        NameStyle::Kuma => {
            "Its secrets have the names of Kuma and Kong Mesh. Newer releases have others \
             (system_mtls_identity_<mesh>, system_mtls_ca_<mesh>, KRIs), which the server knows as well; for all \
             trust domains, mesh_ca:secret:all."
        }
        NameStyle::Osm => {
            "Its secrets have the names of Open Service Mesh. OSM sent the names of who may call along with the CAs; \
             here they have to be in this file: --client-id, --upstream-id."
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

/// Paragraphs as comments, their lines broken where they are too long; lines that are indented, and the first one, are left as they are.
pub(super) fn comment(text: &str) -> String {
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
