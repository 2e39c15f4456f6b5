//! What the server counts. No label is a name of a client's choice.

use std::fmt;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::durations::Durations;
use super::listen::HandshakeFailure;
use super::naming::SecretKind;
use super::refusal::Refusal;

/// The protocol stage's metrics; clones share their values.
#[derive(Debug, Clone)]
pub struct Metrics {
    streams: Family<ProtocolLabel, Gauge>,
    of_bundles: Counts,
    of_certificates: Counts,
    withheld: Family<ReasonLabel, Counter>,
    refused: Family<RefusalLabel, Counter>,
    stalled: Counter,
    handshakes_given_up: Counter,
    handshakes_failed: Family<HandshakeLabel, Counter>,
    tls_files_broken: Gauge,
    stale_nonces: Counter,
    large_responses: Counter,
    subscriptions: Gauge,
    push_duration: Durations,
    ack_duration: Durations,
}

/// What is counted of one kind of secrets: at hand, since to look it up in the family takes a lock that all streams share.
#[derive(Debug, Clone)]
struct Counts {
    pushes: Counter,
    acks: Counter,
    nacks: Counter,
}

/// A variant of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// `StreamSecrets`.
    Sotw,
    /// `DeltaSecrets`.
    Delta,
    /// `StreamAggregatedResources`.
    AdsSotw,
    /// `DeltaAggregatedResources`.
    AdsDelta,
    /// `FetchSecrets`.
    Fetch,
}

impl Protocol {
    const ALL: [Self; 5] = [Self::Sotw, Self::Delta, Self::AdsSotw, Self::AdsDelta, Self::Fetch];

    /// As operators read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sotw => "sotw",
            Self::Delta => "delta",
            Self::AdsSotw => "ads_sotw",
            Self::AdsDelta => "ads_delta",
            Self::Fetch => "fetch",
        }
    }
}

/// Why a name is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Withheld {
    /// The name means nothing.
    UnknownName,
    /// The name means something that is another proxy's, or that this server does not have. Clients cannot tell the two
    /// apart (xds-conformance item 27).
    ForbiddenName,
    /// `limits.namesPerStream`, on Delta.
    TooManyNames,
}

