use super::*;
use crate::issue::csr;
use crate::testing::certs::{LeafOptions, TestCa, timestamp};

const ID: &str = "spiffe://default/ns/shop/sa/web";

fn now() -> Timestamp {
    timestamp(1_800_000_000)
}

/// An SVID with the given validity, under a CA that ends at `anchor_ends`.
pub(crate) fn svid_with(validity: (Timestamp, Timestamp), anchor_ends: Timestamp) -> Svid {
    let ca = TestCa::root_until("CA", anchor_ends);
    let made = csr::generate(ID).unwrap();
    let leaf = ca.sign(&made.request, &LeafOptions { validity: Some(validity), ..LeafOptions::default() });
    Svid {
        spiffe_id: ID.into(),
        leaf,
        intermediates: Vec::new(),
        key: made.key,
        anchor: ca.certificate().clone(),
        policy_digest: "digest".into(),
        received: validity.0,
    }
}

struct Case {
    ca: TestCa,
    request: csr::KeyAndRequest,
}

impl Case {
    fn new() -> Self {
        Self { ca: TestCa::root("CA"), request: csr::generate(ID).unwrap() }
    }

    fn verify(&self, certificates: Vec<Certificate>, trust: &TestCa) -> Result<Svid, VerifyError> {
        let expected = Expected {
            spiffe_id: ID.into(),
            public_key: self.request.public_key.clone(),
            policy_digest: "digest".into(),
        };
        let issued = IssuedChain { certificates, authority: Vec::new(), signed_here: None };
        verify(&issued, &expected, self.request.key.clone(), &trust.bundle(), now())
    }

    fn leaf(&self, options: &LeafOptions) -> Certificate {
        self.ca.sign(&self.request.request, options)
    }
}

#[test]
fn a_good_leaf_is_taken() {
    let case = Case::new();
    let svid = case.verify(vec![case.leaf(&LeafOptions::default())], &case.ca).unwrap();
    assert_eq!(svid.anchor, *case.ca.certificate());
    assert!(svid.intermediates.is_empty());
}

#[test]
fn items_46_and_85_the_chain_is_put_into_order_and_roots_and_strangers_are_left_out() {
    let root = TestCa::root("Root");
    let upper = root.intermediate("Upper");
    let lower = upper.intermediate("Lower");
    let made = csr::generate(ID).unwrap();
    let leaf = lower.sign(&made.request, &LeafOptions::default());
    let stranger = TestCa::root("Other").intermediate("Stranger");
    let certificates = [&root, &stranger, &upper].map(|ca| ca.certificate().clone()).into_iter();
    let certificates = certificates.chain([leaf.clone(), lower.certificate().clone()]).collect();
    let case = Case { ca: lower.clone(), request: made };
    let svid = case.verify(certificates, &root).unwrap();
    assert_eq!(svid.leaf, leaf);
    assert_eq!(svid.intermediates, [lower.certificate().clone(), upper.certificate().clone()]);
    assert_eq!(svid.anchor, *root.certificate());
}

#[test]
fn an_intermediate_may_be_the_anchor() {
    let issuing = TestCa::root("Root").intermediate("Issuing");
    let case = Case { ca: issuing.clone(), request: csr::generate(ID).unwrap() };
    let svid = case.verify(vec![case.leaf(&LeafOptions::default())], &issuing).unwrap();
    assert_eq!(svid.anchor, *issuing.certificate());
}

/// What no checking of leaves could make up for: of all that Envoy takes, keys are of one kind.
#[test]
fn item_46_our_keys_are_of_a_kind_that_envoy_takes() {
    // SubjectPublicKeyInfo of a P-256 key, up to the point on the curve (RFC 5480).
    let head = hex::decode("3059301306072a8648ce3d020106082a8648ce3d030107034200").unwrap();
    assert!(csr::generate(ID).unwrap().public_key.starts_with(&head));
}

/// A leaf for an RSA key of 1024 bits, which Envoy rejects.
const WEAK: &str = "\
-----BEGIN CERTIFICATE-----
MIICBzCCAXCgAwIBAgIUHyg262SNrY2BD0FjXUZJViJd7w0wDQYJKoZIhvcNAQEL
BQAwADAgFw0yNjExMjIwNTQ0NTVaGA8yMTI2MTAyOTA1NDQ1NVowADCBnzANBgkq
hkiG9w0BAQEFAAOBjQAwgYkCgYEA2VQx6db+V5nVN18sWOHMMV/mtVmwcudJCKLf
gYHQ9nSB1FRvPgkl57W4OiU+Bj1bxFhWUXFXzR0fbIejnE4y38H27mAQXV7aJW3T
RJo69NmqFU0bz+2oMfa7G1tGAud3xdCBOShCeicZGqVo95YANDM4JbE3trFHXFsW
6K1lKx8CAwEAAaN8MHowHQYDVR0OBBYEFBnbfhl1U4q1jKfi1M7HCesmU9p3MB8G
A1UdIwQYMBaAFBnbfhl1U4q1jKfi1M7HCesmU9p3MC0GA1UdEQEB/wQjMCGGH3Nw
aWZmZTovL2RlZmF1bHQvbnMvc2hvcC9zYS93ZWIwCQYDVR0TBAIwADANBgkqhkiG
9w0BAQsFAAOBgQCtamaUiAoy4wPg1RVKi+JNL8FXxEgq7X1PTvXIlmA2vRNN5Aqh
YEhbqM91J0BEL2HHruJMg3+LdO0gls/QncO11+9M2hqu/YM8beUQXWtdQwnPXGIs
FHFAgJB7jWrTb/fAuqPlJ46ScAXm7lnqu8yv28nvFWyDlK8ReDw7i7qv2A==
-----END CERTIFICATE-----
";

