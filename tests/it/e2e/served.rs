//! What every two Envoys must come to, however they ask.

use super::{SHUTDOWN, Scene, strangers_before};
use crate::support::PATIENCE;
use crate::support::bootstrap::{Bootstrap, Party};
use crate::support::mesh::builtin_mesh;
use crate::support::proxy::Proxy;
use crate::support::server::{NODE_ID, Server, Settings};
use crate::support::wire::Certificate;

pub(super) const FRONTEND: Party<'_> = Party { name: "frontend", spiffe_id: "spiffe://default/frontend", token: None };
pub(super) const BACKEND: Party<'_> = Party { name: "backend", spiffe_id: "spiffe://default/backend", token: None };

/// The longer of the two lifetimes that a test asks for; the builtin CA dates leaves back.
fn lives_two_hours(leaf: &Certificate) -> bool {
    leaf.not_after - leaf.not_before >= 7200
}

/// Two Envoys with this bootstrap get their secrets and call each other, strangers stay outside, and new leaves arrive.
/// `renew` makes the server want leaves of 2 h instead of 1 h.
pub(super) async fn serves(
    server: &mut Server,
    bootstrap: &Bootstrap<'_>,
    parties: [Party<'_>; 2],
    ca: &str,
    renew: impl Fn(&Server),
) {
    let [one, other] = parties;
    let pair = Proxy::published_pair(server, bootstrap, one, other).await;
    let strangers = strangers_before(&pair, other.spiffe_id, ca);
    let mut scene = Scene::begin(pair, strangers).await;
    for (proxy, party) in scene.proxies().into_iter().zip(parties) {
        proxy.is_connected(PATIENCE).await;
        let chain = proxy.shown().await.expect("it shows a certificate");
        assert_eq!(chain[0].uris, [party.spiffe_id], "{}", chain[0]);
        assert!(!lives_two_hours(&chain[0]), "{}", chain[0]);
    }
    let updates = [scene.one.certificate_updates().await, scene.other.certificate_updates().await];
    renew(server);
    scene.both_show("a leaf of 2 h", lives_two_hours).await;
    for (proxy, before) in scene.proxies().into_iter().zip(updates) {
        let after = proxy.certificate_updates().await;
        assert!(after > before, "{}: {after} updates", proxy.name);
    }
    for metric in ["nacks_total", "withheld_total"] {
        assert_eq!(server.metric(metric, &[]).await, Ok(0.0), "{metric}\n{}", server.log_tail());
    }
    assert_eq!(server.metric("issuances_total", &[("outcome", "issued")]).await, Ok(4.0));
    let reports = scene.end().await;
    let [one, other] = [one, other].map(|party| party.spiffe_id.to_owned());
    let called = [vec![(one.clone(), other.clone())], vec![(other, one)]];
    assert_eq!(reports.map(|report| report.identities), called);
    server.assert_discreet();
}

/// The same on one machine: with the builtin CA, over the unix socket, by node ids.
pub(super) async fn serves_on_one_machine(bootstrap: &Bootstrap<'_>, more: &str) {
    let mesh = builtin_mesh("1h");
    let mut server = Server::start(Settings { mesh: &mesh, more, ..NODE_ID }).await;
    server.ready().await;
    serves(&mut server, bootstrap, [FRONTEND, BACKEND], "default", |server| server.set_mesh(&builtin_mesh("2h"))).await;
    assert!(server.stop(SHUTDOWN).await.success());
}
