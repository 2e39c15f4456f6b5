//! How the proxies of `envoy-sds load` prove who they are: tokens signed or read, certificates, TLS.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use http::HeaderName;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use zeroize::Zeroizing;

use super::Failure;
use crate::identify::proxy_token::{DEFAULT_AUDIENCE, KEY_FOLDER, Request, SigningKey, issue, newest_or_create};
use crate::load::Credentials;
use crate::model::duration;
use crate::runtime::any_server::AnyServer;
use crate::runtime::clock::Clock;
use crate::runtime::regular_file;

/// How proxies prove who they are.
#[derive(Debug, Args)]
#[command(next_help_heading = "Identity")]
pub(super) struct IdentityFlags {
    /// node.id; the proxy's number takes the place of "n" in braces
    #[arg(long, value_name = "TEXT", default_value = "load-{n}")]
    pub(super) node_id: String,

    /// node.cluster
    #[arg(long, value_name = "TEXT", default_value = "load")]
    pub(super) node_cluster: String,

    /// Sign a proxy token for each with this key (PEM, as envoy-sds keeps it in STATE_DIR/proxy-token)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["state_dir", "tokens"])]
    token_key: Option<PathBuf>,

    /// Sign with the newest key of this server's state directory
    #[arg(long, value_name = "FOLDER", conflicts_with = "tokens")]
    state_dir: Option<PathBuf>,

    /// Name in each proxy token
    #[arg(long, value_name = "TEXT", default_value = "load-{n}")]
    token_name: String,

    /// Workload in each proxy token
    #[arg(long, value_name = "TEXT", default_value = "load")]
    token_workload: String,

    /// Mesh in each proxy token
    #[arg(long, value_name = "TEXT", default_value = "default")]
    token_mesh: String,

    /// How long the proxy tokens are good
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration::parse)]
    token_valid_for: Duration,

    /// Send the tokens in this file, one a line, and from the beginning when they are used up: proxy tokens, or those of
    /// service accounts
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,

    /// Further header of each stream; repeatable
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(super) metadata: Vec<(String, String)>,

    /// SPIFFE ID that each proxy must get [default: any, as long as it stays]
    #[arg(long, value_name = "ID")]
    pub(super) expect_identity: Option<String>,
}

/// How the server is connected to.
#[derive(Debug, Args)]
#[command(next_help_heading = "TLS")]
pub(super) struct TlsFlags {
    /// Use TLS, and trust the CAs in this file
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,

    /// Use TLS, and trust whatever the server shows
    #[arg(long, conflicts_with = "tls_ca")]
    insecure_tls: bool,

    /// Client certificate chain; with "n" in braces one for each connection, by its number, which is the proxy's if none is
    /// shared
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// Its key; likewise
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Name in the server's certificate, and in :authority [default: the target's host]
    #[arg(long, value_name = "NAME")]
    pub(super) server_name: Option<String>,
}

impl IdentityFlags {
    /// The tokens of this many proxies, signed or read before anything is measured.
    pub(super) fn credentials(&self, proxies: usize) -> Result<Credentials, Failure> {
        if let Some(file) = &self.tokens {
            let text = Zeroizing::new(read(file)?);
            let text = std::str::from_utf8(&text).map_err(|_error| anyhow!("{} is not text", file.display()))?;
            let tokens: Vec<Arc<str>> = text.split_whitespace().map(Arc::from).collect();
            if tokens.is_empty() {
                return Err(anyhow!("there is no token in {}", file.display()).into());
            }
            return Ok(Credentials::Tokens(tokens));
        }
        let Some(key) = self.key()? else { return Ok(Credentials::None) };
        let now = Clock::system().now();
        let token = |number: usize| {
            let numbered = |text: &str| text.replace("{n}", &number.to_string());
            let request = Request {
                mesh: numbered(&self.token_mesh),
                name: numbered(&self.token_name),
                workload: numbered(&self.token_workload),
                labels: BTreeMap::new(),
                audiences: vec![DEFAULT_AUDIENCE.to_owned()],
                valid_for: self.token_valid_for,
            };
            issue(&key, &request, now).map(|issued| Arc::from(issued.token.expose())).map_err(Failure::Usage)
        };
        (0..proxies).map(token).collect::<Result<_, _>>().map(Credentials::Tokens)
    }

