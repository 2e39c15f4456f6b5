//! What each live stream is subscribed to, what it was sent and what it said to that: for operators. Written by the streams,
//! read by the admin API; the protocol itself decides nothing by it, and there is no key material in it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dashmap::DashMap;
use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::metrics::Protocol;
use super::naming::SecretKind;
use super::state::Verdict;
use super::version::Version;
use crate::model::identity::{Identity, ProxyKey};

/// Every live stream whose proxy is known. Clones are the same roster.
#[derive(Debug, Clone, Default)]
pub struct Roster {
    streams: Arc<DashMap<u64, Arc<Mutex<StreamRecord>>>>,
    next: Arc<AtomicU64>,
}

/// One live stream.
#[derive(Debug, Clone)]
pub struct StreamRecord {
    /// Which variant of the protocol it speaks.
    pub protocol: Protocol,
    /// Where the connection comes from, for people.
    pub peer: Arc<str>,
    /// `node.id`: a label of the proxy's own choice.
    pub node_id: Arc<str>,
    /// `node.cluster`, likewise.
    pub node_cluster: Arc<str>,
    /// Who it has proven to be.
    pub identity: Arc<Identity>,
    /// Since when.
    pub opened: Timestamp,
    /// The names that it is subscribed to.
    pub names: HashMap<Arc<str>, NameRecord>,
}

/// One subscribed name of one stream.
#[derive(Debug, Clone, Default)]
pub struct NameRecord {
    /// What kind of secret the name means; `None` while it is withheld.
    pub kind: Option<SecretKind>,
    /// The version of the certificate that the proxy has said it holds, as long as nothing has been sent to it
    /// (xds-conformance item 107).
    pub held: Option<Arc<str>>,
    /// The newest version that was sent, and when.
    pub sent: Option<(Version, Timestamp)>,
    /// The newest version that the proxy has acknowledged, and when.
    pub acked: Option<(Version, Timestamp)>,
    /// The newest version that it has rejected, when, and why (redacted); gone with the next acknowledgement.
    pub nacked: Option<(Version, Timestamp, Arc<str>)>,
    /// The number of the response that it has said something of last, in the order of the responses.
    pub(crate) judged: u64,
}

/// A stream's entry; it leaves the roster when this is dropped.
#[derive(Debug)]
pub(crate) struct Listing {
    streams: Arc<DashMap<u64, Arc<Mutex<StreamRecord>>>>,
    id: u64,
    record: Arc<Mutex<StreamRecord>>,
}

impl Roster {
    /// Lists a stream.
    pub(crate) fn enter(&self, record: StreamRecord) -> Listing {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let record = Arc::new(Mutex::new(record));
        self.streams.insert(id, record.clone());
        Listing { streams: self.streams.clone(), id, record }
    }

    /// All of them, in the order in which they were opened.
    pub fn snapshot(&self) -> Vec<StreamRecord> {
        self.select(|_record| true)
    }

    /// Those that are wanted, in that order.
    pub fn select(&self, wanted: impl Fn(&StreamRecord) -> bool) -> Vec<StreamRecord> {
        let mut streams: Vec<_> = self.streams.iter().map(|entry| (*entry.key(), entry.value().clone())).collect();
        streams.sort_unstable_by_key(|(id, _)| *id);
        let copy = |record: &Mutex<StreamRecord>| {
            let record = locked(record);
            wanted(&record).then(|| record.clone())
        };
        streams.into_iter().filter_map(|(_, record)| copy(&record)).collect()
    }

