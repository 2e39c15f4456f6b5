//! What operators are shown of a proxy: its streams and its certificate, put together. Nothing here reads a private key, or
//! the content of a secret.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use prost::Message;

use super::certificates::Held;
use super::proto::v1;
use crate::issue::manager::Status;
use crate::model::identity::{Identity, Instance, ProxyKey};
use crate::model::svid::Svid;
use crate::serve::naming::SecretKind;
use crate::serve::refusals::Refused;
use crate::serve::roster::{NameRecord, StreamRecord};
use crate::serve::version::Version;

/// How many bytes the streams of one proxy may take in a message. Names are a proxy's own choice, and clients refuse
/// messages above 4 MiB.
const STREAMS_SIZE: usize = 1 << 20;

/// A proxy with a stream or a certificate.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) key: ProxyKey,
    /// Its streams, the oldest first.
    pub(super) streams: Vec<StreamRecord>,
    pub(super) svid: Option<Arc<Svid>>,
    pub(super) status: Status,
}

/// Forgets what proxies say they hold, where the server does not stand by it: what anybody can make up is not shown as a fact.
pub(super) fn believe(streams: &mut [StreamRecord], held: &Held) {
    for stream in streams {
        let proxy = held.get(&stream.identity.proxy_key());
        if proxy.is_none_or(|(_, status)| status.held_until.is_none()) {
            stream.names.values_mut().for_each(|record| record.held = None);
        }
    }
}

/// Every proxy that either knows, ordered.
pub(super) fn proxies(mut streams: Vec<StreamRecord>, held: Held) -> Vec<Listed> {
    believe(&mut streams, &held);
    let listed =
        |(key, (svid, status)): (ProxyKey, _)| (key.clone(), Listed { key, streams: Vec::new(), svid, status });
    let mut proxies: BTreeMap<ProxyKey, Listed> = held.into_iter().map(listed).collect();
    for stream in streams {
        let key = stream.identity.proxy_key();
        let proxy = proxies.entry(key).or_insert_with_key(|key| Listed {
            key: key.clone(),
            streams: Vec::new(),
            svid: None,
            status: Status::default(),
        });
        proxy.streams.push(stream);
    }
    proxies.into_values().collect()
}

/// Which proxies are meant: those that match every part that is not empty.
#[derive(Debug, Clone, Default)]
pub(super) struct Selector {
    pub(super) mesh: String,
    pub(super) name: String,
    pub(super) spiffe_id: String,
}

impl Selector {
    /// Whether it is every proxy.
    pub(super) fn is_empty(&self) -> bool {
        self.mesh.is_empty() && self.name.is_empty() && self.spiffe_id.is_empty()
    }

    /// Whether this proxy is among them.
    pub(super) fn matches(&self, key: &ProxyKey) -> bool {
        let is = |wanted: &str, what: &str| wanted.is_empty() || wanted == what;
        is(&self.mesh, &key.mesh) && is(&self.name, key.instance.name()) && is(&self.spiffe_id, &key.spiffe_id)
    }
}

impl Listed {
    /// As the API shows it.
    pub(super) fn message(&self) -> v1::Proxy {
        let all: Vec<v1::Stream> = self.streams.iter().map(stream).collect();
        let mut size = 0;
        let streams: Vec<v1::Stream> = all
            .into_iter()
            .take_while(|stream| {
                size += stream.encoded_len();
                size <= STREAMS_SIZE
            })
            .collect();
        let omitted = self.streams.len() - streams.len();
        v1::Proxy {
            mesh: self.key.mesh.to_string(),
            name: self.key.instance.name().to_owned(),
            name_is_proven: matches!(self.key.instance, Instance::Proven(_)),
            spiffe_id: self.key.spiffe_id.to_string(),
            // Proofs may come and go; the newest stream's is the one that counts.
            workload: self.streams.last().map(|stream| workload(&stream.identity)),
            certificate: self.certificate(),
            next_attempt: self.status.next.map(timestamp),
            last_error: self.status.error.clone().unwrap_or_default(),
            streams,
            streams_omitted: omitted.try_into().unwrap_or(u32::MAX),
        }
    }

