//! What a TLS server shows to a peer, seen by a peer that believes nothing and looks at all of it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::http;
use super::pki::Identity;

/// A request that the server answered over TLS, which it does only if it accepted the client.
#[derive(Debug)]
pub struct Accepted {
    /// The server's certificates, the leaf first.
    pub chain: Vec<Certificate>,
    /// Whether the server asked for a client certificate.
    pub asked_for_certificate: bool,
    pub status: u16,
    pub body: String,
}

/// A request that failed, with what the server had shown until then.
#[derive(Debug)]
pub struct Refused {
    /// Empty if the server showed no certificate.
    pub chain: Vec<Certificate>,
    pub asked_for_certificate: bool,
    pub reason: String,
}

/// Connects to `address` with the client certificate, if there is one, and GETs `/`. In TLS 1.3 the client's handshake
/// ends before the server has judged the client's certificate, so only an answer shows that the server took it.
pub async fn get(address: SocketAddr, identity: Option<&Identity>) -> Result<Accepted, Refused> {
    super::crypto();
    let provider = CryptoProvider::get_default().expect("a provider is installed");
    let key = identity.map(|identity| {
        let key = CertifiedKey::from_der(identity.chain(), identity.key(), provider).expect("the key fits");
        Arc::new(key)
    });
    let look = Arc::new(Look { provider: provider.clone(), chain: Mutex::default() });
    let offer = Arc::new(Offer { key, asked: AtomicBool::new(false) });
    let config = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(look.clone())
        .with_client_cert_resolver(offer.clone());
    let exchanged = async {
        let stream = TcpStream::connect(address).await.map_err(|error| format!("connect {address}: {error}"))?;
        let name = ServerName::try_from("localhost").expect("a valid name");
        let tls = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        http::get_over(tls.map_err(|error| format!("handshake: {error}"))?, "/").await
    }
    .await;
    let chain = look.chain.lock().expect("not poisoned").iter().map(Certificate::parse).collect();
    let asked_for_certificate = offer.asked.load(Ordering::Relaxed);
    match exchanged {
        Ok(http::Answer { status, body, .. }) => Ok(Accepted { chain, asked_for_certificate, status, body }),
        Err(reason) => Err(Refused { chain, asked_for_certificate, reason }),
    }
}

/// What a certificate says, in a form to compare and print.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    pub der: Vec<u8>,
    /// Lower-case hexadecimal.
    pub serial: String,
    pub subject: String,
    pub issuer: String,
    pub uris: Vec<String>,
    pub dns_names: Vec<String>,
    pub is_ca: bool,
    /// As x509-parser writes them: `Digital Signature`, ...
    pub key_usages: Vec<String>,
    pub server_auth: bool,
    pub client_auth: bool,
    /// Seconds since 1970, as is the next.
    pub not_before: i64,
    pub not_after: i64,
}

/// For the message of a failure.
impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { serial, uris, issuer, not_before, not_after, .. } = self;
        write!(f, "serial {serial} of {uris:?} by {issuer}, from {not_before} for {} s", not_after - not_before)
    }
}

impl Certificate {
    pub fn parse(der: &CertificateDer<'_>) -> Self {
        let (_, cert) = X509Certificate::from_der(der).expect("the certificate is DER");
        let (mut uris, mut dns_names) = (Vec::new(), Vec::new());
        let names = cert.subject_alternative_name().expect("at most one such extension");
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                GeneralName::DNSName(name) => dns_names.push((*name).to_owned()),
                _ => {}
            }
        }
        let usage = cert.key_usage().expect("at most one such extension");
        let extended = cert.extended_key_usage().expect("at most one such extension");
        Self {
            der: der.to_vec(),
            serial: cert.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
            subject: cert.subject().to_string(),
            issuer: cert.issuer().to_string(),
            uris,
            dns_names,
            is_ca: cert.is_ca(),
            key_usages: usage
                .map_or_else(Vec::new, |usage| usage.value.to_string().split(", ").map(str::to_owned).collect()),
            server_auth: extended.as_ref().is_some_and(|extended| extended.value.server_auth),
            client_auth: extended.as_ref().is_some_and(|extended| extended.value.client_auth),
            not_before: cert.validity().not_before.timestamp(),
            not_after: cert.validity().not_after.timestamp(),
        }
    }

    pub fn parse_all(pem: &str) -> Vec<Self> {
        super::pki::certs(pem).iter().map(Self::parse).collect()
    }
}

/// A verifier that takes any chain and keeps it. Signatures are checked: the server does hold the leaf's key.
#[derive(Debug)]
struct Look {
    provider: Arc<CryptoProvider>,
    chain: Mutex<Vec<CertificateDer<'static>>>,
}

impl ServerCertVerifier for Look {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let shown = std::iter::once(end_entity).chain(intermediates);
        *self.chain.lock().expect("not poisoned") = shown.map(|cert| cert.clone().into_owned()).collect();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Offers the client certificate whatever the server says it wants, and notes that it was asked.
#[derive(Debug)]
struct Offer {
    key: Option<Arc<CertifiedKey>>,
    asked: AtomicBool,
}

impl ResolvesClientCert for Offer {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.key.clone()
    }

    fn has_certs(&self) -> bool {
        true // so that `resolve` is called, and the asking noted, even with nothing to offer
    }
}
