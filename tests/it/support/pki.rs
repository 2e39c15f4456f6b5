//! Certificate authorities and identities made by the test itself.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A certificate authority whose key the test holds, so that it can also sign what cert-manager never would.
#[derive(Debug)]
pub struct TestCa {
    /// The certificate that signs.
    pub cert_pem: String,
    /// The root above it; the same certificate, if this is a root.
    pub root_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key.
#[derive(Debug)]
pub struct Identity {
    /// The leaf, then what is between it and the root.
    pub chain_pem: String,
    pub key_pem: String,
}

/// What a leaf says; [`Leaf::spiffe`] is a sound workload certificate, to be spoiled field by field.
#[derive(Debug, Clone)]
pub struct Leaf {
    pub uris: Vec<String>,
    pub dns_names: Vec<String>,
    /// How long ago it became valid.
    pub age: Duration,
    /// From the start of its validity to its end.
    pub lifetime: Duration,
    pub usages: Vec<ExtendedKeyUsagePurpose>,
}

impl Leaf {
    pub fn spiffe(id: &str) -> Self {
        Self {
            uris: vec![id.into()],
            dns_names: Vec::new(),
            age: Duration::from_secs(60),
            lifetime: Duration::from_secs(3600),
            usages: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        }
    }

    pub fn server(dns_name: &str) -> Self {
        Self { uris: Vec::new(), dns_names: vec![dns_name.into()], ..Self::spiffe("") }
    }

    fn params(&self) -> CertificateParams {
        // Names that parse as an address become one.
        let mut params = CertificateParams::new(self.dns_names.clone()).expect("names are valid");
        params.subject_alt_names.extend(self.uris.iter().map(|uri| uri_san(uri)));
        params.distinguished_name = DistinguishedName::new();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = self.usages.clone();
        params.use_authority_key_identifier_extension = true;
        params.not_before = now() - self.age;
        params.not_after = params.not_before + self.lifetime;
        params
    }
}

impl TestCa {
    pub fn root(name: &str) -> Self {
        let (params, key) = (ca_params(name), new_key());
        let cert_pem = params.self_signed(&key).expect("a root can be signed").pem();
        Self { root_pem: cert_pem.clone(), cert_pem, issuer: Issuer::new(params, key) }
    }

    /// An authority below this one.
    pub fn intermediate(&self, name: &str) -> Self {
        let (params, key) = (ca_params(name), new_key());
        let cert_pem = params.signed_by(&key, &self.issuer).expect("an intermediate can be signed").pem();
        Self { cert_pem, root_pem: self.root_pem.clone(), issuer: Issuer::new(params, key) }
    }

    pub fn issue(&self, leaf: &Leaf) -> Identity {
        let key = new_key();
        let cert = leaf.params().signed_by(&key, &self.issuer).expect("a leaf can be signed");
        let between = if self.cert_pem == self.root_pem { "" } else { &self.cert_pem };
        Identity { chain_pem: cert.pem() + between, key_pem: key.serialize_pem() }
    }

    /// A list, PEM, of these identities' certificates as revoked; good for a day.
    pub fn crl(&self, revoked: &[&Identity]) -> String {
        let now = now();
        let revoked = revoked.iter().map(|identity| {
            let leaf = identity.chain().remove(0);
            let (_, leaf) = x509_parser::parse_x509_certificate(&leaf).expect("it is a certificate");
            RevokedCertParams {
                serial_number: SerialNumber::from_slice(leaf.raw_serial()),
                revocation_time: now,
                reason_code: None,
                invalidity_date: None,
            }
        });
        let params = CertificateRevocationListParams {
            this_update: now - Duration::from_secs(60),
            next_update: now + Duration::from_secs(24 * 3600),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).expect("a list can be signed").pem().expect("a list is PEM-encodable")
    }

    /// For certificates that [`issue`](Self::issue) cannot make.
    pub fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }
}

impl Identity {
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        certs(&self.chain_pem)
    }

    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).expect("the key is PEM")
    }
}

/// The certificates of a PEM text, in its order.
pub fn certs(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().expect("the text is PEM")
}

/// A signing request as a workload's is: a P-256 key, no subject, the SPIFFE ID as the only name. Gives its PEM and key.
pub fn spiffe_csr(id: &str) -> (String, KeyPair) {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri_san(id)];
    let key = new_key();
    let request = params.serialize_request(&key).expect("a request can be signed");
    (request.pem().expect("a request is PEM-encodable"), key)
}

/// A new P-256 key.
pub fn new_key() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key can be made")
}

fn now() -> time::OffsetDateTime {
    let now = Duration::from_secs(jiff::Timestamp::now().as_second().try_into().expect("it is after 1970"));
    date_time_ymd(1970, 1, 1) + now
}

fn uri_san(uri: &str) -> SanType {
    SanType::URI(uri.try_into().expect("a URI is ASCII"))
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2049, 1, 1);
    params
}