    fn certificate(&self) -> Option<v1::Certificate> {
        let Some(svid) = &self.svid else {
            let not_after = Some(timestamp(self.status.held_until?));
            return Some(v1::Certificate { not_after, held_by_proxy_only: true, ..v1::Certificate::default() });
        };
        let validity = svid.validity();
        Some(v1::Certificate {
            serial: svid.leaf.serial().to_owned(),
            issuer: svid.leaf.issuer().to_owned(),
            not_before: Some(timestamp(validity.not_before)),
            not_after: Some(timestamp(validity.not_after)),
            held_by_proxy_only: false,
        })
    }
}

fn workload(identity: &Identity) -> v1::Workload {
    let text = |part: &Option<Arc<str>>| part.as_deref().unwrap_or_default().to_owned();
    let workload = &identity.workload;
    v1::Workload {
        name: text(&workload.name),
        namespace: text(&workload.namespace),
        service_account: text(&workload.service_account),
        pod: workload.pod.as_ref().map(|pod| pod.name.to_string()).unwrap_or_default(),
    }
}

fn stream(record: &StreamRecord) -> v1::Stream {
    let identity = &record.identity;
    v1::Stream {
        protocol: record.protocol.as_str().to_owned(),
        peer: record.peer.to_string(),
        node_id: record.node_id.to_string(),
        node_cluster: record.node_cluster.to_string(),
        opened: Some(timestamp(record.opened)),
        proof: Some(v1::Proof {
            method: identity.method.to_owned(),
            valid_until: identity.proven_until.map(timestamp),
        }),
        subscriptions: names(record).into_iter().map(|(name, record)| subscription(name, record)).collect(),
    }
}

/// A refusal, as the API shows it.
pub(super) fn refusal(refused: &Refused) -> v1::Refusal {
    v1::Refusal {
        peer: refused.host.to_string(),
        node_id: refused.node_id.as_deref().unwrap_or_default().to_owned(),
        method: refused.method.unwrap_or_default().to_owned(),
        reason: refused.reason.to_string(),
        count: refused.count,
        first: Some(timestamp(refused.first)),
        last: Some(timestamp(refused.last)),
    }
}

/// A stream's names, ordered.
pub(super) fn names(record: &StreamRecord) -> BTreeMap<&str, &NameRecord> {
    record.names.iter().map(|(name, record)| (&**name, record)).collect()
}

fn subscription(name: &str, record: &NameRecord) -> v1::Subscription {
    let event = |event: &Option<(Version, Timestamp)>| {
        let (version, time) = event.as_ref()?;
        Some(v1::VersionEvent { version: version.to_string(), time: Some(timestamp(*time)) })
    };
    let kind = match record.kind {
        None => v1::SecretKind::Unspecified,
        Some(SecretKind::Certificate) => v1::SecretKind::Certificate,
        Some(SecretKind::Bundle) => v1::SecretKind::TrustBundle,
    };
    v1::Subscription {
        name: name.to_owned(),
        kind: kind.into(),
        state: state(record).into(),
        sent: event(&record.sent),
        acked: event(&record.acked),
        nacked: record.nacked.as_ref().map(|(version, time, reason)| v1::Rejection {
            version: version.to_string(),
            time: Some(timestamp(*time)),
            reason: reason.to_string(),
        }),
        held_version: record.held.as_deref().unwrap_or_default().to_owned(),
    }
}

/// How far a subscription is. Verdicts on older versions say nothing of the newest.
pub(super) fn state(record: &NameRecord) -> v1::SubscriptionState {
    use v1::SubscriptionState as State;
    if record.kind.is_none() {
        return State::Withheld;
    }
    if record.held.is_some() {
        return State::Held;
    }
    let Some((newest, _)) = &record.sent else { return State::Pending };
    if record.nacked.as_ref().is_some_and(|(version, ..)| version == newest) {
        State::Nacked
    } else if record.acked.as_ref().is_some_and(|(version, _)| version == newest) {
        State::Acked
    } else {
        State::Sent
    }
}

/// As protobuf has it.
pub(super) fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    let (mut seconds, mut nanos) = (time.as_second(), time.subsec_nanosecond());
    // jiff counts the fraction away from zero, protobuf always forward.
    if nanos < 0 {
        seconds -= 1;
        nanos += 1_000_000_000;
    }
    prost_types::Timestamp { seconds, nanos }
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