#[test]
fn items_46_and_84_what_envoy_would_reject_or_peers_would_refuse_is_not_served() {
    let case = Case::new();
    let weak = Certificate::many_from_pem(WEAK.as_bytes()).unwrap();
    assert_eq!(weak[0].uris(), [ID]);
    assert_eq!(case.verify(weak, &case.ca).unwrap_err(), VerifyError::KeyMismatch(1));
    // A chain without the leaf, and one without what is between the leaf and the root.
    let chainless = case.verify(vec![case.ca.certificate().clone()], &case.ca).unwrap_err();
    assert_eq!(chainless, VerifyError::KeyMismatch(1));
    let between = Case { ca: case.ca.intermediate("Between"), request: csr::generate(ID).unwrap() };
    let gap = between.verify(vec![between.leaf(&LeafOptions::default())], &case.ca).unwrap_err();
    assert!(matches!(gap, VerifyError::Untrusted { .. }), "{gap}");
    let past = (timestamp(1_700_000_000), timestamp(1_700_000_100));
    let future = (timestamp(1_800_000_030), timestamp(1_800_001_000));
    let with = |change: fn(&mut LeafOptions)| {
        let mut options = LeafOptions::default();
        change(&mut options);
        case.verify(vec![case.leaf(&options)], &case.ca).unwrap_err()
    };
    let of = |validity| {
        let options = LeafOptions { validity: Some(validity), ..LeafOptions::default() };
        case.verify(vec![case.leaf(&options)], &case.ca).unwrap_err()
    };
    assert_eq!(of(past), VerifyError::Expired(past.1));
    assert_eq!(of(future), VerifyError::NotYetValid(future.0));
    let wrong_names = |error| matches!(error, VerifyError::WrongNames { .. });
    assert!(wrong_names(with(|options| options.uris = Some(vec!["spiffe://default/ns/shop/sa/admin".into()]))));
    assert!(wrong_names(with(|options| options.uris = Some(vec![]))));
    assert!(wrong_names(with(|options| options.uris = Some(vec![ID.into(), "spiffe://other/x".into()]))));
    assert!(wrong_names(with(|options| options.dns = vec!["web.example".into()])));
    assert_eq!(with(|options| options.is_ca = true), VerifyError::IsCa);
    let untrusted = |error| matches!(error, VerifyError::Untrusted { .. });
    assert!(untrusted(with(|options| options.client_auth = false)));
    assert!(untrusted(with(|options| options.server_auth = false)));
    let other = TestCa::root("CA"); // the same name, another key
    assert!(untrusted(case.verify(vec![case.leaf(&LeafOptions::default())], &other).unwrap_err()));
    let foreign = case.ca.sign(&csr::generate(ID).unwrap().request, &LeafOptions::default());
    assert_eq!(case.verify(vec![foreign], &case.ca).unwrap_err(), VerifyError::KeyMismatch(1));
    assert_eq!(case.verify(vec![], &case.ca).unwrap_err(), VerifyError::KeyMismatch(0));
}

#[test]
fn a_leaf_of_a_ca_whose_clock_is_ahead_is_held_back_a_little() {
    let case = Case::new();
    let issued = |from: i64| {
        let validity = Some((timestamp(1_800_000_000 + from), timestamp(1_800_001_000)));
        let leaf = case.leaf(&LeafOptions { validity, ..LeafOptions::default() });
        IssuedChain { certificates: vec![leaf], authority: Vec::new(), signed_here: None }
    };
    let expected =
        Expected { spiffe_id: ID.into(), public_key: case.request.public_key.clone(), policy_digest: "digest".into() };
    let wait = |from| valid_in(&issued(from), &expected, now());
    assert_eq!([wait(-5), wait(30), wait(61)], [None, Some(Duration::from_secs(30)), None]);
}

#[test]
fn a_ca_that_was_renewed_with_its_key_counts_with_its_longer_life() {
    let old = TestCa::root_until("CA", timestamp(1_800_000_010));
    let renewed = old.renewed_until(timestamp(2_000_000_000));
    let made = csr::generate(ID).unwrap();
    let leaf = old.sign(&made.request, &LeafOptions::default());
    let expected =
        Expected { spiffe_id: ID.into(), public_key: made.public_key.clone(), policy_digest: "digest".into() };
    let issued = IssuedChain { certificates: vec![leaf], authority: Vec::new(), signed_here: None };
    let trust = Bundle::from_certificates([old.certificate().clone(), renewed.certificate().clone()]).unwrap();
    for now in [now(), timestamp(1_800_000_100)] {
        let svid = verify(&issued, &expected, made.key.clone(), &trust, now).unwrap();
        assert_eq!(svid.anchor, *renewed.certificate());
    }
}

#[test]
fn item_46_an_expired_anchor_is_refused() {
    let svid = svid_with((timestamp(1_799_999_000), timestamp(1_800_010_000)), timestamp(1_799_999_999));
    let trust = Bundle::from_certificates([svid.anchor.clone()]).unwrap();
    assert!(path(&svid.leaf, &svid.intermediates, None, &trust, now()).is_err());
}
