use serde_json::{Value, json};

use super::*;
use crate::config::{Endpoint, HostPort};

fn text(text: &str) -> Text {
    Text::new(text).unwrap()
}

fn identities() -> [Identity; 5] {
    [
        Identity::ProxyToken { file: text("/etc/token") },
        Identity::ServiceAccount { file: text("/etc/token") },
        Identity::ClientCertificate { folder: text("/etc/client") },
        Identity::UnixPeer,
        Identity::NodeId,
    ]
}

fn settings(server: &str, identity: Identity) -> Settings {
    let server: Endpoint = server.parse().unwrap();
    Settings {
        server_tls: match &server {
            Endpoint::Tcp(at) if !at.is_loopback() => Some(ServerTls { ca_file: text("/etc/ca.crt"), name: None }),
            _ => None,
        },
        namespace: Some(text("shop")),
        ..Settings::new(server, identity, text("/etc/secret.yaml"), text("web-0"), text("web"))
    }
}

fn of_token() -> Settings {
    settings("unix:/run/sds.sock", Identity::ProxyToken { file: text("/etc/token") })
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}:\n{text}"))
}

fn rendered(settings: Settings) -> Value {
    yaml(&Bootstrap::new(settings).unwrap().text())
}

/// All that go together.
fn all() -> Vec<Settings> {
    let mut all = Vec::new();
    for server in ["unix:/run/sds.sock", "127.0.0.1:5678", "sds.example.com:5678", "[2001:db8::1]:5678"] {
        for identity in identities() {
            for (_, names) in NameStyle::ALL {
                for api in [Api::Sotw, Api::Delta, Api::Ads] {
                    for grpc_client in [GrpcClient::Envoy, GrpcClient::Google] {
                        let settings = Settings { names, api, grpc_client, ..settings(server, identity.clone()) };
                        if Bootstrap::new(settings.clone()).is_ok() {
                            all.push(settings);
                        }
                    }
                }
            }
        }
    }
    assert!(all.len() > 200, "{}", all.len());
    all
}

/// Every object in it.
fn objects<'a>(value: &'a Value, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(fields) => {
            found.push(value);
            fields.values().for_each(|field| objects(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| objects(item, found)),
        _ => {}
    }
}

fn every<'a>(value: &'a Value, field: &str) -> Vec<&'a Value> {
    let mut found = Vec::new();
    objects(value, &mut found);
    found.into_iter().filter_map(|object| object.get(field)).collect()
}

