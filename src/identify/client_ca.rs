//! The CAs that client certificates are verified against, and the revocation lists that go with them. Pure.
//!
//! The same judge verifies a certificate in the handshake and, when the files have changed, while streams live by it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::client::danger::HandshakeSignatureValid;
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
    /// [`ClientCaError`]; also for a list that names a CA's key, which has not signed it.
    pub fn from_pem(ca: &[u8], crl: Option<&[u8]>) -> Result<Self, ClientCaError> {
        let of_ca = |error: &dyn fmt::Display| ClientCaError::Ca(error.to_string());
        let mut roots = RootCertStore::empty();
        let cas = Certificate::many_from_pem(ca).map_err(|error| of_ca(&error))?;
        for ca in &cas {
            roots.add(ca.der().clone()).map_err(|error| of_ca(&error))?;
        }
        let lists = crl.map(|crl| RevocationLists::from_pem(crl, &cas)).transpose();
        let lists = lists.map_err(ClientCaError::Crl)?.unwrap_or_default();
        let anchors = roots.roots.iter().cloned().zip(cas).collect();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let paths = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            // Who shows none may have another proof.
            .allow_unauthenticated()
            .build()
            .map_err(|error| of_ca(&error))?;
        Ok(Self { verifier: Arc::new(Verifier { paths, anchors, lists }) })
    }

    /// The judge of handshakes.
    pub fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        self.verifier.clone()
    }

    /// Judges a chain that was shown, leaf first.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub fn verify(&self, chain: &[CertificateDer<'static>], now: Timestamp) -> Result<(), String> {
        let (leaf, intermediates) = chain.split_first().ok_or("there is no certificate")?;
        let now = Duration::from_secs(u64::try_from(now.as_second()).unwrap_or_default());
        let verified = self.verifier.verify_client_cert(leaf, intermediates, UnixTime::since_unix_epoch(now));
        verified.map(drop).map_err(|error| error.to_string())
    }

    /// When the next revocation list ends.
    pub fn next_end(&self, now: Timestamp) -> Option<Timestamp> {
        self.verifier.lists.next_end(now)
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
    paths: Arc<dyn ClientCertVerifier>,
    anchors: Vec<(TrustAnchor<'static>, Certificate)>,
    lists: RevocationLists,
}

impl Verifier {
    /// Looks for a path of which no certificate is revoked.
    fn not_revoked(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        let anchors: Vec<_> = self.anchors.iter().map(|(anchor, _)| anchor.clone()).collect();
        let leaf = EndEntityCert::try_from(leaf)?;
        let path = |path: &VerifiedPath<'_>| self.check(path, now);
        let (algorithms, usage) = (webpki::ALL_VERIFICATION_ALGS, KeyUsage::client_auth());
        leaf.verify_for_usage(algorithms, &anchors, intermediates, now, usage, None, Some(&path)).map(drop)
    }

    /// Each certificate of the path by the lists of the next one, which is its issuer.
    fn check(&self, path: &VerifiedPath<'_>, now: UnixTime) -> Result<(), webpki::Error> {
        let anchor = self.anchors.iter().find(|(anchor, _)| anchor == path.anchor()).map(|(_, ca)| ca);
        let anchor = anchor.ok_or(webpki::Error::UnknownIssuer)?;
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
        let verified = self.paths.verify_client_cert(end_entity, intermediates, now)?;
        if !self.lists.is_empty() {
            self.not_revoked(end_entity, intermediates, now).map_err(revocation_error)?;
        }
        Ok(verified)
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

/// What the peer is told, and the log. Everything else about the path has been verified before.
fn revocation_error(error: webpki::Error) -> Error {
    match error {
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
