//! What operators watch about issuance.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::issuer::IssueError;

/// The outcome of an issuance that went well; the others are [`IssueError::labels`].
pub(crate) const ISSUED: &str = "issued";

/// Labels of an issuance.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct IssuanceLabels {
    pub(crate) mesh: String,
    pub(crate) backend: String,
    pub(crate) outcome: &'static str,
}

/// Labels of what is counted by backend.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct BackendLabels {
    pub(crate) mesh: String,
    pub(crate) backend: String,
}

/// Label of a duration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct DurationLabels {
    pub(crate) backend: String,
}

/// Label of what is counted by mesh.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct MeshLabels {
    pub(crate) mesh: String,
}

/// The metrics of this stage. Gauges about what is held right now are read at scrape time, see
/// `super::gauges`.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub(crate) issuances: Family<IssuanceLabels, Counter>,
    pub(crate) renewal_errors: Family<BackendLabels, Counter>,
    pub(crate) resumed: Family<MeshLabels, Counter>,
    pub(crate) duration: Family<DurationLabels, Histogram, fn() -> Histogram>,
    provided_cas: Family<BackendLabels, Gauge>,
}

/// The gauge of one provided CA, for as long as it is there.
#[derive(Debug)]
pub(crate) struct ProvidedCaReady {
    all: Family<BackendLabels, Gauge>,
    labels: BackendLabels,
}

impl ProvidedCaReady {
    pub(crate) fn set(&self, ready: bool) {
        self.all.get_or_create(&self.labels).set(i64::from(ready));
    }
}

impl Drop for ProvidedCaReady {
    fn drop(&mut self) {
        self.all.remove(&self.labels);
    }
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &mut Registry) -> Arc<Self> {
        // 5 ms (the builtin CA) to 11 minutes (somebody approves by hand).
        let metrics = Self {
            issuances: Family::default(),
            renewal_errors: Family::default(),
            resumed: Family::default(),
            provided_cas: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.005, 2.0, 18))),
        };
        registry.register("issuances", "Attempts to issue a certificate, by outcome", metrics.issuances.clone());
        registry.register(
            "certificate_renewal_errors",
            "Failed attempts to renew a certificate that is in use",
            metrics.renewal_errors.clone(),
        );
        registry.register(
            "resumed",
            "Subscriptions of proxies that hold a good certificate already, so that none had to be issued",
            metrics.resumed.clone(),
        );
        registry.register_with_unit(
            "issuance_duration",
            "Time from the decision to issue until the certificate is verified",
            Unit::Seconds,
            metrics.duration.clone(),
        );
        registry.register(
            "provided_ca_ready",
            "1 if a provided CA can be used as its certificate and key are now, else 0 (the last good ones go on signing)",
            metrics.provided_cas.clone(),
        );
        Arc::new(metrics)
    }

    /// Begins the counters of a backend at zero: an alert hears of a count's increase, and not of its first appearance.
    pub(crate) fn begin(&self, mesh: &Arc<str>, backend: &Arc<str>) {
        let (mesh, backend) = (mesh.to_string(), backend.to_string());
        self.resumed.get_or_create(&MeshLabels { mesh: mesh.clone() }).inc_by(0);
        self.renewal_errors.get_or_create(&BackendLabels { mesh: mesh.clone(), backend: backend.clone() }).inc_by(0);
        drop(self.duration.get_or_create(&DurationLabels { backend: backend.clone() }));
        for outcome in IssueError::labels().chain([ISSUED]) {
            let labels = IssuanceLabels { mesh: mesh.clone(), backend: backend.clone(), outcome };
            self.issuances.get_or_create(&labels).inc_by(0);
        }
    }

    /// The gauge of a provided CA; it is gone when this is dropped.
    pub(crate) fn provided_ca_ready(&self, mesh: &Arc<str>, backend: &Arc<str>) -> ProvidedCaReady {
        let labels = BackendLabels { mesh: mesh.to_string(), backend: backend.to_string() };
        ProvidedCaReady { all: self.provided_cas.clone(), labels }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_of_a_backend_begins_at_zero() {
        let mut registry = Registry::default();
        Metrics::new(&mut registry).begin(&"default".into(), &"ca".into());
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
        let outcomes: Vec<_> = IssueError::labels().chain([ISSUED]).collect();
        assert_eq!(outcomes.len(), 10);
        for outcome in outcomes {
            let series = format!("issuances_total{{mesh=\"default\",backend=\"ca\",outcome=\"{outcome}\"}} 0\n");
            assert!(page.contains(&series), "{series} is not in\n{page}");
        }
    }
}
