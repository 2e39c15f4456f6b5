//! The opening of a call, before any message of it is read: is the server ready, is there room, and who is there.

use std::time::Duration;

use http::{HeaderMap, header, request::Parts};
use tonic::Status;

use super::admission::Place;
use super::listen::Peer;
use super::redact;
use super::server::Shared;
use crate::identify::{BearerToken, Evidence, IdentifyError, NodeClaim, Proof};
use crate::model::identity::Identity;
use crate::serve::wire::Node;

/// A proof that takes longer to verify than this will not be verified.
const VERIFY: Duration = Duration::from_secs(10);

/// The longest text of a client's making that is logged or kept of a node.
const LABEL: usize = 256;

/// A call that was let in.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) peer: Peer,
    pub(super) proof: Option<Proof>,
    pub(super) place: Place,
}

/// Lets a call in (items 17, 18 and 63) or says why not.
pub(super) async fn open(shared: &Shared, parts: &Parts) -> Result<Opened, Status> {
    if !*shared.ready.borrow() {
        return Err(Status::unavailable("not ready yet"));
    }
    if shared.shutdown.is_cancelled() {
        return Err(Status::unavailable("shutting down"));
    }
    let place = shared.admission.enter()?;
    // Without connection information (a test that calls the service directly) there is simply no evidence.
    let peer = parts.extensions.get::<Peer>().cloned().unwrap_or_default();
    let evidence = evidence(&peer, &parts.headers)?;
    let verified = tokio::time::timeout(VERIFY, shared.authenticate.open(&evidence)).await;
    let proof = verified
        .map_err(|_elapsed| {
            tracing::warn!(%peer, "verifying the proof of identity took too long");
            Status::unavailable("the proof of identity cannot be verified at the moment")
        })?
        .map_err(|error| {
            tracing::info!(%peer, %error, "refused");
            refusal(&error)
        })?;
    Ok(Opened { peer, proof, place })
}

/// The identity, with the node of the first request (item 19).
pub(super) fn complete(shared: &Shared, proof: Option<&Proof>, node: Option<&Node>) -> Result<Identity, Status> {
    let node = node.filter(|node| !node.id.is_empty()).ok_or_else(|| {
        tracing::info!("refused: the first request has no node, or one without an id");
        Status::invalid_argument("the first request must have a node with an id")
    })?;
    let claim = NodeClaim { id: node.id.clone(), cluster: node.cluster.clone() };
    shared.authenticate.complete(proof, &claim).map_err(|error| {
        tracing::info!(node = label(&node.id), %error, "refused");
        refusal(&error)
    })
}

/// A text of a client's making as far as it goes into logs: bounded; the formatter escapes it.
pub(super) fn label(text: &str) -> &str {
    redact::start(text, LABEL)
}

/// The peer is told the bare minimum (item 105).
fn refusal(error: &IdentifyError) -> Status {
    match error {
        IdentifyError::NoEvidence(_) => Status::unauthenticated("no proof of identity"),
        IdentifyError::Refused { .. } => Status::unauthenticated("the proof of identity is not accepted"),
        IdentifyError::Forbidden(_) => Status::permission_denied("this identity may not use this server"),
        IdentifyError::Unavailable { .. } => {
            Status::unavailable("the proof of identity cannot be verified at the moment")
        }
    }
}

/// Only what the transport proves, and the bearer token. `:authority`, `x-forwarded-for` and Envoy's own headers are
/// not looked at (item 15).
fn evidence(peer: &Peer, headers: &HeaderMap) -> Result<Evidence, Status> {
    let mut authorizations = headers.get_all(header::AUTHORIZATION).iter();
    let first = authorizations.next();
    if authorizations.next().is_some() {
        return Err(Status::unauthenticated("more than one authorization header"));
    }
    let bearer_token = first
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_at_checked(7))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer "))
        .map(|(_, token)| BearerToken::new(token.trim().to_owned()));
    Ok(Evidence {
        address: peer.address,
        bearer_token,
        peer_certificates: peer.certificates.to_vec(),
        unix_peer: peer.unix,
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use tonic::Code;

    use super::*;

    #[test]
    fn the_bearer_token() {
        let token = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
            }
            evidence(&Peer::default(), &headers).map(|e| e.bearer_token.map(|token| token.expose().to_owned()))
        };
        assert_eq!(token(&["Bearer abc"]).unwrap().as_deref(), Some("abc"));
        assert_eq!(token(&["bearer  abc "]).unwrap().as_deref(), Some("abc"));
        assert_eq!(token(&["Basic abc"]).unwrap(), None);
        assert_eq!(token(&["Bearer"]).unwrap(), None);
        assert_eq!(token(&[]).unwrap(), None);
        assert_eq!(token(&["Bearer a", "Bearer b"]).unwrap_err().code(), Code::Unauthenticated);
    }

    #[test]
    fn refusals_say_little() {
        let secret = || "secret reason".to_owned();
        for (error, code) in [
            (IdentifyError::NoEvidence(secret()), Code::Unauthenticated),
            (IdentifyError::Refused { method: "proxyToken", reason: secret() }, Code::Unauthenticated),
            (IdentifyError::Forbidden(secret()), Code::PermissionDenied),
            (IdentifyError::Unavailable { method: "proxyToken", reason: secret() }, Code::Unavailable),
        ] {
            let status = refusal(&error);
            assert_eq!(status.code(), code);
            assert!(!status.message().contains("secret"), "{status:?}");
        }
    }
}
