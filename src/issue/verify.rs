//! What a CA returned, seen with the eyes of the proxies that will be shown it. The only maker of [`Svid`]s.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::SignatureVerificationAlgorithm;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{
    EndEntityCert, Error, ExtendedKeyUsageValidator, KeyPurposeId, KeyPurposeIdIter, KeyUsage,
    RequiredEkuNotFoundContext, anchor_from_trusted_cert,
};

use super::ca::{IssuedChain, Knowing, SignedHere};
use crate::model::bundle::Bundle;
use crate::model::certificate::Certificate;
use crate::model::key::PrivateKeyPem;
use crate::model::svid::Svid;

/// What the leaf has to be.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Its one URI SAN.
    pub spiffe_id: Arc<str>,
    /// SubjectPublicKeyInfo of our key, DER.
    pub public_key: Vec<u8>,
    /// Digest of what it was issued for; goes into the [`Svid`].
    pub policy_digest: Arc<str>,
}

/// Why a chain is not served. Nothing in these is secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// No certificate in the answer is for our key.
    #[error("none of the {0} certificates returned is for the key that was sent")]
    KeyMismatch(usize),
    /// Another name, more names, or none.
    #[error("the leaf's names are {found}; it has to carry {expected} and nothing else")]
    WrongNames {
        /// What it has.
        found: String,
        /// What it should have.
        expected: Arc<str>,
    },
    /// A CA certificate where a leaf was asked for.
    #[error("a CA certificate was returned where a leaf was asked for")]
    IsCa,
    /// It is over.
    #[error("the leaf expired at {0}")]
    Expired(Timestamp),
    /// It begins later.
    #[error("the leaf is valid only from {0}; is the CA's clock ahead of this server's?")]
    NotYetValid(Timestamp),
    /// The proxies of the mesh would refuse it.
    #[error(
        "proxies of the mesh would refuse the leaf: {reason}; it was issued by {issuer:?}, and the mesh trusts {trusted}"
    )]
    Untrusted {
        /// What path validation says.
        reason: String,
        /// The leaf's issuer.
        issuer: String,
        /// Subjects of the CAs that the mesh trusts.
        trusted: String,
    },
}

/// How long to hold the answer back, if waiting a moment makes its leaf valid: the clocks of a CA and of this server differ
/// a little.
pub fn valid_in(issued: &IssuedChain, expected: &Expected, now: Timestamp) -> Option<Duration> {
    const TOLERATED: SignedDuration = SignedDuration::from_secs(60);
    let wait = leaf_of(issued, expected).ok()?.validity().not_before.duration_since(now);
    (wait.is_positive() && wait <= TOLERATED).then(|| wait.unsigned_abs())
}

fn leaf_of<'i>(issued: &'i IssuedChain, expected: &Expected) -> Result<&'i Certificate, VerifyError> {
    issued
        .certificates
        .iter()
        .find(|certificate| certificate.public_key() == expected.public_key)
        .ok_or(VerifyError::KeyMismatch(issued.certificates.len()))
}

/// Checks an answer and makes an [`Svid`] of it: our key, exactly the expected SPIFFE ID, valid now, for both sides of TLS,
/// with a path to a CA of `trust`. The chain is put into order (leaf, then each one's issuer); roots and strangers are
/// left out (RFC 8446 §4.4.2 lets a root be omitted, and it proves nothing to anybody).
///
/// # Errors
/// [`VerifyError`]: the first thing that is wrong.
pub fn verify(
    issued: &IssuedChain,
    expected: &Expected,
    key: PrivateKeyPem,
    trust: &Bundle,
    now: Timestamp,
) -> Result<Svid, VerifyError> {
    let leaf = leaf_of(issued, expected)?;
    if leaf.is_ca() {
        return Err(VerifyError::IsCa);
    }
    if leaf.uris() != [&*expected.spiffe_id] || leaf.other_names() > 0 {
        return Err(VerifyError::WrongNames { found: names(leaf), expected: expected.spiffe_id.clone() });
    }
    let validity = leaf.validity();
    if validity.not_after < now {
        return Err(VerifyError::Expired(validity.not_after));
    }
    if now < validity.not_before {
        return Err(VerifyError::NotYetValid(validity.not_before));
    }
    let intermediates = in_order(leaf, &issued.certificates);
    let anchor = path(leaf, &intermediates, issued.signed_here.as_ref(), trust, now)?;
    Ok(Svid {
        spiffe_id: expected.spiffe_id.clone(),
        leaf: leaf.clone(),
        intermediates,
        key,
        anchor,
        policy_digest: expected.policy_digest.clone(),
        received: now,
    })
}

/// Whether a leaf that was verified before would be accepted under `trust`: asked when the trust changes. Cheap if the CA that
/// it leads to is still there.
pub fn is_trusted(svid: &Svid, trust: &Bundle, now: Timestamp) -> bool {
    trust.contains(&svid.anchor) || path(&svid.leaf, &svid.intermediates, None, trust, now).is_ok()
}

