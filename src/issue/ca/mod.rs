//! CA backends. Everything clever (scheduling, retries, verification) sits in front of this trait, so that a backend
//! is one small file.

pub mod cert_manager;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::model::certificate::Certificate;

/// Something that signs certificate signing requests.
#[async_trait]
pub trait CertificateAuthority: fmt::Debug + Send + Sync + 'static {
    /// Has `request` signed; waits as long as it takes. Dropping the future gives the request up.
    ///
    /// # Errors
    /// [`CaError`]; the caller decides from its kind when to try again.
    async fn sign(&self, request: SigningRequest) -> Result<IssuedChain, CaError>;
}

/// What a CA is asked for.
#[derive(Debug, Clone)]
pub struct SigningRequest {
    /// The mesh that the proxy belongs to.
    pub mesh: Arc<str>,
    /// The proxy's name, for labels and logs.
    pub proxy: Arc<str>,
    /// The SPIFFE ID in the CSR, for labels and logs.
    pub spiffe_id: Arc<str>,
    /// The CSR (PKCS#10), DER.
    pub csr: Vec<u8>,
    /// Lifetime to ask for; `None` leaves it to the CA.
    pub lifetime: Option<Duration>,
    /// Bound on each call to the CA's API, and after how long a pending request is called slow.
    pub request_timeout: Duration,
}

/// What a CA returned, parsed but not verified.
#[derive(Debug, Clone)]
pub struct IssuedChain {
    /// The leaf and what came with it, in the CA's order.
    pub certificates: Vec<Certificate>,
    /// The CA that the issuer names as its own (`status.ca`), if it does.
    pub authority: Vec<Certificate>,
}

/// Why there is no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CaError {
    /// An approver said no.
    #[error("the request was denied: {0}")]
    Denied(String),
    /// The issuer tried and failed.
    #[error("the issuer failed: {0}")]
    Failed(String),
    /// The CA calls the request itself wrong.
    #[error("the request is invalid: {0}")]
    Invalid(String),
    /// The request was deleted by someone else before it was answered.
    #[error("the request was deleted by someone else before it was answered")]
    Deleted,
    /// The CA could not be reached, or is overloaded.
    #[error("the CA cannot be reached: {0}")]
    Unavailable(String),
    /// The CA answered with something that is no certificate.
    #[error("the CA's answer is unusable: {0}")]
    BadAnswer(String),
}

impl CaError {
    /// A fixed label for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Denied(_) => "denied",
            Self::Failed(_) => "failed",
            Self::Invalid(_) => "invalid",
            Self::Deleted => "deleted",
            Self::Unavailable(_) => "unavailable",
            Self::BadAnswer(_) => "bad_answer",
        }
    }
}
