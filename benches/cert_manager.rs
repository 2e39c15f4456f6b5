//! How fast certificates come from a real cert-manager through the server, beside a bare client that makes the same
//! requests: create, watch for the answer, delete when the clock has stopped. The server deletes what is answered when nobody
//! waits any more, or after 20 s, or when 1,024 lie: of up to 1,000 certificates in less than that, none while the clock runs.
//! Both in one run on one cluster, turn by turn; the medians are printed.
//!
//! `tests/run --parts-only && cargo bench --bench cert_manager [-- [CERTIFICATES [IN_FLIGHT [ROUNDS]]]]`
//!
//! Under `cargo test --bench cert_manager` it only shows that all of it still works: with a few certificates.

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a program that measures and prints"
)]
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    missing_docs,
    reason = "the rig is the integration tests', and more than is needed here"
)]

#[path = "../tests/it/support/mod.rs"]
mod support;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use futures::{StreamExt, TryStreamExt};
use kube::Api;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, PostParams, WatchEvent, WatchParams,
};
use serde_json::json;
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use support::cluster::{Cluster, ClusterOptions};
use support::process::Process;
use support::{http, pki, ports, scratch};

/// Whose CPU time is shown, beside this program's.
const PROGRAMS: [&str; 4] = ["kube-apiserver", "etcd", "cert-manager", "envoy-sds"];

/// One round's figures.
struct Round {
    per_second: f64,
    p50: Duration,
    p99: Duration,
    /// CPU time per certificate by program, in milliseconds: all of them share the machine, so this is what the rate
    /// comes from.
    cpu: BTreeMap<String, f64>,
}

fn main() {
    // What `cargo bench` says, and `cargo test` does not.
    let measures = std::env::args().any(|argument| argument == "--bench");
    let [certificates, in_flight, rounds] = if measures { [300, 50, 3] } else { [6, 3, 1] };
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<usize>().ok());
    let certificates = numbers.next().unwrap_or(certificates);
    let in_flight = numbers.next().unwrap_or(in_flight);
    let rounds = numbers.next().unwrap_or(rounds);
    tokio::runtime::Runtime::new().expect("a runtime").block_on(measure(certificates, in_flight, rounds));
}

async fn measure(certificates: usize, in_flight: usize, rounds: usize) {
    let cluster = Cluster::start(ClusterOptions::default()).await;
    let namespace = cluster.namespace("bench").await;
    let issuer = cluster.unique("bench");
    cluster.cluster_ca_issuer(&issuer).await;
    // One at a time shows latency, of which fewer tell enough.
    for (certificates, in_flight) in [(certificates.div_ceil(5), 1), (certificates, in_flight)] {
        println!("{certificates} certificates, {in_flight} in flight, medians of {rounds} rounds each");
        let (mut bare, mut server) = (Vec::new(), Vec::new());
        for round in 1..=rounds {
            // Who is first has the fresher cluster, so they take turns.
            let bare_first = round % 2 == 1;
            for with_server in [!bare_first, bare_first] {
                at_rest().await;
                if with_server {
                    server.push(through_server(&cluster, &namespace, &issuer, certificates, in_flight, round).await);
                } else {
                    bare.push(bare_client(&cluster, &namespace, &issuer, certificates, in_flight).await);
                }
            }
        }
        print("  bare client, created until seen ", &bare);
        print("  envoy-sds, asked until received", &server);
        // What a shared machine does otherwise in a minute is in both of a pair.
        let mut ratios: Vec<f64> =
            bare.iter().zip(&server).map(|(bare, server)| server.per_second / bare.per_second).collect();
        ratios.sort_by(f64::total_cmp);
        let (least, most) = (ratios[0], ratios[rounds - 1]);
        println!(
            "  rate of envoy-sds / rate of the bare client: {:.2} (the rounds: {least:.2} to {most:.2})",
            median(ratios.into_iter())
        );
    }
}

fn median<T: PartialOrd + Copy>(of: impl Iterator<Item = T>) -> T {
    let mut all: Vec<T> = of.collect();
    all.sort_by(|one, other| one.partial_cmp(other).expect("no NaN"));
    all[all.len() / 2]
}

/// Prints the medians.
fn print(who: &str, rounds: &[Round]) {
    let rate = median(rounds.iter().map(|round| round.per_second));
    let (p50, p99) = (median(rounds.iter().map(|round| round.p50)), median(rounds.iter().map(|round| round.p99)));
    println!("{who}: {rate:.1}/s, p50 {} ms, p99 {} ms", p50.as_millis(), p99.as_millis());
    let own = std::fs::read_to_string("/proc/self/comm").expect("a name");
    let cpu = |program: &str| median(rounds.iter().map(|round| round.cpu.get(program).copied().unwrap_or(0.0)));
    let others = PROGRAMS.map(|program| format!("{program} {:.1}", cpu(program))).join(", ");
    println!("    CPU ms per certificate: {others}, this program {:.1}", cpu(own.trim_end()));
}

