//! One encoding per version of a secret: shared by all variants of the protocol, by all streams, and by all names, because
//! what differs between those is in the few bytes that go before it.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use dashmap::DashMap;
use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{Secret, secret};
use prost::Message;
use zeroize::{Zeroize, Zeroizing};

use crate::model::bundle::Bundle;
use crate::model::bundle_set::BundleSet;
use crate::model::svid::Svid;
use crate::serve::naming::TrustStyle;
use crate::serve::secret as render;
use crate::serve::version::Version;

/// How many encodings of trust bundles are kept: one for each content in use, and some while a CA is changing. What is in
/// use comes from the mesh resources and never from what clients ask for, so no client can fill this.
const KEPT: usize = 1024;

/// A secret, complete but for its name.
#[derive(Clone)]
pub(crate) struct Encoded {
    /// The secret's version.
    pub(crate) version: Version,
    /// The encoding; wiped on drop if there is a key in it.
    pub(crate) bytes: Bytes,
}

/// There may be a private key in it.
impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoded").field("version", &self.version).field("bytes", &self.bytes.len()).finish()
    }
}

/// What shared encodings are kept by: the content's digest, all of it, and how it is told.
type Key = (Arc<str>, TrustStyle);

/// Encodes secrets, and keeps what all streams of a mesh share.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    bundles: DashMap<Key, Encoded>,
}

impl Encoder {
    /// A certificate's encoding. There is a private key in it and it has one reader, so it is not kept.
    pub(crate) fn certificate(&self, svid: &Svid, version: Version) -> Encoded {
        encode(render::certificate("", svid), version)
    }

    /// A trust bundle's encoding.
    pub(crate) fn trust_bundle(&self, bundle: &Bundle) -> Encoded {
        self.shared((bundle.full_digest().clone(), TrustStyle::TrustedCa), || {
            encode(render::validation_context("", bundle), Version::of_bundle(bundle))
        })
    }

    /// The trust bundles of several trust domains, or of one that is not the proxy's own.
    pub(crate) fn bundle_set(&self, bundles: &BundleSet, style: TrustStyle) -> Encoded {
        match style {
            TrustStyle::TrustedCa => self.trust_bundle(bundles.union()),
            TrustStyle::SpiffeValidator => self.shared((bundles.full_digest().clone(), style), || {
                encode(render::spiffe_validation_context("", bundles), Version::of_bundle_set(bundles))
            }),
        }
    }

    /// Who comes while it is being encoded waits for it.
    fn shared(&self, key: Key, encode: impl FnOnce() -> Encoded) -> Encoded {
        if let Some(kept) = self.bundles.get(&key) {
            return kept.clone();
        }
        if self.bundles.len() >= KEPT {
            self.bundles.clear();
        }
        self.bundles.entry(key).or_insert_with(encode).clone()
    }
}

/// Every copy of the secret that is made on the way is wiped, and none is made by a buffer that grows.
fn encode(mut secret: Secret, version: Version) -> Encoded {
    let bytes = Zeroizing::new(secret.encode_to_vec());
    wipe(&mut secret);
    Encoded { version, bytes: Bytes::from_owner(bytes) }
}

fn wipe(secret: &mut Secret) {
    if let Some(secret::Type::TlsCertificate(certificate)) = &mut secret.r#type
        && let Some(DataSource { specifier: Some(Specifier::InlineBytes(key)), .. }) = &mut certificate.private_key
    {
        key.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::testing::{bundle, svid};

    #[test]
    fn items_67_83_and_84_what_is_sent_is_whole_and_inline() {
        let (svid, bundle) = (svid("a"), bundle("a"));
        assert!(Bundle::from_certificates([]).is_err(), "there is no empty one to be sent");
        let encoder = Encoder::default();
        let certificate = encoder.certificate(&svid, Version::of_certificate(&svid)).bytes;
        let context = encoder.trust_bundle(&bundle).bytes;
        let secret = |bytes: Bytes| Secret::decode(bytes).unwrap().r#type.unwrap();
        let inline = |source: Option<DataSource>| match source.unwrap() {
            DataSource { specifier: Some(Specifier::InlineBytes(bytes)), watched_directory: None } => bytes,
            other => panic!("not inline bytes: {other:?}"),
        };
        let secret::Type::TlsCertificate(tls) = secret(certificate) else { panic!() };
        assert_eq!(inline(tls.certificate_chain), svid.chain_pem().as_bytes());
        assert_eq!(inline(tls.private_key), svid.key.expose().as_bytes(), "the key of this chain, in one message");
        let secret::Type::ValidationContext(context) = secret(context) else { panic!() };
        assert_eq!(inline(context.trusted_ca), bundle.pem().as_bytes());
    }

    #[test]
    fn a_bundle_is_encoded_once_for_a_content() {
        let encoder = Encoder::default();
        let (first, second) = (bundle("one"), bundle("two"));
        let bytes = encoder.trust_bundle(&first).bytes;
        assert_eq!(encoder.trust_bundle(&first.clone()).bytes.as_ptr(), bytes.as_ptr());
        assert_ne!(encoder.trust_bundle(&second).bytes, bytes);
        assert_eq!(encoder.bundles.len(), 2);
    }

    #[test]
    fn items_47_and_48_the_two_styles_of_one_content_are_two_encodings_with_two_versions() {
        let encoder = Encoder::default();
        let set = BundleSet::of_one("default".into(), Arc::new(bundle("one")));
        let validator = encoder.bundle_set(&set, TrustStyle::SpiffeValidator);
        let plain = encoder.bundle_set(&set, TrustStyle::TrustedCa);
        assert_ne!(validator.version, plain.version);
        assert_ne!(validator.bytes, plain.bytes);
        assert_eq!(plain.bytes.as_ptr(), encoder.trust_bundle(set.union()).bytes.as_ptr());
        let again = encoder.bundle_set(&set.clone(), TrustStyle::SpiffeValidator);
        assert_eq!(again.bytes.as_ptr(), validator.bytes.as_ptr(), "one encoding for all streams");
    }

    #[test]
    fn no_encoding_shows_the_key_in_it() {
        let svid = svid("web");
        let encoded = Encoder::default().certificate(&svid, Version::of_certificate(&svid));
        let shown = format!("{encoded:?}");
        assert!(shown.contains("certificate.") && shown.len() < 300, "{shown}");
        assert!(!shown.contains("PRIVATE KEY"), "{shown}");
    }
}
