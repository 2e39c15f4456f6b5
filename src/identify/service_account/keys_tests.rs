//! Tests of [`super`].

use axum::http::Method;
use serde_json::{Value, json};

use super::super::jwks::tests::{ISSUER, Signer, claims, set};
use super::*;
use crate::testing::fake_cluster::{FakeApi, Fault};

/// What the API server has at the two paths: its store takes any object, and answers with the whole of it.
fn publish(api: &FakeApi, signers: &[&Signer]) {
    let mut keys: Value = serde_json::from_slice(&set(signers)).unwrap();
    keys["metadata"] = json!({"name": KEYS});
    api.put(KEYS, keys);
    api.put(DISCOVERY, json!({"metadata": {"name": DISCOVERY}, "issuer": ISSUER}));
}

async fn verify(keys: &Keys, token: &str) -> Result<Verified, Unverified> {
    keys.verify(token, &["envoy-sds".to_owned()], Timestamp::UNIX_EPOCH).await
}

fn is_refused(result: Result<Verified, Unverified>) -> bool {
    matches!(result, Err(Unverified::Refused(_)))
}

#[tokio::test(start_paused = true)]
async fn a_new_key_is_fetched_when_a_token_names_it_but_not_for_each() {
    let (api, (tasks, _deaths)) = (FakeApi::default(), Tasks::new());
    let (one, two) = (Signer::new("one"), Signer::new("two"));
    publish(&api, &[&one]);
    let keys = Keys::of_cluster(api.client(), None, &tasks);
    let known = verify(&keys, &one.sign(&claims())).await.unwrap();
    for _ in 0..5 {
        assert!(is_refused(verify(&keys, &Signer::new("other").sign(&claims())).await));
    }
    let get = format!("GET {KEYS}");
    assert_eq!(api.count(&get), 1);
    publish(&api, &[&one, &two]);
    tokio::time::sleep(AT_MOST_EVERY).await;
    assert!(verify(&keys, &two.sign(&claims())).await.is_ok());
    assert_eq!(api.count(&get), 2);
    assert!(known.standing.facts().is_ok());
    // A key that is withdrawn ends what it proved.
    let mut changes = known.standing.changes();
    publish(&api, &[&two]);
    tokio::time::timeout(2 * REFRESH, changes.next()).await.unwrap().unwrap();
    assert!(known.standing.facts().is_err());
    assert!(is_refused(verify(&keys, &one.sign(&claims())).await));
}

#[tokio::test(start_paused = true)]
async fn the_last_good_keys_stay() {
    let (api, (tasks, _deaths)) = (FakeApi::default(), Tasks::new());
    let one = Signer::new("one");
    api.fault(Method::GET, DISCOVERY, Fault::Refuse(403, "forbidden: User cannot get path"));
    publish(&api, &[&one]);
    let keys = Keys::of_cluster(api.client(), None, &tasks);
    match verify(&keys, &one.sign(&claims())).await {
        Err(Unverified::Unavailable(reason)) => assert!(reason.contains("rbac.yaml"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert!(keys.problems().borrow()[0].to_string().contains("forbidden"));
    tokio::time::sleep(2 * RETRY).await;
    assert!(keys.problems().borrow().is_empty());
    assert!(verify(&keys, &one.sign(&claims())).await.is_ok());
    api.set_down(true);
    tokio::time::sleep(10 * REFRESH).await;
    assert!(keys.problems().borrow()[0].to_string().contains("the last good ones count"));
    assert!(verify(&keys, &one.sign(&claims())).await.is_ok());
    let unknown = verify(&keys, &Signer::new("two").sign(&claims())).await;
    assert!(matches!(unknown, Err(Unverified::Unavailable(_))), "{unknown:?}");
}

#[tokio::test(start_paused = true)]
async fn the_configured_issuer_counts() {
    let (api, (tasks, _deaths)) = (FakeApi::default(), Tasks::new());
    let one = Signer::new("one");
    publish(&api, &[&one]);
    let keys = Keys::of_cluster(api.client(), Some("https://elsewhere".to_owned()), &tasks);
    assert!(is_refused(verify(&keys, &one.sign(&claims())).await));
}

#[tokio::test]
async fn a_file_is_followed_and_a_broken_one_changes_nothing() {
    let (tasks, _deaths) = Tasks::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    assert!(Keys::of_file(&path, ISSUER.to_owned(), &tasks).is_err());
    let (one, two) = (Signer::new("one"), Signer::new("two"));
    std::fs::write(&path, set(&[&one])).unwrap();
    let keys = Keys::of_file(&path, ISSUER.to_owned(), &tasks).unwrap();
    assert!(verify(&keys, &one.sign(&claims())).await.is_ok());
    assert!(is_refused(verify(&keys, &two.sign(&claims())).await));
    let mut state = keys.state.clone();
    std::fs::write(&path, "{").unwrap();
    let told = state.wait_for(|state| state.failure.is_some());
    tokio::time::timeout(Duration::from_secs(30), told).await.unwrap().unwrap();
    assert!(keys.problems().borrow()[0].to_string().starts_with(&format!("{}: the public keys", path.display())));
    assert!(verify(&keys, &one.sign(&claims())).await.is_ok());
    std::fs::write(&path, set(&[&two])).unwrap();
    let told = state.wait_for(|state| state.failure.is_none());
    tokio::time::timeout(Duration::from_secs(30), told).await.unwrap().unwrap();
    assert!(verify(&keys, &two.sign(&claims())).await.is_ok());
}
