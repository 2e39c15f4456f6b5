//! The `provided` backend: a CA whose certificate and key the user has given to this server, and may replace where they lie.
//!
//! The pair is read again whenever it may have changed. A bad one (the two do not belong together, because one has been replaced
//! and the other not yet; one is missing; it has expired) never replaces a good one: that goes on signing, and the trouble is
//! told. Nothing in what is told is of a key.

use std::borrow::Cow;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use rcgen::KeyPair;
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::local::LocalCa;
use super::{CaError, CertificateAuthority, Signed, SigningRequest};
use crate::model::ca_pair::{CaChain, CaKey, CaPairError};
use crate::model::certificate::Certificate;
use crate::model::policy::{DataSource, ProvidedCa};
use crate::model::secrets::{KnownSecrets, SecretBytes, SecretLookup};
use crate::runtime::clock::Clock;
use crate::runtime::file_watch::{FileWatch, Held};
use crate::runtime::regular_file;

const CERTIFICATE: &str = "certificate";
const PRIVATE_KEY: &str = "private key";

/// See the module.
#[derive(Debug)]
pub struct Provided {
    mesh: Arc<str>,
    sources: ProvidedCa,
    surroundings: Surroundings,
    _watched: Held,
    /// A lock, because it is held for a moment and never across an await.
    known: Mutex<Known>,
    /// How many follow it, each of which sees to it that what is known is what is there.
    followers: AtomicUsize,
}

/// Where provided CAs come from, and what time it is.
#[derive(Debug, Clone)]
pub(super) struct Surroundings {
    pub(super) secrets: watch::Receiver<Arc<KnownSecrets>>,
    pub(super) files: Arc<FileWatch>,
    pub(super) clock: Clock,
}

#[derive(Debug, Clone, Default)]
struct Known {
    /// The last good one.
    ca: Option<LocalCa>,
    trouble: Option<String>,
}

/// What there is to say of a provided CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// Whom peers are to trust because of it: of the last good one.
    pub anchor: Option<Certificate>,
    /// Why what is there now cannot be used.
    pub trouble: Option<String>,
}

/// Why there is no pair.
enum Missing {
    /// It may yet come.
    Awaited,
    Bad(String),
}

impl Provided {
    pub(super) fn new(mesh: Arc<str>, sources: ProvidedCa, surroundings: Surroundings) -> Self {
        // Before they are read, so that no change is missed.
        let watched = surroundings.files.hold(files_of(&sources));
        let (known, followers) = (Mutex::default(), AtomicUsize::new(0));
        let provided = Self { mesh, sources, surroundings, _watched: watched, known, followers };
        provided.look();
        provided
    }

    /// Where it is read from.
    pub(super) fn sources(&self) -> &ProvidedCa {
        &self.sources
    }

