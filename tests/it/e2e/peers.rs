//! What the connection itself proves: a client certificate, the user of a unix peer, and the pod behind one.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::Code;

use crate::support::PATIENCE;
use crate::support::cluster::Cluster;
use crate::support::deployment::Deployment;
use crate::support::envoy::StartedBy;
use crate::support::eventually::throughout;
use crate::support::mesh::builtin_mesh;
use crate::support::pki::{Leaf, TestCa};
use crate::support::proxy::{Login, Proxy, free_address};
use crate::support::sds::{self, Caller};
use crate::support::server::{Listeners, NODE_ID, Server, Settings};

const WEB: &str = "spiffe://default/web";

/// A server that takes client certificates of `ca`, and nothing else.
async fn for_certificates(ca: &TestCa) -> Server {
    let settings = Settings { mesh: &builtin_mesh("1h"), identify: "{clientCertificate: {}}", ..NODE_ID };
    let clients = Some((ca.root_pem.as_str(), ca.crl(&[])));
    let clients = clients.as_ref().map(|(ca, crl)| (*ca, crl.as_str()));
    let mut server = Server::start_with(settings, Listeners { clients, ..Listeners::default() }).await;
    server.ready().await;
    server
}

async fn start(server: &Server, name: &str, login: Login<'_>) -> Proxy {
    Proxy::start(server, name, login, free_address(), free_address()).await
}

/// Waits until it has no stream to the server any more.
async fn is_cut_off(proxy: &Proxy) {
    for stat in proxy.names.connected() {
        proxy.envoy.stat_becomes(&stat, PATIENCE, |value| value == 0).await;
    }
}

/// Checks that the proxies' streams go on, for a while.
async fn stays_connected(proxy: &Proxy, failed: u64) {
    throughout("its streams live", Duration::from_secs(1), async || {
        let failures = proxy.failed_streams().await;
        if failures == failed { Ok(()) } else { Err(format!("{failures} instead of {failed} streams have ended")) }
    })
    .await;
    proxy.is_connected(PATIENCE).await;
}

/// Two Envoys with client certificates get the identities that these say. One is revoked while they run: its streams end and
/// it is not let in again, until it has another certificate; the other one is not disturbed. A broken list changes nothing.
#[tokio::test]
async fn a_client_certificate_is_an_identity_until_it_is_revoked() {
    let ca = TestCa::root("clients");
    let [first, second] = [ca.issue(&Leaf::spiffe(WEB)), ca.issue(&Leaf::spiffe(WEB))];
    let api_identity = ca.issue(&Leaf::spiffe("spiffe://default/ns/shop/sa/api"));
    let server = for_certificates(&ca).await;
    let login = |identity| Login::ClientCertificate { identity };
    let (mut web, mut api) = Proxy::pair(&server, ("web", login(&first)), ("api", login(&api_identity))).await;
    for (proxy, id) in [(&mut web, WEB), (&mut api, "spiffe://default/ns/shop/sa/api")] {
        proxy.ready().await;
        proxy.is_connected(PATIENCE).await;
        assert_eq!(proxy.shown().await.expect("it shows a certificate")[0].uris, [id]);
    }
    let undisturbed = api.failed_streams().await;

    server.set_client_crl(&ca.crl(&[&first]));
    is_cut_off(&web).await;
    server.logs("INFO", &["refused", "clientCertificate", "does not accept it", "Revoked"]).await;
    server.logs("DEBUG", &["TLS handshake failed", "Revoked"]).await;
    stays_connected(&api, undisturbed).await;
    web.set_certificate(&second);
    web.is_connected(PATIENCE).await;

    server.set_client_crl("rubbish");
    server.logs("ERROR", &["the last good ones stay", "client.crl", "X509 CRL"]).await;
    server.metric_becomes("tls_files_broken", &[], |broken| broken > 0.0).await;
    stays_connected(&api, undisturbed).await;
    // It would be let in if the last good list had gone.
    let again = start(&server, "again", login(&first)).await;
    again.envoy.stat_becomes("sds.default.update_failure", PATIENCE, |failures| failures > 0).await;
    assert!(!again.envoy.is_ready().await && again.is_shut().await);
    server.set_client_crl(&ca.crl(&[&first]));
    server.metric_becomes("tls_files_broken", &[], |broken| broken == 0.0).await;
    stays_connected(&api, undisturbed).await;
    server.assert_discreet();
}

/// One of another CA by the same name fails the handshake; one that is no workload's is refused; one that ends takes the
/// streams with it, and they come back with its successor.
#[tokio::test]
async fn client_certificates_that_prove_nothing_or_no_longer() {
    let ca = TestCa::root("clients");
    let server = for_certificates(&ca).await;
    let foreign = TestCa::root("clients").issue(&Leaf::spiffe(WEB));
    let nobody = ca.issue(&Leaf::spiffe("spiffe://default"));
    let foreign = start(&server, "foreign", Login::ClientCertificate { identity: &foreign }).await;
    let nobody = start(&server, "nobody", Login::ClientCertificate { identity: &nobody }).await;
    server.logs("WARN", &["TLS handshakes fail", "its client certificate is not accepted"]).await;
    server
        .metric_becomes("tls_handshakes_failed_total", &[("reason", "client_certificate")], |failed| failed > 0.0)
        .await;
    server.logs("INFO", &["refused", "names no workload", "/ns/<namespace>/sa/<service account>"]).await;
    // Without one, the handshake is fine, and that is all.
    let without = sds::fetch(&server.socket, Caller { node: "web", ..Caller::default() }, &["default"]).await;
    assert_eq!(without.expect_err("nothing is proven").code(), Code::Unauthenticated);
    for proxy in [&foreign, &nobody] {
        assert!(!proxy.envoy.is_ready().await && proxy.is_shut().await, "{}", proxy.name);
    }
    assert_eq!(server.metric("issuances_total", &[]).await, Ok(0.0));

    let short = Leaf { lifetime: Duration::from_secs(75), ..Leaf::spiffe(WEB) };
    let mut web = start(&server, "web", Login::ClientCertificate { identity: &ca.issue(&short) }).await;
    web.ready().await;
    assert_eq!(web.shown().await.expect("it shows a certificate")[0].uris, [WEB]);
    server.logs("DEBUG", &["TLS handshake failed", "expired"]).await;
    is_cut_off(&web).await;
    web.set_certificate(&ca.issue(&Leaf::spiffe(WEB)));
    web.is_connected(PATIENCE).await;
}

