//! Thousands of proxies come back at once: those that hold what the server knows cost nothing, and those that hold nothing wait
//! in line for cert-manager, where everybody can see how far it is.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use serde_json::Value;

use super::SHUTDOWN;
use super::cli::run;
use crate::support::cluster::{Cluster, ClusterOptions};
use crate::support::deployment::Deployment;
use crate::support::fleet::{Fleet, Route, Subscription, Variant};
use crate::support::in_flight::InFlight;
use crate::support::ledger::no_requests_left;
use crate::support::mesh::{Backend, Ca, builtin_mesh, mesh};
use crate::support::pipes::Pipes;
use crate::support::server::{NODE_ID, Server, Settings};
use crate::support::{PATIENCE, http, scratch};

/// Simulated proxies of the storm after a restart.
const ALL: u64 = 5_000;

/// Requests to cert-manager at one time.
const LIMIT: usize = 8;
/// Proxies that have a leaf when the storm begins, and those that have none.
const OLD: usize = 60;
const NEW: usize = 200;

/// Thousands of proxies have their secrets when the server is killed. It is back, so are they, and nobody needed another
/// certificate: each phase of the run says what the server has issued.
#[tokio::test]
async fn thousands_come_back_after_a_crash_and_cost_no_certificate() {
    let dir = scratch::dir("storm");
    let mut server = Server::start(Settings { mesh: &builtin_mesh("24h"), ..NODE_ID }).await;
    server.ready().await;
    let pid_file = dir.join("pid");
    let note_pid = |server: &Server| fs::write(&pid_file, server.pid().to_string()).expect("it can be written");
    note_pid(&server);

    let (command, mut pipes) = Pipes::make(&dir);
    let (proxies, target, admin) =
        (ALL.to_string(), format!("unix:{}", server.socket.display()), server.admin.to_string());
    let pid = pid_file.display().to_string();
    let arguments = [
        &["load", "--proxies", &proxies, "--output", "json", "--rest", "0s", "--timeout", "5m"][..],
        &["--reconnect", "--storm-command", &command, "--server-admin", &admin, "--expect-issued", "0"],
        &["--server-pid-file", &pid, &target],
    ]
    .concat();
    let load = run(&arguments, &dir, Duration::from_secs(320));
    let restart = async {
        pipes.begun().await;
        server.kill();
        server.start_again().await;
        note_pid(&server);
        server.ready().await;
        pipes.go_on().await;
    };
    let (output, ()) = tokio::join!(load, restart);
    let said = String::from_utf8_lossy(&output.stderr);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert!(output.status.success() && told["passed"] == true, "{said}");
    let [connect, storm] = ["connect", "storm"].map(|name| {
        let phases = told["phases"].as_array().expect("there are phases");
        phases.iter().find(|phase| phase["name"] == name).expect("it has this phase")
    });
    assert_eq!((&connect["reached"], &connect["issued"]), (&ALL.into(), &ALL.into()));
    assert_eq!((&storm["reached"], &storm["issued"]), (&ALL.into(), &0.into()), "versions were recognised");
    assert_eq!(storm["latencies"]["served-again"]["count"], ALL);
    // The new process held them all, and what it needed for that is known from its beginning.
    let memory = |of: &str| storm["server"][of].as_u64().expect("the server is looked at");
    assert!(memory("peak_rss_bytes") >= memory("rss_bytes"), "{storm:#}");
    assert!(memory("peak_rss_bytes") < ALL * (64 << 10), "it is bounded: {storm:#}");
    assert!(said.lines().any(|line| line.contains("storm")), "without a terminal, phases are told: {said}");
    assert!(server.stop(SHUTDOWN).await.success());
}

