//! The cluster's public keys (RFC 7517), and what they verify. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
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
}

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
    /// Reads a key set in JSON. Keys that are not there to verify signatures with, or of a kind unknown here, are left
    /// out, as RFC 7517 section 5 wants it.
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
        let keys: BTreeMap<_, _> = set.keys.into_iter().filter_map(key).collect();
        if keys.is_empty() {
            return Err("the key set has no key that could verify a token (RSA or EC, with a `kid`)".to_owned());
        }
        Ok(Self { issuer, keys })
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
        let header = jsonwebtoken::decode_header(token)
            .map_err(|error| refused(format!("the token's header cannot be read: {error}")))?;
        let kid = header.kid.ok_or_else(|| refused("the token does not say which key it is signed with".to_owned()))?;
        let key = self.keys.get(&kid).ok_or_else(|| {
            NotVerified::UnknownKey(format!("the token is signed with a key that the issuer does not have: {kid:?}"))
        })?;
        if !key.algorithms.contains(&header.alg) {
            return Err(refused(format!("the key {kid:?} is not for {:?}", header.alg)));
        }
        // Signature only: the rest is checked below, by our clock.
        let mut validation = Validation::new(header.alg);
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

fn key(json: serde_json::Value) -> Option<(String, Arc<Key>)> {
    let text = json.to_string();
    let jwk: Jwk = serde_json::from_value(json).ok()?;
    if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return None;
    }
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
            _ => return None,
        },
        // Above all no shared secrets: they would make the verifier an issuer.
        _ => return None,
    };
    if let Some(only) = jwk.common.key_algorithm {
        algorithms.retain(|algorithm| Algorithm::try_from(only) == Ok(*algorithm));
    }
    if algorithms.is_empty() {
        return None;
    }
    let decoding = DecodingKey::from_jwk(&jwk).ok()?;
    let mut digest = [0; 32];
    digest.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    Some((jwk.common.key_id?, Arc::new(Key { decoding, algorithms, digest })))
}

#[cfg(test)]
#[path = "jwks_tests.rs"]
pub(super) mod tests;
