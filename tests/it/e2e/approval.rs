//! Somebody else decides which requests are approved.

use std::collections::BTreeSet;
use std::time::Duration;

use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::cli::run;
use super::{SHUTDOWN, Scene, strangers_before};
use crate::support::PATIENCE;
use crate::support::cluster::{Cluster, ClusterOptions};
use crate::support::deployment::Deployment;
use crate::support::eventually::eventually;
use crate::support::ledger::{Ledger, no_requests_left};
use crate::support::mesh::{Backend, Ca, mesh};
use crate::support::pki::TestCa;

/// What the approver does with a request that nobody has decided on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Approved,
    Denied,
    Undecided,
}

/// The approver, who works in the background.
struct Approver {
    verdict: watch::Sender<Verdict>,
    task: JoinHandle<()>,
}

impl Approver {
    async fn start(cluster: &Cluster, ns: &str) -> Self {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("cert-manager.io", "v1", "CertificateRequest"));
        let api: Api<DynamicObject> = Api::namespaced_with(cluster.client().await, ns, &resource);
        let (verdict, current) = watch::channel(Verdict::Approved);
        let task = tokio::spawn(async move {
            loop {
                let verdict = *current.borrow();
                let requests = api.list(&ListParams::default()).await.expect("requests can be listed").items;
                for request in requests.iter().filter(|request| is_undecided(request)) {
                    if verdict != Verdict::Undecided {
                        decide(&api, request, verdict).await;
                    }
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        Self { verdict, task }
    }

    fn set(&self, verdict: Verdict) {
        assert!(!self.task.is_finished(), "the approver has died");
        self.verdict.send_replace(verdict);
    }
}

impl Drop for Approver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn is_undecided(request: &DynamicObject) -> bool {
    let conditions = request.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
    !conditions.iter().any(|condition| condition["type"] == "Approved" || condition["type"] == "Denied")
}

async fn decide(api: &Api<DynamicObject>, request: &DynamicObject, verdict: Verdict) {
    let name = request.metadata.name.as_deref().unwrap_or_default();
    let status = json!({
        "apiVersion": "cert-manager.io/v1",
        "kind": "CertificateRequest",
        "status": {"conditions": [{
            "type": format!("{verdict:?}"),
            "status": "True",
            "reason": "test",
            "message": "not on a Friday",
            "lastTransitionTime": "2020-01-01T00:00:00Z",
        }]},
    });
    match api.patch_status(name, &PatchParams::apply("test-approver").force(), &Patch::Apply(&status)).await {
        // Its server has deleted it meanwhile.
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        result => drop(result.expect("the status can be set")),
    }
}

async fn names(cluster: &Cluster, ns: &str) -> BTreeSet<String> {
    let requests = cluster.certificate_requests(ns).await;
    requests.into_iter().filter_map(|request| request.metadata.name).collect()
}

/// Waits until there are so many requests, and gives their names.
async fn requests(cluster: &Cluster, ns: &str, count: usize) -> BTreeSet<String> {
    eventually(&format!("there are {count} requests"), PATIENCE, async || {
        let names = names(cluster, ns).await;
        if names.len() == count { Ok(names) } else { Err(format!("{names:?}")) }
    })
    .await
}

/// Denied requests are reported with the approver's words, tried again without hammering, and cost no proxy its leaf; no
/// more does an issuer that signs by a CA which the mesh does not trust. A server that is killed while requests wait leaves them behind; the next one sweeps them, and only them. One that is
/// asked to end takes its requests along.
#[tokio::test]
async fn denied_and_orphaned_requests_cost_nobody_anything() {
    let cluster = Cluster::start(ClusterOptions { approver: false, ..ClusterOptions::default() }).await;
    let place = Deployment::new(&cluster, "approval").await;
    let ca = cluster.ca_issuer_with_intermediate(&place.system, "mesh").await;
    let approver = Approver::start(&cluster, &place.system).await;
    let ledger = Ledger::open(&cluster, &place.system).await;
    let backend =
        Backend { name: "certmanager-1", issuer_kind: "Issuer", issuer: "mesh", ca: Ca::Inline(&ca.root_pem) };
    let hours = |hours: i64| mesh("certmanager-1", &format!("{hours}h"), &[backend]);
    let other = TestCa::root("other root").intermediate("other intermediate");
    let both_roots = format!("{}{}", ca.root_pem, other.root_pem);
    let trusting_both =
        |hours: i64| mesh("certmanager-1", &format!("{hours}h"), &[Backend { ca: Ca::Inline(&both_roots), ..backend }]);
    let mut server = place.serve(&hours(1)).await;
    server.ready().await;

    let pair = place.pair(&server).await;
    let strangers = strangers_before(&pair, &place.spiffe_id("web"), "mesh root");
    let mut scene = Scene::begin(pair, strangers).await;

    approver.set(Verdict::Denied);
    server.set_mesh(&hours(2));
    server.logs("WARN", &["denied", "not on a Friday"]).await;
    server.metric_becomes("issuances_total", &[("outcome", "denied")], |count| count >= 2.0).await;
    scene.both_show("the leaf that was not denied", |leaf| leaf.not_after - leaf.not_before == 3600).await;
    approver.set(Verdict::Approved);
    scene.both_show("a leaf that was approved", |leaf| leaf.not_after - leaf.not_before == 7200).await;
    // 2 granted at first, 2 granted in the end; between them each may have been denied a few times.
    assert!(ledger.len() <= 12, "{} requests: {}", ledger.len(), ledger.summary());
    no_requests_left(&cluster, &place.system).await;

    // The issuer begins to sign by a CA that the mesh does not trust: nobody is given such a leaf until it does.
    cluster.ca_secret(&place.system, "mesh", &other, true).await;
    server.set_mesh(&hours(3));
    server.says(&["would refuse the leaf", "other intermediate"]).await;
    scene.both_show("the leaf that all accept", |leaf| leaf.issuer == "CN=mesh intermediate").await;
    server.set_mesh(&trusting_both(4));
    scene.both_show("a leaf of the new CA", |leaf| leaf.issuer == "CN=other intermediate").await;
    no_requests_left(&cluster, &place.system).await;

    // Nobody decides, and the server crashes: its requests are nobody's. The next server asks for leaves too, at once where an
    // operator is impatient, and its requests are left alone, also by a third one that has none.
    approver.set(Verdict::Undecided);
    let mut bystander = place.serve(&trusting_both(5)).await;
    server.set_mesh(&trusting_both(5));
    let orphans = requests(&cluster, &place.system, 2).await;
    server.kill();
    server.start_again().await;
    for proxy in scene.proxies() {
        proxy.is_connected(PATIENCE).await;
    }
    let (admin, dir) = (server.admin.to_string(), server.state_dir());
    eventually("both are to be renewed", PATIENCE, async || {
        let rotated = run(&["rotate", "--all", "--admin", &admin], &dir, Duration::from_secs(60)).await;
        if rotated.stdout == b"renewal queued: 2 proxies\n" { Ok(()) } else { Err(format!("{rotated:?}")) }
    })
    .await;
    let wanted = &requests(&cluster, &place.system, 4).await - &orphans;
    eventually("the orphans are swept", Duration::from_secs(90), async || {
        scene.strangers.assert_outside("while orphans are swept");
        let left = names(&cluster, &place.system).await;
        if left.is_disjoint(&orphans) { Ok(()) } else { Err(format!("{left:?} of {orphans:?}\n{}", server.log_tail())) }
    })
    .await;
    assert_eq!(requests(&cluster, &place.system, 2).await, wanted, "those of a server that lives are left alone");
    server.metric_becomes("issuances_pending", &[("mesh", "default")], |pending| pending == 2.0).await;
    approver.set(Verdict::Approved);
    scene.both_show("a leaf of the new server", |leaf| leaf.not_after - leaf.not_before == 5 * 3600).await;
    server.metric_becomes("issuances_pending", &[("mesh", "default")], |pending| pending == 0.0).await;
    bystander.assert_running();
    no_requests_left(&cluster, &place.system).await;

    // A server that ends in peace leaves nothing behind.
    approver.set(Verdict::Undecided);
    server.set_mesh(&trusting_both(6));
    requests(&cluster, &place.system, 2).await;
    assert_eq!(server.stop(SHUTDOWN).await.code(), Some(0), "{}", server.log_tail());
    let left = names(&cluster, &place.system).await;
    assert!(left.is_empty(), "{left:?}\n{}", server.log_tail());
    server.assert_discreet();
    scene.end().await;
}