#[test]
fn every_combination_is_safe() {
    for settings in all() {
        let bootstrap = Bootstrap::new(settings.clone()).unwrap();
        assert!(!bootstrap.text().contains("${"), "a placeholder is left: {}", bootstrap.text());
        let value = yaml(&bootstrap.text());
        let clusters = value["static_resources"]["clusters"].as_array().unwrap();
        let inbound =
            &value["static_resources"]["listeners"][0]["filter_chains"][0]["transport_socket"]["typed_config"];
        assert_eq!(inbound["require_client_certificate"], true);
        let peer = clusters.iter().find(|cluster| cluster["name"] == "peer").unwrap();
        let peer = &peer["transport_socket"]["typed_config"];
        for context in [inbound, peer] {
            let tls = &context["common_tls_context"];
            let certificate = &tls["tls_certificate_sds_secret_configs"][0];
            let cas = &tls["combined_validation_context"]["validation_context_sds_secret_config"];
            assert_ne!(certificate["name"], cas["name"]);
            for secret in [certificate, cas] {
                assert_eq!(secret["sds_config"]["initial_fetch_timeout"], "0s");
                assert_eq!(secret["sds_config"]["resource_api_version"], "V3");
            }
        }
        // A stream for each secret, but for those of the listener on ADS; those of a static cluster never (Envoy crashes).
        let is_ads = |context: &Value| !every(context, "ads").is_empty();
        assert_eq!((is_ads(inbound), is_ads(peer)), (settings.api == Api::Ads, false));
        for source in every(&value, "grpc_services").into_iter().zip(every(&value, "set_node_on_first_message_only")) {
            assert_eq!(source.1, &json!(true));
        }
        assert_eq!(every(&value, "grpc_services").len(), every(&value, "set_node_on_first_message_only").len());
        // What leads to the server does not come from it.
        let sds: Vec<_> = clusters.iter().filter(|cluster| cluster["name"] == "sds").collect();
        assert_eq!(sds.len(), usize::from(settings.grpc_client == GrpcClient::Envoy));
        for cluster in sds {
            assert!(every(cluster, "api_config_source").is_empty() && every(cluster, "ads").is_empty());
            assert_eq!(every(cluster, "connection_keepalive").len(), 1);
        }
        assert_eq!(every(&value, "max_connection_duration").len(), 2);
        // Both files or one.
        let names_secret = bootstrap.text().contains("path_config_source: {path: \"/etc/secret.yaml\"}");
        let secret = bootstrap.secret();
        assert_eq!((settings.needs_secret(), names_secret), (secret.is_some(), secret.is_some()));
        let names_ca = bootstrap.text().contains("path_config_source: {path: \"/etc/server-ca.yaml\"}");
        let ca = bootstrap.server_ca();
        let has_cluster = settings.grpc_client == GrpcClient::Envoy && settings.server_tls.is_some();
        assert_eq!((names_ca, ca.is_some()), (has_cluster, has_cluster));
        if let Some(ca) = ca {
            let resource = &yaml(&ca)["resources"][0];
            let expected = json!({"trusted_ca": {"filename": "/etc/ca.crt"}, "watched_directory": {"path": "/etc"}});
            assert_eq!((&resource["name"], &resource["validation_context"]), (&json!("server-ca"), &expected));
        }
        if let Some(secret) = secret {
            assert_eq!(every(&yaml(&secret), "filename").len(), if secret.contains("tls.key") { 2 } else { 1 });
        }
        // Not in the clear, but to this machine.
        if matches!(&settings.server, Endpoint::Tcp(at) if !at.is_loopback()) {
            let google = every(&value, "google_grpc").len();
            assert_eq!(every(&value, "root_certs").len(), google);
            // Whom it believes to be the server is in the bootstrap, and the CA in a file that is read again.
            assert!(every(&value, "trusted_ca").is_empty());
            let tls = clusters.iter().filter(|cluster| cluster["name"] == "sds");
            let contexts: Vec<_> = tls.flat_map(|cluster| every(cluster, "combined_validation_context")).collect();
            assert_eq!(contexts.len(), usize::from(google == 0));
            for context in contexts {
                let names = &context["default_validation_context"]["match_typed_subject_alt_names"];
                assert!(!names[0]["matcher"]["exact"].as_str().unwrap().is_empty());
                assert_eq!(context["validation_context_sds_secret_config"]["name"], "server-ca");
            }
        }
    }
}

#[test]
fn what_a_user_gives_is_what_envoy_reads() {
    let odd = r#"a "b" 'c' \ ${NODE_ID} # {d: e}"#;
    let value = rendered(Settings {
        name: text(odd),
        workload: text("- x: *y"),
        secret_file: text("/with space/\"quotes\"/s.yaml"),
        ..of_token()
    });
    assert_eq!(value["node"], json!({"id": odd, "cluster": "- x: *y"}));
    assert_eq!(every(&value, "inline_string"), [&json!(format!("hello from {odd}\n"))]);
    assert_eq!(every(&value, "path_config_source"), [&json!({"path": "/with space/\"quotes\"/s.yaml"})]);
    let command = command::line(&Settings { name: text("it's -x"), mesh: Some(text("-m")), ..of_token() });
    assert!(command.contains(r"--name 'it'\''s -x'") && command.contains("--mesh=-m"), "{command}");
}

#[test]
fn an_address_is_matched_as_an_address_and_a_name_as_a_name() {
    let certificate = || Identity::ClientCertificate { folder: text("/etc/client/") };
    let sds = |server: &str, name: Option<&str>| {
        let settings = settings(server, certificate());
        let tls = ServerTls { ca_file: text("/ca"), name: name.map(text) };
        let value = rendered(Settings { server_tls: Some(tls), ..settings });
        value["static_resources"]["clusters"][0].clone()
    };
    let of = |cluster: &Value| {
        let tls = &cluster["transport_socket"]["typed_config"];
        let matcher = &every(tls, "match_typed_subject_alt_names")[0][0];
        (cluster["type"].clone(), tls["sni"].clone(), matcher["san_type"].clone(), matcher["matcher"]["exact"].clone())
    };
    let address = sds("[2001:db8::1]:5678", None);
    assert_eq!(of(&address), (json!("STATIC"), Value::Null, json!("IP_ADDRESS"), json!("2001:db8::1")));
    assert_eq!(every(&address, "socket_address"), [&json!({"address": "2001:db8::1", "port_value": 5678})]);
    let name = sds("sds.example.com:5678", None);
    assert_eq!(of(&name), (json!("STRICT_DNS"), json!("sds.example.com"), json!("DNS"), json!("sds.example.com")));
    let other = sds("10.0.0.1:5678", Some("sds.example.com"));
    assert_eq!(of(&other), (json!("STATIC"), json!("sds.example.com"), json!("DNS"), json!("sds.example.com")));
    let secret = Bootstrap::new(Settings {
        server_tls: Some(ServerTls { ca_file: text("/ca"), name: None }),
        ..settings("a:1", certificate())
    });
    assert!(secret.unwrap().secret().unwrap().contains("\"/etc/client/tls.crt\""));
}

