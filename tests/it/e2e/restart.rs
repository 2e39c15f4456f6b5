//! The server goes away and comes back, or another takes its place: nobody is asked to pay for that with a new certificate.

use std::time::Duration;

use tonic::Code;

use super::{SHUTDOWN, Scene, strangers_before};
use crate::support::PATIENCE;
use crate::support::cluster::Cluster;
use crate::support::deployment::Deployment;
use crate::support::eventually::{eventually, throughout};
use crate::support::fleet::{Fleet, Held, Route, Subscription, Variant};
use crate::support::ledger::{Ledger, no_requests_left};
use crate::support::mesh::{Backend, Ca, builtin_mesh, mesh_named};
use crate::support::proxy::{Login, Proxy};
use crate::support::server::{NODE_ID, Server, Settings};

/// Simulated proxies; half of them ask incrementally.
const PROXIES: usize = 1000;
/// Those of another mesh, whose leaves live so short that they are renewed within the test.
const BRIEF: usize = 6;
/// Their leaves are renewed after 27 to 33 s.
const BRIEF_LIFETIME: &str = "45s";
/// In which cert-manager signs a thousand leaves, on a busy machine too.
const ALL_SIGNED: Duration = Duration::from_secs(180);

/// Whether both secrets are there.
fn is_served(certificate: &Held, bundle: &Held) -> bool {
    certificate.updates >= 1 && bundle.updates >= 1
}

/// A thousand proxies have their leaves when the server is killed, and among them real Envoys that call each other. The
/// server is back with nothing but the CAs; all of them reconnect, get their bundles, and keep the leaves that they have:
/// cert-manager is asked for nothing. A further stream of one of them that has no leaf yet costs one request, and what comes
/// of it goes to both its streams. Another server takes over at no cost either, and renews what is due.
#[tokio::test]
async fn items_104_and_107_nobody_pays_for_a_restart_or_a_failover() {
    let cluster = Cluster::shared();
    let place = Deployment::new(cluster, "restart").await;
    let ca = cluster.ca_issuer_with_intermediate(&place.system, "mesh").await;
    let backend =
        Backend { name: "certmanager-1", issuer_kind: "Issuer", issuer: "mesh", ca: Ca::Inline(&ca.root_pem) };
    let long = mesh_named("default", "certmanager-1", "24h", &[backend]);
    let meshes = format!("{long}---\n{}", mesh_named("brief", "certmanager-1", BRIEF_LIFETIME, &[backend]));
    let settings = Settings { mesh: &meshes, kubernetes: Some(place.kubernetes()), ..NODE_ID };
    let mut server = Server::start(settings).await;
    server.ready().await;
    let ledger = Ledger::open(cluster, &place.system).await;
    let requests = || ledger.count(|id| id.starts_with("spiffe://default/"));

    let fleet = Fleet::start(&server.socket, PROXIES, "proxy-");
    fleet.all("all proxies are served", ALL_SIGNED, is_served).await;
    let pair = Proxy::pair(&server, ("web", Login::NodeId), ("api", Login::NodeId)).await;
    let strangers = strangers_before(&pair, "spiffe://default/web", "mesh root");
    let mut scene = Scene::begin(pair, strangers).await;
    assert_eq!(requests(), PROXIES + 2, "one for each");
    let streams = server.metric("streams", &[]).await.expect("metrics");
    assert_eq!(streams, (2 * (PROXIES + 2)) as f64);

    let signing_ca_ends = async |server: &Server| {
        server.metric("signing_ca_expiration_timestamp_seconds", &[("mesh", "default")]).await.expect("metrics")
    };
    let ends = signing_ca_ends(&server).await;
    assert!(ends > 0.0);

    // It crashes, when all requests are done with, and is back.
    no_requests_left(cluster, &place.system).await;
    let bundles = bundle_updates(&fleet);
    server.kill();
    scene.goes_on("without server").await;
    server.start_again().await;
    all_are_back(&server, &fleet, &bundles, streams).await;
    assert_eq!(signing_ca_ends(&server).await, ends, "what the leaves lead through is known, though no leaf is");
    for proxy in scene.proxies() {
        proxy.is_connected(PATIENCE).await;
    }
    scene.goes_on("with the server that is back").await;
    assert_eq!(requests(), PROXIES + 2, "nobody needed another leaf");
    fleet.all("all keep their leaf", Duration::ZERO, |leaf, _| leaf.updates == 1).await;

    // One of each variant loses its memory in one place.
    for (at, member) in fleet.members()[..2].iter().enumerate() {
        let fresh = Subscription::open(fleet.route().channel(), member.variant, &member.node, "default", None);
        let fresh = fresh.becomes("the new stream has a leaf", |held| held.updates == 1).await;
        let held = member.certificate.becomes("so has the old one", |held| held.updates == 2).await;
        assert_eq!(held.leaf(), fresh.leaf());
        assert_eq!(requests(), PROXIES + 2 + at + 1, "{}", member.node);
    }

    // Another one takes over. The brief leaves are so young then that no request for one can be under way, and lost.
    let bundles = bundle_updates(&fleet);
    let mut second = Server::start(settings).await;
    second.ready().await;
    let brief = Fleet::start(&server.socket, BRIEF, "brief.proxy-");
    brief.all("the others are served", PATIENCE, is_served).await;
    no_requests_left(cluster, &place.system).await;
    fleet.route().change(&second.socket);
    brief.route().change(&second.socket);
    server.kill();
    let streams = 2 * (PROXIES + BRIEF); // the Envoys have nowhere to go
    all_are_back(&second, &fleet, &bundles, streams as f64).await;
    assert_eq!(requests(), PROXIES + 4, "nobody needed another leaf");
    scene.goes_on("while another server has the others").await;

    // What was left alone all that time is renewed when it is due.
    brief.all("the brief leaves are renewed", PATIENCE, |leaf, _| leaf.updates >= 2).await;
    for member in brief.members() {
        let held = member.certificate.held();
        let id = format!("spiffe://brief/{}", member.node.trim_start_matches("brief."));
        eventually("each renewal was one request", PATIENCE, async || {
            let (asked, had) = (ledger.of(&id).len() as u64, member.certificate.held().updates);
            if asked == had { Ok(()) } else { Err(format!("{asked} requests, {had} leaves; {:?}", held.version)) }
        })
        .await;
    }
    assert_eq!(requests(), PROXIES + 4, "and nobody else was");
    fleet.assert_sound();
    brief.assert_sound();
    drop((fleet, brief));
    let reports = scene.end().await;
    for report in &reports {
        assert_eq!(report.serials.len(), 1, "Envoy's leaf was left alone: {report:?}");
    }
    assert!(second.stop(SHUTDOWN).await.success());
    no_requests_left(cluster, &place.system).await;
}

