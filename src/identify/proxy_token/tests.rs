use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::*;
use crate::identify::BearerToken;
use crate::model::secrets::{ClusterSecrets, MeshSecrets, SecretBytes};

const NOW: i64 = 1_800_000_000;

struct Rig {
    tokens: ProxyTokens,
    key: SigningKey,
    folder: tempfile::TempDir,
    _tasks: Tasks,
}

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

fn rig_with(revocations: impl FnOnce(&Path) -> Option<RevocationSource>) -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    let (tasks, _) = Tasks::new();
    let settings = Settings {
        keys: KeySource::Folder(keys.clone()),
        audiences: vec![DEFAULT_AUDIENCE.to_owned()],
        revocations: revocations(folder.path()),
    };
    let tokens = ProxyTokens::start(settings, Clock::fixed(now()), &tasks).unwrap();
    let key = newest_or_create(&keys).unwrap().key;
    Rig { tokens, key, folder, _tasks: tasks }
}

fn rig() -> Rig {
    rig_with(|_| None)
}

fn request() -> Request {
    Request {
        mesh: "default".to_owned(),
        name: "web-0".to_owned(),
        workload: "web".to_owned(),
        labels: BTreeMap::from([("app".to_owned(), "web".to_owned())]),
        audiences: vec![DEFAULT_AUDIENCE.to_owned()],
        valid_for: Duration::from_secs(3600),
    }
}

fn claims() -> Value {
    json!({
        "iss": "envoy-sds", "aud": "envoy-sds", "exp": NOW + 3600, "nbf": NOW, "iat": NOW, "jti": "a1",
        "mesh": "default", "name": "web-0", "workload": "web",
    })
}

/// The claims with one of them another.
fn with(claim: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[claim] = value;
    claims
}

fn without(claim: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(claim);
    claims
}

fn encode(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(header), part(claims))
}

/// A token with any header, signed with the key.
fn signed(key: &SigningKey, header: &Value, claims: &Value) -> String {
    let signed = encode(header, claims);
    let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &key.encoding(), Algorithm::ES256).unwrap();
    format!("{signed}.{signature}")
}

fn header(key: &SigningKey) -> Value {
    json!({"alg": "ES256", "kid": key.kid(), "typ": "JWT"})
}

impl Rig {
    async fn identify(&self, token: impl Into<String>) -> Result<Option<Proof>, IdentifyError> {
        let bearer_token = Some(BearerToken::new(token.into()));
        self.tokens.identify(&Evidence { bearer_token, ..Evidence::default() }).await
    }

    async fn refused(&self, token: String) -> String {
        let error = self.identify(token.clone()).await.unwrap_err();
        assert!(matches!(&error, IdentifyError::Refused { method: METHOD, .. }), "{error:?}");
        let text = error.to_string();
        assert!(token.split('.').all(|part| part.len() < 8 || !text.contains(part)), "{text}");
        text
    }
}

#[tokio::test]
async fn what_is_issued_proves_what_it_says() {
    let rig = rig();
    assert_eq!(rig.tokens.identify(&Evidence::default()).await, Ok(None));
    let Issued { token, id, until } = issue(&rig.key, &request(), now()).unwrap();
    let proof = rig.identify(token.expose()).await.unwrap().unwrap();
    assert_eq!(
        (proof.method, proof.mesh.as_deref(), proof.instance.as_deref()),
        (METHOD, Some("default"), Some("web-0"))
    );
    assert_eq!(proof.workload, Workload { name: Some("web".into()), ..Workload::default() });
    assert_eq!(proof.labels, Labels::from([("app".into(), "web".into())]));
    assert_eq!((proof.until, until), (Some(until), now() + SignedDuration::from_hours(1)));
    assert!(proof.standing.facts().is_ok());
    assert_ne!(issue(&rig.key, &request(), now()).unwrap().id, id);
    // Another issuer of the same claims may leave out what is optional.
    for good in
        [claims(), without("nbf"), without("iat"), with("aud", json!(["x", "envoy-sds"])), with("iat", json!(NOW + 60))]
    {
        assert!(rig.identify(signed(&rig.key, &header(&rig.key), &good)).await.is_ok(), "{good}");
    }
}

#[tokio::test]
async fn a_service_account_token_is_for_another_method() {
    let rig = rig();
    let claims = json!({"iss": "https://kubernetes.default.svc", "aud": ["envoy-sds"], "kubernetes.io": {}});
    let token = format!("{}.c2ln", encode(&json!({"alg": "RS256", "kid": "x"}), &claims));
    assert_eq!(rig.identify(token).await, Ok(None));
}

