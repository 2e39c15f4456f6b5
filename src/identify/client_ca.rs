//! The CAs that client certificates are verified against, and the revocation lists that go with them. Pure.
//!
//! The same judge verifies a certificate in the handshake and, when the files have changed, while streams live by it. What it
//! accepts is good as long as each certificate of the path that it has found, the CA's own included: who trusts a CA trusts it
//! until its end, though rustls does not look at that.

use std::cmp::Reverse;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertRevocationListError, CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    RootCertStore, SignatureScheme,
};
use tokio::sync::watch;
use webpki::{Cert, EndEntityCert, KeyUsage, VerifiedPath};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::revocation_lists::{Issuer, RevocationLists, key_id, may_sign_lists};
use crate::model::certificate::Certificate;

/// The newest of a listener.
pub type ClientCaWatch = watch::Receiver<Arc<ClientCa>>;

/// Whose client certificates are accepted, and which of them are revoked.
#[derive(Clone)]
pub struct ClientCa {
    verifier: Arc<Verifier>,
}

/// How long a file of revocation lists has to stay without one that it had before that is believed: whoever writes it in several
/// steps takes no longer between two of them.
pub const SETTLED: Duration = Duration::from_secs(5);

/// Why there are no such CAs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientCaError {
    /// The CAs.
    #[error("{0}")]
    Ca(String),
    /// The revocation lists.
    #[error("{0}")]
    Crl(String),
}

impl ClientCa {
    /// From PEM: one or more CA certificates, and one or more revocation lists if `crl` is given.
    ///
    /// A certificate whose issuer has no list here is not revoked. One whose issuer's list has ended (`nextUpdate`) is
    /// refused, since nobody can tell any more whether it is revoked, and whoever could hold a new list back would keep a
    /// revoked certificate alive.
    ///
    /// # Errors
    /// [`ClientCaError`]; also for a certificate that is no CA's, and for a list that names a CA's key, which has not signed it.
    pub fn from_pem(ca: &[u8], crl: Option<&[u8]>) -> Result<Self, ClientCaError> {
        Self::read(ca, crl, None)
    }

    /// What the files say now, where these are what they said before: a revocation list that is gone counts on, until
    /// [`ClientCa::without_missed`], and so does one instead of which there is an older one, for good.
    ///
    /// # Errors
    /// See [`ClientCa::from_pem`].
    pub fn renewed(&self, ca: &[u8], crl: Option<&[u8]>) -> Result<Self, ClientCaError> {
        Self::read(ca, crl, Some(&self.verifier.lists))
    }

    /// Without the revocation lists that have been gone for [`SETTLED`].
    #[must_use]
    pub fn without_missed(&self) -> Self {
        let Verifier { paths, algorithms, anchors, lists } = &*self.verifier;
        let (paths, anchors, lists) = (paths.clone(), anchors.clone(), lists.without_missed());
        Self { verifier: Arc::new(Verifier { paths, algorithms: *algorithms, anchors, lists }) }
    }

    fn read(ca: &[u8], crl: Option<&[u8]>, last: Option<&RevocationLists>) -> Result<Self, ClientCaError> {
        let of_ca = |error: &dyn fmt::Display| ClientCaError::Ca(error.to_string());
        let mut roots = RootCertStore::empty();
        let cas = Certificate::many_from_pem(ca).map_err(|error| of_ca(&error))?;
        for (index, ca) in cas.iter().enumerate() {
            // Else whoever has the key of a leaf could be trusted like a CA.
            if !ca.is_ca() {
                let what = format!("certificate {} ({}) is no CA's (basicConstraints)", index + 1, ca.subject());
                return Err(ClientCaError::Ca(what));
            }
            roots.add(ca.der().clone()).map_err(|error| of_ca(&error))?;
        }
        let lists = crl.map(|crl| RevocationLists::from_pem(crl, &cas)).transpose();
        let lists = lists.map_err(ClientCaError::Crl)?.unwrap_or_default();
        let lists = match last {
            Some(last) if crl.is_some() => lists.after(last, &cas),
            _ => lists,
        };
        let mut anchors: Vec<_> = roots.roots.iter().cloned().zip(cas).collect();
        // Of several paths the one is found first whose CA lasts longest, as after the renewal of a CA.
        anchors.sort_by_key(|(_, ca)| Reverse(ca.validity().not_after));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let paths = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            // Who shows none may have another proof.
            .allow_unauthenticated()
            .build()
            .map_err(|error| of_ca(&error))?;
        Ok(Self { verifier: Arc::new(Verifier { paths, algorithms, anchors, lists }) })
    }

