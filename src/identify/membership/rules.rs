//! Whom meshes let in.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::subject::Subject;
use crate::identify::IdentifyError;
use crate::model::identity::Labels;

/// Which proxies may belong to which mesh: `membership` of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// The mesh of proxies for which nothing names one.
    pub default: Option<Arc<str>>,
    /// Whom meshes let in. A mesh without a rule lets in whoever belongs to it, others whoever matches one of their rules.
    pub allow: Vec<AllowRule>,
}

/// What a proxy has to be; it must match everything that is not empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowRule {
    /// The mesh that it lets proxies into.
    pub mesh: Arc<str>,
    /// Namespaces, one of which it has to be in.
    pub namespaces: BTreeSet<Arc<str>>,
    /// Service accounts, one of which it has to have.
    pub service_accounts: Vec<ServiceAccount>,
    /// Workloads, one of which it has to be: by its name or, in Kubernetes, by that of its service account, which counts
    /// only beside `namespaces`, as others may have one of that name too.
    pub workloads: BTreeSet<Arc<str>>,
    /// Labels, all of which it has to have. In Kubernetes they count only beside `namespaces` or `service_accounts`, as
    /// whoever may make a pod anywhere chooses its labels.
    pub labels: Labels,
}

/// A service account, as rules name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Its namespace; without one, the rule says by `namespaces` which are meant.
    pub namespace: Option<Arc<str>>,
    /// Its name.
    pub name: Arc<str>,
}

impl Rules {
    /// Whether the mesh lets in what is proven of a proxy.
    pub(super) fn admit(&self, mesh: &str, subject: &Subject<'_>, labels: &Labels) -> Result<(), IdentifyError> {
        let mut unmet = Vec::new();
        for (index, rule) in self.allow.iter().enumerate().filter(|(_, rule)| *rule.mesh == *mesh) {
            match rule.unmet(subject, labels) {
                None => return Ok(()),
                Some(criterion) => unmet.push(format!("allow[{index}].{criterion}")),
            }
        }
        if unmet.is_empty() {
            return Ok(());
        }
        Err(IdentifyError::Forbidden(format!(
            "membership does not let {subject} into mesh {mesh:?}: it does not match {}",
            unmet.join(", ")
        )))
    }
}

impl AllowRule {
    /// The first criterion that a proxy does not match, by its field's name.
    fn unmet(&self, subject: &Subject<'_>, labels: &Labels) -> Option<&'static str> {
        let Self { mesh: _, namespaces, service_accounts, workloads, labels: wanted } = self;
        let account = |account: &ServiceAccount| {
            subject.service_account == Some(&*account.name)
                && account.namespace.as_deref().is_none_or(|namespace| subject.namespace == Some(namespace))
                && (account.namespace.is_some() || !namespaces.is_empty())
        };
        let is_workload = subject.workload.is_some_and(|workload| workloads.contains(workload))
            && (!subject.is_kubernetes || !namespaces.is_empty());
        if !namespaces.is_empty() && !subject.namespace.is_some_and(|namespace| namespaces.contains(namespace)) {
            Some("namespaces")
        } else if !service_accounts.is_empty() && !service_accounts.iter().any(account) {
            Some("serviceAccounts")
        } else if !workloads.is_empty() && !is_workload {
            Some("workloads")
        } else if !wanted.iter().all(|(key, value)| labels.get(key) == Some(value)) {
            Some("labels")
        } else if subject.is_kubernetes && namespaces.is_empty() && service_accounts.is_empty() {
            Some("labels (those of a pod count only beside namespaces or serviceAccounts)")
        } else {
            None
        }
    }
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
