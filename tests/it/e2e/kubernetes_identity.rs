//! What becomes of a proof when the pod or the account behind it does, and tokens that the server verifies by itself.

use std::fs;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::support::PATIENCE;
use crate::support::cluster::Cluster;
use crate::support::deployment::{AUDIENCE, Deployment};
use crate::support::eventually::eventually;
use crate::support::mesh::builtin_mesh;
use crate::support::proxy::{Login, Proxy, free_address};
use crate::support::sds::{self, Caller, Watcher};
use crate::support::server::{Server, Settings};

fn caller(token: &str) -> Caller<'_> {
    Caller { node: "web", workload: "web", token: Some(token) }
}

async fn fetch(server: &Server, token: &str) -> Result<usize, Status> {
    sds::fetch(&server.socket, caller(token), &["ROOTCA"]).await.map(|secrets| secrets.len())
}

/// A server with the builtin CA, so that nothing but the identity is of the cluster.
async fn serve(place: &Deployment<'_>, how: &str) -> Server {
    let identify = format!("{{serviceAccountToken: {{audiences: [{AUDIENCE}]{how}}}}}");
    let mesh = builtin_mesh("1h");
    let settings = Settings { mesh: &mesh, identify: &identify, kubernetes: Some(place.kubernetes()), more: "" };
    let mut server = Server::start(settings).await;
    server.ready().await;
    server
}

/// Takes the permission to review tokens from the server of `place`, and leaves it the others.
async fn forbid_reviews(place: &Deployment<'_>) {
    let name = format!("envoy-sds-identify-{}", place.system);
    let api = "rbac.authorization.k8s.io/v1";
    let role = place.cluster.get(api, "ClusterRole", None, &name).await.expect("it is there");
    let mut rules = role.data["rules"].as_array().expect("it has rules").clone();
    rules.retain(|rule| rule["resources"] != json!(["tokenreviews"]));
    assert_eq!(rules.len(), 2, "{rules:?}");
    let role = json!({"apiVersion": api, "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules});
    place.cluster.apply(role).await;
}

async fn stream_has_ended(watcher: &Watcher) {
    stream_ends_within(PATIENCE, watcher).await;
}

async fn stream_ends_within(patience: Duration, watcher: &Watcher) {
    eventually("the stream ends, and no other is opened", patience, async || {
        let ends = watcher.ends();
        let refused = ends.len() > 1 && ends.iter().all(|end| end.contains("nauthenticated"));
        if refused { Ok(()) } else { Err(format!("{ends:?}")) }
    })
    .await;
    watcher.assert_sound();
}

fn claims_of(token: &str) -> Value {
    let payload = token.split('.').nth(1).expect("a JWT has a payload");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).expect("base64url")).expect("JSON")
}

/// The same token with other claims, signed by the cluster's own key.
fn signed_anew(key_file: &Path, token: &str, change: impl FnOnce(&mut Value)) -> String {
    let pem = fs::read(key_file).expect("the key is there");
    let key = PrivateKeyDer::from_pem_slice(&pem).expect("the key is PEM");
    let mut claims = claims_of(token);
    change(&mut claims);
    let kid = jsonwebtoken::decode_header(token).expect("a JWT has a header").kid;
    let header = Header { kid, ..Header::new(Algorithm::ES256) };
    jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ec_der(key.secret_der())).expect("claims can be signed")
}

/// A pod is deleted: its stream ends, and its token, which has most of its hour left, opens no other. The streams of other
/// pods go on, also over a change of labels. An account is deleted: so it is for all of its pods, and for a token that is
/// bound to none. All the same, whoever verifies the tokens.
#[tokio::test]
async fn a_proof_ends_with_the_pod_or_the_account_behind_it() {
    let cluster = Cluster::shared();
    for (name, how) in [("pods-review", ""), ("pods-jwks", ", verify: jwks")] {
        let place = Deployment::new(cluster, name).await;
        let mut server = serve(&place, how).await;
        let first = place.workload("web").await;
        let second = place.pod("web-2", "web").await;
        let other = place.workload("api").await;
        let unbound = place.token("web", None, AUDIENCE).await;
        let [one, two, stays, free] =
            [&first, &second, &other, &unbound].map(|token| Watcher::start(&server.socket, caller(token), "ROOTCA"));
        eventually("all have what they asked for", PATIENCE, async || {
            let got = [&one, &two, &stays, &free].map(|watcher| watcher.history().len());
            if got.iter().all(|count| *count == 1) { Ok(()) } else { Err(format!("{got:?}")) }
        })
        .await;
        let labelled = json!({"name": "api", "namespace": place.apps, "labels": {"version": "2"}});
        cluster
            .apply(json!({"apiVersion": "v1", "kind": "Pod", "metadata": labelled,
                "spec": {"serviceAccountName": "api", "containers": [{"name": "app", "image": "app"}]}}))
            .await;

        cluster.delete_pod_now(&place.apps, "web").await;
        stream_has_ended(&one).await;
        assert_eq!(fetch(&server, &first).await.expect_err("it is gone").code(), Code::Unauthenticated);
        // A pod of the same name is another one.
        cluster.pod(&place.apps, "web", "web").await;
        assert_eq!(fetch(&server, &first).await.expect_err("it is gone").code(), Code::Unauthenticated);
        let anew = place.token("web", Some("web"), AUDIENCE).await;
        assert_eq!(fetch(&server, &anew).await.expect("it is good"), 1);
        assert_eq!([two.ends().len(), stays.ends().len(), free.ends().len()], [0; 3]);

        cluster.delete("v1", "ServiceAccount", Some(&place.apps), "web").await;
        stream_has_ended(&two).await;
        stream_has_ended(&free).await;
        // So is an account of the same name.
        cluster.service_account(&place.apps, "web").await;
        assert_eq!(fetch(&server, &second).await.expect_err("it is gone").code(), Code::Unauthenticated);
        assert_eq!(stays.ends(), [""; 0]);
        stays.assert_sound();
        server.assert_running();
        server.assert_discreet();
    }
}

