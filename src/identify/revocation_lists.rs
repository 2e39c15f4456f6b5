//! Revocation lists of client certificates (RFC 5280 §5). Pure.
//!
//! A list counts for the certificates of an issuer that has its name and whose key has signed it: during a change of its key, a
//! CA has two of each. Of several lists with the same scope the newest counts; of several scopes (`issuingDistributionPoint`)
//! all do, whatever certificate they are meant for, since serial numbers are an issuer's.
//!
//! A file that has lost a list is not believed at once: half of what somebody is about to write is a good file too, and must not
//! let in whom the other half revokes. And whoever puts an old file back does not make anybody good again.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateRevocationListDer, UnixTime};
use webpki::{CertRevocationList, Error, OwnedCertRevocationList};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::num_bigint::BigUint;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::model::certificate::Certificate;

/// All that there are.
#[derive(Debug, Default)]
pub(super) struct RevocationLists(Vec<Held>);

/// A list that counts, and why.
#[derive(Debug, Clone)]
struct Held {
    list: Arc<List>,
    why: Why,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// It is in the file.
    InFile,
    /// It was, and the file has none in its place.
    Missed,
    /// It was, and what the file has in its place is older.
    Newer,
}

struct List {
    der: CertificateRevocationListDer<'static>,
    content: CertRevocationList<'static>,
    /// For people.
    issuer: String,
    age: Age,
    /// When the next one is due (§5.1.2.5).
    next_update: Timestamp,
    signer: Signer,
    /// The keys of issuers that were met, and whether they have signed it. No others are asked about than those of CAs that the
    /// client CA vouches for.
    met: Mutex<HashMap<Vec<u8>, bool>>,
}

/// Of two, the newer one is greater.
type Age = (Timestamp, Option<BigUint>);

/// Who has signed a list.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Signer {
    /// A CA that is known, or was when it was read, by its public key.
    Ca(Vec<u8>),
    /// A key that no known CA has: an intermediate's, that of a CA which is not trusted any more, or nobody's of ours. The list
    /// may say which (its key id, §5.2.1).
    Other(Option<Vec<u8>>),
}

/// An issuer on a verified path.
#[derive(Clone, Copy)]
pub(super) struct Issuer<'a> {
    /// Its public key, DER.
    pub(super) public_key: &'a [u8],
    /// Whether it may sign lists.
    pub(super) may_sign: bool,
    /// The id of its key, if it is a client CA that has one. That of an intermediate does not count: it was shown by the client.
    pub(super) key_id: Option<&'a [u8]>,
}

impl RevocationLists {
    /// From PEM, which must have a list in it; `cas` are the client CAs. A broken list spoils the whole, but one that is of no
    /// CA among them does not: it may be that of a CA that was just taken out, which must not stay in because of it.
    ///
    /// # Errors
    /// What is wrong; also that a CA has not signed a list that names its key: that would be an attack or a mistake.
    pub(super) fn from_pem(pem: &[u8], cas: &[Certificate]) -> Result<Self, String> {
        let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
        let lists = lists.map_err(|error| format!("is not valid PEM: {error}"))?;
        if lists.is_empty() {
            return Err("no PEM block `-----BEGIN X509 CRL-----` in it".to_owned());
        }
        let read = |(index, der)| List::read(der, cas).map_err(|why| format!("revocation list {}: {why}", index + 1));
        let held = |list: Result<List, String>| list.map(|list| Held { list: Arc::new(list), why: Why::InFile });
        lists.into_iter().enumerate().map(read).map(held).collect::<Result<_, _>>().map(Self)
    }

    /// These, and those of `last` whose place nothing in the file has taken. That goes for those of a CA too that is not among
    /// `cas` any more: shown as an intermediate, it may still lead to one that is.
    #[must_use]
    pub(super) fn after(mut self, last: &Self, cas: &[Certificate]) -> Self {
        let kept: Vec<Held> = last.current().filter_map(|list| self.keep(list, cas)).collect();
        self.0.extend(kept);
        self
    }

