//! One issuance from beginning to end: key and CSR, the CA's signature, verification against the trust that is served.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

use super::ca::{CaError, CertificateAuthority, IssuedChain, Signed, SigningRequest};
use super::renewal::Patience;
use super::signer::trust_domain;
use super::verify::{Expected, VerifyError, valid_in, verify};
use crate::model::bundle::{Bundle, TrustSet};
use crate::model::certificate::Certificate;
use crate::model::key::PrivateKeyPem;
use crate::model::policy::{Backend, BackendKind};
use crate::model::roots::{RootNews, RootSink};
use crate::model::svid::Svid;
use crate::runtime::clock::Clock;

/// How long after a CA came into a bundle that was being served the first leaf under it follows: a peer that does not have
/// the CA yet would refuse it (xds-conformance item 92).
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
    /// The identity policy that gives it, if one does.
    pub identity_policy: Option<Arc<str>>,
}

/// A backend that signs for a mesh or one of its identity policies, with what is needed to check its answers.
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
    /// Whoever believes this CA believes it for another trust domain.
    #[error("{spiffe_id} is not in trust domain {trust_domain:?}, which is all that the backend signs for")]
    ForeignTrustDomain {
        /// What was asked for.
        spiffe_id: Arc<str>,
        /// The backend's.
        trust_domain: Arc<str>,
    },
    /// The mesh's trust bundle is not complete.
    #[error(
        "the mesh's trust bundle is not complete, so the leaf cannot be checked; see the trust sources of the mesh"
    )]
    TrustUnknown,
    /// The trust changed while the certificate was on its way.
    #[error("the mesh's trust has changed meanwhile; the leaf would be refused")]
    TrustChanged,
    /// No key could be made, or a task died.
    #[error("{0}")]
    Internal(String),
}

impl IssueError {
    /// What [`IssueError::label`] says besides [`CaError::LABELS`].
    const OWN_LABELS: [&'static str; 3] = ["rejected", "trust_unknown", "internal"];

    /// All that [`IssueError::label`] says.
    pub fn labels() -> impl Iterator<Item = &'static str> {
        CaError::LABELS.into_iter().chain(Self::OWN_LABELS)
    }

    /// A fixed label for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Ca(error) => error.label(),
            Self::Verify(_) => "rejected",
            Self::NoAuthority | Self::AuthorityNotRoot(_) | Self::TrustUnknown => "trust_unknown",
            Self::TrustChanged | Self::ForeignTrustDomain { .. } => "rejected",
            Self::Internal(_) => "internal",
        }
    }

    /// Whether another trust bundle might have made it good.
    pub fn wants_other_trust(&self) -> bool {
        let Self::Verify(error) = self else {
            return matches!(self, Self::AuthorityNotRoot(_) | Self::NoAuthority | Self::TrustUnknown);
        };
        matches!(error, VerifyError::Untrusted { .. })
    }

    /// How soon to ask again.
    pub fn patience(&self) -> Patience {
        match self {
            Self::Ca(CaError::Unavailable(_)) | Self::Internal(_) | Self::TrustChanged => Patience::Away,
            Self::NoAuthority | Self::AuthorityNotRoot(_) | Self::ForeignTrustDomain { .. } => Patience::Hopeless,
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

    /// Issues a certificate; waits for the CA as long as it takes, and, if it is `in_no_hurry`, until peers have had time to
    /// get a CA that was just added.
    ///
    /// # Errors
    /// [`IssueError`].
    pub async fn issue(&self, subject: &Subject, in_no_hurry: bool) -> Result<Svid, IssueError> {
        let spiffe_id = subject.spiffe_id.clone();
        if trust_domain(&spiffe_id) != &*self.backend.trust_domain {
            return Err(IssueError::ForeignTrustDomain { spiffe_id, trust_domain: self.backend.trust_domain.clone() });
        }
        let Signed { key, chain: issued } = self.sign(subject).await?;
        let expected =
            Expected { spiffe_id, public_key: key.public_key().to_vec(), policy_digest: self.policy_digest(subject) };
        let key = key.pem();
        if let Some(wait) = valid_in(&issued, &expected, self.clock.now()) {
            tokio::time::sleep(wait).await;
        }
        if self.backend.kind.takes_trust_from_issuer() {
            self.learn(subject, &issued, &expected, &key).await?;
        }
        let trust = self.trust.borrow().of(&subject.mesh, &self.backend.trust_domain).cloned();
        let trust = trust.ok_or(IssueError::TrustUnknown)?;
        let svid = verify(&issued, &expected, key, &trust, self.clock.now())?;
        if in_no_hurry {
            self.let_trust_spread(&subject.mesh, &svid).await;
        }
        Ok(svid)
    }

    /// Waits until peers have had time to get the CA that the leaf leads to (xds-conformance item 92).
    async fn let_trust_spread(&self, mesh: &Arc<str>, svid: &Svid) {
        let added = self
            .trust
            .borrow()
            .added
            .get(mesh)
            .and_then(|added| added.iter().find(|(ca, _)| *ca == svid.anchor).map(|(_, at)| *at));
        let Some(added) = added else { return };
        let passed = self.clock.now().duration_since(added).max(SignedDuration::ZERO).unsigned_abs();
        tokio::time::sleep(TRUST_GRACE.saturating_sub(passed)).await;
    }

    async fn sign(&self, subject: &Subject) -> Result<Signed, CaError> {
        let request = SigningRequest {
            mesh: subject.mesh.clone(),
            proxy: subject.proxy.clone(),
            spiffe_id: subject.spiffe_id.clone(),
            lifetime: self.backend.leaf_lifetime,
            request_timeout: self.backend.request_timeout,
        };
        self.authority.sign(request).await
    }

    /// Takes the issuer's own CA from the answer, tells the trust store, and waits until it is served.
    async fn learn(
        &self,
        subject: &Subject,
        issued: &IssuedChain,
        expected: &Expected,
        key: &PrivateKeyPem,
    ) -> Result<(), IssueError> {
        let (root, needed_until) = learnable(&self.backend.kind, issued, expected, key, self.clock.now())?;
        let news = RootNews::Learned { root: root.clone(), needed_until };
        self.roots.publish(&subject.mesh, &self.backend, news);
        // It signs, but not with what the user has given it last.
        if let Some(trouble) = self.authority.trouble() {
            self.roots.publish(&subject.mesh, &self.backend, RootNews::Missing(trouble));
        }
        let mut trust = self.trust.clone();
        let (mesh, domain) = (&subject.mesh, &self.backend.trust_domain);
        let served = trust.wait_for(|set| set.of(mesh, domain).is_some_and(|bundle| bundle.contains(&root)));
        match tokio::time::timeout(TRUST_DEADLINE, served).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(IssueError::TrustUnknown),
        }
    }
}

