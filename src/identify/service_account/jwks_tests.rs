//! Tests of [`super`].

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{EncodingKey, Header};
use rcgen::{KeyPair, PublicKeyData};
use serde_json::{Value, json};

use super::*;

pub(crate) const ISSUER: &str = "https://kubernetes.default.svc";

/// A key of an issuer, P-256.
pub(crate) struct Signer {
    pair: KeyPair,
    kid: &'static str,
}

impl Signer {
    pub(crate) fn new(kid: &'static str) -> Self {
        Self { pair: KeyPair::generate().unwrap(), kid }
    }

    pub(crate) fn jwk(&self) -> Value {
        let point = self.pair.der_bytes();
        let (x, y) = point[1..].split_at(32);
        let encode = |bytes| URL_SAFE_NO_PAD.encode(bytes);
        json!({"kty": "EC", "crv": "P-256", "kid": self.kid, "alg": "ES256", "use": "sig", "x": encode(x), "y": encode(y)})
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.kid.to_owned()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, claims, &EncodingKey::from_ec_der(&self.pair.serialize_der())).unwrap()
    }
}

pub(crate) fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": ["envoy-sds"], "exp": 3600, "nbf": 0, "sub": "system:serviceaccount:shop:web",
        "kubernetes.io": {
            "namespace": "shop",
            "serviceaccount": {"name": "web", "uid": "a1"},
            "pod": {"name": "web-0", "uid": "u1"},
            "node": {"name": "n", "uid": "n1"},
        },
    })
}

pub(crate) fn set(signers: &[&Signer]) -> Vec<u8> {
    let keys: Vec<Value> = signers.iter().map(|signer| signer.jwk()).collect();
    json!({"keys": keys}).to_string().into_bytes()
}

fn with(pointer: &str, value: Value) -> Value {
    let mut claims = claims();
    *claims.pointer_mut(pointer).unwrap() = value;
    claims
}

fn verify(keys: &KeySet, token: &str) -> Result<Account, NotVerified> {
    keys.verify(token, &["envoy-sds".to_owned()], Timestamp::UNIX_EPOCH).map(|(account, ..)| account)
}

#[test]
fn a_good_token_proves_account_and_pod() {
    let signer = Signer::new("one");
    let keys = KeySet::parse(&set(&[&signer]), ISSUER.to_owned()).unwrap();
    let account = verify(&keys, &signer.sign(&claims())).unwrap();
    assert_eq!((&*account.namespace, &*account.name, account.uid.as_deref()), ("shop", "web", Some("a1")));
    assert_eq!(account.pod, Some(Pod { name: "web-0".into(), uid: "u1".into() }));
    assert!(verify(&keys, &signer.sign(&with("/aud", json!("envoy-sds")))).is_ok());
    assert!(verify(&keys, &signer.sign(&with("/nbf", json!(60)))).is_ok());
}

#[test]
fn anything_else_is_refused() {
    let (signer, other) = (Signer::new("one"), Signer::new("one"));
    let keys = KeySet::parse(&set(&[&signer]), ISSUER.to_owned()).unwrap();
    let kubernetes = |bound: Value| with("/kubernetes.io", bound);
    let account = json!({"name": "web", "uid": "a1"});
    for (claims, part) in [
        (with("/iss", json!("https://elsewhere")), "issuer"),
        (with("/aud", json!(["vault"])), "is for"),
        (with("/exp", json!(0)), "expired"),
        (with("/exp", json!(null)), "no end"),
        (with("/nbf", json!(61)), "not good before"),
        (with("/sub", json!("system:serviceaccount:shop:db")), "subject"),
        (with("/sub", json!("system:node:n1")), "subject"),
        (with("/kubernetes.io/namespace", json!("bank")), "subject"),
        (
            kubernetes(json!({"namespace": "shop", "serviceaccount": account, "secret": {"name": "s", "uid": "s1"}})),
            "bound",
        ),
        (
            kubernetes(json!({"namespace": "shop", "serviceaccount": account, "node": {"name": "n", "uid": "n1"}})),
            "bound",
        ),
        (kubernetes(json!({"namespace": "shop"})), "cannot be verified"),
    ] {
        match verify(&keys, &signer.sign(&claims)) {
            Err(NotVerified::Refused(reason)) => assert!(reason.contains(part), "{reason}"),
            other => panic!("{claims}: {other:?}"),
        }
    }
    let good = signer.sign(&claims());
    let tampered = good.replacen('.', "A.", 3);
    for token in [other.sign(&claims()), tampered, good[..good.len() - 8].to_owned()] {
        assert!(matches!(verify(&keys, &token), Err(NotVerified::Refused(_))), "{token}");
    }
    let stranger = Signer::new("two").sign(&claims());
    assert!(matches!(verify(&keys, &stranger), Err(NotVerified::UnknownKey(_))));
}