    fn keep(&self, last: &Arc<List>, cas: &[Certificate]) -> Option<Held> {
        let list = match &last.signer {
            // It has signed it, whether it is still among them or not.
            Signer::Ca(_) => last.clone(),
            // Who has may be known by now. If it is no good by what is known, it counts as it did.
            Signer::Other(_) => List::read(last.der.clone(), cas).map_or_else(|_no_good| last.clone(), Arc::new),
        };
        let mut successors = self.0.iter().filter(|held| held.list.has_the_place_of(&list)).peekable();
        // Several unknown keys may have the same place.
        let why =
            if successors.peek().is_none() || list.signer == Signer::Other(None) { Why::Missed } else { Why::Newer };
        let replaced = successors.any(|held| held.list.age >= list.age);
        (!replaced).then_some(Held { list, why })
    }

    /// Without those that were missed.
    #[must_use]
    pub(super) fn without_missed(&self) -> Self {
        Self(self.0.iter().filter(|held| held.why != Why::Missed).cloned().collect())
    }

    /// The issuers of lists that are not in the file any more.
    pub(super) fn missed(&self) -> Vec<&str> {
        self.held_because(Why::Missed)
    }

    /// The issuers of which the file has an older list than there was.
    pub(super) fn older_in_file(&self) -> Vec<&str> {
        self.held_because(Why::Newer)
    }

    fn held_because(&self, why: Why) -> Vec<&str> {
        self.0.iter().filter(|held| held.why == why).map(|held| held.list.issuer.as_str()).collect()
    }

    fn lists(&self) -> impl Iterator<Item = &Arc<List>> {
        self.0.iter().map(|held| &held.list)
    }

    /// When the next one ends.
    pub(super) fn next_end(&self, now: Timestamp) -> Option<Timestamp> {
        self.current().map(|list| list.next_update).filter(|end| *end > now).min()
    }

    /// The issuers whose lists have ended.
    pub(super) fn ended(&self, now: Timestamp) -> Vec<&str> {
        self.current().filter(|list| list.next_update <= now).map(|list| list.issuer.as_str()).collect()
    }

    /// The issuers of lists that no client CA's key has signed.
    pub(super) fn of_others(&self) -> Vec<&str> {
        let others = self.current().filter(|list| matches!(list.signer, Signer::Other(_)));
        others.map(|list| list.issuer.as_str()).collect()
    }

    /// Whether a certificate with this serial number and issuer (DER, as webpki has them) is good.
    pub(super) fn check(&self, name: &[u8], serial: &[u8], issuer: Issuer<'_>, now: UnixTime) -> Result<(), Error> {
        let of_name: Vec<&Arc<List>> = self.lists().filter(|list| list.content.issuer() == name).collect();
        let of_key: Vec<&Arc<List>> = of_name.iter().copied().filter(|list| list.is_signed_by(issuer)).collect();
        // A CA without a list has revoked nobody, and one by its name may have another key; but a list that nobody known has
        // signed may be meant for it, unless it names another key.
        if of_key.is_empty() && of_name.iter().any(|list| list.may_be_meant_for(issuer)) {
            return Err(Error::InvalidCrlSignatureForPublicKey);
        }
        let newest = of_key.iter().filter(|list| !of_key.iter().any(|other| other.is_newer_than(list)));
        newest.copied().try_for_each(|list| list.check(serial, now))
    }

    /// Those that no other has taken the place of.
    fn current(&self) -> impl Iterator<Item = &Arc<List>> {
        self.lists().filter(|list| !self.lists().any(|other| other.replaces(list)))
    }
}

impl List {
    fn read(der: CertificateRevocationListDer<'static>, cas: &[Certificate]) -> Result<Self, String> {
        let content = OwnedCertRevocationList::from_der(&der).map_err(|error| error.to_string())?;
        let (_, list) = CertificateRevocationList::from_der(&der).map_err(|error| error.to_string())?;
        let timestamp = |seconds| Timestamp::from_second(seconds).map_err(|error| error.to_string());
        let next_update = list.next_update().ok_or("it does not say when the next one is due (nextUpdate)")?;
        Ok(Self {
            issuer: list.issuer().to_string(),
            age: (timestamp(list.last_update().timestamp())?, list.crl_number().cloned()),
            next_update: timestamp(next_update.timestamp())?,
            signer: signer(&list, cas)?,
            content: content.into(),
            met: Mutex::default(),
            der,
        })
    }

    fn has_the_scope_of(&self, other: &Self) -> bool {
        self.content.issuing_distribution_point() == other.content.issuing_distribution_point()
    }

    fn is_newer_than(&self, other: &Self) -> bool {
        self.has_the_scope_of(other) && self.age > other.age
    }

