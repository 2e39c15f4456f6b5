//! Configuration files and flags, and what is told of those that make no sense.

use std::path::Path;
use std::time::Duration;

use super::*;

fn surroundings() -> Surroundings {
    Surroundings { xdg_state_home: None, home: Some("/home/me".into()) }
}

pub(super) fn load(text: &str) -> Result<Config, Vec<String>> {
    let (config, problems) = load_with(text, Overrides::default());
    if problems.is_empty() { Ok(config) } else { Err(problems.iter().map(ToString::to_string).collect()) }
}

fn load_with(text: &str, overrides: Overrides) -> (Config, Vec<Problem>) {
    merge::merge(Some(read(text, Path::new("s.yaml"))), overrides, &surroundings())
}

/// The example of the interface page.
const FULL: &str = r#"
listeners:
- address: 0.0.0.0:5678
  tls:
    certificate: /etc/envoy-sds/tls/tls.crt
    privateKey: /etc/envoy-sds/tls/tls.key
    clientCa: /etc/envoy-sds/tls/client-ca.crt
    clientCrl: /etc/envoy-sds/tls/client.crl
- unix: /run/envoy-sds/sds.sock
  mode: "0600"
admin: {address: 127.0.0.1:5681}
resources: [/etc/envoy-sds/mesh.yaml]
stateDir: /var/lib/envoy-sds
systemNamespace: kong-mesh-system
zone: ""
kubernetes: off
clusterResources: false
identify:
  serviceAccountToken: {audiences: [envoy-sds]}
  proxyToken: {}
  clientCertificate: {}
  unixPeer:
  - {uid: 1001, mesh: default, name: web-0, workload: web, labels: {app: web}}
  insecureNodeId: false
limits:
  streams: 50000
  streamsPerProxy: 64
  streamsPerIdentity: 4096
  newStreamsPerSecond: 0
  namesPerStream: 256
  maxConnectionAge: 0s
  issuancesInFlight: 64
"#;

#[test]
fn the_documented_example_is_read() {
    let config = load(FULL).unwrap();
    assert_eq!(config.listeners.len(), 2);
    assert_eq!(config.listeners[1].mode, 0o600);
    assert_eq!((config.kubernetes, config.cluster_resources), (Kubernetes::Off, false));
    assert_eq!(config.limits, Limits::default());
    let UnixPeerIs::Proxy { labels, .. } = &config.identify.unix_peers[0].is else { panic!("{:?}", config.identify) };
    assert_eq!(labels.len(), 1);
}

#[test]
fn limits_and_what_they_may_be() {
    let limits = |text: &str| load(&format!("limits: {{{text}}}")).map(|config| config.limits);
    let given = limits("streamsPerIdentity: 7, newStreamsPerSecond: 500, maxConnectionAge: 30m").unwrap();
    assert_eq!((given.streams_per_identity, given.new_streams_per_second), (7, Some(500)));
    assert_eq!(given.max_connection_age, Some(Duration::from_secs(1800)));
    assert_eq!(limits("namesPerStream: 1000").unwrap().names_per_stream, 1000);
    for bad in [
        "streamsPerIdentity: 0",
        "namesPerStream: 0",
        "namesPerStream: 5000",
        "newStreamsPerSecond: -1",
        "maxConnectionAge: 30",
        "maxConnectionAge: 5s",
    ] {
        assert!(limits(bad).is_err(), "{bad}");
    }
}

#[test]
fn with_nothing_at_all_it_is_the_embedded_default() {
    let config = Config::load(None, Overrides::default(), &surroundings()).unwrap();
    let listeners: Vec<String> = config.listeners.iter().map(|listener| listener.at.to_string()).collect();
    assert_eq!(listeners, ["127.0.0.1:5678", "unix:/home/me/.local/state/envoy-sds/sds.sock"]);
    assert_eq!(config.admin.to_string(), "127.0.0.1:5681");
    assert_eq!(config.identify, Identify { proxy_token: Some(ProxyToken::default()), ..Identify::default() });
    assert_eq!(config.system_namespace, "kong-mesh-system");
    assert!(config.resources.is_empty());
}

