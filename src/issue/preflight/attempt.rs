//! One test certificate: asked for, verified, thrown away.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::issue::ca::cert_manager::{PendingBoard, PendingRequest};
use crate::issue::ca::{AuthoritySource, Signed, SigningRequest, provided};
use crate::issue::issuer::{IssueError, Subject, learnable, policy_digest};
use crate::issue::verify::{Expected, valid_in, verify};
use crate::model::bundle::Bundle;
use crate::model::certificate::Certificate;
use crate::model::policy::{Backend, BackendKind, CaSource, DataSource};
use crate::model::secrets::{KnownSecrets, SecretLookup};
use crate::runtime::clock::Clock;
use crate::runtime::file_watch::{Changes, FileWatch};
use crate::runtime::regular_file;

/// Its lifetime where the Mesh says none: it is of no use to anybody, so let it be short.
const LIFETIME: Duration = Duration::from_secs(3600);

/// What an attempt works with.
#[derive(Debug, Clone)]
pub(super) struct Tester {
    pub(super) authorities: Arc<dyn AuthoritySource>,
    pub(super) secrets: watch::Receiver<Arc<KnownSecrets>>,
    pub(super) pending: Option<PendingBoard>,
    /// Looks at the files in which the CAs are that are being tested; see [`files_of`].
    pub(super) files: Arc<FileWatch>,
    pub(super) clock: Clock,
}

/// What the proxy is called that asks for it.
const PROXY: &str = "preflight";

/// Why there is no test certificate, or none that is good.
#[derive(Debug, thiserror::Error)]
pub(super) enum TestError {
    /// The CA to trust is not known, so nothing was asked for.
    #[error("{0}")]
    Source(String),
    /// The CA's fault.
    #[error(transparent)]
    Issue(#[from] IssueError),
}

/// What the last attempt went by.
#[derive(Debug, Default)]
pub(super) struct WentBy(Option<Grounds>);

#[derive(Debug, PartialEq, Eq)]
struct Grounds {
    /// What the certificate had to lead to, or why that is not known.
    anchor: Result<Anchor, String>,
    /// What the files and mesh Secrets held in which the CA and its key are: digests, as a key is not to be anywhere else.
    given: Vec<Option<Digest>>,
}

/// SHA-256.
type Digest = Box<[u8]>;

/// What the certificate has to lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Anchor {
    Known(Bundle),
    /// What the issuer names itself.
    Named,
}

impl Tester {
    /// Waits for the CA as long as it takes; `overdue` is called whenever it has taken the backend's request timeout once more,
    /// with what cert-manager says of it, if it does.
    pub(super) async fn attempt(
        &mut self,
        mesh: &Arc<str>,
        backend: &Backend,
        went_by: &mut WentBy,
        overdue: impl Fn(Option<String>),
    ) -> Result<(), TestError> {
        let anchor = went_by.0.insert(self.grounds(mesh, backend).await).anchor.clone().map_err(TestError::Source)?;
        let authority = self.authorities.of(mesh, backend).map_err(TestError::Source)?;
        let spiffe_id: Arc<str> = format!("spiffe://{}/envoy-sds/preflight", backend.trust_domain).into();
        let subject = Subject { mesh: mesh.clone(), proxy: PROXY.into(), spiffe_id, identity_policy: None };
        let signed = authority.sign(SigningRequest {
            mesh: subject.mesh.clone(),
            proxy: subject.proxy.clone(),
            spiffe_id: subject.spiffe_id.clone(),
            lifetime: Some(backend.leaf_lifetime.unwrap_or(LIFETIME)),
            request_timeout: backend.request_timeout,
        });
        let Signed { key, chain: issued } =
            in_time(signed, backend.request_timeout, || overdue(self.waits_for(mesh, backend)))
                .await
                .map_err(IssueError::Ca)?;
        let policy_digest = policy_digest(backend, &subject);
        let expected = Expected { spiffe_id: subject.spiffe_id, public_key: key.public_key().to_vec(), policy_digest };
        if let Some(wait) = valid_in(&issued, &expected, self.clock.now()) {
            tokio::time::sleep(wait).await;
        }
        match anchor {
            Anchor::Known(bundle) => {
                verify(&issued, &expected, key.pem(), &bundle, self.clock.now()).map_err(IssueError::Verify)?;
            }
            Anchor::Named => {
                learnable(&backend.kind, &issued, &expected, &key.pem(), self.clock.now())?;
            }
        }
        Ok(())
    }

    /// What the test certificate waits for: a word, what cert-manager says, and what to do about it.
    fn waits_for(&self, mesh: &str, backend: &Backend) -> Option<String> {
        let BackendKind::CertManager { issuer, .. } = &backend.kind else { return None };
        let waiting = self.pending.as_ref()?.snapshot();
        let is_it =
            |request: &&PendingRequest| *request.mesh == *mesh && *request.proxy == *PROXY && request.issuer == *issuer;
        let PendingRequest { reason, message, hint, .. } = waiting.iter().find(is_it)?;
        let hint = hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
        Some(format!("{reason}: {message}{hint}"))
    }

