//! The `builtin` backend: a root that is made on first start and kept in the state directory.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData,
};
use zeroize::Zeroizing;

use super::local::{DATED_BACK, LocalCa, offset};
use super::{CaError, CertificateAuthority, Signed, SigningRequest};
use crate::model::certificate::{Certificate, CertificateError};
use crate::runtime::clock::Clock;
use crate::runtime::private_file;

/// A CA that this server has made.
#[derive(Debug)]
pub struct Builtin {
    ca: LocalCa,
    clock: Clock,
}

/// Why the CA cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BuiltinError {
    /// A file cannot be read or written.
    #[error("the builtin CA's files cannot be used: {0}")]
    Io(#[from] std::io::Error),
    /// One file without the other: never made anew over what is there, since proxies may trust it.
    #[error("{} is there, but {} is not; restore it, or remove both to have a new CA made (peers that trust the old one will refuse the new one)", .present.display(), .missing.display())]
    Half {
        /// The file that is there.
        present: PathBuf,
        /// The file that is not.
        missing: PathBuf,
    },
    /// Not a certificate.
    #[error("{}: {error}", .path.display())]
    Certificate {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        error: CertificateError,
    },
    /// Not the certificate's key, or no key at all.
    #[error("{} is not the private key of the CA certificate beside it", .0.display())]
    Key(PathBuf),
    /// It is over.
    #[error("the CA certificate {} expired at {not_after}; remove it and its key to have a new CA made", .path.display())]
    Expired {
        /// Which file.
        path: PathBuf,
        /// When.
        not_after: Timestamp,
    },
    /// rcgen's.
    #[error("cannot make a CA: {0}")]
    Make(#[from] rcgen::Error),
}

impl Builtin {
    /// Loads the CA in `folder`, or makes one there that lives for `lifetime`. The key's file has mode 0600.
    ///
    /// # Errors
    /// [`BuiltinError`]; what is there is never overwritten.
    pub fn load_or_create(folder: &Path, name: &str, lifetime: Duration, clock: Clock) -> Result<Self, BuiltinError> {
        let (certificate_file, key_file) = (folder.join("ca.crt"), folder.join("ca.key"));
        // Two servers that start on one empty folder must not each make a CA. Released when dropped.
        let _lock = match lock(folder) {
            Ok(lock) => Some(lock),
            // A CA that is there signs, also where nothing can be written.
            Err(error) if certificate_file.exists() && key_file.exists() => {
                tracing::warn!(folder = %folder.display(), %error, "cannot write where the builtin CA is kept; it is used as it is");
                None
            }
            Err(error) => return Err(error.into()),
        };
        match (certificate_file.exists(), key_file.exists()) {
            (true, true) => {}
            (false, false) => {
                create(&certificate_file, &key_file, name, lifetime, clock.now())?;
                tracing::info!(file = %certificate_file.display(), "made a new root CA");
            }
            (true, false) => return Err(BuiltinError::Half { present: certificate_file, missing: key_file }),
            (false, true) => return Err(BuiltinError::Half { present: key_file, missing: certificate_file }),
        }
        let pem = std::fs::read(&certificate_file)?;
        let bad = |error| BuiltinError::Certificate { path: certificate_file.clone(), error };
        let root = Certificate::many_from_pem(&pem).map_err(bad)?.swap_remove(0);
        let key = Zeroizing::new(std::fs::read_to_string(&key_file)?);
        if std::fs::metadata(&key_file)?.permissions().mode() & 0o077 != 0 {
            tracing::warn!(file = %key_file.display(), "others can read the CA's private key: chmod 600 it, and consider it disclosed");
        }
        // The library's error is dropped on purpose: it must not quote a key.
        let key = KeyPair::from_pem(&key).ok().filter(|key| key.subject_public_key_info() == root.public_key());
        let key = key.ok_or(BuiltinError::Key(key_file))?;
        let not_after = root.validity().not_after;
        if not_after < clock.now() {
            return Err(BuiltinError::Expired { path: certificate_file, not_after });
        }
        Ok(Self { ca: LocalCa::new(&[root], key)?, clock })
    }

    /// The root certificate.
    pub fn root(&self) -> &Certificate {
        self.ca.anchor()
    }
}

#[async_trait]
impl CertificateAuthority for Builtin {
    async fn sign(&self, request: SigningRequest) -> Result<Signed, CaError> {
        self.ca.sign(request, self.clock.now()).await
    }
}

/// The folder is made if it is not there.
fn lock(folder: &Path) -> std::io::Result<File> {
    private_file::make_folder(folder)?;
    let lock = File::create(folder.join("lock"))?;
    lock.lock()?;
    Ok(lock)
}

fn create(
    certificate_file: &Path,
    key_file: &Path,
    name: &str,
    lifetime: Duration,
    now: Timestamp,
) -> Result<(), BuiltinError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "envoy-sds");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = offset(now.saturating_sub(DATED_BACK).unwrap_or(now));
    params.not_after = offset(now.saturating_add(lifetime).unwrap_or(Timestamp::MAX));
    let root = params.self_signed(&key)?;
    // The key first: a crash in between leaves a key that nobody trusts, never a root without a key.
    private_file::write(key_file, Zeroizing::new(key.serialize_pem()).as_bytes())?;
    private_file::write(certificate_file, root.pem().as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::watch;

    use super::*;
    use crate::issue::ca::{Authorities, AuthoritySource};
    use crate::model::policy::{Backend, BackendKind, BuiltinSettings};
    use crate::testing::certs::timestamp;

    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

    fn request(lifetime: Option<Duration>) -> SigningRequest {
        SigningRequest {
            mesh: "default".into(),
            proxy: "web-0".into(),
            spiffe_id: "spiffe://default/web".into(),
            lifetime,
            request_timeout: Duration::from_secs(10),
        }
    }

    fn load(folder: &Path, lifetime: Duration) -> Result<Builtin, BuiltinError> {
        Builtin::load_or_create(folder, "default CA", lifetime, clock())
    }

    /// Stands still, and needs no runtime.
    fn clock() -> Clock {
        Clock::fixed(timestamp(1_800_000_000))
    }

    #[tokio::test]
    async fn signs_as_asked_and_never_beyond_its_own_end() {
        let folder = tempfile::tempdir().unwrap();
        let ca = load(folder.path(), YEAR).unwrap();
        let issued = ca.sign(request(Some(Duration::from_secs(3_600)))).await.unwrap().chain;
        let [leaf] = issued.certificates.as_slice() else { panic!("one leaf") };
        assert_eq!(leaf.validity().not_after, timestamp(1_800_003_600));
        assert_eq!((leaf.subject(), leaf.is_ca()), ("", false));
        assert_eq!(leaf.uris(), ["spiffe://default/web"]);
        let issued = ca.sign(request(Some(10 * YEAR))).await.unwrap().chain;
        assert_eq!(issued.certificates[0].validity().not_after, ca.root().validity().not_after);
        let issued = ca.sign(request(None)).await.unwrap().chain;
        assert_eq!(issued.certificates[0].validity().not_after, timestamp(1_800_086_400));
    }

    #[tokio::test]
    async fn refuses_what_cannot_be_in_a_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let mut request = request(None);
        request.spiffe_id = "spiffe://default/wéb".into();
        assert!(matches!(load(folder.path(), YEAR).unwrap().sign(request).await, Err(CaError::Invalid(_))));
    }

    #[test]
    fn is_made_once_and_its_key_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let first = load(folder.path(), YEAR).unwrap();
        assert_eq!(load(folder.path(), YEAR).unwrap().root(), first.root());
        let mode = std::fs::metadata(folder.path().join("ca.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(first.root().is_self_signed());
    }

    #[test]
    fn two_that_start_at_once_have_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let roots: Vec<_> = std::thread::scope(|scope| {
            let start = || load(folder.path(), YEAR).unwrap().root().clone();
            let running: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            running.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(roots.iter().all(|root| *root == roots[0]));
    }

    #[test]
    fn never_makes_a_new_one_over_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        load(folder.path(), YEAR).unwrap();
        let key = std::fs::read(folder.path().join("ca.key")).unwrap();
        std::fs::remove_file(folder.path().join("ca.key")).unwrap();
        assert!(matches!(load(folder.path(), YEAR), Err(BuiltinError::Half { .. })));
        std::fs::write(folder.path().join("ca.key"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
        assert!(matches!(load(folder.path(), YEAR), Err(BuiltinError::Key(_))));
        std::fs::write(folder.path().join("ca.key"), "junk").unwrap();
        assert!(matches!(load(folder.path(), YEAR), Err(BuiltinError::Key(_))));
        std::fs::write(folder.path().join("ca.key"), key).unwrap();
        load(folder.path(), YEAR).unwrap();
        std::fs::write(folder.path().join("ca.crt"), "junk").unwrap();
        assert!(matches!(load(folder.path(), YEAR), Err(BuiltinError::Certificate { .. })));
    }

    #[test]
    fn one_that_is_there_is_used_where_nothing_can_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let made = load(folder.path(), YEAR).unwrap();
        // What a read-only file system does to everybody, root included, who may write anywhere else.
        std::fs::remove_file(folder.path().join("lock")).unwrap();
        std::fs::create_dir(folder.path().join("lock")).unwrap();
        assert_eq!(load(folder.path(), YEAR).unwrap().root(), made.root());
        std::fs::remove_file(folder.path().join("ca.key")).unwrap();
        assert!(matches!(load(folder.path(), YEAR), Err(BuiltinError::Io(_))));
    }

    #[test]
    fn says_so_when_it_is_over() {
        let folder = tempfile::tempdir().unwrap();
        load(folder.path(), Duration::from_secs(60)).unwrap();
        let later = Clock::fixed(timestamp(1_800_000_100));
        let error = Builtin::load_or_create(folder.path(), "default CA", YEAR, later).unwrap_err();
        assert!(error.to_string().contains("expired"), "{error}");
    }

    #[test]
    fn one_of_an_identity_policy_has_a_folder_of_its_own() {
        let state_dir = tempfile::tempdir().unwrap();
        let (_secrets, secrets) = watch::channel(Arc::default());
        let authorities = Authorities::new(state_dir.path().to_owned(), None, secrets, clock());
        let root = |name: &str| {
            let backend = Backend {
                name: name.into(),
                leaf_lifetime: None,
                request_timeout: Duration::from_secs(10),
                trust_domain: "default".into(),
                kind: BackendKind::Builtin(BuiltinSettings::default()),
            };
            authorities.own_root("default", &backend).unwrap().unwrap()
        };
        let of_policy = root("MeshIdentity/foo");
        assert_eq!(of_policy.subject(), "O=envoy-sds, CN=default MeshIdentity/foo CA");
        assert_eq!(root("MeshIdentity/foo"), of_policy);
        assert_ne!(root("MeshIdentity%2ffoo"), of_policy);
        assert!(state_dir.path().join("ca/default/MeshIdentity%2ffoo/ca.crt").is_file());
    }
}