#[test]
fn a_file_accepts_only_what_it_lists() {
    let config = load("resources: [mesh.yaml]").unwrap();
    assert!(config.identify.is_empty());
    assert!(config.warnings().iter().any(|warning| warning.contains("no proxy is accepted")));
}

#[test]
fn a_listener_in_the_clear_that_others_reach_is_warned_of() {
    let tls = ", tls: {certificate: a, privateKey: b}";
    for (listener, warned) in [
        ("address: '127.0.0.1:5678'".to_owned(), false),
        ("address: 'localhost:0'".to_owned(), false),
        ("unix: /tmp/s".to_owned(), false),
        (format!("address: '0.0.0.0:5678'{tls}"), false),
        ("address: '0.0.0.0:5678'".to_owned(), true),
        ("address: '[::]:5678'".to_owned(), true),
        ("address: 'sds.example.com:5678'".to_owned(), true),
    ] {
        let config = load(&format!("listeners: [{{{listener}}}]")).unwrap();
        let warned_of = config.warnings().iter().any(|warning| warning.contains("in the clear"));
        assert_eq!(warned_of, warned, "{listener}");
    }
    // The file's TLS does not go over to what takes its place.
    let listen = Overrides { listen: vec!["0.0.0.0:5678".parse().unwrap()], ..Overrides::default() };
    let (config, _) = load_with(&format!("listeners: [{{address: '0.0.0.0:5678'{tls}}}]"), listen);
    assert!(config.warnings().iter().any(|warning| warning.contains("listener at 0.0.0.0:5678")));
}

#[test]
fn an_admin_address_that_others_reach_is_warned_of() {
    for (address, warned) in [
        ("127.0.0.1:5681", false),
        ("localhost:0", false),
        ("[::1]:1", false),
        ("0.0.0.0:5681", true),
        ("[::]:5681", true),
        ("10.0.0.1:5681", true),
    ] {
        let config = load(&format!("admin: {{address: '{address}'}}")).unwrap();
        let warnings = config.warnings();
        assert_eq!(warnings.iter().any(|warning| warning.contains("no authentication")), warned, "{address}");
    }
}

#[test]
fn metrics_have_an_address_of_their_own_if_one_is_given() {
    assert_eq!(load(FULL).unwrap().metrics, None);
    let config = load("admin: {metricsAddress: '0.0.0.0:9090'}\nidentify: {proxyToken: {}}").unwrap();
    let addresses = (config.admin.to_string(), config.metrics.as_ref().map(ToString::to_string));
    assert_eq!(addresses, ("127.0.0.1:5681".to_owned(), Some("0.0.0.0:9090".to_owned())));
    // There is nothing to see there that would not be meant for everybody who reaches it.
    assert_eq!(config.warnings(), [""; 0]);
    for (text, problem) in [
        ("admin: {address: 'a:1', metricsAddress: 'a:1'}", "s.yaml:1: admin.metricsAddress: a:1 is there twice"),
        (
            "listeners: [{address: 'a:1'}]\nadmin: {metricsAddress: 'a:1'}",
            "s.yaml:2: admin.metricsAddress: a:1 is there twice",
        ),
        (
            "admin: {metricsAddress: '9090'}",
            "s.yaml:1: admin.metricsAddress: \"9090\" has no port; expected host:port, such as 127.0.0.1:5678 or [::1]:5678",
        ),
        (
            "admin: {metricAddress: 'a:1'}",
            "s.yaml:1: admin: unknown field \"metricAddress\" (did you mean metricsAddress?)",
        ),
    ] {
        assert_eq!(load(text).unwrap_err(), [problem], "{text}");
    }
}