fn round(took: Duration, mut latencies: Vec<Duration>, before: &BTreeMap<String, u64>) -> Round {
    latencies.sort();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    // A tick is 10 ms wherever Linux tells programs of ticks.
    let per_certificate = |ticks: u64| ticks as f64 * 10.0 / latencies.len() as f64;
    let cpu = ticks_since(before).into_iter().map(|(program, ticks)| (program, per_certificate(ticks))).collect();
    Round { per_second: latencies.len() as f64 / took.as_secs_f64(), p50: at(0.5), p99: at(0.99), cpu }
}

/// Resolves when the cluster does nothing any more: cert-manager writes its Events well after the certificates that they
/// tell of, so that one round would pay for those of the round before it.
async fn at_rest() {
    // Something else on the machine may have one of these names, and never rest.
    for _ in 0..60 {
        let before = cpu_ticks();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let ticks = ticks_since(&before);
        let busy: u64 = PROGRAMS.iter().filter_map(|program| ticks.get(*program)).sum();
        // A tenth of a core: what an idle API server uses is far less.
        if busy < 10 {
            return;
        }
    }
}

fn ticks_since(before: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let mut now = cpu_ticks();
    for (program, ticks) in &mut now {
        *ticks = ticks.saturating_sub(before.get(program).copied().unwrap_or(0));
    }
    now
}

/// CPU time of every program on the machine, by name, in clock ticks.
fn cpu_ticks() -> BTreeMap<String, u64> {
    let mut programs = BTreeMap::new();
    for process in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Ok(stat) = std::fs::read_to_string(process.path().join("stat")) else { continue };
        // pid (name) state ppid … with user and system time as the 14th and 15th.
        let Some((name, fields)) = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(") ")) else { continue };
        let times = fields.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok());
        *programs.entry(name.to_owned()).or_default() += times.sum::<u64>();
    }
    programs
}

/// Creates requests and sees their certificates through one watch. CSRs are made beforehand, and everything is deleted
/// afterwards: this is how fast cert-manager can be made to sign.
async fn bare_client(cluster: &Cluster, namespace: &str, issuer: &str, certificates: usize, in_flight: usize) -> Round {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("cert-manager.io", "v1", "CertificateRequest"));
    let api: Api<DynamicObject> = Api::namespaced_with(cluster.client().await, namespace, &kind);
    let run = cluster.unique("bare");
    let csrs: Vec<String> =
        (0..certificates).map(|n| pki::spiffe_csr(&format!("spiffe://default/bare/{n}")).0).collect();
    let listed = api.list(&ListParams::default().labels(&format!("bench={run}"))).await.expect("a list");
    let version = listed.metadata.resource_version.expect("a version");
    let watch = WatchParams::default().labels(&format!("bench={run}"));
    let mut events = api.watch(&watch, &version).await.expect("a watch").boxed();

    let created: Arc<Mutex<HashMap<String, Instant>>> = Arc::default();
    let slots = Arc::new(Semaphore::new(in_flight));
    let (began, cpu) = (Instant::now(), cpu_ticks());
    let mut posts = JoinSet::new();
    let feeder = {
        let (api, slots, created, run, issuer) =
            (api.clone(), slots.clone(), created.clone(), run.clone(), issuer.to_owned());
        async move {
            for (n, csr) in csrs.into_iter().enumerate() {
                slots.acquire().await.expect("open").forget();
                let name = format!("{run}-{n}");
                created.lock().await.insert(name.clone(), Instant::now());
                let object = serde_json::from_value(json!({
                    "apiVersion": "cert-manager.io/v1", "kind": "CertificateRequest",
                    "metadata": {"name": name, "labels": {"bench": run}},
                    "spec": {"request": STANDARD.encode(csr), "duration": "24h", "isCA": false,
                        "usages": ["digital signature", "key encipherment", "server auth", "client auth"],
                        "issuerRef": {"name": issuer, "kind": "ClusterIssuer", "group": "cert-manager.io"}}
                }))
                .expect("an object");
                let api = api.clone();
                posts.spawn(async move { api.create(&PostParams::default(), &object).await.map(drop) });
            }
            while let Some(posted) = posts.join_next().await {
                posted.expect("no panic").expect("a request can be created");
            }
        }
    };
    let feeder = tokio::spawn(feeder);
    let mut latencies = Vec::new();
    while latencies.len() < certificates {
        let event = events.try_next().await.expect("the watch goes on").expect("the watch goes on");
        let WatchEvent::Modified(object) = event else { continue };
        let name = object.metadata.name.clone().expect("a name");
        if object.data["status"]["certificate"].as_str().is_none_or(str::is_empty) {
            continue;
        }
        let Some(at) = created.lock().await.remove(&name) else { continue };
        latencies.push(at.elapsed());
        slots.add_permits(1);
    }
    let round = round(began.elapsed(), latencies, &cpu);
    feeder.await.expect("no panic");
    let all = ListParams::default().labels(&format!("bench={run}"));
    let _ = api.delete_collection(&DeleteParams::default(), &all).await.expect("requests can be deleted");
    round
}