/// A finalizer keeps an account that was deleted. The API server accepts its tokens for a minute more, and so does the
/// server; then the stream ends, and no other is opened.
#[tokio::test]
async fn a_finalizer_keeps_no_proof_alive() {
    let cluster = Cluster::shared();
    let place = Deployment::new(cluster, "finalizer").await;
    let mut server = serve(&place, ", verify: jwks").await;
    let token = place.workload("web").await;
    let account = |finalizers: &[&str]| {
        let metadata = json!({"name": "web", "namespace": place.apps, "finalizers": finalizers});
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    };
    cluster.apply(account(&["example.com/keep"])).await;
    let watcher = Watcher::start(&server.socket, caller(&token), "ROOTCA");
    eventually("it has what it asked for", PATIENCE, async || {
        if watcher.history().len() == 1 { Ok(()) } else { Err(format!("{:?}", watcher.ends())) }
    })
    .await;
    cluster.delete("v1", "ServiceAccount", Some(&place.apps), "web").await;
    assert_eq!(fetch(&server, &token).await.expect("it is good for a minute"), 1);
    assert_eq!(watcher.ends(), [""; 0]);
    stream_ends_within(2 * PATIENCE, &watcher).await;
    assert!(cluster.get("v1", "ServiceAccount", Some(&place.apps), "web").await.is_some(), "it is still there");
    assert_eq!(fetch(&server, &token).await.expect_err("it is over").code(), Code::Unauthenticated);
    cluster.apply(account(&[])).await;
    server.assert_running();
    server.assert_discreet();
}

/// With the cluster's keys the server needs no reviews: an Envoy is served although it may not ask for any. A token of
/// another issuer, for somebody else, expired or with a signature that does not fit is refused; and without the permission
/// to see pods nobody is let in, and the log says which one is missing.
#[tokio::test]
async fn tokens_are_verified_with_the_clusters_keys() {
    let cluster = Cluster::shared();
    let place = Deployment::new(cluster, "jwks").await;
    forbid_reviews(&place).await;
    let server = serve(&place, ", verify: jwks").await;
    let good = place.workload("web").await;
    let mut envoy =
        Proxy::start(&server, "web", Login::EnvoyGrpc { token: &good }, free_address(), free_address()).await;
    envoy.ready().await;
    envoy.shows("a certificate", |leaf| leaf.uris == [place.spiffe_id("web")]).await;

    let key = cluster.dir().join("accounts.key");
    // That the others are refused is because of what they say.
    assert_eq!(fetch(&server, &signed_anew(&key, &good, |_| {})).await.expect("it is good"), 1);
    let (head, signature) = good.rsplit_once('.').expect("a JWT has a signature");
    let flipped = if signature.starts_with('A') { "B" } else { "A" };
    let own_key = cluster.dir().join(format!("{}.key", place.system));
    fs::write(&own_key, crate::support::pki::new_key().serialize_pem()).expect("the scratch folder can be written");
    for (what, token) in [
        ("another issuer", signed_anew(&key, &good, |claims| claims["iss"] = json!("https://elsewhere.example"))),
        ("another audience", place.token("web", Some("web"), "somebody-else").await),
        ("expired", signed_anew(&key, &good, |claims| claims["exp"] = json!(1))),
        ("another account", signed_anew(&key, &good, |claims| claims["kubernetes.io"]["namespace"] = json!("default"))),
        ("another pod", signed_anew(&key, &good, |claims| claims["kubernetes.io"]["pod"]["uid"] = json!("0-0"))),
        ("another key", signed_anew(&own_key, &good, |_| {})),
        ("a signature that was changed", format!("{head}.{flipped}{}", &signature[1..])),
    ] {
        let refused = fetch(&server, &token).await.expect_err(what);
        assert_eq!(refused.code(), Code::Unauthenticated, "{what}: {refused:?}");
    }

    // By a file, which says nothing of the issuer.
    let client = cluster.client().await;
    let request = http::Request::get("/openid/v1/jwks").body(Vec::new()).expect("a valid request");
    let keys = client.request_text(request).await.expect("the API server gives its keys");
    let file = cluster.dir().join(format!("{}.jwks", place.system));
    fs::write(&file, keys).expect("the scratch folder can be written");
    let by_file = |issuer: &str| format!(", verify: jwks, issuer: '{issuer}', jwks: {{file: {}}}", file.display());
    let with_file = serve(&place, &by_file("https://kubernetes.default.svc")).await;
    assert_eq!(fetch(&with_file, &good).await.expect("it is good"), 1);
    let elsewhere = serve(&place, &by_file("https://elsewhere.example")).await;
    assert_eq!(fetch(&elsewhere, &good).await.expect_err("another issuer").code(), Code::Unauthenticated);

    // Who may see no pods cannot judge.
    let binding = format!("envoy-sds-identify-{}", place.system);
    cluster.delete("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", None, &binding).await;
    let blind = serve(&place, &by_file("https://kubernetes.default.svc")).await;
    eventually("it cannot be judged", PATIENCE, async || match fetch(&blind, &good).await {
        Err(status) if status.code() == Code::Unavailable => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    blind.logs("INFO", &["refused", "forbidden", "deploy/rbac.yaml"]).await;
    blind.says(&["the cluster's pods: cannot be listed", "forbidden"]).await;
    for server in [&server, &with_file, &elsewhere, &blind] {
        server.assert_discreet();
    }
}
