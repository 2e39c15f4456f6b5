//! The configured proofs of identity, in the order in which they are asked: one line each.

use std::sync::Arc;

use kube::Client;
use tokio::sync::watch;

use super::StartError;
use super::pods::PodsByUid;
use crate::config::{Config, UnixPeerIs, UnixPeerRule};
use crate::identify::Identify;
use crate::identify::chain::Identifiers;
use crate::identify::client_certificate::ClientCertificates;
use crate::identify::pods::FindPods;
use crate::identify::service_account::{ApiServer, ServiceAccountTokens};
use crate::identify::unix_peer::{Behind, Rule, UnixPeers};
use crate::model::policy::PolicySet;
use crate::model::secrets::KnownSecrets;
use crate::runtime::clock::Clock;
use crate::runtime::tasks::Tasks;

/// What the methods need, each of them some of it.
pub(super) struct Surroundings<'a> {
    pub(super) config: &'a Config,
    pub(super) kubernetes: Option<Client>,
    pub(super) policies: watch::Receiver<Arc<PolicySet>>,
    pub(super) secrets: watch::Receiver<Arc<KnownSecrets>>,
    pub(super) clock: Clock,
    pub(super) tasks: &'a Tasks,
}

/// Makes them.
///
/// # Errors
/// What is wrong with the configuration or with the files that it names.
pub(super) fn start(surroundings: Surroundings<'_>) -> Result<Identifiers, StartError> {
    let Surroundings { config, kubernetes, policies, secrets: _, clock, tasks } = surroundings;
    let identify = &config.identify;
    let mut methods: Vec<Arc<dyn Identify>> = Vec::new();
    let pods = kubernetes.clone().map(|client| Arc::new(PodsByUid::new(client)) as Arc<dyn FindPods>);
    if let (Some(method), Some(client)) = (&identify.service_account_token, kubernetes) {
        let reviewer = Arc::new(ApiServer::new(client));
        methods.push(Arc::new(ServiceAccountTokens::new(reviewer, method.audiences.clone(), clock.clone(), tasks)));
    }
    if identify.client_certificate {
        methods.push(Arc::new(ClientCertificates::new(clock)));
    }
    if !identify.unix_peers.is_empty() {
        methods.push(Arc::new(UnixPeers::new(identify.unix_peers.iter().map(rule).collect(), pods)));
    }
    Ok(Identifiers::new(methods, identify.insecure_node_id, policies))
}

fn rule(rule: &UnixPeerRule) -> Rule {
    let is = match &rule.is {
        UnixPeerIs::Pod => Behind::Pod,
        UnixPeerIs::Proxy { mesh, name, workload, labels } => Behind::Proxy {
            mesh: mesh.clone(),
            name: name.clone(),
            workload: workload.as_str().into(),
            labels: labels.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect(),
        },
    };
    Rule { uid: rule.uid, gid: rule.gid, is }
}
