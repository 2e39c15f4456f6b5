use aws_lc_rs::encoding::{AsDer, EcPrivateKeyRfc5915Der};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair as RcgenKey, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
};

use super::*;

fn now() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().unwrap()
}

/// A CA in the making: name, path length, and the years from and until which it is valid.
fn params(name: &str, path_len: Option<u8>, (from, until): (i32, i32)) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(path_len.map_or(BasicConstraints::Unconstrained, BasicConstraints::Constrained));
    (params.not_before, params.not_after) = (rcgen::date_time_ymd(from, 1, 1), rcgen::date_time_ymd(until, 1, 1));
    params
}

struct Ca {
    pem: String,
    issuer: Issuer<'static, RcgenKey>,
}

impl Ca {
    fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }
}

fn root(params: CertificateParams) -> Ca {
    let key = RcgenKey::generate().unwrap();
    Ca { pem: params.self_signed(&key).unwrap().pem(), issuer: Issuer::new(params, key) }
}

fn signed(params: CertificateParams, by: &Ca) -> Ca {
    let key = RcgenKey::generate().unwrap();
    Ca { pem: params.signed_by(&key, &by.issuer).unwrap().pem(), issuer: Issuer::new(params, key) }
}

const YEARS: (i32, i32) = (2020, 2036);

#[test]
fn a_root_and_an_intermediate_are_good() {
    let top = root(params("root", Some(1), YEARS));
    let chain = CaPair::check(top.pem.as_bytes(), top.key_pem().as_bytes(), true, now()).unwrap();
    assert_eq!((chain.chain.len(), chain.intermediates().len()), (1, 0));
    assert_eq!(chain.anchor.subject(), "CN=root");

    let middle = signed(params("middle", Some(0), (2020, 2030)), &top);
    let both = format!("{}{}", middle.pem, top.pem);
    let chain = CaPair::check(both.as_bytes(), middle.key_pem().as_bytes(), false, now()).unwrap();
    assert_eq!((chain.ca().subject(), chain.anchor.subject()), ("CN=middle", "CN=root"));
    assert_eq!(chain.intermediates().len(), 1);
    assert_eq!(chain.not_after(), "2030-01-01T00:00:00Z".parse::<Timestamp>().unwrap());

    let alone = CaPair::check(middle.pem.as_bytes(), middle.key_pem().as_bytes(), false, now()).unwrap();
    assert_eq!((alone.anchor.subject(), alone.intermediates().len()), ("CN=middle", 1));
}

#[test]
fn keys_of_every_kind_and_encoding() {
    let mut keys: Vec<(String, RcgenKey)> =
        [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519, &PKCS_RSA_SHA256]
            .into_iter()
            .map(|algorithm| RcgenKey::generate_for(algorithm).unwrap())
            .map(|key| (key.serialize_pem(), key))
            .collect();
    let rsa = keys[3].1.serialize_der();
    // The octet string in a PKCS#8 key of 2048 bits is the PKCS#1 one.
    let pkcs1 = pem::encode(&pem::Pem::new("RSA PRIVATE KEY", &rsa[26..]));
    keys.push((pkcs1, RcgenKey::try_from(rsa).unwrap()));
    let ec = keys[0].1.serialize_der();
    let pair = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_ASN1_SIGNING, &ec).unwrap();
    let sec1: EcPrivateKeyRfc5915Der<'_> = pair.private_key().as_der().unwrap();
    let parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    let sec1 = pem::encode(&pem::Pem::new("EC PRIVATE KEY", sec1.as_ref()));
    keys.push((format!("{parameters}{sec1}"), RcgenKey::try_from(ec).unwrap()));
    for (text, key) in keys {
        let params = params("root", None, YEARS);
        let certificate = params.self_signed(&key).unwrap().pem();
        CaPair::check(certificate.as_bytes(), text.as_bytes(), true, now()).unwrap();
        // What was found to be good must be good for signing as well.
        let parsed = CaKey::from_pem(text.as_bytes()).unwrap();
        let issuer = Issuer::new(params, RcgenKey::try_from(parsed.der()).unwrap());
        CertificateParams::default().signed_by(&RcgenKey::generate().unwrap(), &issuer).unwrap();
        assert_eq!(format!("{parsed:?}"), "CaKey([redacted])");
    }
}

#[test]
fn what_is_wrong_is_said_and_keys_are_not_quoted() {
    let good = root(params("root", None, YEARS));
    let other = root(params("other", None, YEARS));
    let narrow = root(params("narrow", Some(0), YEARS));
    let below_narrow = signed(params("below", None, YEARS), &narrow);
    let middle = signed(params("middle", None, YEARS), &good);
    let impostor = root(params("root", None, YEARS));
    let mut leaf = params("leaf", None, YEARS);
    leaf.is_ca = IsCa::ExplicitNoCa;
    let leaf = root(leaf);
    let mut mute = params("mute", None, YEARS);
    mute.key_usages = vec![KeyUsagePurpose::CrlSign];
    let mute = root(mute);
    let old = root(params("old", None, (2020, 2025)));
    let early = root(params("early", None, (2030, 2036)));
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n".to_owned();
    let junk = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".to_owned();
    let chain = |cas: &[&Ca]| cas.iter().map(|ca| ca.pem.as_str()).collect::<String>();
    for (certificate, key, allow, expected) in [
        (chain(&[&good]), good.key_pem(), false, "the CA (CN=root) is self-signed"),
        (chain(&[&good]), other.key_pem(), true, "is not the private key of the CA certificate (CN=root)"),
        (chain(&[&good]), encrypted, true, "the private key is encrypted"),
        (chain(&[&good]), junk, true, "is no private key that certificates can be signed with here"),
        (chain(&[&good]), good.pem.clone(), true, "no PEM block with a private key in it"),
        (good.key_pem(), good.key_pem(), true, "no PEM block `-----BEGIN CERTIFICATE-----` in it"),
        (chain(&[&leaf]), leaf.key_pem(), true, "certificate 1 (CN=leaf) is not a CA"),
        (chain(&[&mute]), mute.key_pem(), true, "its key usage lacks keyCertSign"),
        (chain(&[&old]), old.key_pem(), true, "certificate 1 (CN=old) expired at 2025-01-01T00:00:00Z"),
        (chain(&[&early]), early.key_pem(), true, "is not valid before 2030-01-01T00:00:00Z"),
        (
            chain(&[&below_narrow, &narrow]),
            below_narrow.key_pem(),
            false,
            "certificate 2 (CN=narrow) allows 0 CAs below it (pathLenConstraint), but 1 are there",
        ),
        (chain(&[&good, &middle]), good.key_pem(), true, "certificate 1 (CN=root) was not issued by the one after it"),
        (
            chain(&[&middle, &impostor]),
            middle.key_pem(),
            true,
            "(CN=middle) was not issued by the one after it (CN=root)",
        ),
        (chain(&[&good, &good]), good.key_pem(), true, "was not issued by the one after it"),
    ] {
        let error = CaPair::check(certificate.as_bytes(), key.as_bytes(), allow, now()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(expected), "{text}: {expected}");
        assert!(!text.contains("AAAA"));
    }
}
