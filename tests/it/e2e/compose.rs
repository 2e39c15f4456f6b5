//! `docker-compose up`, with and without Kubernetes: what docs/compose.md says that one sees.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use crate::support::docker::{COMING_UP, Compose};
use crate::support::eventually::eventually;
use crate::support::{http, scratch};

/// What the client shows, followed line by line: nothing may fail in it.
struct Client<'a> {
    compose: &'a Compose,
    /// How many of its lines have been looked at.
    seen: usize,
    /// Of the certificate that shop was last seen with.
    serial: String,
}

impl<'a> Client<'a> {
    /// From the first request by mTLS on, before which a caller without a certificate was refused.
    async fn begin(compose: &'a Compose, caller: &str, called: &str) -> Self {
        let mut client = Self { compose, seen: 0, serial: String::new() };
        let refused = "a caller without a certificate is refused, as it has to be: TLS alert \"certificate required\"";
        client.next("that a stranger is refused", |line| line.ends_with(refused)).await;
        let first = client.next("the first request", |line| line.contains("request 1: ")).await;
        assert!(first.contains(&format!("request 1: {caller} (serial ")), "{first}");
        assert!(first.contains(&format!(" called {called} (from ")) && first.ends_with(": hello from web"), "{first}");
        client.serial = serial(&first).expect("it tells shop's serial").to_owned();
        client
    }

    /// Waits for a line that `wanted` takes; no request may have failed up to now.
    async fn next(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let (seen, line) = self.compose.says("client", what, self.seen, wanted).await;
        self.seen = seen;
        let log = self.compose.log("client").await;
        let failed: Vec<_> =
            log.lines().filter(|line| line.contains(" failed: ") || line.contains("has let in")).collect();
        assert!(failed.is_empty(), "before {what}: {failed:?}\n{log}");
        line
    }

    /// Waits until shop shows another certificate, from that issuer.
    async fn renewed(&mut self, what: &str, issuer: &str) {
        let (before, issuer) = (self.serial.clone(), format!("issued by {issuer}"));
        let other = |line: &str| serial(line).is_some_and(|serial| serial != before) && line.contains(&issuer);
        let line = self.next(what, other).await;
        self.serial = serial(&line).expect("it was looked at").to_owned();
    }

    /// Waits for the next time from now that the client counts its requests.
    async fn goes_on(&mut self, when: &str) {
        self.seen = self.compose.log("client").await.lines().count();
        self.next(when, |line| line.ends_with(" requests, 0 failed")).await;
    }
}

/// Of the certificate of the one who called.
fn serial(line: &str) -> Option<&str> {
    Some(line.split_once("(serial ")?.1.split_once(')')?.0)
}

/// With cert-manager: certificates are renewed, CA and issuer change, cert-manager and the server stop and come back, and
/// no request fails.
#[tokio::test]
async fn the_cluster_of_docker_compose_serves_mtls_whatever_stops() {
    let compose = Compose::up("docker-compose.yml", "cluster").await;
    let (shop, web) = ("spiffe://default/ns/demo/sa/shop", "spiffe://default/ns/demo/sa/web");
    let mut client = Client::begin(&compose, shop, web).await;
    let meshes = compose.run(&["run", "--rm", "kubectl", "get", "meshes"]).await;
    assert!(meshes.contains("default   True"), "{meshes}");
    are_published(&compose, web).await;

    // With cert-manager away, requests go on, and what is asked for meanwhile comes when it is back.
    compose.run(&["stop", "cert-manager"]).await;
    compose.run(&["exec", "-T", "envoy-sds", "envoy-sds", "rotate", "--all"]).await;
    client.goes_on("while cert-manager is stopped").await;
    compose.run(&["up", "-d", "--no-deps", "cert-manager"]).await;
    client.renewed("a new certificate", "CN=first issuer").await;

    // A mistake is held back, and taken back.
    compose.run(&["run", "--rm", "kubectl", "apply", "-f", "mesh/mistake.yaml"]).await;
    mesh_becomes(&compose, "default   False   HeldBack").await;
    let status = compose.published("envoy-sds", 5681).await;
    let why = "it was issued by \\\"CN=second issuer\\\", and the mesh trusts \\\"CN=first issuer\\\"";
    eventually("the server says what is wrong, and is ready", COMING_UP, async || {
        let told = http::get(status, "/readyz").await?;
        if told.status == 200 && told.body.contains(why) { Ok(()) } else { Err(told.body) }
    })
    .await;
    client.goes_on("while the mistake is held back").await;
    compose.run(&["run", "--rm", "kubectl", "apply", "-f", "mesh/first-issuer.yaml"]).await;
    mesh_becomes(&compose, "default   True").await;

    compose.run(&["run", "--rm", "kubectl", "apply", "-f", "mesh/both-roots.yaml"]).await;
    compose.run(&["run", "--rm", "kubectl", "apply", "-f", "mesh/second-issuer.yaml"]).await;
    client.renewed("a certificate of the other issuer", "CN=second issuer").await;

    compose.run(&["stop", "envoy-sds"]).await;
    client.goes_on("while the server is stopped").await;
    // As Compose v2 does for `start`.
    compose.run(&["run", "--rm", "credentials"]).await;
    let again = compose.run(&["run", "--rm", "setup"]).await;
    assert!(again.contains("definitions are there already"), "{again}");
    compose.run(&["up", "-d", "--no-deps", "envoy-sds"]).await;
    client.goes_on("now that the server is back").await;
}

