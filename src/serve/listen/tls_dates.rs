//! What time does to the files of a TLS listener, and what else has to be mended about files that are good as such.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::sign::CertifiedKey;

use super::tls::TlsFiles;
use crate::identify::client_ca::ClientCa;
use crate::model::certificate::{Certificate, Validity};
use crate::model::diagnostic::{Location, Problem};
use crate::runtime::clock::Clock;

/// Why the server's own certificate is of no use at the moment.
pub(super) enum NotNow {
    Ended(String),
    NotYet(String),
}

/// How long the server's own certificate is valid.
pub(super) fn validity(key: &CertifiedKey) -> Option<Validity> {
    key.cert.first().cloned().and_then(|leaf| Certificate::from_der(leaf).ok()).map(|leaf| leaf.validity())
}

/// When the server's own certificate begins or ends next, after that time.
pub(super) fn next_date(key: &CertifiedKey, after: Timestamp) -> Option<Timestamp> {
    let validity = validity(key)?;
    [validity.not_before, validity.not_after].into_iter().find(|date| *date > after)
}

impl TlsFiles {
    /// What has to be mended about revocation lists that are good as such.
    pub(super) fn about_lists(&self, client_ca: &ClientCa, clock: &Clock) -> Vec<Problem> {
        let told = |what: String, hint: &str| Problem {
            at: Location { file: self.client_crl.clone().map(Arc::new), ..Location::default() },
            what,
            hint: Some(hint.to_owned()),
        };
        let ended = |issuer| {
            let what = format!("the revocation list of {issuer} has ended: all of its client certificates are refused");
            told(what, "replace it in time")
        };
        let of_another = |issuer| {
            let what = format!("no CA in clientCa has signed the revocation list of {issuer}");
            told(what, "it counts for an intermediate of that name only")
        };
        let missed = |issuer| {
            let what =
                format!("the revocation list of {issuer} is not there any more; it counts for some seconds more");
            told(what, "if it was taken out on purpose, there is nothing to do")
        };
        let older = |issuer| {
            let what = format!("the revocation list of {issuer} is older than the one before, which counts on");
            told(what, "put the newest one there; a server that starts anew knows only what is there")
        };
        let ended = client_ca.ended(clock.now()).into_iter().map(ended);
        let of_others = client_ca.lists_of_others().into_iter().map(of_another);
        let missed = client_ca.missed_lists().into_iter().map(missed);
        ended.chain(of_others).chain(missed).chain(client_ca.older_lists().into_iter().map(older)).collect()
    }

    /// The CAs of clients that have ended.
    pub(super) fn about_cas(&self, client_ca: &ClientCa, clock: &Clock) -> Vec<String> {
        let path = self.client_ca.as_deref().unwrap_or(Path::new("clientCa")).display();
        let ended = |ca: &Certificate| {
            let (subject, end) = (ca.subject(), ca.validity().not_after);
            format!("{path}: the CA {subject} has ended at {end}: client certificates that lead to it are refused")
        };
        client_ca.ended_cas(clock.now()).into_iter().map(ended).collect()
    }

    /// It may be renewed any moment, and an Envoy may be told to accept it, so it is not refused.
    pub(super) fn about_own(&self, key: &CertifiedKey, clock: &Clock) -> Option<NotNow> {
        let (validity, now) = (validity(key)?, clock.now());
        let path = self.certificate.display();
        if validity.not_after <= now {
            let end = validity.not_after;
            return Some(NotNow::Ended(format!(
                "{path}: the server's certificate has ended at {end}: Envoys refuse it"
            )));
        }
        let begin = validity.not_before;
        (now < begin).then(|| {
            NotNow::NotYet(format!(
                "{path}: the server's certificate is valid from {begin} on: Envoys refuse it until then"
            ))
        })
    }

    pub(super) fn of_own(&self, what: String) -> Problem {
        Problem { at: Location::default(), what, hint: Some("renew it, or set the clock".to_owned()) }
    }
}