    /// Tells what is known of it, and again whenever it may have changed; at least once a minute, since certificates end.
    pub async fn follow(&self, mut tell: impl FnMut(Given) + Send) {
        let _counted = Follower::of(&self.followers);
        let mut files = self.surroundings.files.changes();
        let mut secrets = self.surroundings.secrets.clone();
        loop {
            secrets.borrow_and_update();
            tell(self.look());
            tokio::select! {
                () = files.next() => {}
                changed = secrets.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    }

    /// Reads the pair, and goes by it if it is good.
    fn look(&self) -> Given {
        let loaded = self.load();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match loaded {
            Ok(ca) => *known = Known { ca: Some(ca), trouble: None },
            Err(Missing::Awaited) => {}
            Err(Missing::Bad(reason)) => {
                known.trouble = Some(match &known.ca {
                    Some(ca) => format!("{reason}; the CA that was given before signs until {}", ca.not_after()),
                    None => reason,
                });
            }
        }
        Given { anchor: known.ca.as_ref().map(|ca| ca.anchor().clone()), trouble: known.trouble.clone() }
    }

    fn load(&self) -> Result<LocalCa, Missing> {
        let ProvidedCa { certificate, private_key, allow_self_signed } = &self.sources;
        // Both are read: one that is to come does not hide that the other is bad.
        let (pem, key) = (self.read(CERTIFICATE, certificate), self.read(PRIVATE_KEY, private_key));
        let bad = |what: &str, source: &DataSource, error: &CaPairError| {
            let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
            Missing::Bad(format!("the CA's {what} {}: {error}{hint}", place(source)))
        };
        let now = self.surroundings.clock.now();
        let chain = CaChain::from_pem(pem?.expose(), *allow_self_signed, now)
            .map_err(|error| bad(CERTIFICATE, certificate, &error))?;
        let of_key = |error: CaPairError| bad(PRIVATE_KEY, private_key, &error);
        let key = CaKey::from_pem(key?.expose()).map_err(of_key)?;
        key.check_belongs_to(&chain).map_err(of_key)?;
        // The library's error is dropped on purpose: it must not quote a key.
        let key = KeyPair::try_from(key.der()).ok().ok_or_else(|| of_key(CaPairError::UnusableKey))?;
        let broken = |error: rcgen::Error| Missing::Bad(format!("the CA cannot be used: {error}"));
        LocalCa::new(&chain.chain, key).map_err(broken)
    }

    fn read(&self, what: &str, source: &DataSource) -> Result<SecretBytes, Missing> {
        let bad = |reason: String| Missing::Bad(format!("the CA's {what} {}: {reason}", place(source)));
        match source {
            DataSource::Inline(bytes) => Ok(bytes.clone()),
            DataSource::NotKept => Err(bad("has not been kept over the restart: it is needed again".to_owned())),
            DataSource::File(path) => {
                let content = regular_file::read(path).map_err(|error| bad(error.to_string()))?;
                Ok(SecretBytes::new(Zeroizing::new(content)))
            }
            DataSource::EnvVar(name) => match std::env::var(&**name) {
                Ok(value) => Ok(SecretBytes::new(value.into_bytes())),
                Err(_) => Err(bad("is not set".to_owned())),
            },
            DataSource::Secret(name) => match self.surroundings.secrets.borrow().find(&self.mesh, name) {
                SecretLookup::Found(bytes) => Ok(bytes),
                SecretLookup::Unreadable(why) => Err(bad(format!("cannot be read: {why}"))),
                SecretLookup::Pending => Err(Missing::Awaited),
                SecretLookup::NotInFiles => Err(bad(format!("is in no resource file of mesh {:?}", self.mesh))),
                SecretLookup::Absent => Err(bad(format!(
                    "is neither in a resource file nor in the cluster: it has to be of type system.kuma.io/secret, in \
                     the system namespace, with label kuma.io/mesh: {}",
                    self.mesh
                ))),
            },
        }
    }

    fn known(&self) -> Known {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The files in which its certificate and key are, as far as they are in files.
pub(in crate::issue) fn files_of(sources: &ProvidedCa) -> impl Iterator<Item = &Path> {
    [&sources.certificate, &sources.private_key].into_iter().filter_map(|source| match source {
        DataSource::File(path) => Some(path.as_path()),
        _ => None,
    })
}

/// Counts for as long as it lives.
struct Follower<'p>(&'p AtomicUsize);

impl<'p> Follower<'p> {
    fn of(count: &'p AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Follower<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[async_trait]
impl CertificateAuthority for Provided {
    async fn sign(&self, request: SigningRequest) -> Result<Signed, CaError> {
        // Nobody has looked since it was made, or since its last follower left.
        if self.followers.load(Ordering::Acquire) == 0 {
            self.look();
        }
        let Known { ca, trouble } = self.known();
        match ca {
            Some(ca) => ca.sign(request, self.surroundings.clock.now()).await,
            None => Err(CaError::Unavailable(trouble.unwrap_or_else(|| "the CA has not been read yet".to_owned()))),
        }
    }

    fn trouble(&self) -> Option<String> {
        self.known().trouble
    }
}

/// Where it is, for people. What is in a place of a name, and can be none, may be the key itself: it is not repeated.
fn place(source: &DataSource) -> Cow<'static, str> {
    let is_name = |text: &str| !text.contains("-----") && !text.chars().any(char::is_control);
    match source {
        DataSource::Inline(_) | DataSource::NotKept => "in the resource".into(),
        DataSource::File(path) if is_name(&path.to_string_lossy()) => format!("in file {}", path.display()).into(),
        DataSource::Secret(name) if is_name(name) => format!("in mesh Secret {name:?}").into(),
        DataSource::EnvVar(name) if is_name(name) => format!("in environment variable {name}").into(),
        DataSource::File(_) => "in a file".into(),
        DataSource::Secret(_) => "in a mesh Secret".into(),
        DataSource::EnvVar(_) => "in an environment variable".into(),
    }
}
