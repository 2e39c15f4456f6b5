//! Rendering. Two functions of two types: what is a trust bundle in the program cannot become a certificate on the wire,
//! and there is no trust bundle without a CA (xds-conformance items 65 and 67: Envoy accepts either silently, and stops
//! verifying its peers).

use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate, secret,
};

use crate::model::bundle::Bundle;
use crate::model::svid::Svid;

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
    Secret {
        name: name.to_owned(),
        r#type: Some(secret::Type::ValidationContext(CertificateValidationContext {
            trusted_ca: Some(inline(bundle.pem().into_bytes())),
            ..Default::default()
        })),
    }
}

fn inline(bytes: Vec<u8>) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineBytes(bytes)), ..Default::default() }
}

#[cfg(test)]
mod tests {
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
}