/// How often each has been sent its bundle.
fn bundle_updates(fleet: &Fleet) -> Vec<u64> {
    fleet.updates().into_iter().map(|(_, bundles)| bundles).collect()
}

/// Waits until all streams are open at this server, and each proxy has been sent its bundle once more.
async fn all_are_back(server: &Server, fleet: &Fleet, bundles: &[u64], streams: f64) {
    fleet.each("all have their bundle again", PATIENCE, |at, _, bundle| bundle.updates > bundles[at]).await;
    server.metric_becomes("streams", &[], |open| open == streams).await;
}

async fn server_with_builtin_ca() -> Server {
    let mesh = builtin_mesh("1h");
    let mut server = Server::start(Settings { mesh: &mesh, ..NODE_ID }).await;
    server.ready().await;
    server
}

async fn issued(server: &Server) -> f64 {
    server.metric("issuances_total", &[("outcome", "issued")]).await.expect("metrics")
}

/// A stream by itself breaks and comes back with the version that it had: the server still has the key, so it sends the same
/// secret again, and its CA has nothing to do.
#[tokio::test]
async fn items_34_and_89_a_stream_that_breaks_gets_the_same_secret_again() {
    let mut server = server_with_builtin_ca().await;
    for (variant, node) in [(Variant::StateOfTheWorld, "one"), (Variant::Incremental, "two")] {
        let route = Route::to(&server.socket);
        let before = Subscription::open(route.channel(), variant, node, "default", None);
        let before = before.becomes("it has a leaf", |held| held.updates == 1).await;
        let claims = before.version.clone();
        let after = Subscription::open(route.channel(), variant, node, "default", claims);
        let after = after.becomes("it has a leaf again", |held| held.updates == 1).await;
        assert_eq!((after.version, after.content), (before.version, before.content), "{variant:?}");
    }
    assert_eq!(issued(&server).await, 2.0);
    assert!(server.stop(SHUTDOWN).await.success());
}

