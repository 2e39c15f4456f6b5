//! What is in a proxy token: its parts, and what each may hold. Pure.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::proxy_names::{check_labels, check_name};

/// `iss` of every proxy token.
pub(super) const ISSUER: &str = "envoy-sds";

/// The largest token that is looked at; one with all the labels that it may have has about 7 KiB.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// The claims of a proxy token. Times are in whole seconds since 1970 (NumericDate).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claims {
    pub(super) iss: String,
    pub(super) aud: Audiences,
    pub(super) exp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) nbf: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) iat: Option<i64>,
    /// What the token is revoked by.
    pub(super) jti: String,
    pub(super) mesh: String,
    /// Of the proxy: two with one name are one proxy.
    pub(super) name: String,
    pub(super) workload: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) labels: BTreeMap<String, String>,
}

/// `aud`: RFC 7519 §4.1.3 lets a single one go without a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Audiences {
    One(String),
    Many(Vec<String>),
}

impl Audiences {
    pub(super) fn as_slice(&self) -> &[String] {
        match self {
            Self::One(audience) => std::slice::from_ref(audience),
            Self::Many(audiences) => audiences,
        }
    }
}

impl Claims {
    /// When the token ends; `None` if what it says is out of range.
    pub(super) fn until(&self) -> Option<Timestamp> {
        Timestamp::from_second(self.exp).ok()
    }

    /// Whether names and labels can be used.
    ///
    /// # Errors
    /// Which one cannot, and why.
    pub(super) fn check(&self) -> Result<(), String> {
        for (claim, text) in
            [("jti", &self.jti), ("mesh", &self.mesh), ("name", &self.name), ("workload", &self.workload)]
        {
            check_name(text).map_err(|why| format!("its {claim} {why}"))?;
        }
        check_labels(&self.labels)
    }
}

/// A token in the three parts of a JWS (RFC 7515 §7.1), nothing of it verified.
#[derive(Debug)]
pub(super) struct Parts<'t> {
    pub(super) header: Header,
    /// What is signed: header and payload, as they were sent.
    pub(super) signed: &'t str,
    pub(super) signature: &'t str,
    payload: Vec<u8>,
}

/// As much of the header as counts. A key that the token brings along (`jwk`, `jku`, `x5c`, …) does not.
#[derive(Debug, Deserialize)]
pub(super) struct Header {
    pub(super) alg: String,
    pub(super) kid: Option<String>,
    /// Extensions that must be understood (RFC 7515 §4.1.11); there are none.
    pub(super) crit: Option<serde::de::IgnoredAny>,
}

/// What tells whose token it is.
#[derive(Debug, Deserialize)]
pub(super) struct Kind {
    pub(super) iss: Option<String>,
    /// In every token that an API server has issued for a service account.
    #[serde(rename = "kubernetes.io")]
    pub(super) kubernetes: Option<serde::de::IgnoredAny>,
}

impl<'t> Parts<'t> {
    /// # Errors
    /// Why it is no token at all; without quoting any of it.
    pub(super) fn of(token: &'t str) -> Result<Self, String> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(format!("the token has {} bytes; at most {MAX_TOKEN_BYTES} make sense", token.len()));
        }
        let (signed, signature) = token.rsplit_once('.').ok_or("the bearer token is not a JWT")?;
        let (header, payload) = signed.split_once('.').ok_or("the bearer token is not a JWT")?;
        let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_error| "the bearer token's claims are not base64")?;
        let header = URL_SAFE_NO_PAD.decode(header).map_err(|_error| "the bearer token's header is not base64")?;
        Ok(Self { header: json("header", &header)?, signed, signature, payload })
    }

    /// What the token says of itself, as far as anybody's has it.
    ///
    /// # Errors
    /// That it cannot be read.
    pub(super) fn kind(&self) -> Result<Kind, String> {
        json("claims", &self.payload)
    }

    /// Its claims, if it is a proxy token.
    ///
    /// # Errors
    /// That they are not those of one; only where.
    pub(super) fn claims(&self) -> Result<Claims, String> {
        json("claims", &self.payload)
    }
}

/// The error says where it is and not what is there, except for the name of a claim that is missing.
fn json<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| {
        let text = error.to_string();
        match text.split(" at line").next() {
            Some(missing) if missing.starts_with("missing field") => format!("the bearer token's {what}: {missing}"),
            _ => format!("the bearer token's {what} cannot be read (column {})", error.column()),
        }
    })
}
