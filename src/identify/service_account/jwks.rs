//! The cluster's public keys (RFC 7517), and what they verify. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;

use super::Account;
use super::claims::{Claims, Kubernetes, service_account};
use crate::model::identity::Pod;

/// How far the issuer's clock may be ahead of ours (Kubernetes itself allows a minute).
const CLOCK_SKEW: SignedDuration = SignedDuration::from_secs(60);

/// A key set and whose it is.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct KeySet {
    pub(super) issuer: String,
    /// By `kid`.
    keys: BTreeMap<String, Arc<Key>>,
    /// Why others cannot be used, by `kid`.
    unusable: BTreeMap<String, String>,
}

/// What a key is that cannot be used here, to be read after its id.
const USABLE: &str = "this server verifies RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 and EdDSA (Ed25519); for \
                      others there is `verify: tokenReview`";

/// A public key. Two are the same if all that was said of them is.
pub(super) struct Key {
    decoding: DecodingKey,
    algorithms: Vec<Algorithm>,
    digest: [u8; 32],
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Key {}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySet").field("issuer", &self.issuer).field("kids", &self.kids()).finish()
    }
}

/// Why a key set does not verify a token.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotVerified {
    /// It has no such key; a newer one may have.
    UnknownKey(String),
    /// The token is no good.
    Refused(String),
}

impl KeySet {
    /// Reads a key set in JSON. Keys that are not there to verify signatures with are left out, as RFC 7517 section 5 wants
    /// it; of those that are of a kind unknown here it is kept why they cannot be used.
    ///
    /// # Errors
    /// It is not JSON, or no key is left.
    pub(super) fn parse(json: &[u8], issuer: String) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let set: Set =
            serde_json::from_slice(json).map_err(|error| format!("it is not a JSON Web Key Set: {error}"))?;
        let (mut keys, mut unusable) = (BTreeMap::new(), BTreeMap::new());
        for (kid, key) in set.keys.into_iter().filter_map(|json| Some((kid(&json)?, key(json)))) {
            match key {
                Ok(key) => drop(keys.insert(kid, Arc::new(key))),
                Err(why) => drop(unusable.insert(kid, why)),
            }
        }
        if keys.is_empty() {
            let found: Vec<String> = unusable.iter().map(|(kid, why)| format!("{kid:?} {why}")).collect();
            let found = if found.is_empty() { "none has a `kid`".to_owned() } else { found.join(", ") };
            return Err(format!("the key set has no key that could verify a token ({found}); {USABLE}"));
        }
        Ok(Self { issuer, keys, unusable })
    }

    pub(super) fn kids(&self) -> Vec<&str> {
        self.keys.keys().map(String::as_str).collect()
    }

    /// Whether the key of this name is still this one.
    pub(super) fn has(&self, kid: &str, key: &Arc<Key>) -> bool {
        self.keys.get(kid) == Some(key)
    }

    /// Whose token it is, and by which key.
    ///
    /// # Errors
    /// [`NotVerified`].
    pub(super) fn verify(
        &self,
        token: &str,
        audiences: &[String],
        now: Timestamp,
    ) -> Result<(Account, String, Arc<Key>), NotVerified> {
        let refused = |reason: String| NotVerified::Refused(reason);
        let header = Header::of(token).map_err(|why| refused(format!("the token's header cannot be read: {why}")))?;
        let kid = header.kid.ok_or_else(|| refused("the token does not say which key it is signed with".to_owned()))?;
        let key = self.keys.get(&kid).ok_or_else(|| match self.unusable.get(&kid) {
            Some(why) => refused(format!("the token is signed with the issuer's key {kid:?}, which {why}; {USABLE}")),
            None => NotVerified::UnknownKey(format!(
                "the token is signed with a key that the issuer does not have: {kid:?}"
            )),
        })?;
        let algorithm = Algorithm::from_str(&header.alg).ok().filter(|algorithm| key.algorithms.contains(algorithm));
        let algorithm =
            algorithm.ok_or_else(|| refused(format!("the key {kid:?} is not for the token's alg {:?}", header.alg)))?;
        // Signature only: the rest is checked below, by our clock.
        let mut validation = Validation::new(algorithm);
        (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
        validation.required_spec_claims.clear();
        let claims = jsonwebtoken::decode::<Claims<Kubernetes>>(token, &key.decoding, &validation)
            .map_err(|error| refused(format!("the token cannot be verified: {error}")))?
            .claims;
        let account = self.check(claims, audiences, now).map_err(NotVerified::Refused)?;
        Ok((account, kid, key.clone()))
    }

    /// What claims prove that are signed.
    fn check(&self, claims: Claims<Kubernetes>, audiences: &[String], now: Timestamp) -> Result<Account, String> {
        let issuer = claims.iss.unwrap_or_default();
        if issuer != self.issuer {
            return Err(format!("the token is of the issuer {issuer:?}, not of {:?}", self.issuer));
        }
        let claimed = claims.aud.as_slice();
        if !claimed.iter().any(|audience| audiences.contains(audience)) {
            return Err(format!("the token is for {claimed:?}, not for {audiences:?}"));
        }
        let at = |seconds: Option<i64>| seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
        match at(claims.exp) {
            None => return Err("the token has no end (exp)".to_owned()),
            Some(expires) if expires <= now => return Err(format!("the token expired at {expires}")),
            Some(_) => {}
        }
        if let Some(begins) = claims.nbf {
            let begins = at(Some(begins)).ok_or("the token's beginning (nbf) is no time")?;
            if begins.duration_since(now) > CLOCK_SKEW {
                return Err(format!("the token is not good before {begins}"));
            }
        }
        let kubernetes = claims.kubernetes.ok_or("the token is not a service account's")?;
        let subject = claims.sub.unwrap_or_default();
        let named = (kubernetes.namespace.as_str(), kubernetes.serviceaccount.name.as_str());
        if service_account(&subject) != Some(named) {
            return Err(format!("the token's subject {subject:?} is not the service account that it names"));
        }
        // The end of such an object ends the token, and nobody here would notice.
        if kubernetes.secret.is_some() || (kubernetes.node.is_some() && kubernetes.pod.is_none()) {
            return Err(
                "the token is bound to a Secret or a node, which only `verify: tokenReview` can judge".to_owned()
            );
        }
        Ok(Account {
            namespace: kubernetes.namespace.into(),
            name: kubernetes.serviceaccount.name.into(),
            uid: Some(kubernetes.serviceaccount.uid.into()),
            pod: kubernetes.pod.map(|pod| Pod { name: pod.name.into(), uid: pod.uid.into() }),
        })
    }
}

