//! Issues tokens.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use jsonwebtoken::{Algorithm, Header};

use super::claims::{Audiences, Claims, ISSUER};
use super::key::SigningKey;
use crate::identify::BearerToken;
use crate::model::proxy_names::{check_name, check_new_labels, check_spiffe_id};

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
        check_new_labels(&self.labels).map_err(|why| format!("there can be no such token: {why}"))?;
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
        // A token whose names make no SPIFFE ID would only be refused later.
        check_spiffe_id(&self.mesh, &self.workload)?;
        Ok(claims)
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