#[tokio::test]
async fn whatever_is_wrong_is_refused_with_a_reason() {
    let rig = rig();
    let good = header(&rig.key);
    for (claims, reason) in [
        (with("iss", json!("kuma")), "no proxy token, nor one of a service account"),
        (without("iss"), "no proxy token"),
        (with("exp", json!(NOW)), "token a1 expired at 2027-01-15T08:00:00Z; issue another one"),
        (with("exp", json!(i64::MAX)), "the end of token a1 (exp) is no time that there is"),
        (without("exp"), "missing field `exp`"),
        (with("exp", json!("soon")), "cannot be read"),
        (with("nbf", json!(NOW + 61)), "of the future (nbf)"),
        (with("iat", json!(NOW + 61)), "of the future (iat)"),
        (without("aud"), "missing field `aud`"),
        (with("aud", json!(["other"])), "is for [\"other\"], not for [\"envoy-sds\"]"),
        (with("aud", json!([])), "is for []"),
        (without("jti"), "missing field `jti`"),
        (with("jti", json!("")), "its jti is empty"),
        (without("mesh"), "missing field `mesh`"),
        (without("name"), "missing field `name`"),
        (with("workload", json!("")), "its workload is empty"),
        (with("name", json!("web\n0")), "cannot be shown"),
        (with("name", json!("w\u{200b}eb")), "cannot be shown"),
        (with("name", json!(" web")), "space around it"),
        (with("name", json!("x".repeat(254))), "254 bytes; at most 253"),
        (with("labels", json!({"": "x"})), "key of one of its labels is empty"),
        (with("labels", json!({"app": "x\u{7}"})), "label \"app\" has characters"),
        (with("labels", json!({"app": "x".repeat(4096)})), "1 labels with 4099 bytes"),
        (
            with("labels", (0..33).map(|n| (n.to_string(), json!("x"))).collect::<serde_json::Map<_, _>>().into()),
            "33 labels",
        ),
        (with("labels", json!({"app": 1})), "cannot be read"),
    ] {
        let told = rig.refused(signed(&rig.key, &good, &claims)).await;
        assert!(told.contains(reason), "{told:?} does not say {reason:?}");
    }
    for (header, reason) in [
        (json!({"alg": "ES256"}), "(kid)"),
        (json!({"alg": "ES256", "kid": "abc"}), "signed with key abc that is not known here (known: "),
        (json!({"alg": "ES256", "kid": "a b\n"}), "signed with a key that is not known"),
        (json!({"alg": "ES384", "kid": rig.key.kid()}), "not signed with ES256"),
        (json!({"alg": "none", "kid": rig.key.kid()}), "not signed with ES256"),
        (json!({"alg": "es256", "kid": rig.key.kid()}), "not signed with ES256"),
        (json!({"kid": rig.key.kid()}), "missing field `alg`"),
        (json!({"alg": "ES256", "kid": rig.key.kid(), "crit": ["x"]}), "critical"),
    ] {
        let told = rig.refused(signed(&rig.key, &header, &claims())).await;
        assert!(told.contains(reason), "{told:?} does not say {reason:?}");
    }
}

#[tokio::test]
async fn only_the_key_itself_signs() {
    let rig = rig();
    let elsewhere = tempfile::tempdir().unwrap();
    let other = create(elsewhere.path()).unwrap();
    let by_another = signed(&other, &header(&rig.key), &claims());
    let mine = signed(&rig.key, &header(&rig.key), &claims());
    // The public key as a shared secret (RFC 8725 §2.1).
    let point = rig.key.public().decoding();
    let shared = EncodingKey::from_secret(point.try_get_as_bytes().unwrap());
    let symmetric = Header { kid: Some(rig.key.kid().to_owned()), ..Header::new(Algorithm::HS256) };
    let symmetric = jsonwebtoken::encode(&symmetric, &claims(), &shared).unwrap();
    let changed = {
        let (_, signature) = mine.rsplit_once('.').unwrap();
        format!("{}.{signature}", encode(&header(&rig.key), &with("name", json!("web-1"))))
    };
    let unsigned = format!("{}.", encode(&header(&rig.key), &claims()));
    for (token, reason) in [
        (by_another, "the signature is not one of key"),
        (changed, "the signature is not one of key"),
        (unsigned, "the signature is not one of key"),
        (format!("{mine}A"), "the signature is not one of key"),
        (symmetric, "not signed with ES256"),
        ("rubbish".to_owned(), "not a JWT"),
        ("a.b".to_owned(), "not a JWT"),
        ("....".to_owned(), "not base64"),
        ("é.é.é".to_owned(), "not base64"),
        ("x".repeat(20_000), "20000 bytes; at most 16384"),
    ] {
        let told = rig.refused(token).await;
        assert!(told.contains(reason), "{told:?} does not say {reason:?}");
    }
}

