//! TLS handshakes that fail. Whose do is no proxy and has no stream that could be refused, so this is all that tells of it:
//! each is counted, who fails for a certificate is among the refused, and the log has a line a minute.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};
use rustls::{AlertDescription, CertificateError, Error};
use tokio::time::Instant;

use super::Peer;
use crate::identify::client_certificate;
use crate::runtime::clock::Clock;
use crate::serve::metrics::Metrics;
use crate::serve::redact::redact;
use crate::serve::refusals::{Refusals, host};

/// How often the log tells of failures for the same reason: proxies come again and again, and others may do what they like.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Why a TLS handshake has failed. The words are none of [`crate::serve::refusal::Refusal`]'s: an alert adds these to those.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum HandshakeFailure {
    /// The client does not accept the server's certificate, and has said so (RFC 8446 §6.2).
    ServerCertificate,
    /// The server does not accept the client's.
    ClientCertificate,
    /// It took too long.
    Timeout,
    /// The connection ended: a health check of TCP, a port scan, a client that ends without a word.
    Closed,
    /// It is no TLS, or the two have nothing in common.
    Other,
}

impl HandshakeFailure {
    /// Each of them.
    pub(crate) const ALL: [Self; 5] =
        [Self::ServerCertificate, Self::ClientCertificate, Self::Timeout, Self::Closed, Self::Other];

    fn as_str(self) -> &'static str {
        match self {
            Self::ServerCertificate => "server_certificate",
            Self::ClientCertificate => "client_certificate",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::Other => "other",
        }
    }
}

impl EncodeLabelValue for HandshakeFailure {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        self.as_str().encode(encoder)
    }
}

/// Those of a listener.
#[derive(Debug)]
pub(super) struct FailedHandshakes {
    metrics: Metrics,
    refusals: Refusals,
    clock: Clock,
    paces: Mutex<HashMap<HandshakeFailure, Pace>>,
}

impl FailedHandshakes {
    pub(super) fn new(metrics: Metrics, refusals: Refusals, clock: Clock) -> Self {
        Self { metrics, refusals, clock, paces: Mutex::default() }
    }

    /// One has failed with `error`.
    pub(super) fn failed(&self, peer: Option<SocketAddr>, error: &io::Error) {
        tracing::debug!(?peer, error = redact(&error.to_string()), "TLS handshake failed");
        let (failure, why) = why(error);
        self.note(failure, peer, &why);
    }

    /// One was not done in time.
    pub(super) fn timed_out(&self, peer: Option<SocketAddr>) {
        tracing::debug!(?peer, "TLS handshake took too long");
        self.note(HandshakeFailure::Timeout, peer, "it took too long");
    }

    fn note(&self, failure: HandshakeFailure, address: Option<SocketAddr>, why: &str) {
        self.metrics.handshake_failed(failure);
        let peer = Peer { address, ..Peer::default() };
        let remember = |method| self.refusals.record(&host(&peer), None, method, why, self.clock.now());
        match failure {
            HandshakeFailure::ServerCertificate => remember(None),
            HandshakeFailure::ClientCertificate => remember(Some(client_certificate::METHOD)),
            // Load balancers and kubelets do nothing else, every few seconds.
            HandshakeFailure::Closed => return,
            // They may well be no proxies, and would push those out that are.
            HandshakeFailure::Timeout | HandshakeFailure::Other => {}
        }
        if let Some(failures) = self.count(failure) {
            tracing::warn!(reason = failure.as_str(), failures, %peer, why, "TLS handshakes fail");
        }
    }

    /// See [`Pace::count`].
    fn count(&self, failure: HandshakeFailure) -> Option<u64> {
        let mut paces = self.paces.lock().unwrap_or_else(PoisonError::into_inner);
        paces.entry(failure).or_default().count(Instant::now())
    }
}

/// When failures are told of.
#[derive(Debug, Default)]
struct Pace {
    told: Option<Instant>,
    untold: u64,
}

impl Pace {
    /// Counts one; gives how many there were since it was told of any, if it is time to tell again: at once for the first.
    fn count(&mut self, now: Instant) -> Option<u64> {
        self.untold = self.untold.saturating_add(1);
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < TOLD_EVERY) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

/// What to count an error of the acceptor as, and words for it that are fit for the log and the same the next time: the
/// refused are remembered by them.
fn why(error: &io::Error) -> (HandshakeFailure, String) {
    let of_tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match of_tls {
        Some(Error::AlertReceived(alert)) if is_about_a_certificate(*alert) => {
            let why = format!("in TLS, it does not accept this server's certificate: alert {alert:?}");
            (HandshakeFailure::ServerCertificate, why)
        }
        Some(Error::InvalidCertificate(error)) => {
            let why = format!("in TLS, its client certificate is not accepted: {}", wrong(error));
            (HandshakeFailure::ClientCertificate, why)
        }
        Some(error @ Error::InvalidCertRevocationList(_)) => {
            let why = format!("in TLS, its client certificate is not accepted: {}", redact(&error.to_string()));
            (HandshakeFailure::ClientCertificate, why)
        }
        Some(error) => (HandshakeFailure::Other, redact(&error.to_string())),
        None => (HandshakeFailure::Closed, redact(&error.to_string())),
    }
}

/// Alerts by which a client says what it thinks of the server's certificate. Which one it takes is up to the client: Envoy says
/// `DecryptError` where a CA of the same name has another key, and `CertificateUnknown` where it wants another name.
fn is_about_a_certificate(alert: AlertDescription) -> bool {
    use AlertDescription::{
        AccessDenied, BadCertificate, BadCertificateHashValue, CertificateExpired, CertificateRevoked,
        CertificateUnknown, DecryptError, UnknownCA, UnsupportedCertificate,
    };
    matches!(
        alert,
        AccessDenied
            | BadCertificate
            | BadCertificateHashValue
            | CertificateExpired
            | CertificateRevoked
            | CertificateUnknown
            | DecryptError
            | UnknownCA
            | UnsupportedCertificate
    )
}

/// Without the times of rustls's own words, with which each would be another one.
fn wrong(error: &CertificateError) -> String {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has ended, or its CA has",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is of the future; is a clock wrong?"
        }
        CertificateError::Revoked => "it is revoked",
        CertificateError::UnknownIssuer => "no CA in clientCa has issued it",
        CertificateError::BadSignature => "it is not signed by the CA in clientCa whose name it has",
        CertificateError::UnknownRevocationStatus => "whether it is revoked is not known",
        CertificateError::ExpiredRevocationList | CertificateError::ExpiredRevocationListContext { .. } => {
            "the revocation list of its issuer has ended"
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it is not for clients (extendedKeyUsage)"
        }
        other => return redact(&other.to_string()),
    }
    .to_owned()
}

#[cfg(test)]
#[path = "failed_handshakes_tests.rs"]
mod tests;
