//! A caller without a certificate: whom the server's Envoy has to refuse.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::http;
use crate::runtime::any_server::AnyServer;

/// Whether `address` lets a caller in who has no certificate.
///
/// # Errors
/// If nobody is there at all, which says nothing about being refused.
pub(super) async fn is_let_in(address: SocketAddr) -> anyhow::Result<bool> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("stranger.invalid")?;
    // In TLS 1.3 a client is refused after its own handshake is done: only an answer proves that it was let in.
    let Ok(stream) = TlsConnector::from(Arc::new(config)).connect(name, stream).await else { return Ok(false) };
    Ok(http::get_over(stream, "/").await.is_ok())
}
