//! TLS: loading the files, and reloading without dropping a stream.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::sync::watch;
use tokio::time::Instant;

use super::failed_handshakes::FailedHandshakes;
use super::handshakes::Handshakes;
use super::last_good::{Contents, LastGood};
use super::tls_dates::{NotNow, next_date, validity};
use crate::identify::client_ca::{ClientCa, ClientCaError, SETTLED};
use crate::model::certificate::{Certificate, Validity};
use crate::model::diagnostic::{Location, Problem};
use crate::runtime::clock::Clock;
use crate::runtime::file_watch::{Changes, FileWatch};
use crate::runtime::publish;
use crate::runtime::regular_file;
use crate::runtime::tasks::Tasks;
use crate::serve::metrics::Metrics;
use crate::serve::refusals::Refusals;

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

/// A listener's TLS, loaded. Its own certificate and what clients are judged by have nothing to do with each other: where one is
/// broken, the other is still renewed.
#[derive(Debug)]
pub(super) struct Tls {
    files: TlsFiles,
    own: LastGood<Arc<CertifiedKey>>,
    clients: LastGood<Option<Arc<ClientCa>>>,
    config: watch::Sender<Arc<ServerConfig>>,
    problems: watch::Sender<Arc<Vec<Problem>>>,
    /// That of `own`.
    validity: watch::Sender<Option<Validity>>,
    /// When the dates of certificates and lists were last looked at. What ends after that has yet to be seen, however long it
    /// takes to get there.
    judged_at: Timestamp,
    /// Tells `changes`; it was there before the files were read, so that no change in between is missed.
    _watch: FileWatch,
    changes: Changes,
}

/// What was found in the files of a listener: its own certificate and key, and what clients are judged by.
#[derive(Debug, Default)]
pub struct Checked {
    /// With any of them a server does not start, or Envoys cannot connect to it, or it refuses clients.
    pub problems: Vec<String>,
    /// What has to be mended all the same.
    pub warnings: Vec<Problem>,
}

/// Reads the files of a listener once.
pub fn check(files: &TlsFiles, clock: &Clock) -> Checked {
    let own = LastGood::first(Contents::read(files.own()), |contents| files.certified_key(contents));
    let clients = LastGood::first(Contents::read(files.of_clients()), |contents| files.judge(contents, None));
    let key = own.as_ref().ok().map(LastGood::made);
    let client_ca = clients.as_ref().ok().and_then(|clients| clients.made().as_deref());
    let mut warnings = client_ca.map(|client_ca| files.about_lists(client_ca, clock)).unwrap_or_default();
    // A server begins with what is over too, since it may be renewed any moment; but nobody writes that down on purpose.
    let mut problems: Vec<String> = client_ca.map(|client_ca| files.about_cas(client_ca, clock)).unwrap_or_default();
    match key.and_then(|key| files.about_own(key, clock)) {
        Some(NotNow::Ended(what)) => problems.push(what),
        Some(NotNow::NotYet(what)) => warnings.push(files.of_own(what)),
        None => {}
    }
    let errors = [own.err().map(|error| error.to_string()), clients.err().map(|error| error.to_string())];
    problems.extend(errors.into_iter().flatten());
    // Of the files that go together only the first that cannot be read has been told of.
    for path in files.own().into_iter().chain(files.of_clients()) {
        let name = path.display().to_string();
        if let Err(error) = regular_file::read(path)
            && !problems.iter().any(|problem| problem.contains(&name))
        {
            problems.push(format!("cannot read {name}: {error}"));
        }
    }
    Checked { problems, warnings }
}

impl Tls {
    pub(super) fn load(files: TlsFiles, clock: &Clock) -> Result<Self, TlsError> {
        let judged_at = clock.now();
        let watch = FileWatch::new();
        files.own().into_iter().chain(files.of_clients()).for_each(|path| watch.add(path));
        let changes = watch.changes();
        let own = LastGood::first(Contents::read(files.own()), |contents| files.certified_key(contents))?;
        let clients = LastGood::first(Contents::read(files.of_clients()), |contents| files.judge(contents, None))?;
        let config = watch::Sender::new(files.config(own.made(), clients.made().as_deref())?);
        let (problems, validity) = (watch::Sender::default(), watch::Sender::default());
        let tls = Self { files, own, clients, config, problems, validity, judged_at, _watch: watch, changes };
        tls.warn_of_dates(clock);
        tls.warn_of_lists();
        tls.publish_problems(clock);
        Ok(tls)
    }

    /// What is wrong with the files that there are now.
    pub(super) fn problems(&self) -> watch::Receiver<Arc<Vec<Problem>>> {
        self.problems.subscribe()
    }