#[test]
fn the_admin_pages_can_have_names() {
    assert_eq!(load(FULL).unwrap().admin_host_names, [""; 0]);
    let config = load("admin: {hostNames: [sds.example.com, Envoy-SDS.kong-mesh-system]}").unwrap();
    assert_eq!(config.admin_host_names, ["sds.example.com", "envoy-sds.kong-mesh-system"]);
    let hint = "(such as sds.example.com: no scheme, port, path or wildcard)";
    for name in ["", ".", "a..b", "a.", "-a", "a b", "sds.example.com:5681", "http://sds", "a/b", "*.example.com", "ä"]
    {
        let problem = format!("s.yaml:1: admin.hostNames[0]: {name:?} is not the name of a host {hint}");
        assert_eq!(load(&format!("admin: {{hostNames: ['{name}']}}")).unwrap_err(), [problem]);
    }
    for (text, problem) in [
        (
            "admin: {hostNames: [a.b, A.B]}",
            "s.yaml:1: admin.hostNames[1]: the same name is there twice (once is enough)",
        ),
        ("admin: {hostNames: a.b}", "s.yaml:1: admin.hostNames: expected a list, found text"),
    ] {
        assert_eq!(load(text).unwrap_err(), [problem], "{text}");
    }
}

#[test]
fn item_88_ads_resync_is_off_unless_a_file_says_how_often() {
    assert_eq!(load(FULL).unwrap().ads.resync, None);
    assert_eq!(load("ads: {}").unwrap().ads.resync, None);
    assert_eq!(load("ads: {resync: 5m}").unwrap().ads.resync, Some(Duration::from_secs(300)));
    let problems = load("ads:\n  resync: 1s\n  resink: 5m\n").unwrap_err();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].starts_with("s.yaml:2: ads.resync: "), "{problems:?}");
}

#[test]
fn flags_override_the_file() {
    let overrides = Overrides {
        listen: vec!["127.0.0.1:0".parse().unwrap(), "unix:/tmp/sds.sock".parse().unwrap()],
        admin: Some("127.0.0.1:0".parse().unwrap()),
        resources: vec!["other.yaml".into()],
        state_dir: Some("/tmp/state".into()),
        system_namespace: Some("mesh".to_owned()),
        zone: Some("east".to_owned()),
        insecure_node_id: true,
        kubernetes: Some(Kubernetes::Off),
        kubeconfig: Some("/tmp/kubeconfig".into()),
    };
    let file = "kubernetes: on\nlisteners: [{address: 127.0.0.1:1}]\nidentify: {serviceAccountToken: {}}\nzone: west";
    let (config, problems) = load_with(file, overrides);
    assert_eq!(problems, []);
    assert_eq!(config.listeners.len(), 2);
    assert_eq!(config.kubernetes, Kubernetes::Off);
    assert_eq!((config.zone.as_str(), config.system_namespace.as_str()), ("east", "mesh"));
    assert!(config.identify.insecure_node_id && config.identify.service_account_token.is_some());
}