/// What counts of a token's header: the library knows only the algorithms that it has.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
}

impl Header {
    fn of(token: &str) -> Result<Self, String> {
        let header = token.split('.').next().unwrap_or_default();
        let header = URL_SAFE_NO_PAD.decode(header).map_err(|error| error.to_string())?;
        serde_json::from_slice(&header).map_err(|error| error.to_string())
    }
}

/// The id of a key that is there to verify signatures with.
fn kid(json: &serde_json::Value) -> Option<String> {
    let is_for_signatures = json.get("use").is_none_or(|purpose| purpose.as_str() == Some("sig"));
    json.get("kid").filter(|_| is_for_signatures)?.as_str().map(str::to_owned)
}

/// A key, or why it cannot be used, to be read after its id.
fn key(json: serde_json::Value) -> Result<Key, String> {
    let text = json.to_string();
    let said = |name: &str| json.get(name).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    let (kind, curve, named) = (said("kty"), said("crv"), said("alg"));
    let what = || format!("is of a kind unknown here (kty {kind:?}, crv {curve:?}, alg {named:?})");
    let jwk: Jwk = serde_json::from_value(json).map_err(|_error| what())?;
    let mut algorithms = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => vec![
            Algorithm::RS256,
            Algorithm::RS384,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::PS384,
            Algorithm::PS512,
        ],
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => vec![Algorithm::ES256],
            EllipticCurve::P384 => vec![Algorithm::ES384],
            _ => return Err(what()),
        },
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => vec![Algorithm::EdDSA],
        // Above all no shared secrets: they would make the verifier an issuer.
        _ => return Err(what()),
    };
    if let Some(only) = jwk.common.key_algorithm {
        algorithms.retain(|algorithm| Algorithm::try_from(only) == Ok(*algorithm));
    }
    if algorithms.is_empty() {
        return Err(what());
    }
    let decoding = DecodingKey::from_jwk(&jwk).map_err(|error| format!("cannot be read: {error}"))?;
    let mut digest = [0; 32];
    digest.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    Ok(Key { decoding, algorithms, digest })
}

#[cfg(test)]
#[path = "jwks_tests.rs"]
pub(super) mod tests;
