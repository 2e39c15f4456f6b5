//! What the tests of this stage share: certificates, a source that a test drives, and a server on real sockets.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use prometheus_client::registry::Registry;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;

use super::listen::{self, Endpoint, Lifetimes, ListenerSettings};
use super::metrics::Metrics;
use super::source::{CertificateWatch, SecretSource};
use super::{SdsServer, ServeSettings};
use crate::identify::chain::Identifiers;
use crate::identify::standing::Standing;
use crate::identify::{Authenticate, Evidence, IdentifyError, NodeClaim, Proof};
use crate::model::bundle::Bundle;
use crate::model::bundle_set::BundleSet;
use crate::model::certificate::Certificate;
use crate::model::diagnostic::Problem;
use crate::model::held::HeldLeaf;
use crate::model::identity::{Identity, Instance, Workload};
use crate::model::key::PrivateKeyPem;
use crate::model::policy::PolicySet;
use crate::model::svid::Svid;
use crate::runtime::clock::Clock;
use crate::runtime::tasks::{Deaths, Tasks};

/// A CA and its certificate.
pub(super) struct Ca {
    pub(super) certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

pub(super) fn ca(name: &str) -> Ca {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().unwrap();
    let certificate = Certificate::from_der(params.self_signed(&key).unwrap().der().clone()).unwrap();
    Ca { certificate, issuer: Issuer::new(params, key) }
}

impl Ca {
    /// A leaf for `names` and its key, PEM.
    pub(super) fn leaf(&self, names: Vec<SanType>) -> (Certificate, String) {
        self.leaf_until(names, jiff::Timestamp::MAX)
    }