#[test]
fn problems_are_told_all_at_once() {
    for (text, expected) in [
        (
            "listeners:\n- address: localhost\n- unix: /a\n  mode: rw\n- {address: '[::1]:1', unix: /b}\nadmn: {}\n",
            &[
                "s.yaml:2: listeners[0].address: \"localhost\" has no port; expected host:port, such as \
                 127.0.0.1:5678 or [::1]:5678",
                "s.yaml:4: listeners[1].mode: is not a mode; expected octal digits such as \"0660\"",
                "s.yaml:5: listeners[2].unix: an address is given as well (list two listeners)",
                "s.yaml:6: unknown field \"admn\" (did you mean admin?)",
            ][..],
        ),
        ("listeners: []", &["s.yaml:1: listeners: must not be empty (leave it out for the default ones)"]),
        (
            "identify:\n  proxyToken:\n  serviceAccountToken: {audiences: []}\n",
            &[
                "s.yaml:2: identify.proxyToken: expected a map, found nothing (an empty map is written {})",
                "s.yaml:3: identify.serviceAccountToken.audiences: must not be empty: a token for any audience could be \
                 replayed from elsewhere",
            ],
        ),
        (
            "identify:\n  serviceAccountToken:\n    issuer: a\n",
            &[
                "s.yaml:3: identify.serviceAccountToken.issuer: is for tokens that are verified here (add `verify: jwks`, or leave it out)",
            ],
        ),
        (
            "identify:\n  serviceAccountToken:\n    verify: jwks\n    jwks: {file: /keys}\n",
            &[
                "s.yaml:4: identify.serviceAccountToken.jwks: a key set in a file does not say whose it is (add `issuer`: what \
                 the API server has as --service-account-issuer, and tokens have as `iss`)",
            ],
        ),
        (
            "listeners: [{address: 'a:1'}]\nadmin: {address: 'a:1'}\nidentify:\n  clientCertificate: {}\n  \
             unixPeer: [{uid: 1, name: a, workload: a}, {uid: 1, name: b, workload: b}, {uid: -1}]\n",
            &[
                "s.yaml:2: admin.address: a:1 is there twice",
                "s.yaml:4: identify.clientCertificate: no listener asks for client certificates (give one of them \
                 tls.clientCa)",
                "s.yaml:5: identify.unixPeer: no listener is a unix socket",
                "s.yaml:5: identify.unixPeer[1]: the same peer is there twice",
                "s.yaml:5: identify.unixPeer[2].name: is missing",
                "s.yaml:5: identify.unixPeer[2].uid: must be a whole number from 0 to 4294967295",
                "s.yaml:5: identify.unixPeer[2].workload: is missing",
            ],
        ),
        (
            "systemNamespace: Kong\nzone: 'a b'\nlimits: {streams: 0}\nkubernetes: yes\n",
            &[
                "s.yaml:1: systemNamespace: is not the name of a Kubernetes namespace: lower-case letters, digits and \
                 -, at most 63",
                "s.yaml:2: zone: does not fit a Kubernetes label: letters, digits, -, _ and ., at most 63",
                "s.yaml:3: limits.streams: must be a whole number from 1 to 1000000",
                "s.yaml:4: kubernetes: \"yes\" is not one of auto, on, off",
            ],
        ),
        (
            "zone: a\n---\nb: 1",
            &["s.yaml:3: a second document; a configuration file has one (resources such as a Mesh go \
                               into files of their own, listed under resources)"],
        ),
        ("zone: [", &["s.yaml:2: not valid YAML: while parsing a node, did not find expected node content (column 1)"]),
    ] {
        assert_eq!(load(text).unwrap_err(), expected, "{text}");
    }
}

#[test]
fn without_a_home_the_state_directory_must_be_given() {
    let problems = Config::load(None, Overrides::default(), &Surroundings::default()).unwrap_err();
    assert!(problems[0].to_string().contains("--state-dir"), "{problems:?}");
}

#[test]
fn naming_is_read() {
    let config = load(
        "naming:\n  profiles: [istio, envoy-gateway]\n  certificates: [web-cert, \"*\", ключ]\n  trustBundles: [web-ca]\n  \
         spiffeValidator: false",
    )
    .unwrap();
    assert_eq!(config.naming.profiles, [NamingProfile::Istio, NamingProfile::EnvoyGateway]);
    let names: Vec<&str> = config.naming.certificates.iter().map(|listed| listed.name.as_str()).collect();
    assert_eq!(names, ["web-cert", "*", "ключ"]);
    assert_eq!(config.naming.trust_bundles[0].at.line, Some(4));
    assert!(!config.naming.spiffe_validator);
    assert_eq!(load("{}").unwrap().naming, Naming::default());
    assert_eq!(load("naming: {}").unwrap().naming, Naming::default());
}

