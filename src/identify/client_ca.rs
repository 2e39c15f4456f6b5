//! The CAs that client certificates are verified against, and the revocation lists that go with them. Pure.
//!
//! The same judge verifies a certificate in the handshake and, when the files have changed, while streams live by it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use jiff::Timestamp;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use tokio::sync::watch;
use x509_parser::certificate::X509Certificate;
use x509_parser::error::X509Error;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::model::certificate::Certificate;

/// The newest of a listener.
pub type ClientCaWatch = watch::Receiver<Arc<ClientCa>>;

/// Whose client certificates are accepted, and which of them are revoked.
#[derive(Clone)]
pub struct ClientCa {
    verifier: Arc<dyn ClientCertVerifier>,
    lists: Vec<List>,
    /// Of the content that it was made of.
    digest: [u8; 32],
}

/// What counts of a revocation list besides what is on it.
#[derive(Debug, Clone)]
struct List {
    issuer: String,
    /// When the next one is due (RFC 5280 §5.1.2.5).
    next_update: Timestamp,
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
    /// [`ClientCaError`]; also for a list that a CA of the same name has not signed: each certificate below it would be
    /// refused.
    pub fn from_pem(ca: &[u8], crl: Option<&[u8]>) -> Result<Self, ClientCaError> {
        let of_ca = |error: &dyn fmt::Display| ClientCaError::Ca(error.to_string());
        let of_crl = |error: &dyn fmt::Display| ClientCaError::Crl(error.to_string());
        let mut roots = RootCertStore::empty();
        let cas = Certificate::many_from_pem(ca).map_err(|error| of_ca(&error))?;
        for ca in &cas {
            roots.add(ca.der().clone()).map_err(|error| of_ca(&error))?;
        }
        let crls = crl.map(revocation_lists).transpose()?.unwrap_or_default();
        let lists = crls.iter().enumerate().map(|(index, crl)| {
            List::read(crl, &cas).map_err(|reason| of_crl(&format!("revocation list {}: {reason}", index + 1)))
        });
        let lists = lists.collect::<Result<_, _>>()?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .with_crls(crls)
            .allow_unknown_revocation_status()
            .enforce_revocation_expiration()
            // Who shows none may have another proof.
            .allow_unauthenticated()
            .build()
            .map_err(|error| if crl.is_some() { of_crl(&error) } else { of_ca(&error) })?;
        Ok(Self { verifier, lists, digest: digest_of(ca, crl) })
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
        self.lists.iter().map(|list| list.next_update).filter(|end| *end > now).min()
    }

    /// The issuers whose revocation lists have ended.
    pub fn ended(&self, now: Timestamp) -> Vec<&str> {
        self.lists.iter().filter(|list| list.next_update <= now).map(|list| list.issuer.as_str()).collect()
    }

    /// Whether both were made of the same.
    pub fn same_as(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl fmt::Debug for ClientCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCa").field("lists", &self.lists).finish_non_exhaustive()
    }
}

/// Every list of a PEM text; a broken one spoils the whole.
fn revocation_lists(pem: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, ClientCaError> {
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
    match lists {
        Ok(lists) if lists.is_empty() => {
            Err(ClientCaError::Crl("no PEM block `-----BEGIN X509 CRL-----` in it".to_owned()))
        }
        Ok(lists) => Ok(lists),
        Err(error) => Err(ClientCaError::Crl(format!("is not valid PEM: {error}"))),
    }
}

impl List {
    fn read(der: &[u8], cas: &[Certificate]) -> Result<Self, String> {
        let (_, list) = CertificateRevocationList::from_der(der).map_err(|error| error.to_string())?;
        let next_update = list.next_update().ok_or("it does not say when the next one is due (nextUpdate)")?;
        let next_update = Timestamp::from_second(next_update.timestamp()).map_err(|error| error.to_string())?;
        signed_by_one_of(&list, cas)?;
        Ok(Self { issuer: list.issuer().to_string(), next_update })
    }
}

/// Intermediates, which are shown with the certificates and not known here, have lists too; those are verified with them.
fn signed_by_one_of(list: &CertificateRevocationList<'_>, cas: &[Certificate]) -> Result<(), String> {
    let mut problem = None;
    for ca in cas {
        let (_, ca) = X509Certificate::from_der(ca.der()).map_err(|error| error.to_string())?;
        if ca.subject().as_raw() != list.issuer().as_raw() {
            continue;
        }
        let may_sign = ca.key_usage().ok().flatten().is_none_or(|usage| usage.value.crl_sign());
        problem = Some(match list.verify_signature(ca.public_key()) {
            Err(X509Error::SignatureVerificationError) => "has not signed it",
            _ if may_sign => return Ok(()),
            _ => "may not sign such lists (its key usage has no cRLSign)",
        });
    }
    problem.map_or(Ok(()), |problem| Err(format!("the CA {} {problem}", list.issuer())))
}

fn digest_of(ca: &[u8], crl: Option<&[u8]>) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in [ca, crl.unwrap_or_default()] {
        context.update(digest::digest(&digest::SHA256, part).as_ref());
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}
