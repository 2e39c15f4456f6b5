//! Certificate authorities and leaves of every shape, right and wrong.

use std::sync::Arc;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber,
};
use time::OffsetDateTime;

use crate::model::bundle::Bundle;
use crate::model::certificate::Certificate;

/// A moment, by Unix seconds.
pub(crate) fn timestamp(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

/// A CA whose key the test holds.
#[derive(Clone)]
pub(crate) struct TestCa(Arc<Inner>);

struct Inner {
    certificate: Certificate,
    name: DistinguishedName,
    issuer: Issuer<'static, KeyPair>,
}

/// What a leaf is like; the default is a good one for its CSR, valid around 1,800,000,000.
pub(crate) struct LeafOptions {
    /// From and until.
    pub(crate) validity: Option<(Timestamp, Timestamp)>,
    /// URI SANs instead of the CSR's.
    pub(crate) uris: Option<Vec<String>>,
    /// Further DNS SANs.
    pub(crate) dns: Vec<String>,
    pub(crate) is_ca: bool,
    pub(crate) client_auth: bool,
    pub(crate) server_auth: bool,
}

impl Default for LeafOptions {
    fn default() -> Self {
        Self { validity: None, uris: None, dns: Vec::new(), is_ca: false, client_auth: true, server_auth: true }
    }
}

const FROM: i64 = 1_799_999_000;
const UNTIL: i64 = 1_800_086_400;
const CA_UNTIL: i64 = 2_100_000_000;

impl TestCa {
    pub(crate) fn root(name: &str) -> Self {
        Self::root_until(name, timestamp(CA_UNTIL))
    }

    pub(crate) fn root_until(name: &str, until: Timestamp) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = ca_params(name, until);
        let certificate = params.self_signed(&key).unwrap();
        Self::new(params, &certificate, key)
    }

    /// The same CA, subject and key, with another end.
    pub(crate) fn renewed_until(&self, until: Timestamp) -> Self {
        let key = KeyPair::from_pem(&self.0.issuer.key().serialize_pem()).unwrap();
        let mut params = ca_params("", until);
        params.distinguished_name = self.0.name.clone();
        let certificate = params.self_signed(&key).unwrap();
        Self::new(params, &certificate, key)
    }

    pub(crate) fn intermediate(&self, name: &str) -> Self {
        self.intermediate_until(name, timestamp(CA_UNTIL))
    }

    pub(crate) fn intermediate_until(&self, name: &str, until: Timestamp) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = ca_params(name, until);
        let certificate = params.signed_by(&key, &self.0.issuer).unwrap();
        Self::new(params, &certificate, key)
    }

    fn new(params: CertificateParams, certificate: &rcgen::Certificate, key: KeyPair) -> Self {
        let certificate = Certificate::from_der(certificate.der().clone()).unwrap();
        let name = params.distinguished_name.clone();
        Self(Arc::new(Inner { certificate, name, issuer: Issuer::new(params, key) }))
    }

    pub(crate) fn certificate(&self) -> &Certificate {
        &self.0.certificate
    }

    pub(crate) fn bundle(&self) -> Bundle {
        Bundle::from_certificates([self.certificate().clone()]).unwrap()
    }

    /// A leaf with a key of its own, which nobody has.
    pub(crate) fn leaf(&self, options: &LeafOptions) -> Certificate {
        let csr = CertificateParams::default().serialize_request(&KeyPair::generate().unwrap()).unwrap();
        self.sign(csr.der(), options)
    }

    /// A list, PEM, of these certificates as revoked, until `next_update`.
    pub(crate) fn crl(&self, revoked: &[&Certificate], next_update: Timestamp) -> String {
        self.crl_from(timestamp(FROM), revoked, next_update)
    }

    /// The same, made at `this_update`.
    pub(crate) fn crl_from(&self, this_update: Timestamp, revoked: &[&Certificate], next_update: Timestamp) -> String {
        let revoked = revoked.iter().map(|certificate| RevokedCertParams {
            serial_number: SerialNumber::from(hex::decode(certificate.serial()).unwrap()),
            revocation_time: offset(timestamp(FROM)),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: offset(this_update),
            next_update: offset(next_update),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0.issuer).unwrap().pem().unwrap()
    }

    /// Signs `csr` (DER) as `options` say.
    pub(crate) fn sign(&self, csr: &[u8], options: &LeafOptions) -> Certificate {
        let mut csr = CertificateSigningRequestParams::from_der(&csr.into()).unwrap();
        let params = &mut csr.params;
        let (from, until) = options.validity.unwrap_or((timestamp(FROM), timestamp(UNTIL)));
        (params.not_before, params.not_after) = (offset(from), offset(until));
        if let Some(uris) = &options.uris {
            params.subject_alt_names = uris.iter().map(|uri| SanType::URI(uri.as_str().try_into().unwrap())).collect();
        }
        for name in &options.dns {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into().unwrap()));
        }
        if options.is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = [
            (options.server_auth, ExtendedKeyUsagePurpose::ServerAuth),
            (options.client_auth, ExtendedKeyUsagePurpose::ClientAuth),
        ]
        .into_iter()
        .filter_map(|(wanted, usage)| wanted.then_some(usage))
        .collect();
        Certificate::from_der(csr.signed_by(&self.0.issuer).unwrap().der().clone()).unwrap()
    }
}

fn ca_params(name: &str, until: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = (offset(timestamp(1_600_000_000)), offset(until));
    params
}

fn offset(timestamp: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(timestamp.as_second()).unwrap()
}