/// All proxies come with nothing, or with a leaf that has ended, and cert-manager has to make all leaves. It is asked for one
/// each, never for more at a time than the limit says; those that have a leaf still, and are to have another, come last.
/// Whoever looks sees who waits.
#[tokio::test]
async fn a_storm_on_cert_manager_is_paced_and_seen_and_new_proxies_go_first() {
    let cluster = Cluster::start(ClusterOptions::default()).await;
    let place = Deployment::new(&cluster, "storms").await;
    let ca = cluster.ca_issuer_with_intermediate(&place.system, "mesh").await;
    let backend =
        Backend { name: "certmanager-1", issuer_kind: "Issuer", issuer: "mesh", ca: Ca::Inline(&ca.root_pem) };
    let settings = Settings {
        mesh: &mesh("certmanager-1", "24h", &[backend]),
        kubernetes: Some(place.kubernetes()),
        more: &format!("limits: {{issuancesInFlight: {LIMIT}}}"),
        ..NODE_ID
    };
    let mut server = Server::start(settings).await;
    server.ready().await;
    no_requests_left(&cluster, &place.system).await;
    let record = InFlight::watch(&cluster, &place.system).await;

    // All at once, and cert-manager answers.
    let old = Fleet::start(&server.socket, OLD, "old-");
    old.all("all are served", PATIENCE, |leaf, bundle| leaf.updates == 1 && bundle.updates == 1).await;
    let created = record.created(OLD).await;
    assert_eq!(created.len(), OLD, "one request for each");
    assert_eq!(created.iter().collect::<BTreeSet<_>>().len(), OLD, "and nobody's twice: {created:?}");
    assert_eq!(record.most(), LIMIT, "as many at a time as may be, and no more");
    for metric in ["issuances_waiting", "issuances_in_flight"] {
        server.metric_becomes(metric, &[("mesh", "default")], |value| value == 0.0).await;
    }
    let (_, readyz) = server.readyz().await.expect("it answers");
    assert_eq!(readyz["issuing"], serde_json::json!({}), "nobody waits");

    // cert-manager is away when all the old ones are to have another leaf, and the new ones come, some with one that has ended.
    no_requests_left(&cluster, &place.system).await;
    cluster.stop_cert_manager().await;
    let rotated = run(&["rotate", "--all", "--admin", &server.admin.to_string()], cluster.dir(), PATIENCE).await;
    assert!(rotated.status.success(), "{rotated:?}");
    waiting(&server, "renewal", OLD - LIMIT).await;
    let version = old.members()[0].certificate.held().version.expect("it has a version");
    let ended = ended(&version);
    let route = Route::to(&server.socket);
    let channel = route.channel();
    let new: Vec<Subscription> = (0..NEW)
        .map(|number| {
            let claims = (number % 2 == 0).then(|| ended.clone());
            let variant = [Variant::StateOfTheWorld, Variant::Incremental][number / 2 % 2];
            Subscription::open(channel.clone(), variant, &format!("new-{number}"), "default", claims)
        })
        .collect();
    waiting(&server, "first", NEW).await;
    waiting(&server, "renewal", OLD - LIMIT).await;
    server.metric_becomes("issuances_in_flight", &[("mesh", "default")], |value| value == LIMIT as f64).await;
    let all = OLD + NEW;
    let outlook = format!(
        "{all} of {all} certificates are still to be issued: {NEW} proxies that have none wait, {} renewals after them, \
         {LIMIT} are in flight",
        OLD - LIMIT
    );
    let (status, readyz) = server.readyz().await.expect("it answers");
    assert_eq!((status, &readyz["issuing"]["default"]), (200, &Value::from(outlook.as_str())), "{readyz:#}");
    let page = http::get(server.admin, "/").await.expect("it answers").body;
    assert!(
        page.contains(&format!("mesh default\n  backend certmanager-1 (certmanager) signs\n  {outlook}\n")),
        "{page}"
    );
    server.logs("INFO", &["default", "certificates are still to be issued"]).await;

    cluster.start_cert_manager().await;
    for subscription in &new {
        subscription.becomes("the new ones are served", |held| held.updates == 1).await;
    }
    old.all("the old ones have another", PATIENCE, |leaf, _| leaf.updates == 2).await;
    no_requests_left(&cluster, &place.system).await;
    let order: Vec<&str> = record.created(OLD + NEW + OLD).await[OLD..]
        .iter()
        .map(|id| if id.contains("/new-") { "new" } else { "old" })
        .collect();
    // One that has a leaf may begin when the last of the others are on their way, whose requests then arrive in any order.
    let expected = [["old"; LIMIT].as_slice(), &["new"; NEW + 1 - LIMIT]].concat();
    assert_eq!(order[..expected.len()], expected, "who has none goes first");
    assert_eq!(order.iter().filter(|who| **who == "new").count(), NEW, "one for each");
    assert_eq!(order.len(), NEW + OLD, "and for each of the others another");
    assert_eq!(record.most(), LIMIT, "nor were there more while nobody answered");
    server.logs("INFO", &["default", "nobody waits for a certificate any more"]).await;
    let (_, readyz) = server.readyz().await.expect("it answers");
    assert_eq!(readyz["issuing"], serde_json::json!({}));
    old.assert_sound();
    server.assert_discreet();
    drop((old, new));
    assert!(server.stop(SHUTDOWN).await.success());
}

/// Waits until so many wait for a certificate.
async fn waiting(server: &Server, reason: &str, many: usize) {
    let labels = [("mesh", "default"), ("reason", reason)];
    server.metric_becomes("issuances_waiting", &labels, |value| value == many as f64).await;
}

/// The version of a leaf like this one that ended long ago: `certificate.<notBefore>.<notAfter>.…`.
fn ended(version: &str) -> String {
    let mut parts: Vec<&str> = version.split('.').collect();
    assert_eq!(parts[0], "certificate", "{version}");
    (parts[1], parts[2]) = ("1700000000", "1700086400");
    parts.join(".")
}
