//! Who gets nothing in a cluster.

use std::fs;
use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tonic::Code;

use crate::support::PATIENCE;
use crate::support::cluster::Cluster;
use crate::support::deployment::{AUDIENCE, Deployment};
use crate::support::eventually::{eventually, throughout};
use crate::support::ledger::Ledger;
use crate::support::mesh::{Backend, Ca, mesh};
use crate::support::proxy::{Login, Proxy, free_address};
use crate::support::sds::{self, Caller, Watcher};
use crate::support::server::Server;

/// A token that the API server did not issue but takes for its own: signed with its key. It gives none that has expired.
fn forged(key_file: &std::path::Path, claims: &Value) -> String {
    let pem = fs::read(key_file).expect("the key is there");
    let key = PrivateKeyDer::from_pem_slice(&pem).expect("the key is PEM");
    let key = EncodingKey::from_ec_der(key.secret_der());
    jsonwebtoken::encode(&Header::new(Algorithm::ES256), claims, &key).expect("claims can be signed")
}

fn claims(place: &Deployment<'_>, account: &str, uid: &str, ends_in: i64) -> Value {
    let now = jiff::Timestamp::now().as_second();
    json!({
        "iss": "https://kubernetes.default.svc",
        "aud": [AUDIENCE],
        "iat": now - 3600,
        "nbf": now - 3600,
        "exp": now + ends_in,
        "sub": format!("system:serviceaccount:{}:{account}", place.apps),
        "kubernetes.io": {"namespace": place.apps, "serviceaccount": {"name": account, "uid": uid}},
    })
}

async fn fetch(server: &Server, token: Option<&str>) -> Result<usize, tonic::Status> {
    let caller = Caller { node: "web", workload: "web", token };
    sds::fetch(&server.socket, caller, &["ROOTCA"]).await.map(|secrets| secrets.len())
}

/// Wrong audience, expired, of an account that is not there (any more), signed by somebody else, rubbish, or none at all:
/// each is refused, and not one CertificateRequest is made; neither for a client that asks once nor for an Envoy that
/// asks again and again. The Envoy is served as soon as its token file has a good one. A stream ends with its token.
#[tokio::test]
async fn without_a_good_token_nothing_is_given_and_nothing_is_issued() {
    let cluster = Cluster::shared();
    let place = Deployment::new(cluster, "tokens").await;
    let ca = cluster.ca_issuer_with_intermediate(&place.system, "mesh").await;
    let backend =
        Backend { name: "certmanager-1", issuer_kind: "Issuer", issuer: "mesh", ca: Ca::Inline(&ca.root_pem) };
    let mut server = place.serve(&mesh("certmanager-1", "1h", &[backend])).await;
    server.ready().await;
    let ledger = Ledger::open(cluster, &place.system).await;

    let good = place.workload("web").await;
    let account = cluster.get("v1", "ServiceAccount", Some(&place.apps), "web").await.expect("it is there");
    let uid = account.metadata.uid.expect("it has a uid");
    let key = cluster.dir().join("accounts.key");
    place.workload("gone").await;
    let gone = place.token("gone", None, AUDIENCE).await;
    cluster.delete("v1", "ServiceAccount", Some(&place.apps), "gone").await;
    let own_key = place.cluster.dir().join(format!("{}.key", place.system));
    fs::write(&own_key, crate::support::pki::new_key().serialize_pem()).expect("the scratch folder can be written");
    let expired = forged(&key, &claims(&place, "web", &uid, -60));

    // That the forged ones below are refused is because of what they say, and not because they are forged badly.
    assert_eq!(fetch(&server, Some(&forged(&key, &claims(&place, "web", &uid, 600)))).await.expect("it is good"), 1);

    let bad = [
        ("no token", None),
        ("rubbish", Some("rubbish".to_owned())),
        ("another audience", Some(place.token("web", Some("web"), "somebody-else").await)),
        ("the API server's audience", Some(place.token("web", Some("web"), "https://kubernetes.default.svc").await)),
        ("an expired token", Some(expired.clone())),
        ("an account that never was", Some(forged(&key, &claims(&place, "nobody", &uid, 600)))),
        ("an account that is gone", Some(gone)),
        ("an account with another uid", Some(forged(&key, &claims(&place, "web", "0-0-0-0", 600)))),
        ("somebody else's signature", Some(forged(&own_key, &claims(&place, "web", &uid, 600)))),
    ];
    for (what, token) in &bad {
        // The API server learns of a deletion by a watch.
        let refused = eventually(&format!("{what} is refused"), PATIENCE, async || {
            match fetch(&server, token.as_deref()).await {
                Err(status) if status.code() != Code::Unavailable => Ok(status),
                other if *what == "an account that is gone" => Err(format!("{other:?}")),
                other => panic!("{what}: {other:?}"),
            }
        })
        .await;
        assert_eq!(refused.code(), Code::Unauthenticated, "{what}: {refused:?}");
        let told = format!("{refused:?}");
        assert!(!told.contains("somebody-else") && !told.contains(&place.apps), "it tells too much: {told}");
    }

    // Envoys try again and again.
    let wrong = place.token("web", Some("web"), "somebody-else").await;
    let (inbound, other) = (free_address(), free_address());
    let mut one = Proxy::start(&server, "web", Login::EnvoyGrpc { token: &wrong }, inbound, other).await;
    let mut two = Proxy::start(&server, "web-late", Login::GoogleGrpc { token: &expired }, other, inbound).await;
    for proxy in [&one, &two] {
        proxy.envoy.stat_becomes("sds.default.update_failure", PATIENCE, |count| count >= 2).await;
    }
    throughout("nobody is let in and nothing is issued", Duration::from_secs(1), async || {
        let shut = one.is_shut().await && two.is_shut().await;
        let requests = ledger.len();
        if shut && requests == 0 { Ok(()) } else { Err(format!("shut: {shut}; requests: {}", ledger.summary())) }
    })
    .await;
    let secrets = one.envoy.config_dump_secrets().await.expect("Envoy dumps its secrets");
    assert!(["default", "ROOTCA"].iter().all(|name| secrets[*name].warming), "{secrets:#?}");
    assert_eq!(server.metric("issuances_total", &[]).await, Ok(0.0));

    // A stream does not outlive the token that opened it.
    let short = forged(&key, &claims(&place, "web", &uid, 5));
    let watcher =
        Watcher::start(&server.socket, Caller { node: "web", workload: "web", token: Some(&short) }, "ROOTCA");
    eventually("the stream ends, and no other is opened", PATIENCE, async || {
        let ends = watcher.ends();
        if ends.len() > 1 && ends[1..].iter().all(|end| end.contains("nauthenticated")) {
            Ok(())
        } else {
            Err(format!("{ends:?}"))
        }
    })
    .await;
    watcher.assert_sound();
    assert_eq!(ledger.len(), 0, "{}", ledger.summary());

    // kubelet brings a good one.
    one.set_token(&good);
    two.set_token(&good);
    one.ready().await;
    two.ready().await;
    one.shows("a certificate", |leaf| leaf.uris == [place.spiffe_id("web")]).await;
    server.assert_discreet();
}