#[test]
fn no_algorithm_but_the_keys_own() {
    let signer = Signer::new("one");
    let keys = KeySet::parse(&set(&[&signer]), ISSUER.to_owned()).unwrap();
    let payload = URL_SAFE_NO_PAD.encode(claims().to_string());
    for alg in ["none", "HS256", "RS256", "ES384"] {
        let header = URL_SAFE_NO_PAD.encode(json!({"alg": alg, "kid": "one"}).to_string());
        assert!(matches!(verify(&keys, &format!("{header}.{payload}.AAAA")), Err(NotVerified::Refused(_))), "{alg}");
    }
    // The public key as if it were a shared secret.
    let header = Header { kid: Some("one".to_owned()), ..Header::new(Algorithm::HS256) };
    let secret = EncodingKey::from_secret(signer.pair.der_bytes());
    let token = jsonwebtoken::encode(&header, &claims(), &secret).unwrap();
    assert!(matches!(verify(&keys, &token), Err(NotVerified::Refused(_))));
    let nameless = Header::new(Algorithm::ES256);
    let own = EncodingKey::from_ec_der(&signer.pair.serialize_der());
    let token = jsonwebtoken::encode(&nameless, &claims(), &own).unwrap();
    assert!(matches!(verify(&keys, &token), Err(NotVerified::Refused(_))));
}

/// A key of rcgen's as a JWK, and a token that it has signed.
fn jwk_and_token(algorithm: &'static rcgen::SignatureAlgorithm, of: Algorithm) -> (Value, String) {
    let pair = KeyPair::generate_for(algorithm).unwrap();
    let (public, encode) = (pair.der_bytes(), |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes));
    let (jwk, key) = match of {
        Algorithm::EdDSA => (
            json!({"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": encode(public)}),
            EncodingKey::from_ed_der(&pair.serialize_der()),
        ),
        Algorithm::ES384 => {
            let (x, y) = public[1..].split_at(48);
            let jwk = json!({"kty": "EC", "crv": "P-384", "kid": "k", "x": encode(x), "y": encode(y)});
            (jwk, EncodingKey::from_ec_der(&pair.serialize_der()))
        }
        other => panic!("{other:?}"),
    };
    let header = Header { kid: Some("k".to_owned()), ..Header::new(of) };
    (jwk, jsonwebtoken::encode(&header, &claims(), &key).unwrap())
}

/// What API servers and their external signers sign with, but for P-521.
#[test]
fn all_algorithms_that_can_be_verified_are() {
    for (algorithm, of) in
        [(&rcgen::PKCS_ED25519, Algorithm::EdDSA), (&rcgen::PKCS_ECDSA_P384_SHA384, Algorithm::ES384)]
    {
        let (jwk, token) = jwk_and_token(algorithm, of);
        let keys = KeySet::parse(json!({"keys": [jwk]}).to_string().as_bytes(), ISSUER.to_owned()).unwrap();
        assert!(verify(&keys, &token).is_ok(), "{of:?}");
        let (_, by_another) = jwk_and_token(algorithm, of);
        assert!(matches!(verify(&keys, &by_another), Err(NotVerified::Refused(_))), "{of:?}");
    }
}

#[test]
fn why_a_key_cannot_be_used_is_told_of_the_key_and_of_its_tokens() {
    let p521 = json!({"kty": "EC", "crv": "P-521", "kid": "k", "alg": "ES512", "x": "AA", "y": "AA"});
    let only = json!({"keys": [p521]}).to_string();
    let error = KeySet::parse(only.as_bytes(), ISSUER.to_owned()).unwrap_err();
    assert!(error.contains(r#""k" is of a kind unknown here"#) && error.contains("P-521"), "{error}");
    let beside = json!({"keys": [p521, Signer::new("one").jwk()]}).to_string();
    let keys = KeySet::parse(beside.as_bytes(), ISSUER.to_owned()).unwrap();
    let header = URL_SAFE_NO_PAD.encode(json!({"alg": "ES512", "kid": "k"}).to_string());
    let token = format!("{header}.{}.AAAA", URL_SAFE_NO_PAD.encode(claims().to_string()));
    match verify(&keys, &token) {
        Err(NotVerified::Refused(reason)) => {
            assert!(reason.contains("ES512") && reason.contains("tokenReview"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn keys_that_cannot_verify_are_left_out() {
    let signer = Signer::new("one");
    let mut other_use = Signer::new("two").jwk();
    other_use["use"] = json!("enc");
    let secret = json!({"kty": "oct", "kid": "three", "k": "c2VjcmV0"});
    let text = json!({"keys": [signer.jwk(), other_use, secret, {"kty": "new"}, {}]}).to_string();
    assert_eq!(KeySet::parse(text.as_bytes(), String::new()).unwrap().kids(), ["one"]);
    for bad in ["", "{}", r#"{"keys": []}"#, r#"{"keys": [{"kty": "oct", "kid": "three", "k": "c2VjcmV0"}]}"#] {
        assert!(KeySet::parse(bad.as_bytes(), String::new()).is_err(), "{bad}");
    }
}