#[test]
fn the_application_is_told_who_called_and_who_may_is_matched() {
    let ids = ["spiffe://default/shop", "spiffe://default/api"].map(|id| id.parse().unwrap());
    let value = rendered(Settings {
        application: Some("127.0.0.1:3000".parse::<HostPort>().unwrap()),
        client_ids: ids.to_vec(),
        upstream_ids: vec![ids[1].clone()],
        one_request_a_connection: true,
        ..of_token()
    });
    let matchers = every(&value, "match_typed_subject_alt_names");
    let mut counts: Vec<_> = matchers.iter().filter_map(|ids| Some(ids.as_array()?.len())).collect();
    counts.sort_unstable();
    assert_eq!(counts, [1, 2]);
    assert_eq!(every(&value, "forward_client_cert_details"), [&json!("SANITIZE_SET")]);
    assert_eq!(every(&value, "max_requests_per_connection"), [&json!(1)]);
    assert!(every(&value, "direct_response").is_empty());
}

/// gRPC and long answers get through: both ends can speak HTTP/2, and no route has Envoy's own timeout.
#[test]
fn what_applications_send_goes_on_as_it_came() {
    for application in [None, Some("127.0.0.1:3000".parse::<HostPort>().unwrap())] {
        let forwards = usize::from(application.is_some());
        let value = rendered(Settings { application, ..of_token() });
        let inbound = &value["static_resources"]["listeners"][0];
        assert_eq!(every(inbound, "alpn_protocols"), [&json!(["h2", "http/1.1"])]);
        assert_eq!(every(&value, "use_downstream_protocol_config").len(), 1 + forwards);
        let routes: Vec<_> = every(&value, "route").into_iter().map(|route| &route["timeout"]).collect();
        assert_eq!(routes, vec![&json!("0s"); 1 + forwards]);
    }
}

/// In Kubernetes, whom a comment shows as an example is somebody that there may be.
#[test]
fn the_example_of_a_matcher_is_an_id_that_workloads_have() {
    let shown = |settings: Settings| {
        let text = Bootstrap::new(settings).unwrap().text();
        let example = |line: &str| {
            Some(line.trim().strip_prefix("# - {san_type: URI, matcher: {exact: \"")?.strip_suffix("\"}}")?.to_owned())
        };
        let mut examples: Vec<_> = text.lines().filter_map(example).collect();
        examples.dedup();
        examples
    };
    let account = || settings("a:1", Identity::ServiceAccount { file: text("/etc/token") });
    assert_eq!(shown(account()), ["spiffe://default/ns/shop/sa/shop"]);
    assert_eq!(shown(Settings { namespace: None, ..account() }), ["spiffe://default/ns/NAMESPACE/sa/shop"]);
    assert_eq!(shown(of_token()), ["spiffe://default/ns/shop/sa/shop"]);
    assert_eq!(shown(Settings { namespace: None, mesh: Some(text("m")), ..of_token() }), ["spiffe://m/shop"]);
}