/// The CA that the issuer names, if what it signed is good and leads there: until then it is hearsay, and must not come near
/// the trust store. With it, the end of the leaf. It has to be self-signed, unless it is the user who has named it: a CA that
/// was given to this server is trusted as it was given.
pub(super) fn learnable(
    kind: &BackendKind,
    issued: &IssuedChain,
    expected: &Expected,
    key: &PrivateKeyPem,
    now: Timestamp,
) -> Result<(Certificate, Timestamp), IssueError> {
    let is_given = matches!(kind, BackendKind::Provided(_));
    let Some(root) = issued.authority.iter().find(|ca| ca.is_ca() && (is_given || ca.is_self_signed())) else {
        return Err(match issued.authority.first() {
            Some(ca) => IssueError::AuthorityNotRoot(ca.subject().to_owned()),
            None => IssueError::NoAuthority,
        });
    };
    let alone = Bundle::from_certificates([root.clone()]).map_err(|error| IssueError::Internal(error.to_string()))?;
    let svid = verify(issued, expected, key.clone(), &alone, now)?;
    Ok((root.clone(), svid.validity().not_after))
}

/// See [`Issuer::policy_digest`].
pub fn policy_digest(backend: &Backend, subject: &Subject) -> Arc<str> {
    let issuer = match &backend.kind {
        BackendKind::Builtin(_) | BackendKind::Provided(_) | BackendKind::NotInProgram(_) => String::new(),
        BackendKind::CertManager { issuer, .. } => format!("{}/{}/{}", issuer.group, issuer.kind, issuer.name),
    };
    let lifetime = backend.leaf_lifetime.map_or(0, |lifetime| lifetime.as_millis()).to_string();
    let mut context = digest::Context::new(&digest::SHA256);
    for part in [&*subject.mesh, &*subject.spiffe_id, &*backend.name, backend.kind.label(), &issuer, &lifetime] {
        context.update(part.as_bytes());
        context.update(&[0]);
    }
    // Nothing for the default identity: its digests are older than identity policies, and a leaf is not to be issued anew
    // because the server is.
    if let Some(identity_policy) = &subject.identity_policy {
        context.update(b"MeshIdentity\0");
        context.update(identity_policy.as_bytes());
    }
    hex::encode(&context.finish().as_ref()[..8]).into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::issue::csr;
    use crate::model::policy::{BuiltinSettings, CaSource, DataSource, IssuerRef, ProvidedCa};
    use crate::model::secrets::SecretBytes;
    use crate::testing::certs::{LeafOptions, TestCa, timestamp};

    const ID: &str = "spiffe://default/web";

    fn backend(kind: BackendKind, leaf_lifetime: Option<Duration>) -> Backend {
        let name = if matches!(kind, BackendKind::Builtin(_)) { "ca" } else { "cm" };
        let request_timeout = Duration::from_secs(10);
        Backend { name: name.into(), leaf_lifetime, request_timeout, trust_domain: "default".into(), kind }
    }

    fn cert_manager() -> BackendKind {
        let issuer = IssuerRef { name: "my-ca".into(), kind: "Issuer".into(), group: "cert-manager.io".into() };
        BackendKind::CertManager { issuer, trust: CaSource::Issuer }
    }

    fn provided() -> BackendKind {
        let nothing = || DataSource::Inline(SecretBytes::new(Vec::new()));
        let ca = ProvidedCa { certificate: nothing(), private_key: nothing(), allow_self_signed: true };
        BackendKind::Provided(ca)
    }

    #[test]
    fn digests_are_as_they_were_before_there_were_identity_policies_and_tell_those_apart() {
        let digest = |backend: &Backend, identity_policy: Option<&str>| {
            let identity_policy = identity_policy.map(Arc::from);
            let subject =
                Subject { mesh: "default".into(), proxy: "web-0".into(), spiffe_id: ID.into(), identity_policy };
            policy_digest(backend, &subject).to_string()
        };
        let builtin = backend(BackendKind::Builtin(BuiltinSettings::default()), Some(Duration::from_secs(3_600)));
        // Proxies hold versions with these in them: a server that makes others issues everything anew when it is upgraded.
        assert_eq!(digest(&builtin, None), "79f179ce3412a437");
        assert_eq!(digest(&backend(cert_manager(), None), None), "bf958aa13c754b23");
        assert_eq!(digest(&builtin, Some("vip")), "662d2ef417521d7b");
        assert_ne!(digest(&builtin, Some("other")), digest(&builtin, Some("vip")));
        assert_ne!(digest(&builtin, Some("")), digest(&builtin, None));
    }

    #[test]
    fn every_outcome_is_known_before_it_comes_about() {
        let of_a_ca = [
            CaError::Denied(String::new()),
            CaError::Failed(String::new()),
            CaError::Invalid(String::new()),
            CaError::Deleted,
            CaError::Unavailable(String::new()),
            CaError::BadAnswer(String::new()),
        ];
        let errors = of_a_ca.map(IssueError::Ca).into_iter().chain([
            IssueError::Verify(VerifyError::IsCa),
            IssueError::NoAuthority,
            IssueError::AuthorityNotRoot(String::new()),
            IssueError::ForeignTrustDomain { spiffe_id: ID.into(), trust_domain: "default".into() },
            IssueError::TrustUnknown,
            IssueError::TrustChanged,
            IssueError::Internal(String::new()),
        ]);
        let labels: BTreeSet<_> = errors.map(|error| error.label()).collect();
        assert_eq!(labels, IssueError::labels().collect());
    }

    #[test]
    fn a_given_ca_is_trusted_though_it_is_not_self_signed() {
        let intermediate = TestCa::root("Root").intermediate("Issuing");
        let made = csr::generate(ID).unwrap();
        let expected =
            Expected { spiffe_id: ID.into(), public_key: made.public_key.clone(), policy_digest: "digest".into() };
        let issued = IssuedChain {
            certificates: vec![intermediate.sign(&made.request, &LeafOptions::default())],
            authority: vec![intermediate.certificate().clone()],
            signed_here: None,
        };
        let learn = |kind| learnable(&kind, &issued, &expected, &made.key, timestamp(1_800_000_000));
        assert_eq!(learn(provided()).unwrap().0, *intermediate.certificate());
        assert_eq!(learn(cert_manager()).unwrap_err(), IssueError::AuthorityNotRoot("CN=Issuing".into()));
    }

    #[test]
    fn only_a_root_that_the_leaf_leads_to_is_learned() {
        let root = TestCa::root("Root");
        let intermediate = root.intermediate("Issuing");
        let made = csr::generate(ID).unwrap();
        let leaf = intermediate.sign(&made.request, &LeafOptions::default());
        let expected =
            Expected { spiffe_id: ID.into(), public_key: made.public_key.clone(), policy_digest: "digest".into() };
        let learn = |authority: &[&TestCa]| {
            let issued = IssuedChain {
                certificates: vec![leaf.clone(), intermediate.certificate().clone()],
                authority: authority.iter().map(|ca| ca.certificate().clone()).collect(),
                signed_here: None,
            };
            learnable(&cert_manager(), &issued, &expected, &made.key, timestamp(1_800_000_000))
        };
        let (learned, until) = learn(&[&root]).unwrap();
        assert_eq!((&learned, until), (root.certificate(), leaf.validity().not_after));
        assert_eq!(learn(&[]).unwrap_err(), IssueError::NoAuthority);
        assert_eq!(learn(&[&intermediate]).unwrap_err(), IssueError::AuthorityNotRoot("CN=Issuing".into()));
        let foreign = learn(&[&TestCa::root("Foreign")]).unwrap_err();
        assert!(matches!(foreign, IssueError::Verify(VerifyError::Untrusted { .. })), "{foreign}");
    }
}
