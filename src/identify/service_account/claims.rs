//! What a token says, before and after somebody has verified it.

use jiff::Timestamp;
use serde::Deserialize;

use super::super::IdentifyError;
use super::refused;

/// A bound token has about 1 KiB; the largest that anyone may have the API server look at.
pub(super) const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// What a token says of itself. Until it is verified, not believed, except that it cannot be good for more than it claims.
#[derive(Debug, Deserialize)]
pub(super) struct Claims<K = serde::de::IgnoredAny> {
    #[serde(default)]
    pub(super) aud: Audiences,
    pub(super) exp: Option<i64>,
    pub(super) nbf: Option<i64>,
    pub(super) iss: Option<String>,
    pub(super) sub: Option<String>,
    /// In every token that the API server has issued for a service account since Kubernetes 1.21.
    #[serde(rename = "kubernetes.io")]
    pub(super) kubernetes: Option<K>,
}

/// The claim `kubernetes.io`.
#[derive(Debug, Deserialize)]
pub(super) struct Kubernetes {
    pub(super) namespace: String,
    pub(super) serviceaccount: Reference,
    pub(super) pod: Option<Reference>,
    /// The node that the pod is on; without a pod, what the token is bound to.
    pub(super) node: Option<serde::de::IgnoredAny>,
    /// What the token is bound to, instead of a pod.
    pub(super) secret: Option<serde::de::IgnoredAny>,
}

/// An object that a token names.
#[derive(Debug, Deserialize)]
pub(super) struct Reference {
    pub(super) name: String,
    pub(super) uid: String,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Audiences {
    One(String),
    Many(Vec<String>),
}

impl Default for Audiences {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl Audiences {
    pub(super) fn as_slice(&self) -> &[String] {
        match self {
            Self::One(audience) => std::slice::from_ref(audience),
            Self::Many(audiences) => audiences,
        }
    }
}

/// What a token says of itself.
fn claims(token: &str) -> Result<Claims, IdentifyError> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(refused(format!("the token has {} bytes; at most {MAX_TOKEN_BYTES} make sense", token.len())));
    }
    jsonwebtoken::dangerous::insecure_decode_claims(token)
        .map_err(|error| refused(format!("the bearer token is not a JWT: {error}")))
}

#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn read_unverified(token: &str) -> Option<(Option<Timestamp>, usize)> {
    let claims = claims(token).ok()?;
    Some((claims.exp.and_then(|exp| Timestamp::from_second(exp).ok()), claims.aud.as_slice().len()))
}

/// What can be told before the token is verified: `None` if it is another method's, else when it expires. Whoever sends
/// rubbish must not be able to make us send it on.
pub(super) fn preview(token: &str, audiences: &[String], now: Timestamp) -> Result<Option<Timestamp>, IdentifyError> {
    let claims = claims(token)?;
    if claims.kubernetes.is_none() {
        return Ok(None);
    }
    let claimed = claims.aud.as_slice();
    if !claimed.iter().any(|audience| audiences.contains(audience)) {
        return Err(refused(format!(
            "the token is for {claimed:?}, not for {audiences:?}; set `audience` of the projected serviceAccountToken volume"
        )));
    }
    let expires = claims.exp.and_then(|exp| Timestamp::from_second(exp).ok());
    let expires = expires.ok_or_else(|| refused("the token has no end (exp)"))?;
    if expires <= now {
        return Err(refused(format!("the token expired at {expires}")));
    }
    Ok(Some(expires))
}

/// `system:serviceaccount:<namespace>:<name>`, exactly.
pub(super) fn service_account(username: &str) -> Option<(&str, &str)> {
    let (namespace, account) = username.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (!namespace.is_empty() && !account.is_empty() && !account.contains(':')).then_some((namespace, account))
}
