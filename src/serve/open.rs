//! The opening of a call, before any message of it is read: is the server ready, is there room, and who is there.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, header, request::Parts};
use tonic::Status;

use super::admission::Place;
use super::listen::Peer;
use super::redact;
use super::refusal::Refusal;
use super::refusals::host;
use super::shared::Shared;
use crate::identify::{BearerToken, Evidence, IdentifyError, NodeClaim, Proof, client_certificate};
use crate::model::identity::Identity;
use crate::serve::wire::{Node, metadata};

/// A proof that takes longer to verify than this will not be verified.
const VERIFY: Duration = Duration::from_secs(10);

/// The longest text of a client's making that is logged or kept of a node.
const LABEL: usize = 256;

/// The most bytes of `node.id` and of `node.cluster`.
const NODE: usize = 1 << 10;

/// The key in `node.metadata` by which a proxy asks for plain `trusted_ca`; as SPIRE's agent has it.
const PLAIN_TRUST: &str = "disable_spiffe_cert_validation";

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
        return Err(shared.admission.refuse(Refusal::NotReady));
    }
    // Without connection information (a test that calls the service directly) there is simply no evidence.
    let peer = parts.extensions.get::<Peer>().cloned();
    let peer = peer.unwrap_or_else(|| Peer { leave: shared.shutdown.clone(), ..Peer::default() });
    if shared.shutdown.is_cancelled() {
        return Err(shared.admission.refuse(Refusal::ShuttingDown));
    }
    if peer.leave.is_cancelled() {
        return Err(shared.admission.refuse(Refusal::ConnectionEnding));
    }
    let mut place = shared.admission.enter(&peer.silent)?;
    let evidence = evidence(&peer, &parts.headers).inspect_err(|status| {
        shared.metrics.refused(Refusal::Unproven);
        remember(shared, &host(&peer), None, None, status.message());
    })?;
    let proof = verify(shared, &peer, &evidence).await?;
    shared.admission.admit(&mut place, proof.as_ref())?;
    place.let_in(&peer.streams);
    peer.let_in.cancel();
    Ok(Opened { peer, proof, place })
}

/// What the evidence proves. Where the answer is known already, or takes no asking, no place among those that wait is needed:
/// strangers who keep the API server busy do not keep out whoever is known.
async fn verify(shared: &Shared, peer: &Peer, evidence: &Evidence) -> Result<Option<Proof>, Status> {
    let mut verified = shared.authenticate.open(evidence);
    let verified = match futures::poll!(&mut verified) {
        Poll::Ready(verified) => verified,
        Poll::Pending => {
            let _place = shared.admission.verify(&peer.verifying)?;
            tokio::time::timeout(VERIFY, verified).await.map_err(|_elapsed| {
                let what = "verifying the proof of identity took too long";
                tracing::warn!(%peer, "{what}");
                remember(shared, &host(peer), None, None, what);
                shared.admission.refuse(Refusal::Unverifiable)
            })?
        }
    };
    verified.map_err(|error| {
        let reason = reason(&error);
        tracing::info!(%peer, reason, "refused");
        remember(shared, &host(peer), None, method(&error), &reason);
        // A connection has one client certificate for ever; a proxy that has a new one is to make another connection.
        if matches!(error, IdentifyError::Refused { method: client_certificate::METHOD, .. }) {
            peer.leave.cancel();
        }
        refusal(shared, &error)
    })
}

/// What the node of the first request says (item 19).
///
/// Both texts are kept for the stream's life, become keys and go into logs, so they are bounded.
pub(super) fn claim(node: Option<&Node>) -> Result<NodeClaim, Status> {
    let node = node.filter(|node| !node.id.is_empty()).ok_or_else(|| {
        tracing::info!("refused: the first request has no node, or one without an id");
        Status::invalid_argument("the first request must have a node with an id")
    })?;
    if node.id.len() > NODE || node.cluster.len() > NODE {
        tracing::info!(node = label(&node.id), "refused: node.id or node.cluster is too long");
        return Err(Status::invalid_argument("node.id or node.cluster is too long"));
    }
    let plain_trust = metadata::switch(&node.metadata, PLAIN_TRUST).map_err(|malformed| {
        tracing::info!(node = label(&node.id), %malformed, "refused: node.metadata cannot be read");
        Status::invalid_argument("node.metadata cannot be read")
    })?;
    Ok(NodeClaim { id: node.id.as_str().into(), cluster: node.cluster.as_str().into(), plain_trust })
}

/// The identity of a client that calls from `host`.
pub(super) fn complete(
    shared: &Shared,
    host: &Arc<str>,
    proof: Option<&Proof>,
    claim: &NodeClaim,
) -> Result<Identity, Status> {
    shared.authenticate.complete(proof, claim).map_err(|error| {
        let reason = reason(&error);
        tracing::info!(node = label(&claim.id), reason, "refused");
        remember(shared, host, Some(&claim.id), method(&error).or(proof.map(|proof| proof.method)), &reason);
        refusal(shared, &error)
    })
}