#[test]
fn naming_that_makes_no_sense_is_told() {
    let problems = load(&format!(
        "naming:\n  profiles: [spire, kumo, spire]\n  certificates: [a, a, \"\", 7]\n  trustBundles: [{}]\n  validator: true",
        "x".repeat(2049)
    ))
    .unwrap_err();
    for expected in [
        "s.yaml:2: naming.profiles[1]: \"kumo\" is not one of spire, istio, kuma, osm, envoy-gateway (did you mean",
        "s.yaml:2: naming.profiles[2]: the same profile is there twice",
        "s.yaml:3: naming.certificates[1]: the same name is there twice",
        "s.yaml:3: naming.certificates[2]: a secret's name has 1 to 2048 bytes",
        "s.yaml:3: naming.certificates[3]: expected text",
        "s.yaml:4: naming.trustBundles[0]: a secret's name has 1 to 2048 bytes",
        "s.yaml:5: naming: unknown field \"validator\"",
    ] {
        assert!(problems.iter().any(|problem| problem.starts_with(expected)), "{expected}\n{problems:#?}");
    }
    assert_eq!(problems.len(), 7, "{problems:#?}");
    let empty = load("naming: {profiles: []}").unwrap_err();
    assert!(empty[0].contains("no name would mean anything"), "{empty:?}");
}

/// Each of these is a protection that is off, or another one, when it is left out.
#[test]
fn a_protection_with_nothing_after_it_is_refused() {
    let tls = |rest: &str| format!("listeners: [{{address: 'a:1', tls: {{certificate: c, privateKey: k, {rest}}}}}]");
    let peers = |rule: &str| format!("listeners: [{{unix: /s}}]\nidentify: {{unixPeer: [{{{rule}}}]}}");
    for (text, field) in [
        ("listeners:\n- address: a:1\n  tls:\n".to_owned(), "listeners[0].tls"),
        ("listeners: [{unix: /s, mode: }]".to_owned(), "listeners[0].mode"),
        (tls("clientCa: "), "listeners[0].tls.clientCa"),
        (tls("clientCa: a, clientCrl: "), "listeners[0].tls.clientCrl"),
        (tls("clientCa: a, clientCrl: ~"), "listeners[0].tls.clientCrl"),
        ("identify: {proxyToken: {revocations: }}".to_owned(), "identify.proxyToken.revocations"),
        ("identify: {proxyToken: {publicKeys: }}".to_owned(), "identify.proxyToken.publicKeys"),
        ("identify: {proxyToken: {publicKeys: []}}".to_owned(), "identify.proxyToken.publicKeys"),
        ("identify: {proxyToken: {audiences: }}".to_owned(), "identify.proxyToken.audiences"),
        ("identify: {serviceAccountToken: {audiences: }}".to_owned(), "identify.serviceAccountToken.audiences"),
        ("identify: {serviceAccountToken: {verify: jwks, issuer: }}".to_owned(), "identify.serviceAccountToken.issuer"),
        (
            "identify: {serviceAccountToken: {verify: jwks, issuer: a, jwks: }}".to_owned(),
            "identify.serviceAccountToken.jwks",
        ),
        (peers("uid: 7, gid: , name: a, workload: a"), "identify.unixPeer[0].gid"),
        (peers("uid: , name: a, workload: a"), "identify.unixPeer[0].uid"),
        (peers("pod: true, uid: "), "identify.unixPeer[0].uid"),
        (peers("pod: true, gid: "), "identify.unixPeer[0].gid"),
        (peers("uid: 7, mesh: , name: a, workload: a"), "identify.unixPeer[0].mesh"),
        (peers("uid: 7, labels: , name: a, workload: a"), "identify.unixPeer[0].labels"),
        ("membership: {default: }".to_owned(), "membership.default"),
        ("listeners:".to_owned(), "listeners"),
        ("resources:".to_owned(), "resources"),
        ("kubernetes:".to_owned(), "kubernetes"),
        ("clusterResources:".to_owned(), "clusterResources"),
        ("limits:".to_owned(), "limits"),
        ("limits: {newStreamsPerSecond: }".to_owned(), "limits.newStreamsPerSecond"),
        ("limits: {maxConnectionAge: }".to_owned(), "limits.maxConnectionAge"),
        ("limits: {streams: }".to_owned(), "limits.streams"),
    ] {
        let problems = load(&text).expect_err(&text);
        assert!(problems.iter().any(|problem| problem.contains(&format!(": {field}: "))), "{text}: {problems:?}");
    }
}

#[path = "identify_tests.rs"]
mod identify;
