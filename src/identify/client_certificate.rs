//! `clientCertificate`: a certificate with a SPIFFE ID, shown in the TLS handshake and verified against the listener's
//! client CA (X509-SVID §5).
//!
//! One that names a service account stands and falls with that account, where the server knows the cluster's; such an ID
//! would be forged, or of another cluster, if there is none.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use spiffe::SpiffeId;
use tokio_stream::wrappers::WatchStream;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::client_ca::{ClientCa, ClientCaWatch};
use super::directory::{Account, KnowAccounts};
use super::standing::{Facts, Standing, Stands};
use super::{Evidence, Identify, IdentifyError, Proof};
use crate::model::certificate::Certificate;
use crate::model::identity::Workload;
use crate::model::template::{PathTemplate, TemplateField};
use crate::runtime::clock::Clock;

/// The name of the method, as configured.
pub const METHOD: &str = "clientCertificate";

/// The paths of SPIFFE IDs that name a workload.
pub const PATHS: &str = "/ns/<namespace>/sa/<service account> and /<workload>";

/// See the module.
#[derive(Debug)]
pub struct ClientCertificates {
    clock: Clock,
    accounts: Option<Arc<dyn KnowAccounts>>,
}

impl ClientCertificates {
    /// `clock` says when certificates are verified anew, and `accounts` which service accounts there are; without it, whatever
    /// a certificate says of them counts.
    pub fn new(clock: Clock, accounts: Option<Arc<dyn KnowAccounts>>) -> Self {
        Self { clock, accounts }
    }

    /// What the service account depends on that a certificate names, if it does.
    async fn account(&self, workload: &Workload) -> Result<Standing, IdentifyError> {
        let (Some(accounts), Some(namespace), Some(name)) =
            (&self.accounts, &workload.namespace, &workload.service_account)
        else {
            return Ok(Standing::default());
        };
        let account = Account { namespace: namespace.clone(), name: name.clone(), uid: None, pod: None };
        accounts.standing(METHOD, &account).await
    }
}

#[async_trait]
impl Identify for ClientCertificates {
    fn method(&self) -> &'static str {
        METHOD
    }

    async fn identify(&self, evidence: &Evidence) -> Result<Option<Proof>, IdentifyError> {
        let Some(chain) = &evidence.client_certificate else { return Ok(None) };
        // The handshake may have been hours ago: a connection has one, and opens streams as it likes.
        let now = self.clock.now();
        let until = chain.judge(now)?;
        let proof = read(&chain.certificates).map_err(refused)?;
        if until <= now {
            return Err(refused("it has expired since it was shown"));
        }
        let shown = Shown { chain: chain.clone(), clock: self.clock.clone() };
        let standing = Standing::on(Arc::new(shown)).and(self.account(&proof.workload).await?);
        Ok(Some(Proof { standing, until: Some(until), ..proof }))
    }
}

