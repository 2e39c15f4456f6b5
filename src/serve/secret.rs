//! Rendering. Three functions of three types: what is a trust bundle in the program cannot become a certificate on the
//! wire, and there is no trust bundle without a CA and no set of them without a trust domain (xds-conformance items 65 and
//! 67: Envoy accepts either silently, and stops verifying its peers).

use envoy_types::pb::envoy::config::core::v3::{DataSource, TypedExtensionConfig, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, SpiffeCertValidatorConfig, TlsCertificate, secret,
    spiffe_cert_validator_config::TrustDomain,
};
use envoy_types::pb::google::protobuf::Any;
use prost::Message;

use crate::model::bundle::Bundle;
use crate::model::bundle_set::BundleSet;
use crate::model::svid::Svid;

/// The name by which Envoy finds its SPIFFE validator; it rejects a secret that has another (xds-conformance B4).
const SPIFFE_VALIDATOR: &str = "envoy.tls.cert_validator.spiffe";

/// The type of the SPIFFE validator's configuration.
const SPIFFE_VALIDATOR_TYPE: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";

/// A proxy's leaf and intermediates, leaf first (item 85), with its key, inline (item 83). The caller wipes the key.
pub(super) fn certificate(name: &str, svid: &Svid) -> Secret {
    Secret {
        name: name.to_owned(),
        r#type: Some(secret::Type::TlsCertificate(TlsCertificate {
            certificate_chain: Some(inline(svid.chain_pem().into_bytes())),
            private_key: Some(inline(svid.key.expose().as_bytes().to_vec())),
            ..Default::default()
        })),
    }
}

/// The CAs to trust and nothing else: a SAN matcher in here would widen what the proxy's own configuration allows
/// (xds-conformance B4).
pub(super) fn validation_context(name: &str, bundle: &Bundle) -> Secret {
    context(
        name,
        CertificateValidationContext { trusted_ca: Some(inline(bundle.pem().into_bytes())), ..Default::default() },
    )
}

/// The CAs of each trust domain, to be believed for peers of that one only.
pub(super) fn spiffe_validation_context(name: &str, bundles: &BundleSet) -> Secret {
    let trust_domain = |(domain, bundle): (&str, &Bundle)| TrustDomain {
        name: domain.to_owned(),
        trust_bundle: Some(inline(bundle.pem().into_bytes())),
        ..Default::default()
    };
    let config =
        SpiffeCertValidatorConfig { trust_domains: bundles.iter().map(trust_domain).collect(), ..Default::default() };
    let validator = TypedExtensionConfig {
        name: SPIFFE_VALIDATOR.to_owned(),
        typed_config: Some(Any { type_url: SPIFFE_VALIDATOR_TYPE.to_owned(), value: config.encode_to_vec() }),
    };
    context(name, CertificateValidationContext { custom_validator_config: Some(validator), ..Default::default() })
}

fn context(name: &str, context: CertificateValidationContext) -> Secret {
    Secret { name: name.to_owned(), r#type: Some(secret::Type::ValidationContext(context)) }
}

fn inline(bytes: Vec<u8>) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineBytes(bytes)), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use prost::Name;

    use super::*;
    use crate::model::certificate::Certificate;
    use crate::serve::testing;

    fn bytes(source: &Option<DataSource>) -> &[u8] {
        match &source.as_ref().unwrap().specifier {
            Some(Specifier::InlineBytes(bytes)) => bytes,
            other => panic!("not inline bytes: {other:?}"),
        }
    }

    #[test]
    fn a_certificate_is_the_chain_leaf_first_and_the_key() {
        let svid = testing::svid("web");
        let secret = certificate("default", &svid);
        assert_eq!(secret.name, "default");
        let Some(secret::Type::TlsCertificate(tls)) = secret.r#type else { panic!("not a certificate") };
        assert_eq!(bytes(&tls.certificate_chain), svid.chain_pem().as_bytes());
        assert!(svid.chain_pem().starts_with(&svid.leaf.pem()));
        assert_eq!(bytes(&tls.private_key), svid.key.expose().as_bytes());
    }

    #[test]
    fn item_85_intermediates_follow_the_leaf_in_order_and_the_anchor_does_not() {
        let [leaf, near, far] = ["leaf", "near", "far"].map(|name| testing::ca(name).certificate);
        let intermediates = vec![near.clone(), far.clone()];
        let svid = Svid { leaf: leaf.clone(), intermediates, ..testing::svid("web") };
        let Some(secret::Type::TlsCertificate(tls)) = certificate("default", &svid).r#type else { panic!() };
        let read = Certificate::many_from_pem(bytes(&tls.certificate_chain)).unwrap();
        assert!(read == [leaf, near, far], "{read:?}");
    }

    #[test]
    fn a_validation_context_is_trust_anchors_and_nothing_else() {
        let bundle = testing::bundle("mesh");
        let Some(secret::Type::ValidationContext(context)) = validation_context("ROOTCA", &bundle).r#type else {
            panic!("not a validation context")
        };
        assert_eq!(bytes(&context.trusted_ca), bundle.pem().as_bytes());
        let rest = CertificateValidationContext { trusted_ca: None, ..context };
        assert_eq!(rest, CertificateValidationContext::default());
    }

    #[test]
    fn item_67_a_spiffe_validator_is_a_bundle_for_each_trust_domain_and_nothing_else() {
        let (here, there) = (Arc::new(testing::bundle("here")), Arc::new(testing::bundle("there")));
        let bundles = BundleSet::new(BTreeMap::from([("there".into(), there.clone()), ("here".into(), here.clone())]));
        let Some(secret::Type::ValidationContext(context)) = spiffe_validation_context("ALL", &bundles.unwrap()).r#type
        else {
            panic!("not a validation context")
        };
        let validator = context.custom_validator_config.clone().unwrap();
        assert_eq!(validator.name, "envoy.tls.cert_validator.spiffe");
        let config = validator.typed_config.unwrap();
        assert_eq!(config.type_url, format!("type.googleapis.com/{}", SpiffeCertValidatorConfig::full_name()));
        let config = SpiffeCertValidatorConfig::decode(&*config.value).unwrap();
        let domains: Vec<_> = config.trust_domains.iter().map(|td| (&*td.name, bytes(&td.trust_bundle))).collect();
        let (here, there) = (here.pem(), there.pem());
        assert_eq!(domains, [("here", here.as_bytes()), ("there", there.as_bytes())]);
        assert_eq!(config.trust_bundles, None);
        let rest = CertificateValidationContext { custom_validator_config: None, ..context };
        assert_eq!(rest, CertificateValidationContext::default());
    }
}
