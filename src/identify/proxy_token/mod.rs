//! Proxy tokens: JWTs that the operator issues with `envoy-sds token issue`, for proxies that no platform vouches for.
//! ES256 and nothing else (RFC 7519, RFC 7518 §3.4); several keys at once, each with an id of its own; revoked by id.

mod claims;
mod folder;
mod issue;
mod key;
mod keys;
mod live;
mod revocations;
mod settling;
mod standing;
#[cfg(test)]
mod tests;
mod verify;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

pub use self::folder::{Newest, create, newest_or_create};
pub use self::issue::{Issued, Request, issue};
pub use self::key::SigningKey;
pub use self::keys::KeySource;

use self::live::Live;
use self::standing::TokenStanding;
use self::verify::{Refusal, Verified};
use super::standing::Standing;
use super::{Evidence, Identify, IdentifyError, Proof};
use crate::model::diagnostic::Problem;
use crate::model::identity::{Labels, Workload};
use crate::model::secrets::KnownSecrets;
use crate::runtime::clock::Clock;
use crate::runtime::tasks::Tasks;

/// The name of the method, as configured.
pub const METHOD: &str = "proxyToken";

/// The audience of proxy tokens, unless told otherwise.
pub const DEFAULT_AUDIENCE: &str = "envoy-sds";

/// The folder of the signing keys, below the state directory.
pub const KEY_FOLDER: &str = "proxy-token";

/// What tokens are verified with.
#[derive(Debug)]
pub struct Settings {
    /// Whose signatures are believed.
    pub keys: KeySource,
    /// Audiences, one of which a token must be for; never empty.
    pub audiences: Vec<String>,
    /// Which tokens are not good any more.
    pub revocations: Option<RevocationSource>,
}

/// Where the ids of revoked tokens are.
#[derive(Debug)]
pub enum RevocationSource {
    /// A file, for tokens of every mesh.
    File(PathBuf),
    /// The mesh Secret of each token's mesh, like Kuma's `dataplane-token-revocations-<mesh>`.
    Secret {
        /// Its name, with `<mesh>` in the place of the mesh's.
        name: String,
        /// All mesh Secrets.
        secrets: watch::Receiver<Arc<KnownSecrets>>,
    },
}

/// Identifies proxies by proxy tokens. Nobody is asked, so nothing is remembered: a verification takes a fraction of a
/// millisecond.
#[derive(Debug)]
pub struct ProxyTokens {
    live: Arc<Live>,
    audiences: Vec<String>,
    clock: Clock,
}

impl ProxyTokens {
    /// Reads keys and revocations, and watches them as one of `tasks`.
    ///
    /// # Errors
    /// Why a key that is configured cannot be used, or that there is none and none can be made. Revocations that cannot be
    /// read are no error here: until they can be, no token is accepted.
    pub fn start(settings: Settings, clock: Clock, tasks: &Tasks) -> Result<Self, Vec<Problem>> {
        let live = Live::start(settings.keys, settings.revocations, tasks)?;
        Ok(Self { live: Arc::new(live), audiences: settings.audiences, clock })
    }

    /// What is wrong with the files and Secrets that it reads, while the last good ones are in use.
    pub fn problems(&self) -> watch::Receiver<Arc<Vec<Problem>>> {
        self.live.problems()
    }

    fn proof(&self, token: &str) -> Result<Option<Proof>, IdentifyError> {
        let keys = self.live.keys();
        let verified = verify::verify(token, &keys, &self.audiences, self.clock.now());
        let Verified { claims, key } = match verified {
            Ok(verified) => verified,
            Err(Refusal::OfAnotherKind) => return Ok(None),
            Err(Refusal::Bad(reason)) => return Err(refused(reason)),
        };
        let label = |(key, value): (&String, &String)| (Arc::from(key.as_str()), Arc::from(value.as_str()));
        let labels: Labels = claims.labels.iter().map(label).collect();
        let until = claims.until();
        let standing = TokenStanding::new(self.live.clone(), key, &claims);
        // At once, rather than with the first request.
        standing.check()?;
        Ok(Some(Proof {
            method: METHOD,
            mesh: Some(claims.mesh),
            instance: Some(claims.name),
            workload: Workload { name: Some(claims.workload.into()), ..Workload::default() },
            labels,
            until,
            standing: Standing::on(Arc::new(standing)),
            ..Proof::default()
        }))
    }
}

#[async_trait]
impl Identify for ProxyTokens {
    fn method(&self) -> &'static str {
        METHOD
    }

    async fn identify(&self, evidence: &Evidence) -> Result<Option<Proof>, IdentifyError> {
        match &evidence.bearer_token {
            Some(token) => self.proof(token.expose()),
            None => Ok(None),
        }
    }
}

/// Reads a token as far as that is done before its signature is verified, and its claims as if that were good, for
/// fuzzing: whether it would be looked at any further.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn read_unverified(token: &str) -> bool {
    claims::Parts::of(token).is_ok_and(|parts| parts.claims().is_ok_and(|claims| claims.check().is_ok()))
}

fn refused(reason: impl Into<String>) -> IdentifyError {
    IdentifyError::Refused { method: METHOD, reason: reason.into() }
}