    /// How long its own certificate is valid that is shown now.
    pub(super) fn validity(&self) -> watch::Receiver<Option<Validity>> {
        self.validity.subscribe()
    }

    /// Starts watching the files. Who fails in a handshake for a certificate is among `refusals`.
    pub(super) fn start(self, tasks: &Tasks, clock: Clock, metrics: Metrics, refusals: Refusals) -> Handshakes {
        let config = self.config.subscribe();
        let judges = self.clients.made().clone().map(watch::Sender::new);
        let client_ca = judges.as_ref().map(watch::Sender::subscribe);
        let failed = FailedHandshakes::new(metrics.clone(), refusals, clock.clone());
        tasks.spawn_essential("tls files", self.keep_current(judges, clock, metrics.clone()));
        Handshakes::new(config, client_ca, metrics, failed)
    }

    async fn keep_current(mut self, judges: Option<watch::Sender<Arc<ClientCa>>>, clock: Clock, metrics: Metrics) {
        let certificate = self.files.certificate.display().to_string();
        // When the revocation lists that were missed in the file have been away for long enough.
        let mut settled: Option<Instant> = None;
        loop {
            let end = self.clients.made().as_ref().and_then(|client_ca| client_ca.next_end(self.judged_at));
            let own_date = next_date(self.own.made(), self.judged_at);
            tokio::select! {
                () = self.changes.next() => {}
                () = at(end, &clock) => {}
                () = at(own_date, &clock) => {}
                () = until(settled) => {}
            }
            let now = clock.now();
            self.judged_at = now;
            // Streams live by a list or a CA that has ended, and nothing but the time tells them.
            if let (Some(judges), Some(client_ca)) = (&judges, self.clients.made())
                && end.is_some_and(|end| end <= now)
            {
                judges.send_replace(Arc::new(ClientCa::clone(client_ca)));
            }
            if end.into_iter().chain(own_date).any(|date| date <= now) {
                self.warn_of_dates(&clock);
            }
            let was_broken = self.is_broken();
            let (files, last) = (&self.files, self.clients.made().clone());
            let own = self.own.renew(Contents::read(files.own()), |contents| files.certified_key(contents));
            let of_clients = Contents::read(files.of_clients());
            let changed = self.clients.renew(of_clients, |contents| files.judge(contents, last.as_deref()));
            settled = self.settling(settled, changed);
            let clients = changed || (settled.is_some_and(|at| at <= Instant::now()) && self.forget_missed_lists());
            if own || clients {
                match self.files.config(self.own.made(), self.clients.made().as_deref()) {
                    Ok(config) => drop(self.config.send_replace(config)),
                    Err(error) => tracing::error!(certificate, %error, "TLS cannot be set up; the last good ones stay"),
                }
                tracing::info!(certificate, "TLS files have changed; new connections use them");
            }
            // All streams are judged anew.
            if let (true, Some(judges), Some(client_ca)) = (clients, &judges, self.clients.made()) {
                judges.send_replace(client_ca.clone());
                self.warn_of_lists();
            }
            if own || clients {
                self.warn_of_dates(&clock);
            }
            match (was_broken, self.is_broken()) {
                (false, true) => metrics.tls_files_broke(),
                (true, false) => metrics.tls_files_mended(),
                _ => {}
            }
            self.publish_problems(&clock);
        }
    }

    fn is_broken(&self) -> bool {
        self.own.error().is_some() || self.clients.error().is_some()
    }

    /// When revocation lists that are missed will have been away for long enough. What could not be read in between has not been
    /// unchanged.
    fn settling(&self, settled: Option<Instant>, changed: bool) -> Option<Instant> {
        let client_ca = self.clients.made().as_ref().filter(|_| self.clients.error().is_none())?;
        let begins = changed || settled.is_none();
        (!client_ca.missed_lists().is_empty())
            .then(|| settled.filter(|_| !begins).unwrap_or_else(|| Instant::now() + SETTLED))
    }

    /// Believes a file that is without revocation lists that it had; says whether there were any.
    fn forget_missed_lists(&mut self) -> bool {
        let Some(client_ca) = self.clients.made().clone() else { return false };
        for issuer in client_ca.missed_lists() {
            tracing::warn!(issuer, "a revocation list has been taken out of clientCrl; it counts no more");
        }
        self.clients.replace(Some(Arc::new(client_ca.without_missed())));
        true
    }

    fn warn_of_dates(&self, clock: &Clock) {
        if let Some(NotNow::Ended(what) | NotNow::NotYet(what)) = self.files.about_own(self.own.made(), clock) {
            tracing::warn!("{what}");
        }
        let Some(client_ca) = self.clients.made() else { return };
        for what in self.files.about_cas(client_ca, clock) {
            tracing::warn!("{what}");
        }
        for issuer in client_ca.ended(clock.now()) {
            tracing::error!(
                issuer,
                "a revocation list has ended; client certificates of this issuer are refused until there is a newer one"
            );
        }
    }

