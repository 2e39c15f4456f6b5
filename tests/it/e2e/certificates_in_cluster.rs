//! Client certificates where the server has a cluster, and nothing else is a proof.

use crate::support::PATIENCE;
use crate::support::cluster::Cluster;
use crate::support::deployment::Deployment;
use crate::support::mesh::builtin_mesh;
use crate::support::pki::{Leaf, TestCa};
use crate::support::proxy::{Login, Proxy};
use crate::support::server::{Listeners, NODE_ID, Server, Settings};

/// An account is deleted: the streams of the certificate that names it end, and no other is opened by it. Those of another
/// account go on. The server has the rights of `deploy/rbac.yaml`.
#[tokio::test]
async fn a_client_certificate_ends_with_the_account_that_it_names() {
    let cluster = Cluster::shared();
    let place = Deployment::new(cluster, "svids").await;
    let ca = TestCa::root("clients");
    for account in ["web", "api"] {
        cluster.service_account(&place.apps, account).await;
    }
    let [web, api] = ["web", "api"].map(|account| ca.issue(&Leaf::spiffe(&place.spiffe_id(account))));
    let crl = ca.crl(&[]);
    let listeners = Listeners { clients: Some((ca.root_pem.as_str(), crl.as_str())), ..Listeners::default() };
    let kubernetes = Some(place.kubernetes());
    let mesh = builtin_mesh("1h");
    let settings = Settings { mesh: &mesh, identify: "{clientCertificate: {}}", kubernetes, ..NODE_ID };
    let mut server = Server::start_with(settings, listeners).await;
    server.ready().await;
    let login = |identity| Login::ClientCertificate { identity };
    let (mut web, mut api) = Proxy::pair(&server, ("web", login(&web)), ("api", login(&api))).await;
    for (proxy, account) in [(&mut web, "web"), (&mut api, "api")] {
        proxy.ready().await;
        proxy.is_connected(PATIENCE).await;
        assert_eq!(proxy.shown().await.expect("it shows a certificate")[0].uris, [place.spiffe_id(account)]);
    }
    let undisturbed = api.failed_streams().await;

    cluster.delete("v1", "ServiceAccount", Some(&place.apps), "web").await;
    for stat in web.names.connected() {
        web.envoy.stat_becomes(&stat, PATIENCE, |value| value == 0).await;
    }
    server.logs("INFO", &["refused", "clientCertificate", "service account"]).await;
    api.is_connected(PATIENCE).await;
    assert_eq!(api.failed_streams().await, undisturbed);
    server.assert_running();
    server.assert_discreet();
}
