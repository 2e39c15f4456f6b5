//! The metrics of a server that has been through something: as the interface and `docs/metrics.md` have them, and as
//! Prometheus' own linter wants them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyUsagePurpose, date_time_ymd};

use crate::support::sds::{self, Caller, Watcher};
use crate::support::server::{NODE_ID, Server, Settings};
use crate::support::{http, parts, pki, scratch};

/// How long the CA lives that signs here. Two thirds of that have to be enough for a server to start.
const CA_LIFE: Duration = Duration::from_secs(30);

/// A CA that ends soon: its certificate and key, PEM.
fn short_lived_ca() -> (String, String) {
    let (mut params, key) = (CertificateParams::default(), pki::new_key());
    params.distinguished_name.push(DnType::CommonName, "short-lived CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = jiff::Timestamp::now().as_second().try_into().expect("it is after 1970");
    params.not_before = date_time_ymd(1970, 1, 1) + Duration::from_secs(now);
    params.not_after = params.not_before + CA_LIFE;
    (params.self_signed(&key).expect("a root can be signed").pem(), key.serialize_pem())
}

/// What a metrics page says of each metric: its type, its help, and the labels of its series.
fn described(page: &str) -> BTreeMap<String, (String, String, BTreeSet<String>)> {
    let mut metrics: BTreeMap<String, (String, String, BTreeSet<String>)> = BTreeMap::new();
    for line in page.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|line| line.split_once(' ')) {
            metrics.entry(name.to_owned()).or_default().1 = help.to_owned();
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' ')) {
            metrics.entry(name.to_owned()).or_default().0 = kind.to_owned();
        } else if let Some((name, labels)) = line.split_once('{') {
            let bare = |suffix: &str| name.strip_suffix(suffix).filter(|bare| metrics.contains_key(*bare));
            let name = ["_bucket", "_sum", "_count"].into_iter().find_map(bare).unwrap_or(name);
            let keys = labels.split(',').filter_map(|label| label.split_once('=')).map(|(key, _)| key.to_owned());
            metrics.entry(name.to_owned()).or_default().2.extend(keys.filter(|key| key != "le"));
        }
    }
    metrics
}

/// The rows of the tables in `docs/metrics.md`: name, labels and type.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).expect("it is there");
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `envoy_sds_")?.split(" | ");
        let (series, kind) = (cells.next()?.trim_end_matches('`'), cells.next()?.split(',').next()?);
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty()).map(str::to_owned);
        Some((format!("envoy_sds_{name}"), (kind.trim().to_owned(), labels.collect::<BTreeSet<_>>())))
    };
    text.lines().filter_map(row).collect()
}

