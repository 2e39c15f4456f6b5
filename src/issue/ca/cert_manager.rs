//! STUB until the real one is merged.
use super::*;
/// STUB.
#[derive(Debug, Clone)]
pub struct CertManager;
/// STUB.
#[derive(Debug)]
pub struct CertManagerAuthority;
impl CertManager {
    /// STUB.
    pub fn authority(&self, _: IssuerRef) -> CertManagerAuthority {
        CertManagerAuthority
    }
}
#[async_trait]
impl CertificateAuthority for CertManagerAuthority {
    async fn sign(&self, _: SigningRequest) -> Result<IssuedChain, CaError> {
        std::future::pending().await
    }
}