    /// The judge of handshakes.
    pub fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        self.verifier.clone()
    }

    /// Judges a chain that was shown, leaf first, and says until when it is good: the first end of a certificate on the path
    /// that leads to a CA, which may be without some of those that were shown.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub fn verify(&self, chain: &[CertificateDer<'static>], now: Timestamp) -> Result<Timestamp, String> {
        let (leaf, intermediates) = chain.split_first().ok_or("there is no certificate")?;
        let now = Duration::from_secs(u64::try_from(now.as_second()).unwrap_or_default());
        let verified = self.verifier.verify(leaf, intermediates, UnixTime::since_unix_epoch(now));
        verified.map_err(|error| error.to_string())
    }

    /// When the next revocation list or CA ends.
    pub fn next_end(&self, now: Timestamp) -> Option<Timestamp> {
        let of_cas = self.verifier.anchors.iter().map(|(_, ca)| ca.validity().not_after).filter(|end| *end > now);
        of_cas.chain(self.verifier.lists.next_end(now)).min()
    }

    /// The CAs that have ended.
    pub fn ended_cas(&self, now: Timestamp) -> Vec<&Certificate> {
        self.verifier.anchors.iter().map(|(_, ca)| ca).filter(|ca| ca.validity().not_after <= now).collect()
    }

    /// The issuers of revocation lists that are not in the file any more, and count for [`SETTLED`] more.
    pub fn missed_lists(&self) -> Vec<&str> {
        self.verifier.lists.missed()
    }

    /// The issuers of which the file has an older revocation list than it had, which does not count.
    pub fn older_lists(&self) -> Vec<&str> {
        self.verifier.lists.older_in_file()
    }

    /// The issuers whose revocation lists have ended.
    pub fn ended(&self, now: Timestamp) -> Vec<&str> {
        self.verifier.lists.ended(now)
    }

    /// The issuers of revocation lists that are of none of these CAs' keys. They count for intermediates by that name, if there
    /// are any.
    pub fn lists_of_others(&self) -> Vec<&str> {
        self.verifier.lists.of_others()
    }
}

impl fmt::Debug for ClientCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCa").field("lists", &self.verifier.lists).finish_non_exhaustive()
    }
}

/// Verifies as rustls does, and by the lists besides: rustls takes the first list of an issuer's name, whichever key has signed
/// it and however old it is.
#[derive(Debug)]
struct Verifier {
    /// What is said and checked beside the path; and why there is no path.
    paths: Arc<dyn ClientCertVerifier>,
    algorithms: WebPkiSupportedAlgorithms,
    /// What lasts longest comes first.
    anchors: Vec<(TrustAnchor<'static>, Certificate)>,
    lists: RevocationLists,
}

impl Verifier {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Timestamp, Error> {
        self.path(leaf, intermediates, now).map_err(|error| {
            // rustls has the better words, and the right alert, for what is wrong in its eyes too.
            self.paths.verify_client_cert(leaf, intermediates, now).err().unwrap_or_else(|| path_error(error))
        })
    }

