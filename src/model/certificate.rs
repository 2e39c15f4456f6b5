//! X.509 certificates, parsed once; after that, only what the rest of the program asks about them.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

/// How long a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// First moment.
    pub not_before: Timestamp,
    /// Last moment.
    pub not_after: Timestamp,
}

impl Validity {
    /// Which part of it is left at `now`: 1 before it begins, 0 when it is over.
    pub fn remaining(&self, now: Timestamp) -> f64 {
        let all = self.not_after.duration_since(self.not_before).as_secs_f64();
        let left = self.not_after.duration_since(now).as_secs_f64();
        if left > 0.0 { (left / all).clamp(0.0, 1.0) } else { 0.0 }
    }

    /// Whether `now` is within.
    pub fn contains(&self, now: Timestamp) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

/// A certificate that could be parsed. Cheap to clone: there is one of each CA, however many leaves are under it.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate(Arc<Parsed>);

#[derive(PartialEq, Eq)]
struct Parsed {
    der: CertificateDer<'static>,
    facts: Facts,
}

#[derive(PartialEq, Eq)]
struct Facts {
    subject: String,
    subject_raw: Vec<u8>,
    issuer: String,
    issuer_raw: Vec<u8>,
    serial: String,
    validity: Validity,
    spki: Vec<u8>,
    is_ca: bool,
    uris: Vec<String>,
    other_names: usize,
}

/// Why bytes are no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// There is no PEM block of type CERTIFICATE in the text.
    #[error("no PEM block `-----BEGIN CERTIFICATE-----` in it")]
    NoPem,
    /// A PEM block is broken.
    #[error("certificate {index} is not valid PEM: {reason}")]
    Pem {
        /// From 1.
        index: usize,
        /// What the PEM reader says.
        reason: String,
    },
    /// A certificate does not parse.
    #[error("certificate {index} is not an X.509 certificate: {reason}")]
    Der {
        /// From 1.
        index: usize,
        /// What the parser says.
        reason: String,
    },
}

impl Certificate {
    /// Parses DER.
    ///
    /// # Errors
    /// [`CertificateError::Der`] with index 1.
    pub fn from_der(der: CertificateDer<'static>) -> Result<Self, CertificateError> {
        let facts = Facts::read(&der).map_err(|reason| CertificateError::Der { index: 1, reason })?;
        Ok(Self(Arc::new(Parsed { der, facts })))
    }

    /// Parses every certificate in a PEM text, in order; text around and between the blocks is allowed, as
    /// RFC 7468 has it. One broken block spoils the whole: half a CA file is not what anybody meant.
    ///
    /// # Errors
    /// [`CertificateError`], naming the block.
    pub fn many_from_pem(pem: &[u8]) -> Result<Vec<Self>, CertificateError> {
        let mut certificates = Vec::new();
        for (position, block) in CertificateDer::pem_slice_iter(pem).enumerate() {
            let index = position + 1;
            let der = block.map_err(|error| CertificateError::Pem { index, reason: error.to_string() })?;
            let facts = Facts::read(&der).map_err(|reason| CertificateError::Der { index, reason })?;
            certificates.push(Self(Arc::new(Parsed { der, facts })));
        }
        if certificates.is_empty() { Err(CertificateError::NoPem) } else { Ok(certificates) }
    }

    /// The certificate itself.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.0.der
    }

    /// The certificate as one PEM block with a final newline.
    pub fn pem(&self) -> String {
        pem::encode_config(
            &pem::Pem::new("CERTIFICATE", self.0.der.to_vec()),
            pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
        )
    }

    /// The subject's distinguished name, for people; empty for a workload's leaf.
    pub fn subject(&self) -> &str {
        &self.0.facts.subject
    }

    /// The issuer's distinguished name, for people.
    pub fn issuer(&self) -> &str {
        &self.0.facts.issuer
    }

    /// Serial number in lower-case hex, as Envoy's `/certs` shows it.
    pub fn serial(&self) -> &str {
        &self.0.facts.serial
    }

    /// How long it is valid.
    pub fn validity(&self) -> Validity {
        self.0.facts.validity
    }

    /// DER of the SubjectPublicKeyInfo.
    pub fn public_key(&self) -> &[u8] {
        &self.0.facts.spki
    }

    /// Whether basic constraints say that it is a CA.
    pub fn is_ca(&self) -> bool {
        self.0.facts.is_ca
    }

    /// URI subject alternative names.
    pub fn uris(&self) -> &[String] {
        &self.0.facts.uris
    }

    /// How many subject alternative names of other kinds (DNS, IP, …) it has.
    pub fn other_names(&self) -> usize {
        self.0.facts.other_names
    }

    /// Whether `self` names `other` as its issuer. A name match only: signatures are for path validation.
    pub fn names_issuer(&self, other: &Self) -> bool {
        self.0.facts.issuer_raw == other.0.facts.subject_raw
    }

    /// Whether it is its own issuer by name, as roots are.
    pub fn is_self_issued(&self) -> bool {
        self.names_issuer(self)
    }

    /// Whether it is self-signed: issued by its own name, and the signature verifies with its own key.
    pub fn is_self_signed(&self) -> bool {
        self.is_self_issued()
            && X509Certificate::from_der(&self.0.der).is_ok_and(|(_, parsed)| parsed.verify_signature(None).is_ok())
    }

    /// SHA-256 over the DER, in hex.
    pub fn fingerprint(&self) -> String {
        hex::encode(digest::digest(&digest::SHA256, &self.0.der))
    }

    /// The first 16 digits of [`Certificate::fingerprint`]: how versions name a CA.
    pub fn short_digest(&self) -> String {
        short_digest([self])
    }
}

/// 16 hex digits of [`full_digest`].
pub fn short_digest<'a>(certificates: impl IntoIterator<Item = &'a Certificate>) -> String {
    let mut digest = full_digest(certificates);
    digest.truncate(16);
    digest
}

/// The SHA-256, in hex, over the certificates, one after the other; DER says itself where each one ends.
pub fn full_digest<'a>(certificates: impl IntoIterator<Item = &'a Certificate>) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for certificate in certificates {
        context.update(certificate.der());
    }
    hex::encode(context.finish())
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("subject", &self.0.facts.subject)
            .field("issuer", &self.0.facts.issuer)
            .field("serial", &self.0.facts.serial)
            .finish_non_exhaustive()
    }
}

impl Facts {
    fn read(der: &[u8]) -> Result<Self, String> {
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
        if !rest.is_empty() {
            return Err(format!("{} bytes of something else follow it", rest.len()));
        }
        let time = |seconds| Timestamp::from_second(seconds).map_err(|error| error.to_string());
        let (mut uris, mut other_names) = (Vec::new(), 0);
        let mut is_ca = false;
        for extension in parsed.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(names) => {
                    for name in &names.general_names {
                        match name {
                            GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                            _ => other_names += 1,
                        }
                    }
                }
                ParsedExtension::BasicConstraints(constraints) => is_ca = constraints.ca,
                _ => {}
            }
        }
        Ok(Self {
            subject: parsed.subject().to_string(),
            subject_raw: parsed.subject().as_raw().to_vec(),
            issuer: parsed.issuer().to_string(),
            issuer_raw: parsed.issuer().as_raw().to_vec(),
            serial: hex::encode(parsed.raw_serial()),
            validity: Validity {
                not_before: time(parsed.validity().not_before.timestamp())?,
                not_after: time(parsed.validity().not_after.timestamp())?,
            },
            spki: parsed.public_key().raw.to_vec(),
            is_ca,
            uris,
            other_names,
        })
    }
}