#[test]
fn what_does_not_go_together_is_told() {
    let google = |settings| Settings { grpc_client: GrpcClient::Google, ..settings };
    let [token, account, certificate, unix, _] = identities();
    let node = || Identity::NodeId;
    let socket = "unix:/run/sds.sock";
    for (settings, expected) in [
        (Settings { server_tls: None, ..settings("sds.example.com:1", token.clone()) }, "give --server-ca FILE"),
        (settings("127.0.0.1:0", token.clone()), "which is not 0"),
        (settings(socket, certificate.clone()), "a client certificate is shown in TLS"),
        (settings("127.0.0.1:1", certificate.clone()), "a client certificate is shown in TLS"),
        (settings("127.0.0.1:1", unix), "give --server unix:PATH"),
        (google(settings("a:1", certificate)), "once and never again"),
        (google(settings(socket, account.clone())), "by TLS only"),
        (Settings { namespace: None, names: NameStyle::Osm, ..settings(socket, token.clone()) }, "give --namespace"),
        (
            Settings { namespace: None, names: NameStyle::Spire, ..settings("a:1", account.clone()) },
            "give --namespace, or --spiffe-id",
        ),
        (Settings { secret_file: text("/etc/server-ca.yaml"), ..settings("a:1", account) }, "give it another"),
        (
            Settings { names: NameStyle::Spire, workload: text("a b"), ..settings(socket, token.clone()) },
            "no SPIFFE ID",
        ),
        (Settings { name: text("web.v1"), ..settings(socket, node()) }, "give --mesh"),
        (Settings { upstream: "api:0".parse().unwrap(), ..settings(socket, token.clone()) }, "--upstream needs a port"),
        (google(settings("unix:/run/a b%20.sock", node())), "where ' ' does not stand for itself"),
        (google(settings("unix:/run/a,b.sock", node())), "where ',' does not stand for itself"),
        (settings("unix:/run/a\nb", token), "--server: it has the character"),
    ] {
        let problems = Bootstrap::new(settings).unwrap_err();
        assert!(problems.len() == 1 && problems[0].contains(expected), "{expected}: {problems:?}");
    }
}

#[test]
fn what_would_be_wrong_elsewhere_is_fine() {
    let odd = "unix:/run/a b,%20.sock";
    assert!(Bootstrap::new(settings(odd, Identity::NodeId)).is_ok());
    let other_id = Settings {
        namespace: None,
        names: NameStyle::Spire,
        spiffe_id: Some("spiffe://default/web".parse().unwrap()),
        ..settings("a:1", Identity::ServiceAccount { file: text("/etc/token") })
    };
    assert!(Bootstrap::new(other_id).is_ok());
    let plain = Settings { grpc_client: GrpcClient::Google, ..settings("unix:/run/A_b-1.2~/s.sock", Identity::NodeId) };
    assert!(Bootstrap::new(plain).is_ok());
}

#[test]
fn what_other_machines_reach_is_warned_of_and_not_said_to_be_this_machines() {
    let local = Bootstrap::new(of_token()).unwrap();
    assert_eq!(local.warnings(), Vec::<String>::new());
    assert!(local.text().contains("this machine only") && !local.text().contains("Other machines"));

    let open = |host: &str| {
        let at = |port: u16| HostPort { host: host.to_owned(), port };
        Bootstrap::new(Settings { admin: at(9901), outbound: at(8080), ..of_token() }).unwrap()
    };
    for host in ["0.0.0.0", "::", "10.0.0.1"] {
        let bootstrap = open(host);
        let warnings = bootstrap.warnings();
        assert!(warnings.len() == 2 && warnings[0].starts_with("--admin ") && warnings[1].starts_with("--outbound "));
        let text = bootstrap.text();
        assert!(!text.contains("this machine only"), "{text}");
        assert!(
            text.contains("and other machines may reach") && text.contains("Other machines may reach it"),
            "{text}"
        );
        yaml(&text);
    }
    assert_eq!(open("localhost").warnings(), Vec::<String>::new());
}

#[test]
fn a_proof_that_names_no_instance_asks_for_a_node_id_of_its_own() {
    for (identity, asks) in identities().into_iter().zip([false, true, true, false, false]) {
        let server = if identity == Identity::UnixPeer { "unix:/run/sds.sock" } else { "sds.example.com:5678" };
        let text = Bootstrap::new(settings(server, identity)).unwrap().text();
        let header = text.split("\nnode:").next().unwrap().replace("\n# ", " ");
        assert_eq!(header.contains("envoy --service-node \"$POD_NAME\""), asks, "{header}");
    }
}

#[test]
fn a_token_is_moved_into_its_place() {
    let text = Bootstrap::new(of_token()).unwrap().text();
    assert!(text.contains("\n#   envoy-sds token issue --name web-0 --workload web --out /etc/token\n"), "{text}");
}