    /// Looks for a path of which no certificate is revoked and whose CA has not ended, and says when the first on it ends.
    fn path(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Timestamp, webpki::Error> {
        let anchors: Vec<_> = self.anchors.iter().map(|(anchor, _)| anchor.clone()).collect();
        let leaf = EndEntityCert::try_from(leaf)?;
        let check = |path: &VerifiedPath<'_>| self.check(path, now);
        let (algorithms, usage) = (self.algorithms.all, KeyUsage::client_auth());
        let path = leaf.verify_for_usage(algorithms, &anchors, intermediates, now, usage, None, Some(&check))?;
        let mut end = self.anchor(&path)?.validity().not_after;
        for certificate in std::iter::once::<&Cert<'_>>(path.end_entity()).chain(path.intermediate_certificates()) {
            end = end.min(not_after(certificate)?);
        }
        Ok(end)
    }

    /// The CA at the end of a path. Of several that are the same but for their dates, the one that lasts longest.
    fn anchor(&self, path: &VerifiedPath<'_>) -> Result<&Certificate, webpki::Error> {
        let anchor = self.anchors.iter().find(|(anchor, _)| anchor == path.anchor()).map(|(_, ca)| ca);
        anchor.ok_or(webpki::Error::UnknownIssuer)
    }

    /// Each certificate of the path by the lists of the next one, which is its issuer; and the CA by its end, at which webpki
    /// does not look.
    fn check(&self, path: &VerifiedPath<'_>, now: UnixTime) -> Result<(), webpki::Error> {
        let anchor = self.anchor(path)?;
        let end = u64::try_from(anchor.validity().not_after.as_second()).unwrap_or_default();
        if end <= now.as_secs() {
            let not_after = UnixTime::since_unix_epoch(Duration::from_secs(end));
            return Err(webpki::Error::CertExpired { time: now, not_after });
        }
        let mut certificate: &Cert<'_> = path.end_entity();
        for issuer in path.intermediate_certificates() {
            let der = issuer.der();
            let (_, parsed) = X509Certificate::from_der(&der).map_err(|_malformed| webpki::Error::BadDer)?;
            let may_sign = may_sign_lists(&parsed);
            let issuer_key = Issuer { public_key: parsed.public_key().raw, may_sign, key_id: None };
            self.lists.check(certificate.issuer(), certificate.serial(), issuer_key, now)?;
            certificate = issuer;
        }
        let (_, parsed) = X509Certificate::from_der(anchor.der()).map_err(|_malformed| webpki::Error::BadDer)?;
        // Whether it may sign lists was seen when they were read.
        let anchor = Issuer { public_key: anchor.public_key(), may_sign: true, key_id: key_id(&parsed) };
        self.lists.check(certificate.issuer(), certificate.serial(), anchor, now)
    }
}

impl ClientCertVerifier for Verifier {
    fn offer_client_auth(&self) -> bool {
        self.paths.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.paths.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.paths.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end_entity, intermediates, now).map(|_end| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.paths.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.paths.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.paths.supported_verify_schemes()
    }
}

fn not_after(certificate: &Cert<'_>) -> Result<Timestamp, webpki::Error> {
    let der = certificate.der();
    let (_, parsed) = X509Certificate::from_der(&der).map_err(|_malformed| webpki::Error::BadDer)?;
    Timestamp::from_second(parsed.validity().not_after.timestamp()).map_err(|_range| webpki::Error::BadDer)
}

/// What the peer is told, and the log, of what rustls does not look at.
fn path_error(error: webpki::Error) -> Error {
    match error {
        webpki::Error::CertExpired { time, not_after } => CertificateError::ExpiredContext { time, not_after }.into(),
        webpki::Error::CertRevoked => CertificateError::Revoked.into(),
        webpki::Error::CrlExpired { time, next_update } => {
            CertificateError::ExpiredRevocationListContext { time, next_update }.into()
        }
        webpki::Error::InvalidCrlSignatureForPublicKey => CertRevocationListError::BadSignature.into(),
        other => CertificateError::Other(OtherError(Arc::new(other))).into(),
    }
}

#[cfg(test)]
#[path = "client_ca_tests.rs"]
mod tests;