/// After a restart, a proxy reports the version of a leaf whose key it has thrown away: it stays without. So it does to itself
/// only: other proxies are served, and so is an honest stream of the same proxy. Who reports a version that it made up is given a
/// leaf of its own as if it had reported nothing; who reports another proxy's keeps nobody else from it.
#[tokio::test]
async fn item_107_who_reports_what_it_does_not_hold_harms_itself_alone() {
    let mut server = server_with_builtin_ca().await;
    let route = Route::to(&server.socket);
    let leaf_of = async |node: &str, variant| {
        let stream = Subscription::open(route.channel(), variant, node, "default", None);
        stream.becomes("it has a leaf", |held| held.updates == 1).await
    };
    let variants = [Variant::StateOfTheWorld, Variant::Incremental];
    let names = [["liar-1", "honest-1"], ["liar-2", "honest-2"]];
    let mut versions = Vec::new();
    for (variant, [liar, honest]) in variants.into_iter().zip(names) {
        versions.push(leaf_of(liar, variant).await.version.expect("a leaf has a version"));
        leaf_of(honest, variant).await;
    }
    server.kill();
    server.start_again().await;
    server.ready().await;
    assert_eq!(issued(&server).await, 0.0, "a new life begins");

    let mut cost = 0.0;
    for ((variant, [liar, honest]), version) in variants.into_iter().zip(names).zip(&versions) {
        let open = |node: &str, claims: Option<&str>| {
            Subscription::open(route.channel(), variant, node, "default", claims.map(str::to_owned))
        };
        let lies = open(liar, Some(version));
        // The bundle is sent whatever it says, so after that its other stream has been heard as well.
        let bundle = Subscription::open(route.channel(), variant, liar, "ROOTCA", Some("bundle.0".into()));
        bundle.becomes("it has its bundle", |held| held.updates == 1).await;
        throughout("it stays without", Duration::from_secs(1), async || match lies.held().updates {
            0 => Ok(()),
            updates => Err(format!("it was sent {updates}")),
        })
        .await;
        assert_eq!(issued(&server).await, cost, "and costs nothing");

        // Others do not notice. What is another's, made up or spoiled is no version of theirs.
        let spoiled = version.replace("certificate.", "certificate.9");
        for (node, claims) in [
            (honest, Some(version.as_str())),
            ("stranger", Some(version)),
            ("inventor", Some("certificate.1.2.0123456789abcdef.0123456789abcdef.0123456789abcdef")),
            ("forger", Some(&spoiled)),
            ("newcomer", None),
        ] {
            let node = if node == honest { node.to_owned() } else { format!("{node}-{liar}") };
            let claiming = open(&node, claims);
            // Another's is a leaf that peers accept, but not what this one is to have: it would be replaced within a minute.
            // Who cannot wait says nothing.
            let impatient = (claims == Some(version)).then(|| open(&node, None));
            let held = claiming.becomes("it is served", |held| held.updates == 1).await;
            drop(impatient);
            assert_eq!(held.leaf().expect("a leaf").uris, [format!("spiffe://default/{node}")]);
            cost += 1.0;
        }
        // It repents: a stream without a claim gets a leaf, which is one for both.
        let repents = open(liar, None).becomes("it is served", |held| held.updates == 1).await;
        let held = lies.becomes("so is its first stream", |held| held.updates == 1).await;
        assert_eq!(held.content, repents.content);
        cost += 1.0;
        assert_eq!(issued(&server).await, cost);
    }
    server.assert_discreet();
    assert!(server.stop(SHUTDOWN).await.success());
}

/// SIGTERM: streams end with UNAVAILABLE, Envoys keep what they have and go on, and are served again by the server that comes
/// after it.
#[tokio::test]
async fn item_102_a_server_that_is_told_to_end_ends_its_streams_and_traffic_goes_on() {
    let mut server = server_with_builtin_ca().await;
    let pair = Proxy::pair(&server, ("web", Login::NodeId), ("api", Login::NodeId)).await;
    let strangers = strangers_before(&pair, "spiffe://default/web", "default");
    let mut scene = Scene::begin(pair, strangers).await;
    let fleet = Fleet::start(&server.socket, 20, "proxy-");
    fleet.all("all proxies are served", PATIENCE, is_served).await;

    assert_eq!(server.stop(SHUTDOWN).await.code(), Some(0), "{}", server.log_tail());
    fleet.all("all have noticed", PATIENCE, |_, bundle| !bundle.ends.is_empty()).await;
    // A machine that stands still for a second may leave it to the end of the connection.
    let ends: Vec<_> = fleet.members().iter().map(|member| member.bundle.held().ends[0]).collect();
    let told = ends.iter().filter(|code| **code == Code::Unavailable).count();
    assert!(told > ends.len() / 2, "{ends:?}");
    scene.goes_on("without server").await;
    for proxy in scene.proxies() {
        eventually(&format!("{} has noticed", proxy.name), PATIENCE, async || match proxy.failed_streams().await {
            failed @ ..2 => Err(format!("{failed} streams have failed")),
            _ => Ok(()),
        })
        .await;
    }
    server.start_again().await;
    for proxy in scene.proxies() {
        proxy.is_connected(PATIENCE).await;
    }
    server.set_mesh(&builtin_mesh("2h"));
    scene.both_show("a leaf of 2 h", |leaf| leaf.not_after - leaf.not_before == 7230).await;
    fleet
        .all("all have a leaf of 2 h", PATIENCE, |certificate, _| {
            certificate.leaf().is_some_and(|leaf| leaf.not_after - leaf.not_before == 7230)
        })
        .await;
    fleet.assert_sound();
    server.assert_discreet();
    scene.end().await;
}