/// The issuers of `leaf` among `candidates`, each followed by its own, up to but without a root.
fn in_order(leaf: &Certificate, candidates: &[Certificate]) -> Vec<Certificate> {
    let mut chain: Vec<Certificate> = Vec::new();
    let mut last = leaf;
    while let Some(next) = candidates
        .iter()
        .find(|next| last.names_issuer(next) && !next.is_self_issued() && *next != leaf && !chain.contains(next))
    {
        chain.push(next.clone());
        last = next;
    }
    chain
}

/// Finds a path to a CA of `trust`, for client and server alike, and says which CA it is.
fn path(
    leaf: &Certificate,
    intermediates: &[Certificate],
    signed_here: Option<&SignedHere>,
    trust: &Bundle,
    now: Timestamp,
) -> Result<Certificate, VerifyError> {
    let untrusted = |reason: String| VerifyError::Untrusted {
        reason,
        issuer: leaf.issuer().to_owned(),
        trusted: trust.certificates().iter().map(|ca| format!("{:?}", ca.subject())).collect::<Vec<_>>().join(", "),
    };
    let anchors: Vec<TrustAnchor<'_>> =
        trust.certificates().iter().filter_map(|ca| anchor_from_trusted_cert(ca.der()).ok()).collect();
    let intermediates: Vec<CertificateDer<'_>> = intermediates.iter().map(|ca| ca.der().clone()).collect();
    let time = UnixTime::since_unix_epoch(Duration::from_secs(now.as_second().unsigned_abs()));
    let end_entity = EndEntityCert::try_from(leaf.der()).map_err(|error| untrusted(error.to_string()))?;
    let knowing: Vec<Knowing<'_>> = signed_here.map_or_else(Vec::new, |signed_here| {
        webpki::ALL_VERIFICATION_ALGS.iter().map(|algorithm| Knowing { algorithm: *algorithm, signed_here }).collect()
    });
    let knowing: Vec<&dyn SignatureVerificationAlgorithm> = knowing.iter().map(|one| one as _).collect();
    let algorithms = if knowing.is_empty() { webpki::ALL_VERIFICATION_ALGS } else { &*knowing };
    let path = end_entity
        .verify_for_usage(algorithms, &anchors, &intermediates, time, BothSides, None, None)
        .map_err(|error| untrusted(error.to_string()))?;
    let found = path.anchor();
    // A CA that was renewed with its key stands there twice; the one that lives longer is what peers go by.
    let same = trust.certificates().iter().filter(|ca| {
        anchor_from_trusted_cert(ca.der())
            .is_ok_and(|ca| ca.subject == found.subject && ca.subject_public_key_info == found.subject_public_key_info)
    });
    let anchor =
        same.max_by_key(|ca| ca.validity().not_after).ok_or_else(|| untrusted("the path leads nowhere".to_owned()))?;
    // Envoy (BoringSSL) refuses a trust anchor that is over; webpki does not look at an anchor's dates.
    if anchor.validity().not_after < now {
        return Err(untrusted(format!("its CA expired at {}", anchor.validity().not_after)));
    }
    Ok(anchor.clone())
}

/// Takes what may be shown by clients and by servers: a proxy is both. As each of the two usages is by itself: whoever names
/// none may be shown by either (RFC 5280 §4.2.1.12).
struct BothSides;

impl ExtendedKeyUsageValidator for BothSides {
    fn validate(&self, usages: KeyPurposeIdIter<'_, '_>) -> Result<(), Error> {
        let usages: Vec<KeyPurposeId<'_>> = usages.collect::<Result<_, _>>()?;
        let sides = [(KeyUsage::server_auth(), SERVER_AUTH), (KeyUsage::client_auth(), CLIENT_AUTH)];
        let missing = sides.into_iter().find(|(_, oid)| !usages.contains(&KeyPurposeId::new(oid)));
        match missing {
            Some((required, _)) if !usages.is_empty() => {
                let present = usages.iter().map(KeyPurposeId::to_decoded_oid).collect();
                Err(Error::RequiredEkuNotFoundContext(RequiredEkuNotFoundContext { required, present }))
            }
            _ => Ok(()),
        }
    }
}

/// `id-kp-serverAuth` and `id-kp-clientAuth` (RFC 5280 §4.2.1.12), content of the DER.
const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];

fn names(leaf: &Certificate) -> String {
    match (leaf.uris(), leaf.other_names()) {
        ([], 0) => "absent".to_owned(),
        (uris, 0) => uris.join(", "),
        (uris, others) => format!("{} and {others} of other kinds", uris.join(", ")),
    }
}

#[cfg(test)]
#[path = "verify_tests.rs"]
pub(crate) mod tests;
