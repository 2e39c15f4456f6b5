//! TLS: loading the files, and reloading without dropping a stream.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::handshakes::Handshakes;
use crate::model::certificate::Certificate;
use crate::runtime::clock::Clock;
use crate::runtime::file_watch::{Changes, FileWatch};
use crate::runtime::tasks::Tasks;
use crate::serve::metrics::Metrics;

/// The files that a listener's TLS is made of, all PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The server's certificate chain, leaf first.
    pub certificate: PathBuf,
    /// Its private key: PKCS#8, SEC1 or PKCS#1.
    pub private_key: PathBuf,
    /// CAs of client certificates. With it, clients are asked for a certificate and need not have one; one that does
    /// not lead to such a CA fails the handshake.
    pub client_ca: Option<PathBuf>,
}

/// Why TLS files are no good.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path}: {reason}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The files do not go together.
    #[error("{certificate} and {private_key}: {source}")]
    Pair {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        private_key: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
}

/// A listener's TLS, loaded.
#[derive(Debug)]
pub(super) struct Tls {
    files: TlsFiles,
    loaded: Loaded,
    /// Tells `changes`; it was there before the files were read, so that no change in between is missed.
    _watch: FileWatch,
    changes: Changes,
}

#[derive(Debug)]
struct Loaded {
    config: Arc<ServerConfig>,
    /// Of the content of the files.
    digest: [u8; 32],
}

impl Tls {
    pub(super) fn load(files: TlsFiles, clock: &Clock) -> Result<Self, TlsError> {
        let watch = FileWatch::new();
        watch.add(&files.certificate);
        watch.add(&files.private_key);
        files.client_ca.iter().for_each(|path| watch.add(path));
        let changes = watch.changes();
        let loaded = Contents::read(&files)?.load(&files, clock)?;
        Ok(Self { files, loaded, _watch: watch, changes })
    }

    /// Starts watching the files.
    pub(super) fn start(self, tasks: &Tasks, clock: Clock, metrics: Metrics) -> Handshakes {
        let (publish, config) = watch::channel(self.loaded.config.clone());
        tasks.spawn_essential("tls files", self.keep_current(publish, clock));
        Handshakes::new(config, metrics)
    }

    async fn keep_current(mut self, publish: watch::Sender<Arc<ServerConfig>>, clock: Clock) {
        let certificate = self.files.certificate.display().to_string();
        // The last change that was of no use; it is told once.
        let mut refused = None;
        let mut told = None;
        loop {
            self.changes.next().await;
            let loaded = Contents::read(&self.files).and_then(|contents| {
                let digest = contents.digest();
                if digest == self.loaded.digest || Some(digest) == refused {
                    return Ok(None);
                }
                refused = Some(digest);
                contents.load(&self.files, &clock).map(Some)
            });
            match loaded {
                Ok(None) => {}
                Ok(Some(loaded)) => {
                    (refused, told) = (None, None);
                    publish.send_replace(loaded.config.clone());
                    self.loaded = loaded;
                    tracing::info!(certificate, "TLS files have changed; new connections use them");
                }
                Err(error) => {
                    let error = error.to_string();
                    if told.as_ref() != Some(&error) {
                        tracing::error!(
                            certificate,
                            error,
                            "TLS files have changed and are no good; the last good ones stay"
                        );
                    }
                    told = Some(error);
                }
            }
        }
    }
}

/// What the files hold.
struct Contents {
    certificate: Vec<u8>,
    private_key: Zeroizing<Vec<u8>>,
    client_ca: Option<Vec<u8>>,
}

impl Contents {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let read = |path: &Path| std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source });
        Ok(Self {
            certificate: read(&files.certificate)?,
            private_key: Zeroizing::new(read(&files.private_key)?),
            client_ca: files.client_ca.as_deref().map(read).transpose()?,
        })
    }

    fn digest(&self) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in [&self.certificate, &*self.private_key, self.client_ca.as_deref().unwrap_or_default()] {
            context.update(digest::digest(&digest::SHA256, part).as_ref());
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        digest
    }

    fn load(&self, files: &TlsFiles, clock: &Clock) -> Result<Loaded, TlsError> {
        let chain = certificates(&files.certificate, &self.certificate)?;
        warn_if_not_valid_now(&chain, clock);
        let key = PrivateKeyDer::from_pem_slice(&self.private_key).map_err(|error| TlsError::Content {
            path: files.private_key.clone(),
            reason: format!("no private key: {error}"),
        })?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let pair = |source| TlsError::Pair {
            certificate: files.certificate.clone(),
            private_key: files.private_key.clone(),
            source,
        };
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(pair)?;
        let builder = match (&files.client_ca, &self.client_ca) {
            (Some(path), Some(pem)) => {
                let broken = |reason: String| TlsError::Content { path: path.clone(), reason };
                let mut roots = RootCertStore::empty();
                for certificate in certificates(path, pem)? {
                    roots.add(certificate).map_err(|error| broken(error.to_string()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| broken(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(pair)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        // Envoy reconnects rarely, and a resumed session would keep a client certificate that has expired since.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Loaded { config: Arc::new(config), digest: self.digest() })
    }
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = Certificate::many_from_pem(pem)
        .map_err(|error| TlsError::Content { path: path.to_owned(), reason: error.to_string() })?;
    Ok(certificates.iter().map(|certificate| certificate.der().clone()).collect())
}

/// It may be renewed any moment, and an Envoy may be told to accept it, so it is not refused.
fn warn_if_not_valid_now(chain: &[CertificateDer<'static>], clock: &Clock) {
    let Some(Ok(leaf)) = chain.first().cloned().map(Certificate::from_der) else { return };
    if !leaf.validity().contains(clock.now()) {
        let validity = leaf.validity();
        tracing::warn!(
            not_before = %validity.not_before, not_after = %validity.not_after,
            "the server's own certificate is not valid now; Envoys will refuse it"
        );
    }
}