impl Withheld {
    /// Why a name of this kind is withheld.
    pub(crate) fn of(kind: Option<SecretKind>) -> Self {
        if kind.is_some() { Self::ForbiddenName } else { Self::UnknownName }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabel {
    reason: Refusal,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandshakeLabel {
    reason: HandshakeFailure,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProtocolLabel {
    protocol: Protocol,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SecretLabel {
    secret: SecretKind,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: Withheld,
}

impl EncodeLabelValue for Protocol {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        self.as_str().encode(encoder)
    }
}

impl EncodeLabelValue for Withheld {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        match self {
            Self::UnknownName => "unknown_name",
            Self::ForbiddenName => "forbidden_name",
            Self::TooManyNames => "too_many_names",
        }
        .encode(encoder)
    }
}

impl EncodeLabelValue for SecretKind {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        match self {
            Self::Bundle => "bundle",
            Self::Certificate => "certificate",
        }
        .encode(encoder)
    }
}

impl Metrics {
    /// Registers them; the registry's prefix is the caller's.
    pub fn new(registry: &mut Registry) -> Self {
        let [pushes, acks, nacks] = [(); 3].map(|()| Family::<SecretLabel, Counter>::default());
        let of = |secret| {
            let [pushes, acks, nacks] =
                [&pushes, &acks, &nacks].map(|family| family.get_or_create(&SecretLabel { secret }).clone());
            Counts { pushes, acks, nacks }
        };
        let metrics = Self {
            streams: Family::default(),
            of_bundles: of(SecretKind::Bundle),
            of_certificates: of(SecretKind::Certificate),
            withheld: Family::default(),
            refused: Family::default(),
            stalled: Counter::default(),
            handshakes_given_up: Counter::default(),
            handshakes_failed: Family::default(),
            tls_files_broken: Gauge::default(),
            stale_nonces: Counter::default(),
            large_responses: Counter::default(),
            subscriptions: Gauge::default(),
            push_duration: Durations::default(),
            ack_duration: Durations::default(),
        };
        metrics.begin();
        registry.register("streams", "Streams that are open", metrics.streams.clone());
        registry.register("pushes", "Secrets sent", pushes);
        registry.register("acks", "Secrets that a proxy accepted", acks);
        registry.register("nacks", "Secrets that a proxy rejected", nacks);
        registry.register("withheld", "Names asked for and not answered", metrics.withheld.clone());
        registry.register("refused", "Streams that were not let in", metrics.refused.clone());
        registry.register(
            "stalled_connections",
            "Connections closed because the proxy did not take what it was sent",
            metrics.stalled.clone(),
        );
        registry.register(
            "tls_handshakes_given_up",
            "TLS handshakes that led nowhere and made way for others",
            metrics.handshakes_given_up.clone(),
        );
        registry.register("tls_handshakes_failed", "TLS handshakes that failed", metrics.handshakes_failed.clone());
        registry.register(
            "tls_files_broken",
            "Listeners whose TLS files, client CA or revocation lists have changed and are no good; the last good stay",
            metrics.tls_files_broken.clone(),
        );
        registry.register(
            "stale_nonces",
            "Requests whose nonce was none that the stream was waiting for",
            metrics.stale_nonces.clone(),
        );
        registry.register("large_responses", "Responses of more than 1 MiB", metrics.large_responses.clone());
        registry.register(
            "subscriptions",
            "Names that open streams are subscribed to, withheld ones included",
            metrics.subscriptions.clone(),
        );
        registry.register(
            "ack_duration_seconds",
            "From the hand-over of a secret to the stream's transport to the proxy's ACK or NACK",
            metrics.ack_duration.clone(),
        );
        registry.register(
            "push_duration_seconds",
            "From a stream's first sight of a changed secret to its hand-over to the stream's transport",
            metrics.push_duration.clone(),
        );
        metrics
    }

    /// Begins what there will be at zero: an alert hears of a count's increase, and not of its first appearance.
    fn begin(&self) {
        for protocol in Protocol::ALL {
            self.streams.get_or_create(&ProtocolLabel { protocol }).set(0);
        }
        for reason in [Withheld::UnknownName, Withheld::ForbiddenName, Withheld::TooManyNames] {
            self.withheld.get_or_create(&ReasonLabel { reason }).inc_by(0);
        }
        for reason in Refusal::ALL {
            self.refused.get_or_create(&RefusalLabel { reason }).inc_by(0);
        }
        for reason in HandshakeFailure::ALL {
            self.handshakes_failed.get_or_create(&HandshakeLabel { reason }).inc_by(0);
        }
    }

    /// Counts a stream for as long as the returned value lives.
    pub(crate) fn live_stream(&self, protocol: Protocol) -> LiveStream {
        let gauge = self.streams.get_or_create(&ProtocolLabel { protocol }).clone();
        gauge.inc();
        LiveStream(gauge)
    }

    pub(crate) fn pushed(&self, secret: SecretKind, after_change: Option<Duration>) {
        self.of(secret).pushes.inc();
        if let Some(duration) = after_change {
            self.push_duration.observe(duration);
        }
    }

    pub(crate) fn answered(&self, secret: SecretKind, accepted: bool, after: Duration) {
        let Counts { acks, nacks, .. } = self.of(secret);
        if accepted { acks } else { nacks }.inc();
        self.ack_duration.observe(after);
    }

    fn of(&self, secret: SecretKind) -> &Counts {
        match secret {
            SecretKind::Bundle => &self.of_bundles,
            SecretKind::Certificate => &self.of_certificates,
        }
    }

    pub(crate) fn stale_nonce(&self) {
        self.stale_nonces.inc();
    }

    pub(crate) fn large_response(&self) {
        self.large_responses.inc();
    }

    /// Counts the subscriptions of a stream for as long as the returned value lives.
    pub(crate) fn subscribed(&self) -> Subscribed {
        Subscribed { gauge: self.subscriptions.clone(), count: 0 }
    }

    pub(crate) fn refused(&self, reason: Refusal) {
        self.refused.get_or_create(&RefusalLabel { reason }).inc();
    }

    pub(crate) fn stalled(&self) {
        self.stalled.inc();
    }

    pub(crate) fn handshake_given_up(&self) {
        self.handshakes_given_up.inc();
    }

    pub(crate) fn handshake_failed(&self, reason: HandshakeFailure) {
        self.handshakes_failed.get_or_create(&HandshakeLabel { reason }).inc();
    }

    /// The changed TLS files of one more listener are no good.
    pub(crate) fn tls_files_broke(&self) {
        self.tls_files_broken.inc();
    }

    /// Those of one listener are good again.
    pub(crate) fn tls_files_mended(&self) {
        self.tls_files_broken.dec();
    }

    pub(crate) fn withheld(&self, reason: Withheld) {
        self.withheld_names(reason, 1);
    }

    pub(crate) fn withheld_names(&self, reason: Withheld, count: usize) {
        self.withheld.get_or_create(&ReasonLabel { reason }).inc_by(count as u64);
    }
}

/// See [`Metrics::live_stream`].
#[derive(Debug)]
pub(crate) struct LiveStream(Gauge);

impl Drop for LiveStream {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// See [`Metrics::subscribed`].
#[derive(Debug)]
pub(crate) struct Subscribed {
    gauge: Gauge,
    count: usize,
}

impl Subscribed {
    /// So many they are now.
    pub(crate) fn set(&mut self, count: usize) {
        let difference = count as i64 - self.count as i64;
        self.count = count;
        self.gauge.inc_by(difference);
    }
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn item_106_names_and_labels_are_those_of_the_interface() {
        let mut registry = Registry::with_prefix("envoy_sds");
        let metrics = Metrics::new(&mut registry);
        let stream = metrics.live_stream(Protocol::Sotw);
        metrics.pushed(SecretKind::Certificate, Some(Duration::from_millis(2)));
        metrics.answered(SecretKind::Bundle, true, Duration::from_millis(2));
        metrics.answered(SecretKind::Bundle, false, Duration::from_millis(2));
        metrics.stale_nonce();
        metrics.large_response();
        let mut subscribed = metrics.subscribed();
        [3, 2].into_iter().for_each(|count| subscribed.set(count));
        let _others = Protocol::ALL[1..].iter().map(|protocol| metrics.live_stream(*protocol)).collect::<Vec<_>>();
        metrics.withheld(Withheld::UnknownName);
        metrics.refused(Refusal::StreamsPerIdentity);
        metrics.handshake_failed(HandshakeFailure::ServerCertificate);
        let text = |registry: &Registry| {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
            text
        };
        for line in [
            "envoy_sds_streams{protocol=\"sotw\"} 1",
            "envoy_sds_pushes_total{secret=\"certificate\"} 1",
            "envoy_sds_acks_total{secret=\"bundle\"} 1",
            "envoy_sds_nacks_total{secret=\"bundle\"} 1",
            "envoy_sds_withheld_total{reason=\"unknown_name\"} 1",
            "envoy_sds_refused_total{reason=\"streams_per_identity\"} 1",
            "envoy_sds_tls_handshakes_failed_total{reason=\"server_certificate\"} 1",
            "envoy_sds_tls_handshakes_failed_total{reason=\"closed\"} 0",
            "envoy_sds_push_duration_seconds_count 1",
            "envoy_sds_ack_duration_seconds_count 2",
            "envoy_sds_stale_nonces_total 1",
            "envoy_sds_large_responses_total 1",
            "envoy_sds_subscriptions 2",
            "envoy_sds_streams{protocol=\"delta\"} 1",
            "envoy_sds_streams{protocol=\"ads_sotw\"} 1",
            "envoy_sds_streams{protocol=\"ads_delta\"} 1",
            "envoy_sds_streams{protocol=\"fetch\"} 1",
            "envoy_sds_nacks_total{secret=\"certificate\"} 0",
            "envoy_sds_withheld_total{reason=\"too_many_names\"} 0",
            "envoy_sds_refused_total{reason=\"proxies_per_identity\"} 0",
        ] {
            assert!(text(&registry).contains(line), "{line} is not in\n{}", text(&registry));
        }
        // An alert adds the two up, and would leave out one of two series with the same labels.
        let page = text(&registry);
        let reasons = |name: &str| -> Vec<String> {
            let labels = page.lines().filter_map(|line| line.strip_prefix(name));
            labels.filter_map(|labels| labels.split_whitespace().next().map(str::to_owned)).collect()
        };
        let refused = reasons("envoy_sds_refused_total{");
        let failed = reasons("envoy_sds_tls_handshakes_failed_total{");
        assert_eq!((refused.len(), failed.len()), (Refusal::ALL.len(), HandshakeFailure::ALL.len()));
        assert!(failed.iter().all(|labels| !refused.contains(labels)), "{refused:?} {failed:?}");
        drop((stream, subscribed));
        assert!(text(&registry).contains("envoy_sds_subscriptions 0"));
        assert!(text(&registry).contains("envoy_sds_streams{protocol=\"sotw\"} 0"));
    }
}