/// Waits until the standing has another answer.
async fn changed(proof: &Proof, wanted: impl Fn(&Result<(), IdentifyError>) -> bool) {
    let wait = async {
        let mut changes = proof.standing.changes();
        while !wanted(&proof.standing.facts().map(drop)) {
            changes.next().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.expect("it changes");
}

fn is_refused(standing: &Result<(), IdentifyError>) -> bool {
    matches!(standing, Err(IdentifyError::Refused { .. }))
}

#[tokio::test]
async fn several_keys_at_once_and_one_that_is_removed_ends_its_tokens() {
    let rig = rig();
    let keys = rig.folder.path().join("keys");
    let old = issue(&rig.key, &request(), now()).unwrap();
    let by_old = rig.identify(old.token.expose()).await.unwrap().unwrap();
    let mut changes = by_old.standing.changes();
    let newer = create(&keys).unwrap();
    let new = issue(&newer, &request(), now()).unwrap();
    tokio::time::timeout(Duration::from_secs(30), changes.next()).await.expect("the new key is seen");
    let by_new = rig.identify(new.token.expose()).await.unwrap().unwrap();
    assert!(rig.identify(old.token.expose()).await.is_ok());

    // Half a file is not the end of a key.
    let file = |key: &SigningKey| keys.join(format!("{}.key", key.kid()));
    let mut problems = rig.tokens.problems();
    let text = std::fs::read(file(&newer)).unwrap();
    std::fs::write(file(&newer), &text[..40]).unwrap();
    let told = problems.wait_for(|problems| !problems.is_empty());
    let told = tokio::time::timeout(Duration::from_secs(30), told).await.unwrap().unwrap()[0].to_string();
    assert!(told.contains("expected one private key") && !told.contains("MIG"), "{told}");
    assert!(by_new.standing.facts().is_ok());

    std::fs::remove_file(file(&rig.key)).unwrap();
    changed(&by_old, is_refused).await;
    assert!(by_old.standing.facts().unwrap_err().to_string().contains("was removed"));
    assert!(rig.refused(old.token.expose().to_owned()).await.contains("not known here"));
    assert!(by_new.standing.facts().is_ok());
}

#[tokio::test]
async fn a_list_in_a_file_revokes_while_streams_live() {
    let rig = rig_with(|folder| Some(RevocationSource::File(folder.join("revoked"))));
    let file = rig.folder.path().join("revoked");
    let Issued { token, id, .. } = issue(&rig.key, &request(), now()).unwrap();
    let other = issue(&rig.key, &request(), now()).unwrap();
    // There is no list yet, so nothing is known.
    let error = rig.identify(token.expose()).await.unwrap_err();
    assert!(matches!(&error, IdentifyError::Unavailable { method: METHOD, .. }), "{error}");
    let mut problems = rig.tokens.problems();
    assert!(problems.borrow_and_update()[0].to_string().contains("revocations: "));

    std::fs::write(&file, "# none\n").unwrap();
    let wait = problems.wait_for(|problems| problems.is_empty());
    tokio::time::timeout(Duration::from_secs(30), wait).await.expect("it is read").unwrap();
    let proof = rig.identify(token.expose()).await.unwrap().unwrap();
    std::fs::write(&file, format!("zz, {id} # web-0\n")).unwrap();
    changed(&proof, is_refused).await;
    assert!(rig.refused(token.expose().to_owned()).await.contains(&format!("token {id} is revoked")));
    assert!(rig.identify(other.token.expose()).await.is_ok());

    // What it said last holds.
    std::fs::remove_file(&file).unwrap();
    let wait = problems.wait_for(|problems| !problems.is_empty());
    tokio::time::timeout(Duration::from_secs(30), wait).await.expect("it is told").unwrap();
    assert!(rig.refused(token.expose().to_owned()).await.contains("is revoked"));
    assert!(rig.identify(other.token.expose()).await.is_ok());
}

/// In paused time, where the files are looked at whenever nothing else is left to do.
#[tokio::test(start_paused = true)]
async fn a_list_in_a_file_that_loses_ids_counts_when_it_stays_so() {
    let rig = rig_with(|folder| {
        std::fs::write(folder.join("revoked"), "a1\n").unwrap();
        Some(RevocationSource::File(folder.join("revoked")))
    });
    assert!(rig.refused(signed(&rig.key, &header(&rig.key), &claims())).await.contains("token a1 is revoked"));
    std::fs::write(rig.folder.path().join("revoked"), "b2\n").unwrap();
    let other = || rig.tokens.live.revocations().contain("default", "b2") == Ok(true);
    let mut changes = rig.tokens.live.changes();
    while !other() {
        changes.next().await.unwrap();
    }
    let seen = tokio::time::Instant::now();
    assert!(rig.refused(signed(&rig.key, &header(&rig.key), &claims())).await.contains("token a1 is revoked"));
    changes.next().await.unwrap();
    assert!(rig.identify(signed(&rig.key, &header(&rig.key), &claims())).await.is_ok());
    let waited = seen.elapsed();
    assert!(waited >= settling::SETTLED && waited < 2 * settling::SETTLED, "{waited:?}");
}

#[tokio::test]
async fn a_list_in_a_secret_is_the_mesh_s_own() {
    let (publish, secrets) = watch::channel(Arc::new(KnownSecrets::default()));
    publish.send_replace(Arc::new(KnownSecrets { cluster: ClusterSecrets::Pending, ..KnownSecrets::default() }));
    let rig = rig_with(|_| Some(RevocationSource::Secret { name: "revoked-<mesh>".to_owned(), secrets }));
    let Issued { token, id, .. } = issue(&rig.key, &request(), now()).unwrap();
    let error = rig.identify(token.expose()).await.unwrap_err();
    assert!(matches!(&error, IdentifyError::Unavailable { .. }) && error.to_string().contains("listed"), "{error}");

    let secret = |mesh: &str| {
        let content = SecretBytes::new(id.clone().into_bytes());
        let secrets: MeshSecrets = [((mesh.into(), format!("revoked-{mesh}").into()), content)].into_iter().collect();
        Arc::new(KnownSecrets { cluster: ClusterSecrets::Listed(Arc::new(secrets)), ..KnownSecrets::default() })
    };
    let mut revocations = rig.tokens.live.changes();
    publish.send_replace(secret("other"));
    revocations.next().await.unwrap();
    let proof = rig.identify(token.expose()).await.unwrap().unwrap();
    publish.send_replace(secret("default"));
    changed(&proof, is_refused).await;
    publish.send_replace(secret("other"));
    changed(&proof, Result::is_ok).await;
}

#[tokio::test]
async fn public_keys_alone_verify() {
    let folder = tempfile::tempdir().unwrap();
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let (file, missing) = (folder.path().join("key.pem"), folder.path().join("none.pem"));
    std::fs::write(&file, pair.public_key_pem()).unwrap();
    let (tasks, _deaths) = Tasks::new();
    let start = |keys: Vec<(&str, &Path)>| {
        let keys = keys.into_iter().map(|(kid, file)| (kid.to_owned(), file.to_owned())).collect();
        let settings = Settings { keys: KeySource::Files(keys), audiences: vec!["x".to_owned()], revocations: None };
        ProxyTokens::start(settings, Clock::fixed(now()), &tasks)
    };
    let problems = start(vec![("mine", &file), ("none", &missing)]).unwrap_err();
    assert!(problems[0].to_string().contains("none.pem: cannot be read"), "{problems:?}");

    let tokens = start(vec![("mine", &file)]).unwrap();
    let header = Header { kid: Some("mine".to_owned()), ..Header::new(Algorithm::ES256) };
    let key = EncodingKey::from_ec_der(pair.serialized_der());
    let token = jsonwebtoken::encode(&header, &with("aud", json!("x")), &key).unwrap();
    let evidence = Evidence { bearer_token: Some(BearerToken::new(token)), ..Evidence::default() };
    let proof = tokens.identify(&evidence).await.unwrap().unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no key is made");
    std::fs::remove_file(&file).unwrap();
    changed(&proof, is_refused).await;
}

#[test]
fn what_cannot_be_is_not_issued() {
    let folder = tempfile::tempdir().unwrap();
    let key = create(folder.path()).unwrap();
    for (request, reason) in [
        (Request { mesh: "Default".to_owned(), ..request() }, "no trust domain"),
        (Request { workload: "a/b".to_owned(), ..request() }, "cannot be part of a SPIFFE ID"),
        (Request { workload: "..".to_owned(), ..request() }, "cannot be part of a SPIFFE ID"),
        (Request { name: String::new(), ..request() }, "its name is empty"),
        (Request { audiences: vec![String::new()], ..request() }, "its audience is empty"),
        (Request { labels: [("a b".to_owned(), "c".to_owned())].into(), ..request() }, "has a space in its key"),
        (Request { valid_for: Duration::from_millis(999), ..request() }, "a second at least"),
        (Request { valid_for: Duration::MAX, ..request() }, "that long"),
    ] {
        let told = issue(&key, &request, now()).unwrap_err();
        assert!(told.contains(reason), "{told}");
        assert_eq!(request.check(now()), Err(told));
    }
}
