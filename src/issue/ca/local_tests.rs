use std::time::Duration;

use rcgen::{
    BasicConstraints, DnType, DnValue, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
};

use super::*;
use crate::issue::verify::{Expected, verify};
use crate::model::bundle::Bundle;
use crate::testing::certs::timestamp;

const ID: &str = "spiffe://default/web";
const NOW: i64 = 1_800_000_000;
const HOUR: i64 = 3_600;

/// A CA, its certificates and its key.
struct Made {
    chain: Vec<Certificate>,
    issuer: Issuer<'static, KeyPair>,
}

fn params(name: DistinguishedName, until: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    (params.not_before, params.not_after) = (offset(timestamp(NOW - HOUR)), offset(timestamp(until)));
    params
}

fn name(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}

fn root(name: DistinguishedName, until: i64, algorithm: &'static SignatureAlgorithm) -> Made {
    let (params, key) = (params(name, until), KeyPair::generate_for(algorithm).unwrap());
    let root = Certificate::from_der(params.self_signed(&key).unwrap().der().clone()).unwrap();
    Made { chain: vec![root], issuer: Issuer::new(params, key) }
}

impl Made {
    fn intermediate(&self, text: &str, until: i64) -> Self {
        let (params, key) = (params(name(text), until), KeyPair::generate().unwrap());
        let made = Certificate::from_der(params.signed_by(&key, &self.issuer).unwrap().der().clone()).unwrap();
        let chain = std::iter::once(made).chain(self.chain.iter().cloned()).collect();
        Self { chain, issuer: Issuer::new(params, key) }
    }

    fn ca(&self) -> LocalCa {
        let key = KeyPair::from_pem(&self.issuer.key().serialize_pem()).unwrap();
        LocalCa::new(&self.chain, key).unwrap()
    }
}

/// The leaf as peers see it.
async fn issue(ca: &LocalCa, lifetime: i64) -> crate::model::svid::Svid {
    let request = SigningRequest {
        mesh: "default".into(),
        proxy: "web-0".into(),
        spiffe_id: ID.into(),
        lifetime: Some(Duration::from_secs(lifetime.unsigned_abs())),
        request_timeout: Duration::from_secs(10),
    };
    let Signed { key, chain: issued } = ca.sign(request, timestamp(NOW)).await.unwrap();
    assert_eq!(issued.authority, [ca.anchor().clone()]);
    let expected =
        Expected { spiffe_id: ID.into(), public_key: key.public_key().to_vec(), policy_digest: "digest".into() };
    let trust = Bundle::from_certificates([ca.anchor().clone()]).unwrap();
    verify(&issued, &expected, key.pem(), &trust, timestamp(NOW)).unwrap()
}

#[tokio::test]
async fn keys_of_every_kind_sign() {
    for algorithm in [&PKCS_RSA_SHA256, &PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let svid = issue(&root(name("Root"), NOW + 100 * HOUR, algorithm).ca(), HOUR).await;
        assert_eq!(svid.validity().not_after, timestamp(NOW + HOUR), "{algorithm:?}");
        assert!(svid.intermediates.is_empty(), "the root does not go with it");
    }
}

#[tokio::test]
async fn intermediates_go_with_the_leaf_and_the_anchor_does_not() {
    let top = root(name("Root"), NOW + 100 * HOUR, &PKCS_ECDSA_P256_SHA256);
    let two = top.intermediate("Upper", NOW + 90 * HOUR).intermediate("Lower", NOW + 80 * HOUR);
    let svid = issue(&two.ca(), HOUR).await;
    assert_eq!(svid.intermediates, two.chain[..2]);
    assert_eq!(svid.anchor, top.chain[0]);
    // The user trusts no more than what the user has given.
    let alone = Made { chain: vec![two.chain[0].clone()], ..two };
    let svid = issue(&alone.ca(), HOUR).await;
    assert_eq!((svid.intermediates.len(), &svid.anchor), (0, &alone.chain[0]));
}

