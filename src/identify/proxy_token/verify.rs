//! The verdict on a token. Pure.

use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, crypto};

use super::claims::{Claims, ISSUER, Parts};
use super::key::{VerifyingKey, is_kid};
use super::keys::Keys;

/// The only algorithm: it is the server's choice, never the token's (RFC 8725 §3.1).
const ALGORITHM: &str = "ES256";

/// How far the clock of whoever issued the token may be ahead.
const LEEWAY: SignedDuration = SignedDuration::from_secs(60);

/// A token of ours.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) claims: Claims,
    /// The key that has signed it.
    pub(super) key: VerifyingKey,
}

/// Why it is not.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is a service account token, which another method judges.
    OfAnotherKind,
    /// For this reason; what it takes to be accepted is in it, and nothing of the token but its names.
    Bad(String),
}

impl<T: Into<String>> From<T> for Refusal {
    fn from(reason: T) -> Self {
        Self::Bad(reason.into())
    }
}

/// Looks at everything in `token` but whether it has been revoked.
///
/// # Errors
/// [`Refusal`].
pub(super) fn verify(token: &str, keys: &Keys, audiences: &[String], now: Timestamp) -> Result<Verified, Refusal> {
    let parts = Parts::of(token)?;
    let kind = parts.kind()?;
    if kind.kubernetes.is_some() {
        return Err(Refusal::OfAnotherKind);
    }
    if kind.iss.as_deref() != Some(ISSUER) {
        return Err(format!(
            "the bearer token is no proxy token, nor one of a service account (iss is not {ISSUER}); proxy tokens come \
             from envoy-sds token issue"
        )
        .into());
    }
    if parts.header.alg != ALGORITHM {
        return Err(format!("the token is not signed with {ALGORITHM}; no other algorithm is accepted").into());
    }
    if parts.header.crit.is_some() {
        return Err("the token has critical extensions (crit), and none is known".into());
    }
    let key = key_of(&parts, keys)?;
    let good = crypto::verify(parts.signature, parts.signed.as_bytes(), &key.decoding(), Algorithm::ES256);
    if !matches!(good, Ok(true)) {
        return Err(format!(
            "the signature is not one of key {}: the token was changed, or signed by another key of that id",
            key.kid()
        )
        .into());
    }
    let claims = parts.claims()?;
    check_times(&claims, now)?;
    let for_us = claims.aud.as_slice();
    if !for_us.iter().any(|audience| audiences.contains(audience)) {
        return Err(format!(
            "the token is for {for_us:?}, not for {audiences:?}; see token issue --audience, and \
             identify.proxyToken.audiences"
        )
        .into());
    }
    claims.check().map_err(|why| format!("the token cannot be used: {why}"))?;
    Ok(Verified { claims, key: key.clone() })
}

fn key_of<'k>(parts: &Parts<'_>, keys: &'k Keys) -> Result<&'k VerifyingKey, Refusal> {
    let Some(kid) = &parts.header.kid else {
        return Err("the token does not say which key has signed it (kid)".into());
    };
    keys.get(kid).ok_or_else(|| {
        // Its text is the client's choice.
        let named = if is_kid(kid) { format!("key {kid}") } else { "a key".to_owned() };
        let known = keys.kids().collect::<Vec<_>>().join(", ");
        Refusal::Bad(format!(
            "the token was signed with {named} that is not known here (known: {known}); issue one with a key of this server"
        ))
    })
}

fn check_times(claims: &Claims, now: Timestamp) -> Result<(), String> {
    let Some(until) = claims.until() else {
        return Err(format!("the end of token {} (exp) is no time that there is; issue another one", claims.jti));
    };
    // Without leeway: the stream ends at that moment too.
    if until <= now {
        return Err(format!("token {} expired at {until}; issue another one", claims.jti));
    }
    let latest = now.saturating_add(LEEWAY).unwrap_or(Timestamp::MAX).as_second();
    for (claim, at) in [("nbf", claims.nbf), ("iat", claims.iat)] {
        if at.is_some_and(|at| at > latest) {
            return Err(format!(
                "token {} is of the future ({claim}), by more than {} s; is a clock wrong?",
                claims.jti,
                LEEWAY.as_secs()
            ));
        }
    }
    Ok(())
}
