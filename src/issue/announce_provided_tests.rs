//! Provided CAs, told by the real source of them.

use std::collections::BTreeMap;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use tokio::sync::mpsc;

use super::*;
use crate::issue::ca::Authorities;
use crate::model::policy::{BackendKind, DataSource, MeshPolicy, ProvidedCa};
use crate::model::secrets::{KnownSecrets, SecretBytes};
use crate::testing::certs::timestamp;

/// Writes down what it is told.
#[derive(Debug)]
struct Sink(mpsc::UnboundedSender<RootNews>);

impl RootSink for Sink {
    fn publish(&self, _: &Arc<str>, _: &Arc<Backend>, news: RootNews) {
        self.0.send(news).unwrap();
    }

    fn has_learned(&self, _: &Arc<str>, _: &Backend) -> bool {
        false
    }
}

fn policies() -> Arc<PolicySet> {
    let secret = |name: &str| DataSource::Secret(name.into());
    let ca = ProvidedCa { certificate: secret("crt"), private_key: secret("key"), allow_self_signed: true };
    let backend = Arc::new(Backend {
        name: "ours".into(),
        leaf_lifetime: None,
        request_timeout: Duration::from_secs(10),
        trust_domain: "default".into(),
        kind: BackendKind::Provided(ca),
    });
    let policy = MeshPolicy::classic("default".into(), "ours".into(), vec![backend]);
    Arc::new(PolicySet { meshes: BTreeMap::from([("default".into(), Arc::new(policy))]), ..PolicySet::default() })
}

fn pair(name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn secrets(certificate: &str, key: &str) -> Arc<KnownSecrets> {
    let secret = |name: &str, text: &str| (("default".into(), name.into()), SecretBytes::new(text.as_bytes().to_vec()));
    let files = Arc::new([secret("crt", certificate), secret("key", key)].into_iter().collect());
    Arc::new(KnownSecrets { files, ..KnownSecrets::default() })
}

#[tokio::test(start_paused = true)]
async fn what_a_provided_ca_leads_to_is_told_when_it_is_given_and_whenever_it_is_replaced() {
    let state_dir = tempfile::tempdir().unwrap();
    let clock = Clock::simulated(timestamp(1_800_000_000));
    let (give, given) = watch::channel(Arc::default());
    let (tell, mut told) = mpsc::unbounded_channel();
    let mut registry = Registry::default();
    let announcer = Announcer {
        authorities: Arc::new(Authorities::new(state_dir.path().to_owned(), None, given, clock.clone())),
        roots: Arc::new(Sink(tell)),
        clock,
        metrics: Metrics::new(&mut registry),
    };
    let ready = |registry: &Registry| {
        let mut text = String::new();
        encode(&mut text, registry).unwrap();
        let line = "provided_ca_ready{mesh=\"default\",backend=\"ours\"} ";
        text.lines().find_map(|found| found.strip_prefix(line).map(str::to_owned))
    };
    let (change, heard) = watch::channel(policies());
    let mut running = JoinSet::new();
    running.spawn(announcer.run(heard));
    let RootNews::Missing(reason) = told.recv().await.unwrap() else { panic!("there is none") };
    assert!(reason.contains("mesh Secret \"crt\""), "{reason}");

    let (old, new) = (pair("old"), pair("new"));
    give.send_replace(secrets(&old.0, &old.1));
    let learned = |news: RootNews| match news {
        RootNews::Learned { root, .. } => root.subject().to_owned(),
        other => panic!("{other:?}"),
    };
    assert_eq!(learned(told.recv().await.unwrap()), "CN=old");
    assert_eq!(ready(&registry).as_deref(), Some("1"));

    give.send_replace(secrets(&new.0, &old.1));
    let RootNews::Missing(reason) = told.recv().await.unwrap() else { panic!("they do not belong together") };
    assert!(reason.contains("is not the private key") && reason.contains("signs until"), "{reason}");
    assert_eq!(ready(&registry).as_deref(), Some("0"));

    give.send_replace(secrets(&new.0, &new.1));
    assert_eq!(learned(told.recv().await.unwrap()), "CN=new");
    change.send_replace(Arc::default());
    while ready(&registry).is_some() {
        tokio::task::yield_now().await;
    }
}