    /// A list, PEM, of these certificates as revoked.
    pub(super) fn crl(&self, revoked: &[&CertificateDer<'static>]) -> String {
        self.crl_until(CertificateParams::default().not_after, revoked)
    }

    /// The same, which ends at `until`.
    pub(super) fn crl_until(&self, until: time::OffsetDateTime, revoked: &[&CertificateDer<'static>]) -> String {
        let from = time::OffsetDateTime::UNIX_EPOCH;
        let revoked = revoked.iter().map(|der| RevokedCertParams {
            serial_number: {
                let certificate = Certificate::from_der((*der).clone()).unwrap();
                SerialNumber::from(hex::decode(certificate.serial()).unwrap())
            },
            revocation_time: from,
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: from,
            next_update: until,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    /// A leaf as above that ends at `until`, or in 4096.
    pub(super) fn leaf_until(&self, names: Vec<SanType>, until: jiff::Timestamp) -> (Certificate, String) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = names;
        if let Ok(until) = time::OffsetDateTime::from_unix_timestamp(until.as_second())
            && until < params.not_after
        {
            params.not_after = until;
        }
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        (Certificate::from_der(leaf.der().clone()).unwrap(), key.serialize_pem())
    }
}

/// A new certificate each time.
pub(super) fn svid(name: &str) -> Svid {
    svid_until(name, jiff::Timestamp::MAX)
}

/// One that ends at `until`.
pub(super) fn svid_until(name: &str, until: jiff::Timestamp) -> Svid {
    let ca = ca("test CA");
    let spiffe_id = format!("spiffe://default/{name}");
    let (leaf, key) = ca.leaf_until(vec![SanType::URI(spiffe_id.as_str().try_into().unwrap())], until);
    Svid {
        spiffe_id: spiffe_id.into(),
        leaf,
        intermediates: Vec::new(),
        key: PrivateKeyPem::new(key),
        anchor: ca.certificate,
        policy_digest: "0123456789abcdef".into(),
        received: jiff::Timestamp::UNIX_EPOCH,
    }
}

/// A bundle of one new CA.
pub(super) fn bundle(name: &str) -> Bundle {
    Bundle::from_certificates([ca(name).certificate]).unwrap()
}

pub(super) fn identity(name: &str) -> Identity {
    Identity {
        mesh: "default".into(),
        spiffe_id: format!("spiffe://default/{name}").parse().unwrap(),
        identity_policy: None,
        instance: Instance::Proven(name.into()),
        workload: Workload { name: Some(name.into()), ..Workload::default() },
        method: "test",
        proven_until: None,
    }
}

/// Secrets that a test sets; every proxy has the same certificate.
#[derive(Debug, Default)]
pub(super) struct FakeSource {
    pub(super) certificate: watch::Sender<Option<Arc<Svid>>>,
    pub(super) bundle: watch::Sender<Option<Arc<Bundle>>>,
    pub(super) domains: watch::Sender<Option<Arc<BundleSet>>>,
    /// Trust domains whose bundle is pending.
    pub(super) pending_domains: Mutex<HashSet<String>>,
    /// One strong count for each certificate subscription, and one here.
    pub(super) interest: Arc<()>,
    /// What the proxy said it holds, one entry for each certificate subscription.
    pub(super) held: Mutex<Vec<Option<HeldLeaf>>>,
}

impl SecretSource for FakeSource {
    fn certificate(&self, _: &Identity, held: Option<&HeldLeaf>) -> CertificateWatch {
        self.held.lock().unwrap().push(held.cloned());
        let is_newer =
            |held: &HeldLeaf| self.certificate.borrow().as_ref().is_some_and(|svid| held.is_newer_than(svid));
        CertificateWatch {
            current: self.certificate.subscribe(),
            shows_changes_only: held.is_some_and(is_newer),
            interest: Box::new(self.interest.clone()),
        }
    }

    fn trust_bundle(&self, _: &str) -> watch::Receiver<Option<Arc<Bundle>>> {
        self.bundle.subscribe()
    }

    fn trust_domains(&self, _mesh: &str) -> watch::Receiver<Option<Arc<BundleSet>>> {
        self.domains.subscribe()
    }

    fn has_trust_domain(&self, _mesh: &str, trust_domain: &str) -> bool {
        self.pending_domains.lock().unwrap().contains(trust_domain)
            || self.domains.borrow().as_ref().is_some_and(|all| all.get(trust_domain).is_some())
    }
}

/// Believes the tokens that a test has given out; a token's text says what becomes of it.
#[derive(Debug, Default)]
pub(super) struct FakeAuthenticate {
    /// What each call has shown.
    pub(super) seen: Mutex<Vec<Evidence>>,
    pub(super) until: Mutex<HashMap<String, jiff::Timestamp>>,
    /// Names that a policy has put into the mesh `other`.
    pub(super) moved: Mutex<HashSet<String>>,
    /// Names that a policy forbids.
    pub(super) forbidden: Mutex<HashSet<String>>,
    /// What the proofs of these names depend on.
    pub(super) standing: Mutex<HashMap<String, Standing>>,
    /// If there, it decides with what is proven and what the node says who that is.
    pub(super) completes: OnceLock<Identifiers>,
    /// To be touched after a change of the above.
    pub(super) policies: watch::Sender<Arc<PolicySet>>,
}

#[async_trait]
impl Authenticate for FakeAuthenticate {
    async fn open(&self, evidence: &Evidence) -> Result<Option<Proof>, IdentifyError> {
        self.seen.lock().unwrap().push(evidence.clone());
        let refused = |reason: &str| IdentifyError::Refused { method: "test", reason: reason.to_owned() };
        let name = match evidence.bearer_token.as_ref().map(|token| token.expose().to_owned()) {
            Some(token) if token == "bad" => return Err(refused("bad token")),
            Some(token) if token == "away" => {
                return Err(IdentifyError::Unavailable { method: "test", reason: String::new() });
            }
            Some(token) if token == "slowly" => {
                tokio::time::sleep(Duration::from_secs(5)).await;
                token
            }
            Some(token) => token,
            None if evidence.unix_peer.is_some() || evidence.client_certificate.is_some() => "web".to_owned(),
            None => return Err(IdentifyError::NoEvidence("no token".to_owned())),
        };
        Ok(Some(Proof {
            method: "test",
            until: self.until.lock().unwrap().get(&name).copied(),
            workload: Workload { name: Some(name.as_str().into()), ..Workload::default() },
            standing: self.standing.lock().unwrap().get(&name).cloned().unwrap_or_default(),
            instance: Some(name),
            ..Proof::default()
        }))
    }

    fn complete(&self, proof: Option<&Proof>, node: &NodeClaim) -> Result<Identity, IdentifyError> {
        if let Some(identifiers) = self.completes.get() {
            return identifiers.complete(proof, node);
        }
        let proof = proof.unwrap();
        let name = proof.instance.as_deref().unwrap();
        if name == "forbidden" || self.forbidden.lock().unwrap().contains(name) {
            return Err(IdentifyError::Forbidden("no such mesh".to_owned()));
        }
        let mesh = if self.moved.lock().unwrap().contains(name) { "other" } else { "default" };
        Ok(Identity { proven_until: proof.until, mesh: mesh.into(), ..identity(name) })
    }

    fn changes(&self, proof: Option<&Proof>) -> BoxStream<'static, ()> {
        if let Some(identifiers) = self.completes.get() {
            return identifiers.changes(proof);
        }
        WatchStream::from_changes(self.policies.subscribe()).map(drop).boxed()
    }
}

/// A server with everything around it that a test looks at.
pub(super) struct TestServer {
    pub(super) addresses: Vec<String>,
    /// For calls that do without a socket, and so can be made while time is paused.
    pub(super) service: SdsServer,
    pub(super) source: Arc<FakeSource>,
    pub(super) authenticate: Arc<FakeAuthenticate>,
    pub(super) ready: watch::Sender<bool>,
    pub(super) tasks: Tasks,
    pub(super) registry: Registry,
    /// Of each listener that has TLS files.
    pub(super) problems: Vec<watch::Receiver<Arc<Vec<Problem>>>>,
    _deaths: Deaths,
}

pub(super) fn tcp() -> ListenerSettings {
    ListenerSettings { endpoint: Endpoint::Tcp("127.0.0.1:0".to_owned()), tls: None }
}

impl TestServer {
    pub(super) async fn start(settings: ServeSettings, listeners: &[ListenerSettings]) -> Self {
        let lifetimes = Lifetimes { drain: Duration::from_secs(5), max_age: None };
        Self::start_with(settings, listeners, lifetimes).await
    }

    pub(super) async fn start_with(
        settings: ServeSettings,
        listeners: &[ListenerSettings],
        lifetimes: Lifetimes,
    ) -> Self {
        let source = Arc::new(FakeSource::default());
        let authenticate = Arc::new(FakeAuthenticate::default());
        let (ready, is_ready) = watch::channel(true);
        let (tasks, deaths) = Tasks::new();
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        let clock = Clock::system();
        let server = SdsServer::new(
            settings,
            source.clone(),
            authenticate.clone(),
            metrics.clone(),
            is_ready,
            clock.clone(),
            &tasks,
        );
        let bound = listen::bind(listeners, &clock).await.unwrap();
        let (addresses, problems) = (bound.addresses().to_vec(), bound.problems());
        let serving = listen::serve(bound, server.clone(), tasks.clone(), clock, lifetimes, metrics);
        tasks.spawn_to_end(serving);
        Self { addresses, service: server, source, authenticate, ready, tasks, registry, problems, _deaths: deaths }
    }

    /// Makes a new certificate current and returns it.
    pub(super) fn issue(&self) -> Arc<Svid> {
        let svid = Arc::new(svid("web"));
        self.source.certificate.send_replace(Some(svid.clone()));
        svid
    }

    /// Makes a new trust bundle current and returns it.
    pub(super) fn trust(&self) -> Arc<Bundle> {
        let bundle = Arc::new(bundle("mesh CA"));
        self.source.bundle.send_replace(Some(bundle.clone()));
        bundle
    }

    pub(super) fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }
}
