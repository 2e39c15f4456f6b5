//! Private keys, which never show themselves.

use std::fmt;

use zeroize::Zeroizing;

/// A private key as PKCS#8 PEM: wiped from memory when dropped, and redacted wherever it is formatted.
#[derive(Clone)]
pub struct PrivateKeyPem(Zeroizing<String>);

impl PrivateKeyPem {
    /// Takes over `pem`, which is wiped when the key is dropped.
    pub fn new(pem: impl Into<Zeroizing<String>>) -> Self {
        Self(pem.into())
    }

    /// The key itself. The only caller outside of tests is the code that renders a secret for the proxy it belongs to.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PrivateKeyPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKeyPem([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_redacts() {
        let key = PrivateKeyPem::new("-----BEGIN PRIVATE KEY-----\nMIG".to_owned());
        assert_eq!(format!("{key:?}"), "PrivateKeyPem([redacted])");
    }
}