/// For operators. `reason` has to be fit for the log.
pub(super) fn remember(
    shared: &Shared,
    host: &Arc<str>,
    node_id: Option<&str>,
    method: Option<&'static str>,
    reason: &str,
) {
    shared.refusals.record(host, node_id.map(label), method, reason, shared.clock.now());
}

/// The method that refused.
fn method(error: &IdentifyError) -> Option<&'static str> {
    match error {
        IdentifyError::Refused { method, .. } | IdentifyError::Unavailable { method, .. } => Some(method),
        IdentifyError::NoEvidence(_) | IdentifyError::Forbidden(_) => None,
    }
}

/// A text of a client's making as far as it goes into logs: bounded; the formatter escapes it.
pub(super) fn label(text: &str) -> &str {
    redact::start(text, LABEL)
}

/// For the log. Any reason may quote a token that nobody has verified, or what somebody sent instead of one: why it is
/// refused, and likewise why it cannot be verified now (its key is not known, and newer ones cannot be had). What is
/// forbidden may have names in it that nobody has verified either. So each is treated like any other text that may hold a
/// secret.
fn reason(error: &IdentifyError) -> String {
    let text = match error {
        IdentifyError::Refused { method, reason } => {
            IdentifyError::Refused { method, reason: redact::redact(reason) }.to_string()
        }
        IdentifyError::Unavailable { method, reason } => {
            IdentifyError::Unavailable { method, reason: redact::redact(reason) }.to_string()
        }
        IdentifyError::Forbidden(reason) => IdentifyError::Forbidden(redact::redact(reason)).to_string(),
        IdentifyError::NoEvidence(reason) => IdentifyError::NoEvidence(redact::redact(reason)).to_string(),
    };
    label(&text).to_owned()
}

/// Counts it. The peer is told the bare minimum (item 105).
fn refusal(shared: &Shared, error: &IdentifyError) -> Status {
    let (refusal, status) = refused(error);
    shared.metrics.refused(refusal);
    status
}

fn refused(error: &IdentifyError) -> (Refusal, Status) {
    match error {
        IdentifyError::Refused { .. } => {
            (Refusal::Unproven, Status::unauthenticated("the proof of identity is not accepted"))
        }
        IdentifyError::NoEvidence(_) => (Refusal::Unproven, Refusal::Unproven.status()),
        IdentifyError::Forbidden(_) => (Refusal::Forbidden, Refusal::Forbidden.status()),
        IdentifyError::Unavailable { .. } => (Refusal::Unverifiable, Refusal::Unverifiable.status()),
    }
}

/// The proof has ended, on a stream or before it began (item 26).
pub(super) fn expired() -> Status {
    Status::unauthenticated("proof of identity expired")
}

/// Only what the transport proves, and the bearer token. `:authority`, `x-forwarded-for` and Envoy's own headers are
/// not looked at (item 15).
pub(super) fn evidence(peer: &Peer, headers: &HeaderMap) -> Result<Evidence, Status> {
    let malformed = || Status::unauthenticated("the authorization header is not a bearer token");
    let mut authorizations = headers.get_all(header::AUTHORIZATION).iter();
    let first = authorizations.next();
    if authorizations.next().is_some() {
        return Err(Status::unauthenticated("more than one authorization header"));
    }
    // Bad evidence is never no evidence: where peers without any are believed, this one is not.
    let bearer_token = first.map(|value| bearer(value).ok_or_else(malformed)).transpose()?;
    Ok(Evidence {
        address: peer.address,
        bearer_token,
        client_certificate: peer.certificate.clone(),
        unix_peer: peer.unix,
    })
}

/// The token of `Bearer <token>`; or a JWT that is the whole value, as data planes of Kuma send theirs. Either is verified in
/// the same way, so that the scheme proves nothing.
fn bearer(value: &HeaderValue) -> Option<BearerToken> {
    let value = value.to_str().ok()?.trim();
    let token = match value.split_at_checked(7) {
        // There is one, as the blank is not the end.
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer ") => token.trim_start(),
        _ if is_jwt(value) => value,
        _ => return None,
    };
    Some(BearerToken::new(token.to_owned()))
}

