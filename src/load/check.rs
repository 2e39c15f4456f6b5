//! Whether what a proxy got is what it needs: its key is its leaf's, the leaf leads to a CA that it was given, and names one
//! SPIFFE ID. Pure.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use prost::Message;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::messages::{Secret, SpiffeValidator, ValidationContext, secret};
use super::protocol::digest;
use crate::model::certificate::{Certificate, Validity};

/// Why a proxy could not live with what it got: the kind, and the case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) what: &'static str,
    pub(crate) detail: String,
}

fn fault(what: &'static str, detail: impl ToString) -> Fault {
    Fault { what, detail: detail.to_string() }
}

/// What a proxy is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub(crate) spiffe_id: Arc<str>,
    pub(crate) validity: Validity,
}

/// The CAs of validation contexts, parsed once for a content: thousands of proxies have the same.
#[derive(Debug, Default)]
pub(crate) struct Bundles(HashMap<u64, Result<Arc<Bundle>, Fault>>);

/// CAs by trust domain; those of a plain bundle are for any.
#[derive(Debug)]
struct Bundle(Vec<(Option<String>, TrustAnchor<'static>)>);

/// Checks the secrets of one proxy, encoded, with the names that it asked for them by. What its certificates are known by, each
/// with its place among the secrets.
///
/// # Errors
/// The first thing that is wrong.
pub(crate) fn check(
    secrets: &[(Arc<str>, bytes::Bytes)],
    bundles: &mut Bundles,
    now: Timestamp,
) -> Result<Vec<(usize, Leaf)>, Fault> {
    let mut trusted = Vec::new();
    let mut certificates = Vec::new();
    for (place, (name, bytes)) in secrets.iter().enumerate() {
        let secret = Secret::decode(bytes.clone()).map_err(|error| fault("a secret cannot be decoded", error))?;
        match (secret.r#type, expected_kind(name)) {
            (Some(secret::Type::TlsCertificate(pair)), Some(true) | None) => certificates.push((place, name, pair)),
            (Some(secret::Type::ValidationContext(context)), Some(false) | None) => {
                let parsed = bundles.0.entry(digest(bytes)).or_insert_with(|| Bundle::read(&context).map(Arc::new));
                trusted.push(parsed.clone()?);
            }
            _ => return Err(fault("a name got a secret of another kind", name)),
        }
    }
    let mut leaves = Vec::with_capacity(certificates.len());
    for (place, name, pair) in certificates {
        let inline = |source: Option<super::messages::DataSource>| {
            source
                .and_then(|source| source.inline().map(<[u8]>::to_vec))
                .ok_or_else(|| fault("a secret is not inline", name))
        };
        let key = zeroize::Zeroizing::new(inline(pair.private_key)?);
        leaves.push((place, certificate(name, &inline(pair.certificate_chain)?, &key, &trusted, now)?));
    }
    Ok(leaves)
}

/// Whether a name that every Envoy is configured with is a certificate's; other systems' names say nothing here.
pub(crate) fn expected_kind(name: &str) -> Option<bool> {
    match name {
        "default" => Some(true),
        "ROOTCA" | "ALL" => Some(false),
        _ => None,
    }
}

fn certificate(name: &str, chain: &[u8], key: &[u8], trusted: &[Arc<Bundle>], now: Timestamp) -> Result<Leaf, Fault> {
    let chain =
        Certificate::many_from_pem(chain).map_err(|error| fault("a certificate chain cannot be read", error))?;
    let Some((leaf, rest)) = chain.split_first() else {
        return Err(fault("a certificate chain is empty", name));
    };
    // What is wrong with a key is not told: the parser may quote it.
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_error| fault("a private key cannot be read", name))?;
    let key = any_supported_type(&key).map_err(|_error| fault("a private key cannot be used", name))?;
    if key.public_key().is_none_or(|public| &*public != leaf.public_key()) {
        return Err(fault("a leaf does not match its key", format!("{name}, serial {}", leaf.serial())));
    }
    let validity = leaf.validity();
    if !validity.contains(now) {
        let detail = format!("{name}: from {} to {}", validity.not_before, validity.not_after);
        return Err(fault("a leaf is not valid now", detail));
    }
    let [uri] = leaf.uris() else {
        return Err(fault("a leaf has not one URI", format!("{name}: {:?}", leaf.uris())));
    };
    let Some((domain, _)) = uri.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/')) else {
        return Err(fault("a leaf has no SPIFFE ID", format!("{name}: {uri}")));
    };
    if !trusted.is_empty() {
        let of_domain = |(of, anchor): &(Option<String>, TrustAnchor<'static>)| {
            of.as_ref().is_none_or(|of| of == domain).then(|| anchor.clone())
        };
        let anchors: Vec<_> = trusted.iter().flat_map(|bundle| bundle.0.iter().filter_map(of_domain)).collect();
        chains(leaf, rest, &anchors, now)
            .map_err(|why| fault("a leaf does not lead to a CA of the bundle", format!("{name}, {uri}: {why}")))?;
    }
    Ok(Leaf { spiffe_id: uri.as_str().into(), validity })
}

fn chains(leaf: &Certificate, rest: &[Certificate], anchors: &[TrustAnchor<'_>], now: Timestamp) -> Result<(), String> {
    let between: Vec<CertificateDer<'_>> = rest.iter().map(|certificate| certificate.der().clone()).collect();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now.as_second().unsigned_abs()));
    let leaf = EndEntityCert::try_from(leaf.der()).map_err(|error| error.to_string())?;
    let algorithms = webpki::ALL_VERIFICATION_ALGS;
    let usage = KeyUsage::server_auth();
    leaf.verify_for_usage(algorithms, anchors, &between, now, usage, None, None)
        .map(drop)
        .map_err(|error| error.to_string())
}

impl Bundle {
    fn read(context: &ValidationContext) -> Result<Self, Fault> {
        let mut anchors = Vec::new();
        let mut add = |domain: Option<String>, pem: &[u8]| {
            let unreadable = |error: &dyn ToString| fault("a validation context cannot be read", error.to_string());
            for certificate in Certificate::many_from_pem(pem).map_err(|error| unreadable(&error))? {
                let anchor = anchor_from_trusted_cert(certificate.der()).map_err(|error| unreadable(&error))?;
                anchors.push((domain.clone(), anchor.to_owned()));
            }
            Ok(())
        };
        if let Some(pem) = context.trusted_ca.as_ref().and_then(|source| source.inline()) {
            add(None, pem)?;
        }
        let validator = context.custom_validator_config.as_ref().and_then(|config| config.typed_config.as_ref());
        if let Some(any) = validator {
            let validator = SpiffeValidator::decode(any.value.clone());
            let validator = validator.map_err(|error| fault("a validation context cannot be read", error))?;
            for domain in validator.trust_domains {
                if let Some(pem) = domain.trust_bundle.as_ref().and_then(|source| source.inline()) {
                    add(Some(domain.name.clone()), pem)?;
                }
            }
        }
        // Envoy verifies nobody with an empty one.
        if anchors.is_empty() { Err(fault("a validation context has no CA", "")) } else { Ok(Self(anchors)) }
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
