//! CA backends. Everything clever (scheduling, retries, verification) sits in front of this trait, so that a backend
//! is one small file.

pub mod builtin;
pub mod cert_manager;
mod der;
mod left_behind;
mod local;
pub mod provided;
mod signed_here;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use dashmap::DashMap;
use tokio::sync::watch;

use self::builtin::Builtin;
use self::cert_manager::CertManager;
pub use self::left_behind::LeftBehind;
use self::provided::{Provided, Surroundings};
pub use self::signed_here::{Knowing, SignedHere};
use super::csr::SubjectKey;
use crate::model::certificate::Certificate;
use crate::model::policy::{Backend, BackendKind, ProvidedCa};
use crate::model::secrets::KnownSecrets;
use crate::runtime::clock::Clock;
use crate::runtime::file_watch::FileWatch;
use crate::runtime::private_file;

/// Something that signs leaves.
#[async_trait]
pub trait CertificateAuthority: fmt::Debug + Send + Sync + 'static {
    /// Makes a key and has it signed, as `request` says; waits as long as it takes. Dropping the future gives the request up.
    /// The key is made by the CA because computing is done aside: with what is signed with it or for it, that is one way
    /// there and back.
    ///
    /// # Errors
    /// [`CaError`]; the caller decides from its kind when to try again.
    async fn sign(&self, request: SigningRequest) -> Result<Signed, CaError>;

    /// What is wrong with the CA though it signs: it is not the one that the user has given last.
    fn trouble(&self) -> Option<String> {
        None
    }
}

/// What a CA is asked for.
#[derive(Debug, Clone)]
pub struct SigningRequest {
    /// The mesh that the proxy belongs to.
    pub mesh: Arc<str>,
    /// The proxy's name, for labels and logs.
    pub proxy: Arc<str>,
    /// The SPIFFE ID that the leaf is for.
    pub spiffe_id: Arc<str>,
    /// Lifetime to ask for; `None` leaves it to the CA.
    pub lifetime: Option<Duration>,
    /// Bound on each call to the CA's API, and after how long a pending request is called slow.
    pub request_timeout: Duration,
}

/// A key, and what a CA made of it.
#[derive(Debug)]
pub struct Signed {
    /// The key.
    pub key: SubjectKey,
    /// The CA's answer.
    pub chain: IssuedChain,
}

/// What a CA returned, parsed but not verified.
#[derive(Debug, Clone)]
pub struct IssuedChain {
    /// The leaf and what came with it, in the CA's order.
    pub certificates: Vec<Certificate>,
    /// The CA that the issuer names as its own (`status.ca`), if it does.
    pub authority: Vec<Certificate>,
    /// How the leaf was signed, if that was done here.
    pub signed_here: Option<SignedHere>,
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
    /// All that [`CaError::label`] says.
    pub const LABELS: [&'static str; 6] = ["denied", "failed", "invalid", "deleted", "unavailable", "bad_answer"];

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

/// Gives the CA of a backend's policy; a trait so that tests can give another.
pub trait AuthoritySource: fmt::Debug + Send + Sync + 'static {
    /// The CA of a backend.
    ///
    /// # Errors
    /// A sentence that says why it cannot be used.
    fn of(&self, mesh: &str, backend: &Backend) -> Result<Arc<dyn CertificateAuthority>, String>;

    /// The root of a backend whose key is ours; `None` for all others.
    ///
    /// # Errors
    /// A sentence that says why it cannot be used.
    fn own_root(&self, mesh: &str, backend: &Backend) -> Result<Option<Certificate>, String>;

    /// The CA of a backend whose key is the user's, who may replace it; `None` for all others.
    fn given(&self, _mesh: &str, _backend: &Backend) -> Option<Arc<Provided>> {
        None
    }
}

/// The provided CAs of one backend that are in use.
type InUse = Vec<Weak<Provided>>;

/// Makes CAs of policies. The only place that knows all kinds of backend.
#[derive(Debug)]
pub struct Authorities {
    state_dir: PathBuf,
    cert_manager: Option<CertManager>,
    clock: Clock,
    builtin: DashMap<PathBuf, Arc<Builtin>>,
    surroundings: Surroundings,
    /// By mesh and backend, one for each place that one is read from: the one in force and one that is being tried out are
    /// two. Those that nobody uses any more are gone: what was a good CA once is not for a backend that comes later.
    provided: DashMap<(Arc<str>, Arc<str>), InUse>,
}

impl Authorities {
    /// `state_dir` is where builtin CAs are kept; without a `cert_manager` its backends cannot be used. Provided CAs may be
    /// in `secrets`.
    pub fn new(
        state_dir: PathBuf,
        cert_manager: Option<CertManager>,
        secrets: watch::Receiver<Arc<KnownSecrets>>,
        clock: Clock,
    ) -> Self {
        let surroundings = Surroundings { secrets, files: Arc::new(FileWatch::new()), clock: clock.clone() };
        Self { state_dir, cert_manager, clock, builtin: DashMap::new(), surroundings, provided: DashMap::new() }
    }

