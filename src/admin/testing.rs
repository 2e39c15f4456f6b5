//! What the tests of this stage share: a proxy, its stream and its certificate, as the server would have them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use rcgen::{CertificateParams, KeyPair, SanType};

use super::certificates::{Certificates, Held};
use crate::issue::manager::Status;
use crate::model::identity::{Identity, Instance, ProxyKey, Workload};
use crate::model::key::PrivateKeyPem;
use crate::model::svid::Svid;
use crate::serve::metrics::Protocol;
use crate::serve::naming::SecretKind;
use crate::serve::roster::{NameRecord, StreamRecord};
use crate::serve::version::Version;
use crate::testing::certs::{LeafOptions, TestCa, timestamp};

/// Versions as tests write them.
pub(super) const V1: &str = "certificate.1.2.aaaaaaaaaaaaaaaa.bbbbbbbbbbbbbbbb.cccccccccccccccc";
pub(super) const V2: &str = "certificate.3.4.aaaaaaaaaaaaaaaa.bbbbbbbbbbbbbbbb.dddddddddddddddd";

pub(super) fn identity(mesh: &str, name: &str) -> Identity {
    Identity {
        mesh: mesh.into(),
        spiffe_id: format!("spiffe://{mesh}/web").parse().unwrap(),
        identity_policy: None,
        instance: Instance::Proven(name.into()),
        workload: Workload { name: Some("web".into()), ..Workload::default() },
        method: "proxyToken",
        proven_until: Some(timestamp(2_000)),
    }
}

/// A stream of a proxy whose node id is its name.
pub(super) fn stream(mesh: &str, name: &str, names: &[(&str, NameRecord)]) -> StreamRecord {
    StreamRecord {
        protocol: Protocol::Sotw,
        peer: "127.0.0.1:1".into(),
        node_id: name.into(),
        node_cluster: "web".into(),
        identity: Arc::new(identity(mesh, name)),
        opened: timestamp(1_000),
        names: names.iter().map(|(name, record)| ((*name).into(), record.clone())).collect::<HashMap<_, _>>(),
    }
}

pub(super) fn event(version: &str, second: i64) -> Option<(Version, jiff::Timestamp)> {
    Some((version.into(), timestamp(second)))
}

/// A subscription at each point of its life, with what that is called.
pub(super) fn lives() -> Vec<(&'static str, NameRecord)> {
    let kind = Some(SecretKind::Certificate);
    let pending = NameRecord { kind, ..NameRecord::default() };
    let sent = NameRecord { sent: event(V1, 10), ..pending.clone() };
    let acked = NameRecord { acked: event(V1, 11), ..sent.clone() };
    let updated = NameRecord { sent: event(V2, 20), ..acked.clone() };
    let nacked = |record: &NameRecord, version: &str| NameRecord {
        nacked: Some((version.into(), timestamp(21), "bad: [redacted]".into())),
        ..record.clone()
    };
    vec![
        ("WITHHELD", NameRecord::default()),
        ("PENDING", pending.clone()),
        ("HELD", NameRecord { held: Some(V1.into()), ..pending }),
        ("SENT", sent.clone()),
        ("ACKED", acked),
        ("SENT", updated.clone()),
        ("NACKED", nacked(&sent, V1)),
        ("NACKED", nacked(&updated, V2)),
        // The newest is on its way, and the verdict is on the one before.
        ("SENT", nacked(&updated, V1)),
    ]
}

/// A certificate, and the PEM text of its private key.
pub(super) fn svid(mesh: &str) -> (Svid, String) {
    let ca = TestCa::root("test CA");
    let spiffe_id = format!("spiffe://{mesh}/web");
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(spiffe_id.as_str().try_into().unwrap())];
    let key = KeyPair::generate().unwrap();
    let csr = params.serialize_request(&key).unwrap();
    let svid = Svid {
        spiffe_id: spiffe_id.into(),
        leaf: ca.sign(csr.der(), &LeafOptions::default()),
        intermediates: Vec::new(),
        key: PrivateKeyPem::new(key.serialize_pem()),
        anchor: ca.certificate().clone(),
        policy_digest: "aaaaaaaaaaaaaaaa".into(),
        received: timestamp(0),
    };
    (svid, key.serialize_pem())
}

pub(super) fn status(next: Option<i64>, error: Option<&str>) -> Status {
    let mut status = Status::default();
    status.next = next.map(timestamp);
    status.error = error.map(str::to_owned);
    status
}

/// Certificates as a test says, and what was asked for.
#[derive(Debug, Default)]
pub(super) struct FakeCertificates {
    pub(super) held: Held,
    pub(super) rotated: Mutex<Vec<Vec<ProxyKey>>>,
}

impl Certificates for FakeCertificates {
    fn select(&self, wanted: &dyn Fn(&ProxyKey) -> bool) -> Held {
        self.held.clone().into_iter().filter(|(key, _)| wanted(key)).collect()
    }

    fn rotate(&self, proxies: Vec<ProxyKey>) {
        self.rotated.lock().unwrap().push(proxies);
    }
}