    /// Registers how many proxies do not take what they were sent, and how many ask for what there is not; they are counted when
    /// they are scraped.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(Discontent(self.clone())));
    }

    /// By mesh and kind, the proxies whose last word on a secret of that kind was no; none where there are other streams.
    fn rejecting(&self) -> BTreeMap<(Arc<str>, SecretKind), usize> {
        let mut proxies: BTreeMap<(Arc<str>, SecretKind), HashSet<ProxyKey>> = BTreeMap::new();
        for stream in self.streams.iter() {
            let record = locked(stream.value());
            for kind in [SecretKind::Bundle, SecretKind::Certificate] {
                let of_kind = proxies.entry((record.identity.mesh.clone(), kind)).or_default();
                if record.names.values().any(|name| name.nacked.is_some() && name.kind == Some(kind)) {
                    of_kind.insert(record.identity.proxy_key());
                }
            }
        }
        proxies.into_iter().map(|(of, proxies)| (of, proxies.len())).collect()
    }

    /// By mesh, the proxies that are subscribed to a name that is withheld; none where there are other streams.
    fn withheld(&self) -> BTreeMap<Arc<str>, usize> {
        let mut proxies: BTreeMap<Arc<str>, HashSet<ProxyKey>> = BTreeMap::new();
        for stream in self.streams.iter() {
            let record = locked(stream.value());
            let of_mesh = proxies.entry(record.identity.mesh.clone()).or_default();
            if record.names.values().any(|name| name.kind.is_none()) {
                of_mesh.insert(record.identity.proxy_key());
            }
        }
        proxies.into_iter().map(|(mesh, proxies)| (mesh, proxies.len())).collect()
    }
}

#[derive(Debug)]
struct Discontent(Roster);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RejectingLabels {
    mesh: String,
    secret: SecretKind,
}

impl Collector for Discontent {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Connected proxies that have rejected a secret of this kind, and have not accepted one under that name since.";
        let mut family = encoder.encode_descriptor("proxies_rejecting", help, None, MetricType::Gauge)?;
        for ((mesh, kind), proxies) in self.0.rejecting() {
            let labels = RejectingLabels { mesh: mesh.to_string(), secret: kind };
            ConstGauge::new(i64::try_from(proxies).unwrap_or(i64::MAX)).encode(family.encode_family(&labels)?)?;
        }
        let help = "Connected proxies that are subscribed to a name under which there is nothing for them.";
        let mut family = encoder.encode_descriptor("proxies_withheld", help, None, MetricType::Gauge)?;
        for (mesh, proxies) in self.0.withheld() {
            let gauge = ConstGauge::new(i64::try_from(proxies).unwrap_or(i64::MAX));
            gauge.encode(family.encode_family(&[("mesh", &*mesh)])?)?;
        }
        Ok(())
    }
}

impl Listing {
    /// The stream has subscribed to a name; `kind` is `None` if it is withheld.
    pub(crate) fn subscribed(&self, name: &Arc<str>, kind: Option<SecretKind>, held: Option<Arc<str>>) {
        let record = NameRecord { kind, held, ..NameRecord::default() };
        locked(&self.record).names.insert(name.clone(), record);
    }

    /// It is not interested in the name any more.
    pub(crate) fn unsubscribed(&self, name: &str) {
        locked(&self.record).names.remove(name);
    }

    /// It has asked for the name once more, and this is what it means now.
    pub(crate) fn means(&self, name: &str, kind: Option<SecretKind>) {
        if let Some(record) = locked(&self.record).names.get_mut(name) {
            record.kind = kind;
            record.held = None;
        }
    }

    /// It was sent a version. If the name was withheld, it has become known.
    pub(crate) fn sent(&self, name: &str, kind: SecretKind, version: &Version, now: Timestamp) {
        if let Some(record) = locked(&self.record).names.get_mut(name) {
            record.kind = Some(kind);
            record.sent = Some((version.clone(), now));
            record.held = None;
        }
    }

    /// It has said what it thinks of one. What it thinks of a later one is known already: then this is of no interest.
    pub(crate) fn answered(&self, verdict: &Verdict, now: Timestamp) {
        if let Some(record) = locked(&self.record).names.get_mut(&verdict.name)
            && record.judged < verdict.number
        {
            record.judged = verdict.number;
            match &verdict.result {
                Ok(()) => {
                    record.acked = Some((verdict.version.clone(), now));
                    record.nacked = None;
                }
                Err(reason) => record.nacked = Some((verdict.version.clone(), now, reason.as_str().into())),
            }
        }
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        self.streams.remove(&self.id);
    }
}

