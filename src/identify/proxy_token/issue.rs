//! Issues tokens.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use jsonwebtoken::{Algorithm, Header};
use spiffe::{SpiffeId, TrustDomain};

use super::claims::{Audiences, Claims, ISSUER, check_name};
use super::key::SigningKey;
use crate::identify::BearerToken;

/// Random bytes of a token's id: see the length of a key's.
const ID_BYTES: usize = 7;

/// What a token is to say.
#[derive(Debug, Clone)]
pub struct Request {
    /// The mesh.
    pub mesh: String,
    /// The proxy's name, its own.
    pub name: String,
    /// The workload's, which becomes the SPIFFE ID.
    pub workload: String,
    /// The workload's labels, for policy.
    pub labels: BTreeMap<String, String>,
    /// Whom it is for; not empty.
    pub audiences: Vec<String>,
    /// How long it is good; at least a second.
    pub valid_for: Duration,
}

/// A new token.
#[derive(Debug)]
pub struct Issued {
    /// The token.
    pub token: BearerToken,
    /// What it is revoked by (`jti`).
    pub id: String,
    /// When it ends.
    pub until: Timestamp,
}

impl Request {
    /// Whether there can be such a token.
    ///
    /// # Errors
    /// What in the request cannot be.
    pub fn check(&self, now: Timestamp) -> Result<(), String> {
        self.claims(String::from("0"), now).map(drop)
    }

    fn claims(&self, id: String, now: Timestamp) -> Result<Claims, String> {
        let issued_at = now.as_second();
        let lifetime = i64::try_from(self.valid_for.as_secs()).unwrap_or(i64::MAX);
        if lifetime == 0 {
            return Err("a token has to be valid for a second at least".to_owned());
        }
        let until = issued_at.checked_add(lifetime).and_then(|end| Timestamp::from_second(end).ok());
        let until = until.ok_or("a token cannot be valid for that long")?;
        for audience in &self.audiences {
            check_name(audience).map_err(|why| format!("there can be no such token: its audience {why}"))?;
        }
        if let Some(key) = self.labels.keys().find(|key| key.contains(char::is_whitespace)) {
            return Err(format!("there can be no such token: the label {key:?} has a space in its key"));
        }
        let claims = Claims {
            iss: ISSUER.to_owned(),
            aud: Audiences::Many(self.audiences.clone()),
            exp: until.as_second(),
            nbf: Some(issued_at),
            iat: Some(issued_at),
            jti: id,
            mesh: self.mesh.clone(),
            name: self.name.clone(),
            workload: self.workload.clone(),
            labels: self.labels.clone(),
        };
        claims.check().map_err(|why| format!("there can be no such token: {why}"))?;
        self.check_spiffe_id()?;
        Ok(claims)
    }

    /// A token whose names make no SPIFFE ID would only be refused later.
    fn check_spiffe_id(&self) -> Result<(), String> {
        let Self { mesh, workload, .. } = self;
        let domain = TrustDomain::new(mesh).ok().filter(|domain| domain.as_str() == mesh);
        let domain =
            domain.ok_or_else(|| format!("mesh {mesh:?} is no trust domain: lower-case letters, digits, - _ and ."))?;
        SpiffeId::from_segments(domain, &[workload.as_str()])
            .map(drop)
            .map_err(|error| format!("workload {workload:?} cannot be part of a SPIFFE ID: {error}"))
    }
}

/// Signs a token with `key` that says what `request` does.
///
/// # Errors
/// What in the request cannot be.
pub fn issue(key: &SigningKey, request: &Request, now: Timestamp) -> Result<Issued, String> {
    let mut id = [0; ID_BYTES];
    aws_lc_rs::rand::fill(&mut id).map_err(|_error| "the system has no randomness for an id")?;
    let id = hex::encode(id);
    let claims = request.claims(id.clone(), now)?;
    let header = Header { kid: Some(key.kid().to_owned()), ..Header::new(Algorithm::ES256) };
    let token = jsonwebtoken::encode(&header, &claims, &key.encoding());
    let token = token.map_err(|error| format!("the token cannot be signed: {error}"))?;
    let until = claims.until().ok_or("a token cannot be valid for that long")?;
    Ok(Issued { token: BearerToken::new(token), id, until })
}
