//! One issuance from beginning to end: key and CSR, the CA's signature, verification against the trust that is served.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use tokio::sync::watch;

use super::ca::{CaError, CertificateAuthority, IssuedChain, SigningRequest};
use super::csr::{self, KeyAndRequest};
use super::renewal::Patience;
use super::verify::{Expected, VerifyError, verify};
use crate::model::bundle::{Bundle, TrustSet};
use crate::model::certificate::Certificate;
use crate::model::policy::{Backend, BackendKind, CaSource};
use crate::model::roots::{RootNews, RootSink};
use crate::model::svid::Svid;
use crate::runtime::clock::Clock;

/// How long after a widened trust bundle went out the first leaf that needs it follows: a peer that has the leaf's CA not
/// yet would refuse it (xds-conformance item 92).
pub const TRUST_GRACE: Duration = Duration::from_secs(5);

/// How long a root that was just learned may take to come out of the trust store; longer means that another source of the
/// same mesh holds its bundle back.
const TRUST_DEADLINE: Duration = Duration::from_secs(30);

/// Whom a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The mesh.
    pub mesh: Arc<str>,
    /// The proxy's name, for labels and logs.
    pub proxy: Arc<str>,
    /// The SPIFFE ID.
    pub spiffe_id: Arc<str>,
}

/// A backend that signs for a mesh, with what is needed to check its answers.
#[derive(Debug, Clone)]
pub struct Issuer {
    /// The policy it follows.
    pub backend: Arc<Backend>,
    /// The CA.
    pub authority: Arc<dyn CertificateAuthority>,
    /// What the meshes trust at the moment.
    pub trust: watch::Receiver<Arc<TrustSet>>,
    /// Where roots that issuers name are told.
    pub roots: Arc<dyn RootSink>,
    /// The time.
    pub clock: Clock,
}

/// Why there is no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The CA's fault.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// What came back is not served.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// The issuer does not say which CA it is, and nobody else does.
    #[error(
        "the issuer says nothing of its CA (status.ca is empty, as with ACME issuers); set conf.caCert to the CA to trust"
    )]
    NoAuthority,
    /// The issuer names an intermediate as its CA.
    #[error(
        "the issuer names {0:?} as its CA, which is not self-signed, and trust is not taken from hearsay; set conf.caCert \
         to the CA to trust (or add ca.crt to the issuer's Secret)"
    )]
    AuthorityNotRoot(String),
    /// The mesh's trust bundle is not complete.
    #[error(
        "the mesh's trust bundle is not complete, so the leaf cannot be checked; see the trust sources of the mesh"
    )]
    TrustUnknown,
    /// No key could be made, or a task died.
    #[error("{0}")]
    Internal(String),
}

impl IssueError {
    /// A fixed label for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Ca(error) => error.label(),
            Self::Verify(_) => "rejected",
            Self::NoAuthority | Self::AuthorityNotRoot(_) | Self::TrustUnknown => "trust_unknown",
            Self::Internal(_) => "internal",
        }
    }

    /// How soon to ask again.
    pub fn patience(&self) -> Patience {
        match self {
            Self::Ca(CaError::Unavailable(_)) | Self::Internal(_) => Patience::Away,
            _ => Patience::Refused,
        }
    }
}

impl Issuer {
    /// Digest of what a certificate is issued for: identity and policy. Equal on every replica; part of the version that
    /// Envoy is told, so that a leaf issued under another policy is recognised after a restart.
    pub fn policy_digest(&self, subject: &Subject) -> Arc<str> {
        policy_digest(&self.backend, subject)
    }