/// What a verified chain, leaf first, proves.
fn read(chain: &[CertificateDer<'static>]) -> Result<Proof, String> {
    let leaf = chain.first().ok_or("there is no certificate")?;
    let leaf = Certificate::from_der(leaf.clone()).map_err(|error| error.to_string())?;
    if leaf.is_ca() || signs_others(&leaf)? {
        return Err("it is a CA's certificate".to_owned());
    }
    let [uri] = leaf.uris() else {
        return Err(format!("it has {} URI names instead of one SPIFFE ID", leaf.uris().len()));
    };
    let id: SpiffeId = uri.parse().map_err(|error| format!("its URI name is no SPIFFE ID: {error}"))?;
    // The parser lowers capitals: what is not said exactly is not said.
    if id.to_string() != *uri {
        return Err("its URI name is no SPIFFE ID: scheme and trust domain are lower case".to_owned());
    }
    let segments: Vec<&str> = id.path().split('/').skip(1).collect();
    let workload =
        workload(&segments).ok_or_else(|| format!("the path of {id} names no workload; understood are {PATHS}"))?;
    Ok(Proof {
        method: METHOD,
        trust_domain: Some(id.trust_domain_name().into()),
        spiffe_id: Some(id.clone()),
        workload,
        ..Proof::default()
    })
}

/// The workload that the path of a SPIFFE ID names.
fn workload(segments: &[&str]) -> Option<Workload> {
    match segments {
        ["ns", namespace, "sa", account] => Some(Workload {
            namespace: Some((*namespace).into()),
            service_account: Some((*account).into()),
            ..Workload::default()
        }),
        [name] => Some(Workload { name: Some((*name).into()), ..Workload::default() }),
        _ => None,
    }
}

/// Whether certificates whose SPIFFE IDs have this path can be accepted from their workloads: what is read back of such an ID
/// gives the same ID again.
pub fn reads_back(path: &PathTemplate, mesh: &str, zone: &str) -> bool {
    let render = |workload: &Workload| {
        path.render(|field| match field {
            TemplateField::Mesh => Some(mesh),
            TemplateField::Zone => Some(zone),
            TemplateField::Namespace => workload.namespace.as_deref(),
            TemplateField::ServiceAccount => workload.service_account.as_deref(),
            TemplateField::Workload => workload.service_account.as_deref().or(workload.name.as_deref()),
            // No certificate says which instance it is.
            TemplateField::Name => None,
        })
    };
    let in_kubernetes = Workload {
        namespace: Some("namespace".into()),
        service_account: Some("account".into()),
        ..Workload::default()
    };
    let elsewhere = Workload { name: Some("workload".into()), ..Workload::default() };
    [in_kubernetes, elsewhere].iter().filter_map(|workload| render(workload).ok()).any(|rendered| {
        let segments: Vec<&str> = rendered.iter().map(String::as_str).collect();
        workload(&segments).is_some_and(|read| render(&read).as_ref() == Ok(&rendered))
    })
}

/// A leaf must not be able to sign certificates or revocation lists (X509-SVID §4.3).
fn signs_others(leaf: &Certificate) -> Result<bool, String> {
    let (_, leaf) = X509Certificate::from_der(leaf.der()).map_err(|error| error.to_string())?;
    let usage = leaf.key_usage().map_err(|error| error.to_string())?;
    Ok(usage.is_some_and(|usage| usage.value.key_cert_sign() || usage.value.crl_sign()))
}

/// A judge, and what it said: until when the chain is good.
type Judged = (Arc<ClientCa>, Result<Timestamp, IdentifyError>);

/// The chain that a connection's peer has shown, leaf first; one for all of its streams. It stands for as long as the
/// listener's newest client CA accepts it.
pub struct ClientChain {
    certificates: Vec<CertificateDer<'static>>,
    client_ca: ClientCaWatch,
    /// The last judge and its verdict. Streams ask for other reasons too, and thousands of them at a time.
    judged: Mutex<Option<Judged>>,
}

impl ClientChain {
    /// `certificates` were verified by `client_ca`, which is the listener's at any time.
    pub fn new(certificates: Vec<CertificateDer<'static>>, client_ca: ClientCaWatch) -> Self {
        Self { certificates, client_ca, judged: Mutex::default() }
    }

    /// The certificates, leaf first.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// What accepts them, or does not any more.
    pub fn client_ca(&self) -> &ClientCaWatch {
        &self.client_ca
    }

    fn judge(&self, now: Timestamp) -> Result<Timestamp, IdentifyError> {
        let newest = self.client_ca.borrow().clone();
        let mut judged = self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        match &*judged {
            // When one path is over, there may be another one, to a CA that lasts longer.
            Some((judge, verdict))
                if Arc::ptr_eq(judge, &newest) && verdict.as_ref().map_or(true, |until| *until > now) =>
            {
                verdict.clone()
            }
            _ => {
                let verdict = newest.verify(&self.certificates, now);
                let verdict = verdict.map_err(|reason| refused(format!("the client CA does not accept it: {reason}")));
                *judged = Some((newest, verdict.clone()));
                verdict
            }
        }
    }
}

impl fmt::Debug for ClientChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientChain").field("certificates", &self.certificates.len()).finish_non_exhaustive()
    }
}

/// What one proof depends on.
#[derive(Debug)]
struct Shown {
    chain: Arc<ClientChain>,
    clock: Clock,
}

impl Stands for Shown {
    fn facts(&self) -> Result<Facts, IdentifyError> {
        self.chain.judge(self.clock.now()).map(|_until| Facts::default())
    }

    fn changes(&self) -> BoxStream<'static, ()> {
        WatchStream::from_changes(self.chain.client_ca.clone()).map(drop).boxed()
    }
}

fn refused(reason: impl Into<String>) -> IdentifyError {
    IdentifyError::Refused { method: METHOD, reason: reason.into() }
}

#[cfg(test)]
#[path = "client_certificate_tests.rs"]
mod tests;