/// Waits until the table of meshes has this line.
async fn mesh_becomes(compose: &Compose, line: &str) {
    eventually(&format!("the mesh is {line}"), COMING_UP, async || {
        let meshes = compose.run(&["run", "--rm", "kubectl", "get", "meshes"]).await;
        if meshes.contains(line) { Ok(()) } else { Err(meshes) }
    })
    .await;
}

/// This machine reaches shop, which calls web, and the status page.
async fn are_published(compose: &Compose, web: &str) {
    let answer = http::get(compose.published("shop", 8080).await, "/").await.expect("shop's port is published");
    assert_eq!((answer.status, answer.body.as_str()), (200, "hello from web\n"));
    assert!(answer.header("x-server").starts_with(web), "{answer:?}");
    let page = http::get(compose.published("envoy-sds", 5681).await, "/").await.expect("the status port is published");
    assert_eq!(page.status, 200, "{page:?}");
}

/// Without Kubernetes: a CA of its own, and proxy tokens.
#[tokio::test]
async fn the_local_docker_compose_serves_mtls_without_kubernetes() {
    let compose = Compose::up("docker-compose.local.yml", "local").await;
    let mut client = Client::begin(&compose, "spiffe://default/shop", "spiffe://default/web").await;
    let proxies = compose.run(&["exec", "-T", "envoy-sds", "envoy-sds", "proxies"]).await;
    assert!(proxies.contains("shop-0") && proxies.contains("web-0"), "{proxies}");
    are_published(&compose, "spiffe://default/web").await;
    keeps_its_state_to_itself(&compose).await;
    keeps_its_state_where_it_is_told(&compose).await;

    compose.run(&["exec", "-T", "envoy-sds", "envoy-sds", "rotate", "--all"]).await;
    client.renewed("a new certificate", "").await;
    compose.run(&["stop", "envoy-sds"]).await;
    client.goes_on("while the server is stopped").await;
    renews_what_is_about_to_end(&compose).await;
    // As Compose v2 does for `start`.
    compose.run(&["run", "--rm", "shop-token"]).await;
    compose.run(&["up", "-d", "--no-deps", "envoy-sds"]).await;
    client.goes_on("now that the server is back").await;
    eventually("the Envoys, which still have the CA from before, come back", COMING_UP, async || {
        let proxies = compose.run(&["exec", "-T", "envoy-sds", "envoy-sds", "proxies"]).await;
        if proxies.contains("shop-0") && proxies.contains("web-0") { Ok(()) } else { Err(proxies) }
    })
    .await;
}

/// What `up` makes a year later: certificates that last, with the keys that there were, and copies of them for all who have one.
async fn renews_what_is_about_to_end(compose: &Compose) {
    /// As they are in their last day.
    const AGED: &str = "rm /volumes/*/*.crt && sed 's/^days=.*/days=1/' /compose/setup/credentials.sh | bash";
    const LOOK: &str = "cd /volumes
        for file in sds-ca/sds-ca server/tls web/sds-ca shop/sds-ca; do
          openssl x509 -in $file.crt -noout -checkend 86400 >/dev/null && state=lasts || state=ends
          echo \"$file $state $(openssl x509 -in $file.crt -noout -pubkey | sha256sum)\"
        done
        openssl verify -CAfile web/sds-ca.crt server/tls.crt";
    let type_there =
        async |what: &str| compose.run(&["run", "--rm", "--no-deps", "credentials", "bash", "-ec", what]).await;
    let look = async || {
        let said = type_there(LOOK).await;
        assert!(said.contains("server/tls.crt: OK"), "{said}");
        let is_state = |line: &&str| line.contains(" lasts ") || line.contains(" ends ");
        said.lines().map(str::trim).filter(is_state).map(str::to_owned).collect::<Vec<_>>()
    };
    let fresh = look().await;
    assert!(fresh.len() == 4 && fresh.iter().all(|line| line.contains(" lasts ")), "{fresh:?}");
    type_there(AGED).await;
    let aged: Vec<_> = fresh.iter().map(|line| line.replace(" lasts ", " ends ")).collect();
    assert_eq!(look().await, aged);
    compose.run(&["run", "--rm", "credentials"]).await;
    assert_eq!(look().await, fresh);
}

/// A new volume for the state belongs to the program alone, as the image has it.
async fn keeps_its_state_to_itself(compose: &Compose) {
    let mount = format!("{}:/state:ro", compose.volume("local-state"));
    let look = ["run", "--rm", "--no-deps", "--volume", &mount, "client", "stat", "--format=%u %a", "/state"];
    let said = compose.run(&look).await;
    assert!(said.lines().any(|line| line.trim() == "65532 700"), "{said}");
}

/// The image has a place for its state by default, and none that would count more than the configuration. Nothing can be written to
/// this one, which the server says.
async fn keeps_its_state_where_it_is_told(compose: &Compose) {
    let dir = scratch::dir("image");
    let file = dir.join("server.yaml");
    fs::write(&file, "stateDir: /elsewhere\nkubernetes: off\n").expect("the scratch folder can be written");
    fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("it is the test's own");
    let mount = format!("{}:/server.yaml:ro", file.display());
    let said = compose
        .fails(&["run", "--rm", "--no-deps", "--volume", &mount, "envoy-sds", "serve", "--config", "/server.yaml"])
        .await;
    assert!(said.contains("/elsewhere"), "{said}");
}
