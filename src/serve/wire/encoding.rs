//! One encoding per version of a secret.

use std::sync::Arc;

use bytes::Bytes;
use dashmap::DashMap;
use envoy_types::pb::envoy::config::core::v3::{ControlPlane, DataSource, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{Secret, secret};
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse, Resource};
use envoy_types::pb::google::protobuf::Any;
use prost::Message;
use zeroize::{Zeroize, Zeroizing};

use super::SECRET_TYPE;
use crate::model::bundle::Bundle;
use crate::model::bundle_set::BundleSet;
use crate::model::svid::Svid;
use crate::serve::naming::TrustStyle;
use crate::serve::secret as render;
use crate::serve::version::Version;

/// How many encodings of trust bundles are kept: one for each (name, mesh) in use, and some while a CA is changing.
const KEPT: usize = 1024;

/// The message that a secret is sent in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// `DiscoveryResponse`
    Sotw,
    /// `DeltaDiscoveryResponse`
    Delta,
}

/// A response with one secret in it, complete but for its nonce.
#[derive(Debug, Clone)]
pub(crate) struct Encoded {
    /// The secret's version.
    pub(crate) version: Version,
    /// The encoding; wiped on drop if there is a key in it.
    pub(crate) bytes: Bytes,
}

/// What shared encodings are kept by: the secret's name, the content's digest, and how it is told.
type Key = (Arc<str>, Arc<str>, TrustStyle);

/// Encodes secrets in one form, and keeps what all streams of a mesh share.
#[derive(Debug)]
pub(crate) struct Encoder {
    form: Form,
    control_plane: String,
    bundles: DashMap<Key, Encoded>,
}

impl Encoder {
    /// `control_plane` names this replica to Envoy (xds-conformance item 50).
    pub(crate) fn new(form: Form, control_plane: String) -> Self {
        Self { form, control_plane, bundles: DashMap::new() }
    }

    /// Who sends it.
    pub(crate) fn control_plane(&self) -> ControlPlane {
        ControlPlane { identifier: self.control_plane.clone() }
    }

    /// A certificate's encoding. There is a private key in it and it has one reader, so it is not kept.
    pub(crate) fn certificate(&self, name: &str, svid: &Svid, version: Version) -> Bytes {
        Bytes::from_owner(self.encode(render::certificate(name, svid), &version))
    }

    /// A trust bundle's encoding, shared by all streams that ask for it under this name.
    pub(crate) fn trust_bundle(&self, name: &Arc<str>, bundle: &Bundle) -> Encoded {
        self.shared((name.clone(), bundle.digest().into(), TrustStyle::TrustedCa), || {
            (render::validation_context(name, bundle), Version::of_bundle(bundle))
        })
    }

    /// The trust bundles of several trust domains, or of one that is not the proxy's own, shared likewise.
    pub(crate) fn bundle_set(&self, name: &Arc<str>, bundles: &BundleSet, style: TrustStyle) -> Encoded {
        match style {
            TrustStyle::TrustedCa => self.trust_bundle(name, bundles.union()),
            TrustStyle::SpiffeValidator => self.shared((name.clone(), bundles.digest().into(), style), || {
                (render::spiffe_validation_context(name, bundles), Version::of_bundle_set(bundles))
            }),
        }
    }

    fn shared(&self, key: Key, render: impl FnOnce() -> (Secret, Version)) -> Encoded {
        if let Some(kept) = self.bundles.get(&key) {
            return kept.clone();
        }
        if self.bundles.len() >= KEPT {
            self.bundles.clear();
        }
        self.bundles
            .entry(key)
            .or_insert_with(|| {
                let (secret, version) = render();
                let bytes = self.encode(secret, &version);
                Encoded { version, bytes: Bytes::from_owner(bytes) }
            })
            .clone()
    }

    /// Every copy of the secret that is made on the way is wiped, and none is made by a buffer that grows.
    fn encode(&self, mut secret: Secret, version: &Version) -> Zeroizing<Vec<u8>> {
        let any = Any { type_url: SECRET_TYPE.to_owned(), value: secret.encode_to_vec() };
        wipe(&mut secret);
        match self.form {
            Form::Sotw => {
                let mut response = DiscoveryResponse {
                    version_info: version.to_string(),
                    resources: vec![any],
                    type_url: SECRET_TYPE.to_owned(),
                    control_plane: Some(self.control_plane()),
                    ..Default::default()
                };
                let encoded = Zeroizing::new(response.encode_to_vec());
                response.resources.iter_mut().for_each(|resource| resource.value.zeroize());
                encoded
            }
            Form::Delta => {
                // Item 79: three times the same name. Item 49: the resource's version is what counts; the other one is
                // what Envoy shows as `version_text`.
                let resource = Resource {
                    name: std::mem::take(&mut secret.name),
                    version: version.to_string(),
                    resource: Some(any),
                    ..Default::default()
                };
                let mut response = DeltaDiscoveryResponse {
                    system_version_info: version.to_string(),
                    resources: vec![resource],
                    type_url: SECRET_TYPE.to_owned(),
                    control_plane: Some(self.control_plane()),
                    ..Default::default()
                };
                let encoded = Zeroizing::new(response.encode_to_vec());
                let values = response.resources.iter_mut().filter_map(|resource| resource.resource.as_mut());
                values.for_each(|value| value.value.zeroize());
                encoded
            }
        }
    }
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
    fn items_32_80_and_81_a_certificate_decodes_to_the_message_meant() {
        let (encoder, svid) = (Encoder::new(Form::Sotw, "replica-0".to_owned()), svid("a"));
        let version = Version::of_certificate(&svid);
        let mut bytes = encoder.certificate("default", &svid, version.clone()).to_vec();
        DiscoveryResponse { nonce: "n-1".to_owned(), ..Default::default() }.encode(&mut bytes).unwrap();
        let secret = render::certificate("default", &svid);
        let expected = DiscoveryResponse {
            version_info: version.to_string(),
            resources: vec![Any { type_url: SECRET_TYPE.to_owned(), value: secret.encode_to_vec() }],
            type_url: SECRET_TYPE.to_owned(),
            nonce: "n-1".to_owned(),
            control_plane: Some(ControlPlane { identifier: "replica-0".to_owned() }),
            ..Default::default()
        };
        assert_eq!(DiscoveryResponse::decode(&*bytes).unwrap(), expected);
    }