    fn key(&self) -> Result<Option<SigningKey>, Failure> {
        if let Some(file) = &self.token_key {
            let pem = Zeroizing::new(read(file)?);
            let key = SigningKey::from_pem(&pem).map_err(|expected| anyhow!("{}: {expected}", file.display()))?;
            return Ok(Some(key));
        }
        let Some(state_dir) = &self.state_dir else { return Ok(None) };
        let folder = state_dir.join(KEY_FOLDER);
        // A key that was made here would be nobody's.
        if !folder.is_dir() {
            return Err(anyhow!("{} is not there: is this the server's state directory?", folder.display()).into());
        }
        let newest = newest_or_create(&folder).map_err(|problems| {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            anyhow!("there is no key to sign with: {}", problems.join("; "))
        })?;
        Ok(Some(newest.key))
    }
}

impl TlsFlags {
    /// What to trust and to show, one for all of `connections` or one for each; `None` for no TLS.
    pub(super) fn configs(&self, connections: usize) -> Result<Option<Vec<Arc<ClientConfig>>>, Failure> {
        if self.tls_ca.is_none() && !self.insecure_tls {
            return match self.tls_cert {
                None => Ok(None),
                Some(_) => Err(Failure::Usage("--tls-cert is for TLS: give --tls-ca or --insecure-tls too".to_owned())),
            };
        }
        let mut provider = aws_lc_rs::default_provider();
        // As Envoy offers them: rustls alone would begin with a post-quantum group, which costs both sides more.
        provider.kx_groups = vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1];
        let provider = Arc::new(provider);
        let roots = self.tls_ca.as_deref().map(roots).transpose()?.map(Arc::new);
        let config = |number: usize| {
            let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
            let builder = builder.context("TLS cannot be set up")?;
            let builder = match &roots {
                Some(roots) => builder.with_root_certificates(roots.clone()),
                None => builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer(provider.clone()))),
            };
            let mut config = match self.client_certificate(number)? {
                None => builder.with_no_client_auth(),
                Some((chain, key, files)) => {
                    builder.with_client_auth_cert(chain, key).with_context(|| format!("{files} cannot be used"))?
                }
            };
            config.alpn_protocols = vec![b"h2".to_vec()];
            // Each connection is another Envoy's, and none of them has been here before.
            config.resumption = Resumption::disabled();
            Ok::<_, Failure>(Arc::new(config))
        };
        let differ =
            [&self.tls_cert, &self.tls_key].into_iter().flatten().any(|file| file.to_string_lossy().contains("{n}"));
        (0..if differ { connections } else { 1 }).map(config).collect::<Result<_, _>>().map(Some)
    }

    /// What the connection with this number shows, and the files that it is from.
    fn client_certificate(
        &self,
        number: usize,
    ) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>, String)>, Failure> {
        let Some((chain, key)) = self.tls_cert.as_deref().zip(self.tls_key.as_deref()) else { return Ok(None) };
        let [chain, key] =
            [chain, key].map(|file| PathBuf::from(file.to_string_lossy().replace("{n}", &number.to_string())));
        let pem = Zeroizing::new(read(&key)?);
        // What is wrong with a key is not told: the parser may quote it.
        let private_key = PrivateKeyDer::from_pem_slice(&pem)
            .map_err(|_error| anyhow!("there is no private key in {}", key.display()))?;
        Ok(Some((certificates(&chain)?, private_key, format!("{} and {}", chain.display(), key.display()))))
    }
}

fn roots(file: &Path) -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).with_context(|| format!("{} cannot be trusted", file.display()))?;
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let pem = read(file)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.with_context(|| format!("{} cannot be read as PEM", file.display()))?;
    if certificates.is_empty() {
        return Err(anyhow!("there is no certificate in {}", file.display()).into());
    }
    Ok(certificates)
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let read = regular_file::read(file).with_context(|| format!("cannot read {}", file.display()));
    read.map_err(Failure::from)
}

/// Those that gRPC says itself, and those that HTTP/2 does not have (RFC 9113, section 8.2.2).
const RESERVED: [&str; 8] =
    ["content-type", "te", "host", "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];

fn pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) = pair.ok_or_else(|| "expected KEY=VALUE, such as x-zone=east".to_owned())?;
    let name = HeaderName::try_from(key).map_err(|_error| format!("{key:?} is no header's name"))?;
    if RESERVED.contains(&name.as_str()) {
        return Err(format!("{name} is not for you to say: gRPC has its own, or none"));
    }
    Ok((key.to_owned(), value.to_owned()))
}