/// Records are whole after each statement, so one whose writer has panicked is as good as any.
fn locked(record: &Mutex<StreamRecord>) -> MutexGuard<'_, StreamRecord> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::serve::testing::identity;

    fn record(name: &str) -> StreamRecord {
        StreamRecord {
            protocol: Protocol::Sotw,
            peer: "peer".into(),
            node_id: "node".into(),
            node_cluster: "cluster".into(),
            identity: Arc::new(identity(name)),
            opened: Timestamp::UNIX_EPOCH,
            names: HashMap::new(),
        }
    }

    #[test]
    fn a_proxy_that_rejects_is_counted_until_it_accepts_or_goes() {
        let roster = Roster::default();
        let counts = || {
            let counts = roster.rejecting();
            let of = |kind| counts.iter().filter(|((_, k), _)| *k == kind).map(|(_, count)| *count).sum::<usize>();
            [of(SecretKind::Bundle), of(SecretKind::Certificate)]
        };
        let streams = ["web", "web", "api"].map(|name| roster.enter(record(name)));
        let says = |stream: usize, name: &str, kind, number, result: Result<(), &str>| {
            let verdict = Verdict {
                number,
                name: name.into(),
                kind,
                version: "1".into(),
                result: result.map_err(str::to_owned),
                after: Duration::ZERO,
            };
            streams[stream].answered(&verdict, Timestamp::UNIX_EPOCH);
        };
        for stream in &streams {
            stream.subscribed(&"a".into(), Some(SecretKind::Bundle), None);
            stream.subscribed(&"b".into(), Some(SecretKind::Certificate), None);
        }
        assert_eq!((counts(), roster.rejecting().len()), ([0, 0], 2), "the series are there from the first stream on");
        says(0, "b", SecretKind::Certificate, 1, Err("no"));
        says(1, "b", SecretKind::Certificate, 1, Err("no"));
        says(2, "b", SecretKind::Certificate, 1, Err("no"));
        says(2, "a", SecretKind::Bundle, 2, Ok(()));
        assert_eq!(counts(), [0, 2], "two streams of a proxy are one proxy");
        says(0, "b", SecretKind::Certificate, 3, Ok(()));
        assert_eq!(counts(), [0, 2]);
        says(1, "b", SecretKind::Certificate, 3, Ok(()));
        assert_eq!(counts(), [0, 1]);
        drop(streams);
        assert_eq!(counts(), [0, 0]);
    }

    #[test]
    fn a_proxy_that_asks_for_what_there_is_not_is_counted_for_as_long_as_it_does() {
        let roster = Roster::default();
        let streams = ["web", "web", "api"].map(|name| roster.enter(record(name)));
        let count = || roster.withheld().into_values().collect::<Vec<_>>();
        streams[2].subscribed(&"default".into(), Some(SecretKind::Certificate), None);
        assert_eq!(count(), [0], "the series is there from the first stream on");
        for stream in &streams[..2] {
            stream.subscribed(&"defualt".into(), None, None);
        }
        assert_eq!(count(), [1], "two streams of a proxy are one proxy");
        streams[0].unsubscribed("defualt");
        assert_eq!(count(), [1]);
        streams[1].sent("defualt", SecretKind::Bundle, &"1".into(), Timestamp::UNIX_EPOCH);
        assert_eq!(count(), [0], "it has come to mean something");
    }

    #[test]
    fn items_40_and_41_a_late_verdict_on_an_older_response_does_not_hide_that_on_the_newest() {
        let roster = Roster::default();
        let listing = roster.enter(record("web"));
        listing.subscribed(&"a".into(), Some(SecretKind::Bundle), None);
        let answered = |number: u64, result: Result<(), String>| {
            let (name, kind, version) = ("a".into(), SecretKind::Bundle, number.to_string().as_str().into());
            let verdict = Verdict { number, name, kind, version, result, after: Duration::ZERO };
            listing.answered(&verdict, Timestamp::UNIX_EPOCH);
            let record = roster.snapshot()[0].names["a"].clone();
            let of = |version: Version| version.to_string();
            (record.acked.map(|(version, _)| of(version)), record.nacked.map(|(version, ..)| of(version)))
        };
        let said = |version: &str| Some(version.to_owned());
        assert_eq!(answered(2, Ok(())), (said("2"), None));
        assert_eq!(answered(1, Err("no".to_owned())), (said("2"), None));
        assert_eq!(answered(4, Err("no".to_owned())), (said("2"), said("4")));
        assert_eq!(answered(3, Ok(())), (said("2"), said("4")));
        assert_eq!(answered(5, Ok(())), (said("5"), None));
    }
}