    #[test]
    fn items_49_50_and_79_a_delta_response_names_and_versions_its_resource() {
        let (encoder, bundle) = (Encoder::new(Form::Delta, "replica-0".to_owned()), bundle("a"));
        let mut bytes = encoder.trust_bundle(&"spiffe://a".into(), &bundle).bytes.to_vec();
        DeltaDiscoveryResponse { nonce: "n-1".to_owned(), ..Default::default() }.encode(&mut bytes).unwrap();
        let value = render::validation_context("spiffe://a", &bundle).encode_to_vec();
        let version = Version::of_bundle(&bundle).to_string();
        let resource = Resource {
            name: "spiffe://a".to_owned(),
            version: version.clone(),
            resource: Some(Any { type_url: SECRET_TYPE.to_owned(), value }),
            ..Default::default()
        };
        let expected = DeltaDiscoveryResponse {
            system_version_info: version,
            resources: vec![resource],
            type_url: SECRET_TYPE.to_owned(),
            nonce: "n-1".to_owned(),
            control_plane: Some(ControlPlane { identifier: "replica-0".to_owned() }),
            ..Default::default()
        };
        assert_eq!(DeltaDiscoveryResponse::decode(&*bytes).unwrap(), expected);
    }

    #[test]
    fn items_67_83_and_84_what_is_sent_is_whole_and_inline() {
        let (svid, bundle) = (svid("a"), bundle("a"));
        assert!(Bundle::from_certificates([]).is_err(), "there is no empty one to be sent");
        let encoder = Encoder::new(Form::Sotw, String::new());
        let certificate = encoder.certificate("default", &svid, Version::of_certificate(&svid));
        let context = encoder.trust_bundle(&"ROOTCA".into(), &bundle).bytes;
        let secret = |bytes: &[u8]| {
            let response = DiscoveryResponse::decode(bytes).unwrap();
            Secret::decode(&*response.resources[0].value).unwrap().r#type.unwrap()
        };
        let inline = |source: Option<DataSource>| match source.unwrap() {
            DataSource { specifier: Some(Specifier::InlineBytes(bytes)), watched_directory: None } => bytes,
            other => panic!("not inline bytes: {other:?}"),
        };
        let secret::Type::TlsCertificate(tls) = secret(&certificate) else { panic!() };
        assert_eq!(inline(tls.certificate_chain), svid.chain_pem().as_bytes());
        assert_eq!(inline(tls.private_key), svid.key.expose().as_bytes(), "the key of this chain, in one message");
        let secret::Type::ValidationContext(context) = secret(&context) else { panic!() };
        assert_eq!(inline(context.trusted_ca), bundle.pem().as_bytes());
    }

    #[test]
    fn a_bundle_is_encoded_once_for_a_name_and_a_content() {
        let encoder = Encoder::new(Form::Sotw, String::new());
        let (name, other): (Arc<str>, Arc<str>) = ("ROOTCA".into(), "mesh_ca".into());
        let (first, second) = (bundle("one"), bundle("two"));
        let bytes = encoder.trust_bundle(&name, &first).bytes;
        assert_eq!(encoder.trust_bundle(&name, &first.clone()).bytes.as_ptr(), bytes.as_ptr());
        assert_ne!(encoder.trust_bundle(&name, &second).bytes, bytes);
        assert_ne!(encoder.trust_bundle(&other, &first).bytes, bytes);
    }

    #[test]
    fn items_47_and_48_the_two_styles_of_one_content_are_two_encodings_with_two_versions() {
        let encoder = Encoder::new(Form::Sotw, String::new());
        let name: Arc<str> = "ALL".into();
        let set = BundleSet::of_one("default".into(), Arc::new(bundle("one")));
        let validator = encoder.bundle_set(&name, &set, TrustStyle::SpiffeValidator);
        let plain = encoder.bundle_set(&name, &set, TrustStyle::TrustedCa);
        assert_ne!(validator.version, plain.version);
        assert_ne!(validator.bytes, plain.bytes);
        assert_eq!(plain.bytes, encoder.trust_bundle(&name, set.union()).bytes);
        let again = encoder.bundle_set(&name, &set.clone(), TrustStyle::SpiffeValidator);
        assert_eq!(again.bytes.as_ptr(), validator.bytes.as_ptr(), "one encoding for all streams");
    }
}