    /// Issues a certificate; waits for the CA as long as it takes.
    ///
    /// # Errors
    /// [`IssueError`].
    pub async fn issue(&self, subject: &Subject) -> Result<Svid, IssueError> {
        let spiffe_id = subject.spiffe_id.clone();
        // Off the threads that serve streams, and bounded by the number of signings in flight.
        let made = tokio::task::spawn_blocking(move || csr::generate(&spiffe_id)).await;
        let KeyAndRequest { key, public_key, request } =
            made.map_err(|error| IssueError::Internal(error.to_string()))?.map_err(IssueError::Internal)?;
        let issued = self.sign(subject, request).await?;
        let expected =
            Expected { spiffe_id: subject.spiffe_id.clone(), public_key, policy_digest: self.policy_digest(subject) };
        if matches!(self.backend.kind, BackendKind::CertManager { trust: CaSource::Issuer, .. }) {
            self.learn(subject, &issued, &expected).await?;
        }
        let trust = self.trust_of(&subject.mesh).ok_or(IssueError::TrustUnknown)?;
        loop {
            let now = self.clock.now();
            match verify(&issued, &expected, key.clone(), &trust, now) {
                Ok(svid) => return Ok(svid),
                Err(error) => match error.good_in(now) {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => return Err(error.into()),
                },
            }
        }
    }

    async fn sign(&self, subject: &Subject, csr: Vec<u8>) -> Result<IssuedChain, CaError> {
        let request = SigningRequest {
            mesh: subject.mesh.clone(),
            proxy: subject.proxy.clone(),
            spiffe_id: subject.spiffe_id.clone(),
            csr,
            lifetime: self.backend.leaf_lifetime,
            request_timeout: self.backend.request_timeout,
        };
        self.authority.sign(request).await
    }

    /// Takes the issuer's own CA from the answer, tells the trust store, and waits until proxies have been sent it.
    async fn learn(&self, subject: &Subject, issued: &IssuedChain, expected: &Expected) -> Result<(), IssueError> {
        let (root, needed_until) = learnable(issued, expected)?;
        let known = self.trust_of(&subject.mesh);
        let news = RootNews::Learned { root: root.clone(), needed_until };
        self.roots.publish(&subject.mesh, &self.backend.name, news);
        if known.as_ref().is_some_and(|trust| trust.contains(&root)) {
            return Ok(());
        }
        let mut trust = self.trust.clone();
        let served = trust.wait_for(|set| set.meshes.get(&subject.mesh).is_some_and(|bundle| bundle.contains(&root)));
        match tokio::time::timeout(TRUST_DEADLINE, served).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return Err(IssueError::TrustUnknown),
        }
        if known.is_some() {
            tracing::info!(mesh = %subject.mesh, root = root.subject(), "the issuer has a new CA; it is trusted from now on");
            tokio::time::sleep(TRUST_GRACE).await;
        }
        Ok(())
    }

    fn trust_of(&self, mesh: &Arc<str>) -> Option<Arc<Bundle>> {
        self.trust.borrow().meshes.get(mesh).cloned()
    }
}

/// The self-signed CA that the issuer names, if the leaf it signed leads there.
pub(super) fn learnable(
    issued: &IssuedChain,
    expected: &Expected,
) -> Result<(Certificate, jiff::Timestamp), IssueError> {
    let root = match issued.authority.iter().find(|ca| ca.is_ca() && ca.is_self_signed()) {
        Some(root) => root,
        None => {
            return Err(match issued.authority.first() {
                Some(ca) => IssueError::AuthorityNotRoot(ca.subject().to_owned()),
                None => IssueError::NoAuthority,
            });
        }
    };
    let leaf = issued.certificates.iter().find(|certificate| certificate.public_key() == expected.public_key);
    let leaf = leaf.ok_or(VerifyError::KeyMismatch(issued.certificates.len()))?;
    Ok((root.clone(), leaf.validity().not_after))
}

/// See [`Issuer::policy_digest`].
pub fn policy_digest(backend: &Backend, subject: &Subject) -> Arc<str> {
    let issuer = match &backend.kind {
        BackendKind::Builtin(_) => String::new(),
        BackendKind::CertManager { issuer, .. } => format!("{}/{}/{}", issuer.group, issuer.kind, issuer.name),
    };
    let lifetime = backend.leaf_lifetime.map_or(0, |lifetime| lifetime.as_millis()).to_string();
    let mut context = digest::Context::new(&digest::SHA256);
    for part in [&*subject.mesh, &*subject.spiffe_id, &*backend.name, backend.kind.label(), &issuer, &lifetime] {
        context.update(part.as_bytes());
        context.update(&[0]);
    }
    hex::encode(&context.finish().as_ref()[..8]).into()
}
