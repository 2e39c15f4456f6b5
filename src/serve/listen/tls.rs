//! TLS: loading the files, and reloading without dropping a stream.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::handshakes::Handshakes;
use crate::identify::client_ca::{ClientCa, ClientCaError};
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
    /// Lists of client certificates that are revoked: one or more CRLs. Without a client CA they mean nothing.
    pub client_crl: Option<PathBuf>,
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
    client_ca: Option<Arc<ClientCa>>,
    /// Of the content of the files.
    digest: [u8; 32],
}

impl Tls {
    pub(super) fn load(files: TlsFiles, clock: &Clock) -> Result<Self, TlsError> {
        let watch = FileWatch::new();
        watch.add(&files.certificate);
        watch.add(&files.private_key);
        files.client_ca.iter().chain(&files.client_crl).for_each(|path| watch.add(path));
        let changes = watch.changes();
        let loaded = Contents::read(&files)?.load(&files, clock)?;
        loaded.client_ca.iter().for_each(|client_ca| warn_of_ended_lists(client_ca, clock));
        Ok(Self { files, loaded, _watch: watch, changes })
    }

    /// Starts watching the files.
    pub(super) fn start(self, tasks: &Tasks, clock: Clock, metrics: Metrics) -> Handshakes {
        let (publish, config) = watch::channel(self.loaded.config.clone());
        let judges = self.loaded.client_ca.clone().map(watch::Sender::new);
        let client_ca = judges.as_ref().map(watch::Sender::subscribe);
        tasks.spawn_essential("tls files", self.keep_current(publish, judges, clock, metrics.clone()));
        Handshakes::new(config, client_ca, metrics)
    }

    async fn keep_current(
        mut self,
        publish: watch::Sender<Arc<ServerConfig>>,
        judges: Option<watch::Sender<Arc<ClientCa>>>,
        clock: Clock,
        metrics: Metrics,
    ) {
        let certificate = self.files.certificate.display().to_string();
        // The last change that was of no use; it is told once.
        let mut refused = None;
        let mut told = None;
        loop {
            let list_ends = self.loaded.client_ca.as_ref().and_then(|client_ca| client_ca.next_end(clock.now()));
            tokio::select! {
                () = self.changes.next() => {}
                () = at(list_ends, &clock) => {}
            }
            // Streams live by a list that has ended, and nothing but the time tells them.
            if let (Some(end), Some(judges), Some(client_ca)) = (list_ends, &judges, &self.loaded.client_ca)
                && end <= clock.now()
            {
                warn_of_ended_lists(client_ca, &clock);
                judges.send_replace(Arc::new(ClientCa::clone(client_ca)));
            }
            let loaded = Contents::read(&self.files).and_then(|contents| {
                let digest = contents.digest();
                if Some(digest) == refused {
                    return Ok(None);
                }
                // The broken ones have been put right, or the good ones back.
                if digest == self.loaded.digest && told.take().is_some() {
                    metrics.tls_files_mended();
                }
                refused = None;
                if digest == self.loaded.digest {
                    return Ok(None);
                }
                refused = Some(digest);
                contents.load(&self.files, &clock).map(Some)
            });
            match loaded {
                Ok(None) => {}
                Ok(Some(loaded)) => {
                    if told.take().is_some() {
                        metrics.tls_files_mended();
                    }
                    refused = None;
                    publish.send_replace(loaded.config.clone());
                    if let (Some(judges), Some(client_ca)) = (&judges, &loaded.client_ca) {
                        warn_of_ended_lists(client_ca, &clock);
                        // All streams are judged anew; not if it is the server's own certificate that has changed.
                        judges.send_if_modified(|judge| {
                            let other = !judge.same_as(client_ca);
                            if other {
                                *judge = client_ca.clone();
                            }
                            other
                        });
                    }
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
                    if told.replace(error).is_none() {
                        metrics.tls_files_broke();
                    }
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
    client_crl: Option<Vec<u8>>,
}

impl Contents {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let read = |path: &Path| std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source });
        Ok(Self {
            certificate: read(&files.certificate)?,
            private_key: Zeroizing::new(read(&files.private_key)?),
            client_ca: files.client_ca.as_deref().map(read).transpose()?,
            client_crl: files.client_crl.as_deref().map(read).transpose()?,
        })
    }

    fn digest(&self) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        let of_clients = [&self.client_ca, &self.client_crl].map(|part| part.as_deref().unwrap_or_default());
        for part in [self.certificate.as_slice(), &self.private_key].into_iter().chain(of_clients) {
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
        let builder =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(pair)?;
        let client_ca = self.client_ca(files)?;
        let builder = match &client_ca {
            Some(client_ca) => builder.with_client_cert_verifier(client_ca.verifier()),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(pair)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        // Envoy reconnects rarely, and a resumed session would keep a client certificate that has expired since.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Loaded { config: Arc::new(config), client_ca, digest: self.digest() })
    }

    fn client_ca(&self, files: &TlsFiles) -> Result<Option<Arc<ClientCa>>, TlsError> {
        let (Some(path), Some(pem)) = (&files.client_ca, &self.client_ca) else { return Ok(None) };
        let client_ca = ClientCa::from_pem(pem, self.client_crl.as_deref()).map_err(|error| TlsError::Content {
            path: match error {
                ClientCaError::Ca(_) => path.clone(),
                ClientCaError::Crl(_) => files.client_crl.clone().unwrap_or_default(),
            },
            reason: error.to_string(),
        })?;
        Ok(Some(Arc::new(client_ca)))
    }
}

/// Returns at `end`; never, if there is none.
async fn at(end: Option<jiff::Timestamp>, clock: &Clock) {
    let Some(end) = end else { return std::future::pending().await };
    let left = Duration::try_from(end.duration_since(clock.now())).unwrap_or_default();
    tokio::time::sleep(left).await;
}

fn warn_of_ended_lists(client_ca: &ClientCa, clock: &Clock) {
    for issuer in client_ca.ended(clock.now()) {
        tracing::error!(
            issuer,
            "a revocation list has ended; client certificates of this issuer are refused until there is a newer one"
        );
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