/// Whether it looks like a JWT (RFC 7519) that is signed: three parts in base64url (RFC 7515, section 7.1), and nothing else.
fn is_jwt(text: &str) -> bool {
    let is_base64url = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let is_part = |part: &str| !part.is_empty() && part.bytes().all(is_base64url);
    let mut parts = text.split('.');
    parts.by_ref().take(3).filter(|part| is_part(part)).count() == 3 && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use tonic::Code;

    use super::*;

    #[test]
    fn the_bearer_token() {
        let token = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            }
            evidence(&Peer::default(), &headers).map(|e| e.bearer_token.map(|token| token.expose().to_owned()))
        };
        assert_eq!(token(&["Bearer abc"]).unwrap().as_deref(), Some("abc"));
        assert_eq!(token(&["bearer  abc "]).unwrap().as_deref(), Some("abc"));
        assert_eq!(token(&[]).unwrap(), None);
        for bad in [&["Bearer a", "Bearer b"][..], &["Basic abc"], &["Bearer"], &["Bearer "], &[""], &["Bearer é"]] {
            assert_eq!(token(bad).unwrap_err().code(), Code::Unauthenticated, "{bad:?}");
        }
        // As Kuma's data planes send it. Of what is no JWT, nobody knows what it was meant to be.
        assert_eq!(token(&["eyJh.eyJ-_9.c2ln"]).unwrap().as_deref(), Some("eyJh.eyJ-_9.c2ln"));
        assert_eq!(token(&[" eyJh.eyJ9.c2ln "]).unwrap().as_deref(), Some("eyJh.eyJ9.c2ln"));
        for bad in [
            &["eyJh.eyJ9"][..],
            &["eyJh.eyJ9."],
            &["eyJh..c2ln"],
            &["eyJh.eyJ9.c2ln.c2ln"],
            &["eyJh.eyJ9.c2l+"],
            &["Basic eyJh.eyJ9.c2ln"],
            &["eyJh.eyJ9.c2ln", "Bearer eyJh.eyJ9.c2ln"],
        ] {
            assert_eq!(token(bad).unwrap_err().code(), Code::Unauthenticated, "{bad:?}");
        }
    }

    #[test]
    fn the_switch_in_the_metadata_is_read_and_metadata_that_cannot_be_is_refused() {
        let of = |metadata: &[u8]| {
            claim(Some(&Node { id: "web-0".to_owned(), metadata: metadata.to_vec(), ..Node::default() }))
        };
        assert!(!of(b"").unwrap().plain_trust);
        let value = prost_types::Value { kind: Some(prost_types::value::Kind::BoolValue(true)) };
        let metadata = prost_types::Struct { fields: [(PLAIN_TRUST.to_owned(), value)].into() };
        assert!(of(&metadata.encode_to_vec()).unwrap().plain_trust);
        assert_eq!(of(b"\x0a\xff").unwrap_err().code(), Code::InvalidArgument);
    }

    #[test]
    fn reasons_are_bounded_and_redacted() {
        let secret = "c2VjcmV0".repeat(8);
        let refused = |text: String| reason(&IdentifyError::Refused { method: "proxyToken", reason: text });
        let quoted = refused(format!("the token is for {secret:?}, not for us"));
        assert!(quoted.starts_with("proxyToken: the token is for") && !quoted.contains(&secret), "{quoted}");
        let unavailable =
            |text: String| reason(&IdentifyError::Unavailable { method: "serviceAccountToken", reason: text });
        let quoted =
            unavailable(format!("signed with key {secret:?}, which is not known; and newer ones cannot be had"));
        assert!(quoted.contains("signed with key") && !quoted.contains(&secret), "{quoted}");
        let kept = "which tokens are revoked is not known: its data has no key `value`";
        assert!(unavailable(kept.to_owned()).ends_with(kept));
        assert!(!reason(&IdentifyError::NoEvidence(secret.clone())).contains(&secret));
        assert!(refused("no such audience, ".repeat(100)).len() <= LABEL);
        assert!(reason(&IdentifyError::Forbidden("x ".repeat(1000))).len() <= LABEL);
    }

    #[test]
    fn what_membership_has_to_say_is_no_secret() {
        for text in [
            "its proof of identity names mesh \"prod\", but the label kuma.io/mesh names \"test\"",
            "the label kuma.io/mesh of its pod is \"test\", but that of its namespace is \"prod\"",
            "membership does not let namespace \"shop\", service account \"web\" into mesh \"prod\": it does not match \
             allow[0].namespaces, allow[12].serviceAccounts",
            "there is no mesh \"prod\" with mTLS on, which the label kuma.io/mesh names; known: default",
            "MeshIdentity \"id\" with the path /{{ .Mesh }}/{{ .ServiceAccount }}: pods of any namespace could take it: add \
             {{ .Namespace }}",
            "its proof gives no .ServiceAccount: a label k8s.kuma.io/service-account in it would",
        ] {
            assert_eq!(reason(&IdentifyError::Forbidden(text.to_owned())), format!("not allowed: {text}"));
        }
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
            let (refusal, status) = refused(&error);
            assert_eq!(status.code(), code);
            assert_eq!(code == Code::PermissionDenied, refusal == Refusal::Forbidden, "and is counted as that");
            assert!(!status.message().contains("secret"), "{status:?}");
        }
    }
}
