//! How much is wrong at the moment, of each kind, as metrics. The texts are in the warnings of `/readyz`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::model::diagnostic::Problem;
use crate::model::policy::PolicySet;
use crate::trust::store::Troubles;

/// Where they are told.
#[derive(Debug)]
pub(super) struct Problems {
    /// What is wrong with the resources.
    pub(super) resources: watch::Receiver<Arc<Vec<Problem>>>,
    /// The same of what proofs of identity are verified with, and of TLS files.
    pub(super) proofs: Vec<watch::Receiver<Arc<Vec<Problem>>>>,
    /// What cannot be kept for the next start, by file.
    pub(super) state: watch::Receiver<Arc<BTreeMap<PathBuf, String>>>,
    /// Backends that do not say their CA.
    pub(super) trust: watch::Receiver<Arc<Troubles>>,
    /// The meshes in force.
    pub(super) policies: watch::Receiver<Arc<PolicySet>>,
}

pub(super) fn register(registry: &mut Registry, problems: Problems) {
    registry.register_collector(Box::new(problems));
}

impl Collector for Problems {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut gauge = |name, help, count: usize| -> fmt::Result {
            let encoder = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(number(count)).encode(encoder)
        };
        gauge(
            "resource_problems",
            "Problems with resources at the moment, each of which keeps the last good version in force (see /readyz).",
            self.resources.borrow().len(),
        )?;
        gauge(
            "proof_problems",
            "Problems with the files and Secrets that proofs of identity are verified with, and with TLS files (see /readyz).",
            self.proofs.iter().map(|problems| problems.borrow().len()).sum(),
        )?;
        gauge(
            "state_problems",
            "Files of the state directory that cannot be written, so that a restart would not know what is in them (see /readyz).",
            self.state.borrow().len(),
        )?;
        let mut meshes: BTreeMap<Arc<str>, usize> =
            self.policies.borrow().meshes.keys().map(|mesh| (mesh.clone(), 0)).collect();
        for (mesh, _) in self.trust.borrow().keys() {
            *meshes.entry(mesh.clone()).or_default() += 1;
        }
        let help =
            "Backends whose CA cannot be learned at the moment; what was known of it stays trusted (see /readyz).";
        let mut encoder = encoder.encode_descriptor("trust_problems", help, None, MetricType::Gauge)?;
        for (mesh, count) in meshes {
            ConstGauge::new(number(count)).encode(encoder.encode_family(&[("mesh", &*mesh)])?)?;
        }
        Ok(())
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