/// A server whose CA ends: streams, pushes, an ACK, a NACK, a name that is withheld, an issuance, a renewal and one that fails.
#[tokio::test]
async fn the_metrics_are_those_of_the_interface_and_of_their_page() {
    let dir = scratch::dir("metrics");
    let (certificate, key) = short_lived_ca();
    let ca_ends = pki::certs(&certificate)[0].clone();
    let (_, ca_ends) = x509_parser::parse_x509_certificate(&ca_ends).expect("it is a certificate");
    let ca_ends = ca_ends.validity().not_after.timestamp() as f64;
    let file = |name: &str, text: &str| {
        let path = dir.join(name);
        fs::write(&path, text).expect("the scratch folder can be written");
        path.display().to_string()
    };
    let mesh = format!(
        "type: Mesh
name: default
mtls:
  enabledBackend: ours
  backends:
  - name: ours
    type: provided
    dpCert: {{rotation: {{expiration: 1h}}}}
    conf:
      cert: {{file: {}}}
      key: {{file: {}}}
",
        file("ca.crt", &certificate),
        file("ca.key", &key)
    );
    let mut server = Server::start(Settings { mesh: &mesh, ..NODE_ID }).await;
    server.ready().await;
    let caller = |node| Caller { node, workload: "web", token: None };
    let (_, _rejecting) = sds::reject(&server.socket, caller("web-0"), "default", |_| "no".to_owned())
        .await
        .expect("it is served and rejects");
    let _bundle = Watcher::start(&server.socket, caller("web-0"), "ROOTCA");
    let _leaf = Watcher::start(&server.socket, caller("web-1"), "default");
    let _withheld = Watcher::start(&server.socket, caller("web-1"), "somebody-elses");

    let (mesh, backend) = (("mesh", "default"), ("backend", "ours"));
    let is = |wanted: f64| move |value: f64| value == wanted;
    server.metric_becomes("streams", &[("protocol", "sotw")], is(4.0)).await;
    server.metric_becomes("proxies", &[mesh], is(2.0)).await;
    server.metric_becomes("nacks_total", &[("secret", "certificate")], is(1.0)).await;
    for (secret, rejecting) in [("certificate", 1.0), ("bundle", 0.0)] {
        server.metric_becomes("proxies_rejecting", &[("mesh", "default"), ("secret", secret)], is(rejecting)).await;
    }
    server.metric_becomes("acks_total", &[("secret", "bundle")], is(1.0)).await;
    server.metric_becomes("withheld_total", &[("reason", "unknown_name")], is(1.0)).await;
    server.metric_becomes("proxies_withheld", &[mesh], is(1.0)).await;
    server.metric_becomes("pushes_total", &[("secret", "certificate")], |pushes| pushes >= 2.0).await;
    server.metric_becomes("pushes_total", &[("secret", "bundle")], is(1.0)).await;
    let issued = [mesh, backend, ("outcome", "issued")];
    let issuances = server.metric_becomes("issuances_total", &issued, |issued| issued >= 2.0).await;
    server.metric_becomes("issuance_duration_seconds_count", &[backend], |count| count >= issuances).await;
    // A leaf ends with its CA.
    for ends in ["certificate", "signing_ca", "trusted_ca"] {
        let name = format!("{ends}_expiration_timestamp_seconds");
        assert_eq!(server.metric(&name, &[mesh]).await, Ok(ca_ends), "{name}");
    }
    let listener = format!("127.0.0.1:{}", server.tls_port);
    let left = server.metric("listener_certificate_remaining_ratio", &[("listener", listener.as_str())]).await;
    assert!(left.as_ref().is_ok_and(|left| (0.1..=1.0).contains(left)), "{left:?}");
    assert_eq!(server.metric("ready", &[]).await, Ok(1.0));

    // Renewed for as long as the CA lives, and then no more.
    server.metric_becomes("push_duration_seconds_count", &[], |pushes| pushes >= 1.0).await;
    server.metric_becomes("certificate_renewal_errors_total", &[mesh, backend], |errors| errors >= 1.0).await;
    server.metric_becomes("issuances_total", &[mesh, backend, ("outcome", "failed")], |failed| failed >= 1.0).await;
    for (name, wanted) in [("certificate_ready_status", 0.0), ("certificate_remaining_ratio", 0.0)] {
        server.metric_becomes(name, &[mesh], is(wanted)).await;
    }
    for name in ["proxies_unserved", "proxies_failing"] {
        server.metric_becomes(name, &[mesh], is(2.0)).await;
    }

    let page = http::get(server.admin, "/metrics").await.expect("it answers");
    // An alert hears of a count's increase, and not of its first appearance.
    let never = ["denied", "invalid", "deleted", "unavailable", "bad_answer", "internal"];
    for outcome in never {
        let series =
            format!("envoy_sds_issuances_total{{mesh=\"default\",backend=\"ours\",outcome=\"{outcome}\"}} 0\n");
        assert!(page.body.contains(&series), "{series} is not in\n{}", page.body);
    }
    assert_eq!(page.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    promtool_finds_nothing(&page.body);
    // Neither a name that a client asked for, nor one that it calls itself.
    for named in ["web-0", "web-1", "somebody", "ROOTCA"] {
        assert!(!page.body.contains(named), "{named} is in\n{}", page.body);
    }
    let (described, documented) = (described(&page.body), documented());
    let registered: Vec<_> = described.keys().collect();
    assert_eq!(registered, documented.keys().collect::<Vec<_>>(), "registered, and in docs/metrics.md");
    for (name, (kind, help, labels)) in &described {
        let (documented_kind, documented_labels) = &documented[name];
        assert_eq!(kind, documented_kind, "{name}");
        assert!(labels.is_empty() || labels == documented_labels, "{name} has {labels:?}, not {documented_labels:?}");
        assert!(help.ends_with('.') && !help.contains(". "), "{name}: {help:?} is not one sentence");
    }
    // What has no series here says nothing of its labels.
    let silent: Vec<_> = described.keys().filter(|name| !page.body.contains(&format!("\n{name}"))).collect();
    assert_eq!(silent, ["envoy_sds_cluster_unlisted_seconds"], "there is no cluster");
    server.assert_discreet();
}

fn promtool_finds_nothing(page: &str) {
    let mut command = Command::new(parts::program("promtool"));
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = command.spawn().expect("promtool starts");
    let mut stdin = promtool.stdin.take().expect("it is piped");
    stdin.write_all(page.as_bytes()).expect("it reads");
    drop(stdin);
    let output = promtool.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.is_empty(), "{said}");
}