    /// Returns when somebody has put in place what another attempt may fare better with: the CA that its certificate has to
    /// lead to is another, or is known now, or the CA is one that is given to this server, and another was put in its place.
    /// `files` are the changes since before that attempt.
    pub(super) async fn mended(&mut self, mesh: &Arc<str>, backend: &Backend, went_by: &WentBy, files: &mut Changes) {
        loop {
            tokio::select! {
                () = files.next() => {}
                changed = self.secrets.changed() => if changed.is_err() {
                    return std::future::pending().await;
                },
            }
            if went_by.0.as_ref() != Some(&self.grounds(mesh, backend).await) {
                return;
            }
        }
    }

    /// Is asked before the CA is, which reads what is given for itself: what is put in place meanwhile is another then.
    async fn grounds(&mut self, mesh: &Arc<str>, backend: &Backend) -> Grounds {
        let given = match &backend.kind {
            BackendKind::Provided(ca) => {
                let sources = [&ca.certificate, &ca.private_key].into_iter();
                sources.map(|source| self.given(mesh, source)).collect()
            }
            _ => Vec::new(),
        };
        Grounds { anchor: self.anchor(mesh, backend).await, given }
    }

    /// What is there to be read, if somebody may put another in its place.
    fn given(&self, mesh: &str, source: &DataSource) -> Option<Digest> {
        let of = |content: &[u8]| digest::digest(&digest::SHA256, content).as_ref().into();
        match source {
            DataSource::File(path) => regular_file::read(path).ok().map(|content| of(&Zeroizing::new(content))),
            DataSource::Secret(name) => match self.secrets.borrow().find(mesh, name) {
                SecretLookup::Found(content) => Some(of(content.expose())),
                _ => None,
            },
            DataSource::Inline(_) | DataSource::EnvVar(_) | DataSource::NotKept => None,
        }
    }

    async fn anchor(&mut self, mesh: &Arc<str>, backend: &Backend) -> Result<Anchor, String> {
        if backend.kind.takes_trust_from_issuer() {
            return Ok(Anchor::Named);
        }
        match &backend.kind {
            BackendKind::CertManager { trust: CaSource::Inline(bundle), .. } => Ok(Anchor::Known((**bundle).clone())),
            BackendKind::CertManager { trust: CaSource::File(path), .. } => {
                let at = |what: String| format!("file {}: {what}", path.display());
                let pem = regular_file::read(path).map_err(|error| at(error.to_string()))?;
                self.parse(&pem).map_err(at)
            }
            BackendKind::CertManager { trust: CaSource::Secret(name), .. } => self.secret(mesh, name).await,
            _ => {
                let root: Option<Certificate> = self.authorities.own_root(mesh, backend)?;
                let bundle = Bundle::from_certificates(root).map_err(|error| error.to_string())?;
                Ok(Anchor::Known(bundle))
            }
        }
    }

    async fn secret(&mut self, mesh: &Arc<str>, name: &Arc<str>) -> Result<Anchor, String> {
        loop {
            let found = self.secrets.borrow_and_update().find(mesh, name);
            match found {
                SecretLookup::Found(pem) => {
                    return self.parse(pem.expose()).map_err(|error| format!("mesh Secret {name:?}: {error}"));
                }
                SecretLookup::Absent | SecretLookup::NotInFiles => {
                    return Err(format!("mesh Secret {name:?} of mesh {mesh:?} is not there"));
                }
                SecretLookup::Unreadable(why) => return Err(format!("mesh Secret {name:?} cannot be read: {why}")),
                SecretLookup::Pending => {}
            }
            if self.secrets.changed().await.is_err() {
                return Err("the mesh Secrets are not known any more".to_owned());
            }
        }
    }

    fn parse(&self, pem: &[u8]) -> Result<Anchor, String> {
        Bundle::from_pem(pem, self.clock.now())
            .map(|parsed| Anchor::Known(parsed.bundle))
            .map_err(|error| error.to_string())
    }
}

/// The files in which it is said which CA the backend's is.
pub(super) fn files_of(backend: &Backend) -> Vec<&Path> {
    match &backend.kind {
        BackendKind::Provided(ca) => provided::files_of(ca).collect(),
        BackendKind::CertManager { trust: CaSource::File(path), .. } => vec![path],
        _ => Vec::new(),
    }
}

/// Waits as long as it takes, and tells each time that `timeout` is over: there may be more to say then.
async fn in_time<E>(
    signed: impl Future<Output = Result<Signed, E>>,
    timeout: Duration,
    overdue: impl Fn(),
) -> Result<Signed, E> {
    let mut signed = std::pin::pin!(signed);
    loop {
        tokio::select! {
            signed = &mut signed => return signed,
            () = tokio::time::sleep(timeout) => overdue(),
        }
    }
}
