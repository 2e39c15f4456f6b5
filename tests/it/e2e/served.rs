//! What every two Envoys must come to, however they ask.

use std::process::Command;

use tonic::Code;

use super::{SHUTDOWN, Scene, strangers_before};
use crate::support::PATIENCE;
use crate::support::bootstrap::{Bootstrap, Party, Proof};
use crate::support::mesh::builtin_mesh;
use crate::support::proxy::Proxy;
use crate::support::sds::{self, Caller};
use crate::support::server::{NODE_ID, PROGRAM, Server, Settings};
use crate::support::wire::Certificate;

/// The groups that rules for unix peers know the two by.
const GROUPS: [u32; 2] = [47_111, 47_112];

pub(super) const FRONTEND: Party<'_> =
    Party { name: "frontend", spiffe_id: "spiffe://default/frontend", proof: Proof::Group(GROUPS[0]) };
pub(super) const BACKEND: Party<'_> =
    Party { name: "backend", spiffe_id: "spiffe://default/backend", proof: Proof::Group(GROUPS[1]) };

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

/// The same on one machine: with the builtin CA, over the unix socket, each known by the group of its process.
pub(super) async fn serves_on_one_machine(bootstrap: &Bootstrap<'_>, more: &str) {
    let user = rustix::process::geteuid().as_raw();
    let rules = [FRONTEND, BACKEND]
        .into_iter()
        .zip(GROUPS)
        .map(|(Party { name, .. }, group)| format!("{{uid: {user}, gid: {group}, name: {name}, workload: {name}}}"));
    let identify = format!("{{unixPeer: [{}]}}", rules.collect::<Vec<_>>().join(", "));
    let mut server = start(&identify, more).await;
    // This test is of neither group, whatever it says.
    let caller = Caller { node: FRONTEND.name, workload: FRONTEND.name, token: None };
    let refused = sds::fetch(&server.socket, caller, &["ROOTCA"]).await.expect_err("it proves nothing");
    assert_eq!(refused.code(), Code::Unauthenticated);
    serves_with_builtin_ca(&mut server, bootstrap, [FRONTEND, BACKEND]).await;
}

/// The same, over TLS, each with a token that the program has issued.
pub(super) async fn serves_by_proxy_tokens(bootstrap: &Bootstrap<'_>, more: &str) {
    let mut server = start("{proxyToken: {}}", more).await;
    let tokens = [FRONTEND, BACKEND].map(|party| issue(&server, party.name));
    let [frontend, backend] = tokens.each_ref().map(|token| Proof::Token(token));
    let parties = [Party { proof: frontend, ..FRONTEND }, Party { proof: backend, ..BACKEND }];
    serves_with_builtin_ca(&mut server, bootstrap, parties).await;
}

async fn start(identify: &str, more: &str) -> Server {
    let mut server = Server::start(Settings { mesh: &builtin_mesh("1h"), identify, more, ..NODE_ID }).await;
    server.ready().await;
    server
}

async fn serves_with_builtin_ca(server: &mut Server, bootstrap: &Bootstrap<'_>, parties: [Party<'_>; 2]) {
    serves(server, bootstrap, parties, "default", |server| server.set_mesh(&builtin_mesh("2h"))).await;
    assert!(server.stop(SHUTDOWN).await.success());
}

/// A proxy token for a workload and its only proxy.
fn issue(server: &Server, name: &str) -> String {
    let mut command = Command::new(PROGRAM);
    command.args(["token", "issue", "--name", name, "--workload", name, "--state-dir"]).arg(server.state_dir());
    let output = command.output().expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("a token is text")
}
