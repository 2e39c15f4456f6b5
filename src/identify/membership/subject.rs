//! What is proven of a workload, in the terms of rules and of templates.

use std::fmt;

use crate::identify::Proof;
use crate::model::identity::Workload;

/// Kuma's labels for what a workload outside Kubernetes has no fields for.
const NAMESPACE_LABEL: &str = "k8s.kuma.io/namespace";
const SERVICE_ACCOUNT_LABEL: &str = "k8s.kuma.io/service-account";

/// See the module. What is not proven is `None`; nothing is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Subject<'p> {
    /// Whether it runs in Kubernetes. There, names are unique in their namespace only.
    pub(super) is_kubernetes: bool,
    pub(super) namespace: Option<&'p str>,
    pub(super) service_account: Option<&'p str>,
    pub(super) workload: Option<&'p str>,
    /// The name of the instance; a node id is none.
    pub(super) name: Option<&'p str>,
}

impl<'p> Subject<'p> {
    /// In Kubernetes, everything comes from the service account and the pod. Whoever may create pods in a namespace chooses
    /// their labels, so a label says neither where a pod is nor what it is called: the workload is the service account's
    /// name. Elsewhere, labels are as good as the names beside them, if the proof itself has them.
    pub(super) fn of(proof: &'p Proof) -> Self {
        let Workload { namespace, service_account, pod, name } = &proof.workload;
        let is_kubernetes = namespace.is_some() || service_account.is_some() || pod.is_some();
        let label = |key: &str| proof.labels.get(key).map(AsRef::as_ref);
        let subject = if is_kubernetes {
            Self {
                is_kubernetes,
                namespace: namespace.as_deref(),
                service_account: service_account.as_deref(),
                workload: service_account.as_deref(),
                name: pod.as_ref().map(|pod| &*pod.name),
            }
        } else {
            Self {
                is_kubernetes,
                namespace: label(NAMESPACE_LABEL),
                service_account: label(SERVICE_ACCOUNT_LABEL),
                workload: name.as_deref(),
                name: proof.instance.as_deref(),
            }
        };
        subject.without_empty()
    }

    fn without_empty(mut self) -> Self {
        for part in [&mut self.namespace, &mut self.service_account, &mut self.workload, &mut self.name] {
            *part = part.filter(|text| !text.is_empty());
        }
        self
    }
}

/// For reasons: `workload "web"`, `namespace "shop", service account "web"`.
impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let workload = self.workload.filter(|_| !self.is_kubernetes);
        let parts = [("workload", workload), ("namespace", self.namespace), ("service account", self.service_account)];
        let known: Vec<String> =
            parts.into_iter().filter_map(|(what, name)| Some(format!("{what} {:?}", name?))).collect();
        f.write_str(if known.is_empty() { "a workload without a name" } else { "" })?;
        f.write_str(&known.join(", "))
    }
}