    fn warn_of_lists(&self) {
        let Some(client_ca) = self.clients.made() else { return };
        for issuer in client_ca.missed_lists() {
            tracing::warn!(issuer, "a revocation list is not in clientCrl any more; it counts on for {SETTLED:?}");
        }
        for issuer in client_ca.older_lists() {
            tracing::error!(issuer, "clientCrl has an older revocation list than it had; the newer one stays");
        }
        for issuer in client_ca.lists_of_others() {
            tracing::warn!(
                issuer,
                "no CA in clientCa has signed this revocation list; it counts for an intermediate CA of that name, if there is one"
            );
        }
    }

    fn publish_problems(&self, clock: &Clock) {
        self.validity.send_replace(validity(self.own.made()));
        let broken = |error: &str| Problem {
            at: Location::default(),
            what: error.to_owned(),
            hint: Some("the last good files stay until these are mended".to_owned()),
        };
        let errors = [self.own.error(), self.clients.error()].into_iter().flatten();
        let mut problems: Vec<Problem> = errors.map(broken).collect();
        if let Some(NotNow::Ended(what) | NotNow::NotYet(what)) = self.files.about_own(self.own.made(), clock) {
            problems.push(self.files.of_own(what));
        }
        if let Some(client_ca) = self.clients.made() {
            let told = |what| Problem {
                at: Location::default(),
                what,
                hint: Some("replace it, or take it out if there is another one by now".to_owned()),
            };
            problems.extend(self.files.about_cas(client_ca, clock).into_iter().map(told));
            problems.extend(self.files.about_lists(client_ca, clock));
        }
        publish::if_changed(&self.problems, problems);
    }
}

impl TlsFiles {
    fn own(&self) -> [&Path; 2] {
        [&self.certificate, &self.private_key]
    }

    fn of_clients(&self) -> Vec<&Path> {
        match &self.client_ca {
            Some(client_ca) => std::iter::once(client_ca).chain(&self.client_crl).map(PathBuf::as_path).collect(),
            None => Vec::new(),
        }
    }

    fn certified_key(&self, own: &Contents) -> Result<Arc<CertifiedKey>, TlsError> {
        let [certificate, key] = [0, 1].map(|index| own.get(index).unwrap_or_default());
        let chain = certificates(&self.certificate, certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| TlsError::Content {
            path: self.private_key.clone(),
            reason: format!("no private key: {error}"),
        })?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        CertifiedKey::from_der(chain, key, &provider).map(Arc::new).map_err(|source| self.pair(source))
    }

    fn config(&self, own: &Arc<CertifiedKey>, clients: Option<&ClientCa>) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|source| self.pair(source))?;
        let builder = match clients {
            Some(client_ca) => builder.with_client_cert_verifier(client_ca.verifier()),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(own.clone())));
        config.alpn_protocols = vec![b"h2".to_vec()];
        // Envoy reconnects rarely, and a resumed session would keep a client certificate that has expired since.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    fn pair(&self, source: rustls::Error) -> TlsError {
        TlsError::Pair { certificate: self.certificate.clone(), private_key: self.private_key.clone(), source }
    }

    /// `last` is what was made of the files before.
    fn judge(&self, of_clients: &Contents, last: Option<&ClientCa>) -> Result<Option<Arc<ClientCa>>, TlsError> {
        let (Some(path), Some(pem)) = (&self.client_ca, of_clients.get(0)) else { return Ok(None) };
        let client_ca = match last {
            Some(last) => last.renewed(pem, of_clients.get(1)),
            None => ClientCa::from_pem(pem, of_clients.get(1)),
        };
        let client_ca = client_ca.map_err(|error| TlsError::Content {
            path: match error {
                ClientCaError::Ca(_) => path.clone(),
                ClientCaError::Crl(_) => self.client_crl.clone().unwrap_or_default(),
            },
            reason: error.to_string(),
        })?;
        Ok(Some(Arc::new(client_ca)))
    }
}

/// Returns at `end`; never, if there is none.
async fn until(end: Option<Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}

/// The same by the clock.
async fn at(end: Option<Timestamp>, clock: &Clock) {
    let Some(end) = end else { return std::future::pending().await };
    let left = Duration::try_from(end.duration_since(clock.now())).unwrap_or_default();
    tokio::time::sleep(left).await;
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = Certificate::many_from_pem(pem)
        .map_err(|error| TlsError::Content { path: path.to_owned(), reason: error.to_string() })?;
    Ok(certificates.iter().map(|certificate| certificate.der().clone()).collect())
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