/// An Envoy of another user is the proxy that the rule for that user names; users without a rule get nothing.
#[tokio::test]
async fn the_user_of_a_unix_peer() {
    const USER: u32 = 47_110;
    let rules = format!("{{unixPeer: [{{uid: {USER}, name: web-0, workload: web, labels: {{app: web}}}}]}}");
    let settings = Settings { mesh: &builtin_mesh("1h"), identify: &rules, ..NODE_ID };
    let listeners = Listeners { everybody: true, ..Listeners::default() };
    let mut server = Server::start_with(settings, listeners).await;
    server.ready().await;
    let mut web = start(&server, "web", Login::UnixPeer { process: StartedBy::User(USER) }).await;
    web.ready().await;
    assert_eq!(web.shown().await.expect("it shows a certificate")[0].uris, [WEB]);
    for process in [StartedBy::Test, StartedBy::User(USER + 1)] {
        let other = start(&server, "other", Login::UnixPeer { process }).await;
        let user = if let StartedBy::User(user) = process { user } else { 0 };
        server.logs("INFO", &["refused", &format!("unix:uid={user},"), "accepted: unixPeer"]).await;
        assert!(!other.envoy.is_ready().await && other.is_shut().await);
    }
}

/// A control group, with those above it that were not there; removed when nobody is in it any more.
pub(super) struct Cgroup(Vec<PathBuf>);

impl Cgroup {
    /// As kubelet makes it for a container of a burstable pod, in the first hierarchy that has this process in its root
    /// and can be written: version 1 or 2.
    pub(super) fn of_pod(uid: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("there is /proc");
        let places = mounts.lines().filter_map(|line| match line.split(' ').collect::<Vec<_>>().as_slice() {
            [_, place, "cgroup" | "cgroup2", ..] => Some(PathBuf::from(place)),
            _ => None,
        });
        let container = uid.replace('-', "").repeat(2);
        let parts = ["kubepods".to_owned(), "burstable".to_owned(), format!("pod{uid}"), container];
        let made = places.filter(|place| !place.ends_with("cpuset")).find_map(|place| Self::make(&place, &parts));
        made.expect("this test has to be root's, with a control group file system that can be written")
    }

    fn make(root: &Path, parts: &[String]) -> Option<Self> {
        let folders = parts.iter().scan(root.to_owned(), |folder, part| {
            folder.push(part);
            Some(folder.clone())
        });
        let made = Self(folders.collect());
        made.0.iter().all(|folder| folder.is_dir() || fs::create_dir(folder).is_ok()).then_some(made)
    }

    pub(super) fn path(&self) -> &Path {
        self.0.last().expect("it has parts")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Another test may have some of them too.
        self.0.iter().rev().for_each(|folder| drop(fs::remove_dir(folder)));
    }
}

/// An Envoy in a pod's control group is that pod, without any token, for as long as the pod is there; a process that is in none
/// is refused. The server has the rights of `deploy/rbac.yaml`.
#[tokio::test]
async fn the_pod_behind_a_unix_peer() {
    let cluster = Cluster::shared();
    let place = Deployment::new(cluster, "peers").await;
    let apps = &place.apps;
    cluster.service_account(apps, "web").await;
    let uid = cluster.pod(apps, "web-0", "web").await.metadata.uid.expect("it has a uid");
    let kubernetes = Some(place.kubernetes());
    let settings = Settings { mesh: &builtin_mesh("1h"), identify: "{unixPeer: [{pod: true}]}", kubernetes, ..NODE_ID };
    let mut server = Server::start(settings).await;
    server.ready().await;
    let cgroup = Cgroup::of_pod(&uid);
    let mut web = start(&server, "web", Login::UnixPeer { process: StartedBy::Cgroup(cgroup.path()) }).await;
    web.ready().await;
    assert_eq!(web.shown().await.expect("it shows a certificate")[0].uris, [place.spiffe_id("web")]);

    // This test itself, which says that it is the pod.
    let caller = Caller { node: "web-0", workload: "web", token: None };
    let refused = sds::fetch(&server.socket, caller, &["default"]).await.expect_err("it is no pod");
    assert_eq!(refused.code(), Code::Unauthenticated);
    server.logs("INFO", &["refused", "runs in no pod"]).await;

    let nobodys = Cgroup::of_pod("11111111-2222-3333-4444-555555555555");
    let other = start(&server, "other", Login::UnixPeer { process: StartedBy::Cgroup(nobodys.path()) }).await;
    server.logs("INFO", &["does not know the pod of a unix peer", "11111111"]).await;
    assert!(!other.envoy.is_ready().await && other.is_shut().await);

    cluster.delete_pod_now(apps, "web-0").await;
    is_cut_off(&web).await;
    drop((web, other));
}