    /// Whether both are about the same certificates, as far as can be told.
    fn has_the_place_of(&self, other: &Self) -> bool {
        self.content.issuer() == other.content.issuer()
            && self.has_the_scope_of(other)
            && (self.signer == other.signer || self.is_signed_by_the_ca_of(other) || other.is_signed_by_the_ca_of(self))
    }

    /// Of two lists of a CA, one may have been read while the CA was known and the other when it was not any more.
    fn is_signed_by_the_ca_of(&self, other: &Self) -> bool {
        let Signer::Ca(public_key) = &other.signer else { return false };
        self.is_signed_by(Issuer { public_key, may_sign: true, key_id: None })
    }

    /// Whether nobody needs the other one any more.
    fn replaces(&self, other: &Self) -> bool {
        self.has_the_place_of(other) && self.signer != Signer::Other(None) && self.age > other.age
    }

    fn is_signed_by(&self, issuer: Issuer<'_>) -> bool {
        if let Signer::Ca(key) = &self.signer {
            return key == issuer.public_key;
        }
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        let verify = || {
            let (_, key) = SubjectPublicKeyInfo::from_der(issuer.public_key).ok()?;
            let (_, list) = CertificateRevocationList::from_der(&self.der).ok()?;
            list.verify_signature(&key).ok()
        };
        issuer.may_sign && *met.entry(issuer.public_key.to_vec()).or_insert_with(|| verify().is_some())
    }

    /// Whether it may be that issuer's, though the issuer has not signed it as it is here.
    fn may_be_meant_for(&self, issuer: Issuer<'_>) -> bool {
        match (&self.signer, issuer.key_id) {
            (Signer::Ca(_), _) => false,
            (Signer::Other(Some(named)), Some(key_id)) => named == key_id,
            (Signer::Other(_), _) => true,
        }
    }

    fn check(&self, serial: &[u8], now: UnixTime) -> Result<(), Error> {
        let next_update = u64::try_from(self.next_update.as_second()).unwrap_or_default();
        if next_update <= now.as_secs() {
            let next_update = UnixTime::since_unix_epoch(std::time::Duration::from_secs(next_update));
            return Err(Error::CrlExpired { time: now, next_update });
        }
        match self.content.find_serial(serial)? {
            Some(_) => Err(Error::CertRevoked),
            None => Ok(()),
        }
    }
}

/// Intermediates, which are shown with the certificates and not known here, have lists too; those are verified with them.
fn signer(list: &CertificateRevocationList<'_>, cas: &[Certificate]) -> Result<Signer, String> {
    let named = named_key(list);
    let mut problem = None;
    for ca in cas {
        let (_, parsed) = X509Certificate::from_der(ca.der()).map_err(|error| error.to_string())?;
        if parsed.subject().as_raw() != list.issuer().as_raw() {
            continue;
        }
        if let Err(error) = list.verify_signature(parsed.public_key()) {
            // Another key's list, as long as it does not say that it is this one's.
            if named.is_some() && named == key_id(&parsed) {
                problem = Some(format!("has not signed it ({error}), although it names the key of that CA"));
            }
        } else if may_sign_lists(&parsed) {
            return Ok(Signer::Ca(ca.public_key().to_vec()));
        } else {
            problem = Some("may not sign such lists (its key usage has no cRLSign)".to_owned());
        }
    }
    match problem {
        Some(problem) => Err(format!("the CA {} {problem}", list.issuer())),
        None => Ok(Signer::Other(named.map(<[u8]>::to_vec))),
    }
}

/// Whether a CA may sign lists (§4.2.1.3).
pub(super) fn may_sign_lists(ca: &X509Certificate<'_>) -> bool {
    ca.key_usage().ok().flatten().is_none_or(|usage| usage.value.crl_sign())
}

/// The id of a CA's key (§4.2.1.2).
pub(super) fn key_id<'c>(ca: &'c X509Certificate<'_>) -> Option<&'c [u8]> {
    ca.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    })
}

/// The id of the key that a list says it is signed with (§5.2.1).
fn named_key<'l>(list: &'l CertificateRevocationList<'_>) -> Option<&'l [u8]> {
    list.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0),
        _ => None,
    })
}

impl fmt::Debug for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { issuer, next_update, .. } = self;
        f.debug_struct("List").field("issuer", issuer).field("next_update", next_update).finish_non_exhaustive()
    }
}