    fn provided(&self, mesh: &str, backend: &Backend, sources: &ProvidedCa) -> Arc<Provided> {
        let mesh: Arc<str> = mesh.into();
        let mut entry = self.provided.entry((mesh.clone(), backend.name.clone())).or_default();
        entry.retain(|known| known.strong_count() > 0);
        let known = entry.iter().filter_map(Weak::upgrade).find(|known| known.sources() == sources);
        known.unwrap_or_else(|| {
            let made = Arc::new(Provided::new(mesh, sources.clone(), self.surroundings.clone()));
            entry.push(Arc::downgrade(&made));
            made
        })
    }

    fn builtin(&self, mesh: &str, backend: &Backend) -> Result<Arc<Builtin>, String> {
        let BackendKind::Builtin(settings) = &backend.kind else { return Err("not a builtin backend".to_owned()) };
        let folder = builtin_folder(&self.state_dir, mesh, &backend.name);
        // The entry's lock is held while the CA is made, so that two who ask at once get the same one.
        let made = self.builtin.entry(folder.clone()).or_try_insert_with(|| {
            let name = format!("{mesh} {} CA", backend.name);
            Builtin::load_or_create(&folder, &name, settings.root_lifetime, self.clock.clone()).map(Arc::new)
        });
        made.map(|ca| ca.clone()).map_err(|error| error.to_string())
    }

    /// Nobody has the builtin CA in `folder` any more: whoever comes to have it later reads what is there then.
    fn forget_builtin(&self, folder: &Path) {
        self.builtin.remove(folder);
    }
}

impl AuthoritySource for Authorities {
    fn of(&self, mesh: &str, backend: &Backend) -> Result<Arc<dyn CertificateAuthority>, String> {
        match &backend.kind {
            BackendKind::Builtin(_) => Ok(self.builtin(mesh, backend)?),
            BackendKind::CertManager { issuer, .. } => match &self.cert_manager {
                Some(cert_manager) => Ok(Arc::new(cert_manager.authority(issuer.clone()))),
                None => Err("a certmanager backend needs Kubernetes, and this server has no cluster".to_owned()),
            },
            BackendKind::Provided(sources) => Ok(self.provided(mesh, backend, sources)),
            BackendKind::NotInProgram(name) => Err(not_in_program(name)),
        }
    }

    fn given(&self, mesh: &str, backend: &Backend) -> Option<Arc<Provided>> {
        match &backend.kind {
            BackendKind::Provided(sources) => Some(self.provided(mesh, backend, sources)),
            _ => None,
        }
    }

    fn own_root(&self, mesh: &str, backend: &Backend) -> Result<Option<Certificate>, String> {
        match &backend.kind {
            BackendKind::Builtin(_) => Ok(Some(self.builtin(mesh, backend)?.root().clone())),
            BackendKind::CertManager { .. } | BackendKind::Provided(_) => Ok(None),
            BackendKind::NotInProgram(name) => Err(not_in_program(name)),
        }
    }
}

/// Where a backend's builtin CA is kept.
fn builtin_folder(state_dir: &Path, mesh: &str, backend: &str) -> PathBuf {
    state_dir.join("ca").join(private_file::name_of(mesh)).join(private_file::name_of(backend))
}

fn not_in_program(name: &str) -> String {
    format!("backends of type {name} are not in the program yet; use certmanager, builtin or provided")
}