/// Has as many simulated proxies subscribe, as many at a time; each latency is from the connection to the secret's arrival.
async fn through_server(
    cluster: &Cluster,
    namespace: &str,
    issuer: &str,
    certificates: usize,
    in_flight: usize,
    number: usize,
) -> Round {
    let dir = scratch::dir(&format!("bench-{number}"));
    let (mut server, address) = start_server(cluster, namespace, issuer, in_flight, &dir).await;
    // Nothing is left of its start when the clock starts.
    first_secret(&address, "default.warm-up".to_owned()).await;
    let (tell, mut arrived) = mpsc::unbounded_channel();
    let slots = Arc::new(Semaphore::new(in_flight));
    let (began, cpu) = (Instant::now(), cpu_ticks());
    let mut proxies = JoinSet::new();
    for n in 0..certificates {
        let (address, tell, slots) = (address.clone(), tell.clone(), slots.clone());
        proxies.spawn(async move {
            let slot = slots.acquire().await.expect("open");
            let asked = Instant::now();
            let stream = first_secret(&address, format!("default.bench-{number}-{n}")).await;
            tell.send(asked.elapsed()).expect("somebody counts");
            drop(slot);
            // Held open: a proxy that leaves is a different story.
            std::future::pending::<()>().await;
            drop(stream);
        });
    }
    let mut latencies = Vec::new();
    while latencies.len() < certificates {
        latencies.push(arrived.recv().await.expect("proxies live"));
    }
    let round = round(began.elapsed(), latencies, &cpu);
    proxies.abort_all();
    server.stop(Duration::from_secs(20)).await;
    round
}

async fn first_secret(address: &str, node: String) -> impl Drop + use<> {
    struct Held<T>(T);
    impl<T> Drop for Held<T> {
        fn drop(&mut self) {}
    }
    let mut client =
        SecretDiscoveryServiceClient::connect(format!("http://{address}")).await.expect("the server is there");
    let request = DiscoveryRequest {
        node: Some(Node { id: node, ..Node::default() }),
        resource_names: vec!["default".to_owned()],
        type_url: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret".to_owned(),
        ..DiscoveryRequest::default()
    };
    let requests = futures::stream::iter([request]).chain(futures::stream::pending());
    let mut stream = client.stream_secrets(requests).await.expect("a stream").into_inner();
    stream.message().await.expect("a secret").expect("a secret");
    Held((client, stream))
}

async fn start_server(
    cluster: &Cluster,
    namespace: &str,
    issuer: &str,
    in_flight: usize,
    dir: &Path,
) -> (Process, String) {
    let [listener, admin] = [ports::free(), ports::free()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let mesh = dir.join("mesh.yaml");
    let config = dir.join("server.yaml");
    std::fs::write(&mesh, format!("type: Mesh\nname: default\nmtls:\n  enabledBackend: cm\n  backends:\n  - name: cm\n    type: certmanager\n    dpCert: {{rotation: {{expiration: 24h}}}}\n    conf: {{issuerRef: {{name: {issuer}, kind: ClusterIssuer}}}}\n")).expect("written");
    std::fs::write(&config, format!("listeners: [{{address: \"{listener}\"}}]\nadmin: {{address: \"{admin}\"}}\nresources: [{}]\nstateDir: {}\nsystemNamespace: {namespace}\nidentify: {{insecureNodeId: true}}\nlimits: {{issuancesInFlight: {in_flight}}}\n", mesh.display(), dir.join("state").display())).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_envoy-sds"));
    command
        .args(["serve", "--log-format", "json", "--config"])
        .arg(&config)
        .arg("--kubeconfig")
        .arg(cluster.kubeconfig());
    let mut process = Process::start("envoy-sds", command, dir);
    support::eventually::eventually("the server is ready", support::PATIENCE, async || {
        process.assert_running();
        let answer = http::get(admin, "/readyz").await?;
        if answer.status == 200 { Ok(()) } else { Err(format!("{}\n{}", answer.body, process.log_tail())) }
    })
    .await;
    (process, listener.to_string())
}
