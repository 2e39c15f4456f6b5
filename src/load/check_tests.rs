use bytes::Bytes;
use jiff::SignedDuration;
use rcgen::{CertificateParams, KeyPair, SanType};

use super::*;
use crate::load::messages::{Any, DataSource, TlsCertificate, TrustDomain, TypedExtensionConfig, data_source};
use crate::testing::certs::{LeafOptions, TestCa, timestamp};

const ID: &str = "spiffe://default/web";

fn now() -> Timestamp {
    timestamp(1_800_000_000)
}

fn inline(content: &str) -> Option<DataSource> {
    Some(DataSource { specifier: Some(data_source::Specifier::InlineString(content.to_owned())) })
}

fn named(name: &str, r#type: secret::Type) -> (Arc<str>, Bytes) {
    (name.into(), Secret { name: name.to_owned(), r#type: Some(r#type) }.encode_to_vec().into())
}

fn pair(chain: &str, key: &KeyPair) -> (Arc<str>, Bytes) {
    let (certificate_chain, private_key) = (inline(chain), inline(&key.serialize_pem()));
    named("default", secret::Type::TlsCertificate(TlsCertificate { certificate_chain, private_key }))
}

fn bundle(ca: &TestCa) -> (Arc<str>, Bytes) {
    let trusted_ca = inline(&ca.certificate().pem());
    named("ROOTCA", secret::Type::ValidationContext(ValidationContext { trusted_ca, ..ValidationContext::default() }))
}

fn validator(domain: &str, ca: &TestCa) -> (Arc<str>, Bytes) {
    let domain = TrustDomain { name: domain.to_owned(), trust_bundle: inline(&ca.certificate().pem()) };
    let value = SpiffeValidator { trust_domains: vec![domain] }.encode_to_vec().into();
    let typed_config = Some(Any { type_url: String::new(), value });
    let custom_validator_config = Some(TypedExtensionConfig { typed_config, ..TypedExtensionConfig::default() });
    named("ALL", secret::Type::ValidationContext(ValidationContext { custom_validator_config, trusted_ca: None }))
}

fn leaf(ca: &TestCa, options: &LeafOptions) -> (String, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(ID.try_into().unwrap())];
    let request = params.serialize_request(&key).unwrap();
    (ca.sign(request.der(), options).pem(), key)
}

fn found(secrets: &[(Arc<str>, Bytes)]) -> Result<Vec<(usize, Leaf)>, &'static str> {
    check(secrets, &mut Bundles::default(), now()).map_err(|fault| fault.what)
}

#[test]
fn what_a_proxy_can_live_with_is_good() {
    let ca = TestCa::root("CA");
    let (chain, key) = leaf(&ca, &LeafOptions::default());
    let certificate = pair(&chain, &key);
    for bundles in [vec![bundle(&ca)], vec![validator("default", &ca)], vec![]] {
        let secrets = [vec![certificate.clone()], bundles].concat();
        let leaves = found(&secrets).unwrap();
        let [(0, leaf)] = leaves.as_slice() else { panic!("{leaves:?}") };
        assert_eq!(&*leaf.spiffe_id, ID);
        assert!(leaf.validity.contains(now()));
    }
    assert_eq!(found(&[bundle(&ca)]), Ok(Vec::new()));
    let several = found(&[certificate.clone(), bundle(&ca), ("other".into(), certificate.1)]).unwrap();
    assert_eq!(several.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [0, 2], "each of them, by its place");
    let below = ca.intermediate("below");
    let (chain, key) = leaf(&below, &LeafOptions::default());
    let whole = format!("{chain}{}", below.certificate().pem());
    assert!(found(&[pair(&whole, &key), bundle(&ca)]).is_ok());
}

#[test]
fn what_it_cannot_live_with_is_found() {
    let (ca, other) = (TestCa::root("CA"), TestCa::root("CA"));
    let (chain, key) = leaf(&ca, &LeafOptions::default());
    let spoiled = |options: LeafOptions| {
        let (chain, key) = leaf(&ca, &options);
        vec![pair(&chain, &key), bundle(&ca)]
    };
    let over = Some((now() - SignedDuration::from_hours(2), now() - SignedDuration::from_hours(1)));
    let uris = |uris: &[&str]| Some(uris.iter().map(|uri| (*uri).to_owned()).collect());
    let (_, certificate) = pair(&chain, &key);
    let (_, context) = bundle(&ca);
    let cases = [
        (vec![pair(&chain, &KeyPair::generate().unwrap())], "a leaf does not match its key"),
        (vec![pair(&chain, &key), bundle(&other)], "a leaf does not lead to a CA of the bundle"),
        (vec![pair(&chain, &key), validator("elsewhere", &ca)], "a leaf does not lead to a CA of the bundle"),
        (spoiled(LeafOptions { validity: over, ..LeafOptions::default() }), "a leaf is not valid now"),
        (spoiled(LeafOptions { uris: uris(&[]), ..LeafOptions::default() }), "a leaf has not one URI"),
        (
            spoiled(LeafOptions { uris: uris(&[ID, "spiffe://b/c"]), ..LeafOptions::default() }),
            "a leaf has not one URI",
        ),
        (spoiled(LeafOptions { uris: uris(&["https://a/b"]), ..LeafOptions::default() }), "a leaf has no SPIFFE ID"),
        (vec![("ROOTCA".into(), certificate)], "a name got a secret of another kind"),
        (vec![("default".into(), context)], "a name got a secret of another kind"),
        (vec![pair("", &key)], "a certificate chain cannot be read"),
        (
            vec![named("ROOTCA", secret::Type::ValidationContext(ValidationContext::default()))],
            "a validation context has no CA",
        ),
        (vec![("default".into(), Bytes::from_static(b"\xff"))], "a secret cannot be decoded"),
    ];
    for (secrets, expected) in cases {
        assert_eq!(found(&secrets), Err(expected));
    }
}

#[test]
fn a_broken_key_is_not_shown() {
    let ca = TestCa::root("CA");
    let (chain, _) = leaf(&ca, &LeafOptions::default());
    let private_key = inline("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n");
    let certificate = TlsCertificate { certificate_chain: inline(&chain), private_key };
    let secrets = [named("default", secret::Type::TlsCertificate(certificate))];
    let fault = check(&secrets, &mut Bundles::default(), now()).unwrap_err();
    assert_eq!((fault.what, fault.detail.as_str()), ("a private key cannot be used", "default"));
}