#[tokio::test]
async fn no_leaf_outlives_any_certificate_of_its_chain() {
    for (of_root, of_upper, of_lower, expected) in [(9, 50, 70, 9), (50, 9, 70, 9), (50, 70, 9, 9), (50, 50, 50, 20)] {
        let root = root(name("Root"), NOW + of_root * HOUR, &PKCS_ECDSA_P256_SHA256);
        let upper = root.intermediate("Upper", NOW + of_upper * HOUR);
        let ca = upper.intermediate("Lower", NOW + of_lower * HOUR).ca();
        assert_eq!(issue(&ca, 20 * HOUR).await.validity().not_after, timestamp(NOW + expected * HOUR));
    }
    let over = root(name("Root"), NOW, &PKCS_ECDSA_P256_SHA256).ca();
    let request = SigningRequest {
        mesh: "default".into(),
        proxy: "web-0".into(),
        spiffe_id: ID.into(),
        lifetime: None,
        request_timeout: Duration::from_secs(10),
    };
    assert!(matches!(over.sign(request, timestamp(NOW)).await, Err(CaError::Failed(_))));
}

#[tokio::test]
async fn a_ca_keeps_its_name_whatever_it_is_written_in() {
    let values: [DnValue; 3] = [
        DnValue::PrintableString("Example".try_into().unwrap()),
        DnValue::TeletexString("Example".try_into().unwrap()),
        DnValue::BmpString("Example".try_into().unwrap()),
    ];
    for value in values {
        let mut name = name("Root");
        name.push(DnType::OrganizationName, value);
        name.push(
            DnType::CustomDnType(vec![0, 9, 2342, 19_200_300, 100, 1, 25]),
            DnValue::Ia5String("x".try_into().unwrap()),
        );
        issue(&root(name, NOW + 100 * HOUR, &PKCS_ECDSA_P256_SHA256).ca(), HOUR).await;
    }
}

/// As Active Directory names its CAs: made with `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -days 7300 -subj
/// '/DC=com/DC=example/OU=one+CN=Two at once'`.
#[tokio::test]
async fn a_name_with_several_parts_of_a_kind_is_kept_too() {
    let pem = include_bytes!("testdata/domain-components.pem");
    let ca = Certificate::many_from_pem(pem).unwrap();
    let key = KeyPair::from_pem(include_str!("testdata/domain-components.key")).unwrap();
    let ca = LocalCa::new(&ca, key).unwrap();
    assert_eq!(issue(&ca, HOUR).await.leaf.issuer(), ca.anchor().subject());
}

#[test]
fn no_key_is_shown() {
    let ca = root(name("Root"), NOW + HOUR, &PKCS_ECDSA_P256_SHA256).ca();
    assert!(format!("{ca:?}").ends_with(", .. }"), "{ca:?}");
}

#[tokio::test]
async fn what_is_said_of_a_signature_counts_for_that_one_alone() {
    let ca = root(name("Root"), NOW + 100 * HOUR, &PKCS_ECDSA_P256_SHA256).ca();
    let other = root(name("Root"), NOW + 100 * HOUR, &PKCS_ECDSA_P256_SHA256).ca();
    let request = SigningRequest {
        mesh: "default".into(),
        proxy: "web-0".into(),
        spiffe_id: ID.into(),
        lifetime: None,
        request_timeout: Duration::from_secs(10),
    };
    let Signed { key, chain: issued } = ca.sign(request.clone(), timestamp(NOW)).await.unwrap();
    let expected = Expected { spiffe_id: ID.into(), public_key: key.public_key().to_vec(), policy_digest: "d".into() };
    let trust = |ca: &LocalCa| Bundle::from_certificates([ca.anchor().clone()]).unwrap();
    let is_good =
        |issued: &IssuedChain, trust: &Bundle| verify(issued, &expected, key.pem(), trust, timestamp(NOW)).is_ok();
    assert!(is_good(&issued, &trust(&ca)));
    assert!(!is_good(&issued, &trust(&other)), "another key of the same name");
    // It says that a signature was made, and here is another: that one is computed, and found wrong.
    let forged = other.0.sign(&request, &key, timestamp(NOW)).unwrap();
    let mixed = IssuedChain { certificates: forged.certificates, ..issued.clone() };
    assert!(!is_good(&mixed, &trust(&ca)));
    let unsaid = IssuedChain { signed_here: None, ..issued };
    assert!(is_good(&unsaid, &trust(&ca)), "and without a word it is computed");
}
