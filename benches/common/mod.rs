//! What several benchmarks need: a CA, a leaf of it and its parts, made by the code that makes them in the server.

#![allow(dead_code, reason = "each benchmark needs a part of it")]

use std::sync::Arc;
use std::time::Duration;

use envoy_sds::issue::ca::builtin::Builtin;
use envoy_sds::issue::ca::{CertificateAuthority, Signed, SigningRequest};
use envoy_sds::issue::verify::{self, Expected};
use envoy_sds::model::bundle::Bundle;
use envoy_sds::model::svid::Svid;
use envoy_sds::runtime::clock::Clock;
use tokio::runtime::Runtime;

/// Whose leaf it is.
pub(crate) const SPIFFE_ID: &str = "spiffe://default/ns/shop/sa/web";

/// A builtin CA in a folder of its own, and what calls it.
pub(crate) struct Ca {
    pub(crate) builtin: Builtin,
    pub(crate) runtime: Runtime,
    _folder: tempfile::TempDir,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let year = Duration::from_secs(365 * 24 * 3600);
        let builtin = Builtin::load_or_create(folder.path(), "bench CA", year, Clock::system()).expect("a CA");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { builtin, runtime, _folder: folder }
    }

    /// Makes a key and has its leaf signed.
    pub(crate) fn sign(&self) -> Signed {
        let request = SigningRequest {
            mesh: "default".into(),
            proxy: "web-0".into(),
            spiffe_id: SPIFFE_ID.into(),
            lifetime: Some(Duration::from_secs(24 * 3600)),
            request_timeout: Duration::from_secs(10),
        };
        self.runtime.block_on(self.builtin.sign(request)).expect("a leaf")
    }

    /// Whom peers trust.
    pub(crate) fn bundle(&self) -> Bundle {
        Bundle::from_certificates([self.builtin.root().clone()]).expect("a CA is no leaf")
    }

    /// A key, its leaf, and what the leaf has to be.
    pub(crate) fn issued(&self) -> (Signed, Expected) {
        let signed = self.sign();
        let expected = Expected {
            spiffe_id: SPIFFE_ID.into(),
            public_key: signed.key.public_key().to_vec(),
            policy_digest: Arc::from("0123456789abcdef"),
        };
        (signed, expected)
    }

    /// What a proxy is given.
    pub(crate) fn svid(&self) -> Svid {
        let (Signed { key, chain }, expected) = self.issued();
        verify::verify(&chain, &expected, key.pem(), &self.bundle(), Clock::system().now()).expect("a good leaf")
    }
}
