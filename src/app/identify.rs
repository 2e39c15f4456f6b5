//! The configured proofs of identity, in the order in which they are asked: one line each.

use std::sync::Arc;

use kube::Client;
use tokio::sync::watch;

use super::{StartError, convert, wrong};
use crate::config::{self, Config, ServiceAccountToken, UnixPeerIs, UnixPeerRule, VerifyTokens};
use crate::identify::Identify;
use crate::identify::chain::Identifiers;
use crate::identify::client_certificate::ClientCertificates;
use crate::identify::directory::{Directory, KnowAccounts};
use crate::identify::pods::FindPods;
use crate::identify::proxy_token::ProxyTokens;
use crate::identify::service_account::{ApiServer, Keys, Reviewer, ServiceAccountTokens, Verifier};
use crate::identify::unix_peer::{Behind, Rule, UnixPeers};
use crate::model::diagnostic::Problem;
use crate::model::policy::PolicySet;
use crate::model::secrets::KnownSecrets;
use crate::runtime::clock::Clock;
use crate::runtime::tasks::Tasks;
use crate::runtime::watch_board::WatchBoard;

/// What the methods need, each of them some of it.
pub(super) struct Surroundings<'a> {
    pub(super) config: &'a Config,
    pub(super) kubernetes: Option<Client>,
    pub(super) policies: watch::Receiver<Arc<PolicySet>>,
    pub(super) secrets: watch::Receiver<Arc<KnownSecrets>>,
    pub(super) clock: Clock,
    pub(super) board: WatchBoard,
    pub(super) tasks: &'a Tasks,
}

/// The methods, and what is wrong with what they go by: files, Secrets, the API server.
pub(super) struct Started {
    pub(super) identifiers: Identifiers,
    pub(super) problems: Vec<watch::Receiver<Arc<Vec<Problem>>>>,
}

/// Makes them.
///
/// # Errors
/// What is wrong with the configuration or with the files that it names.
pub(super) fn start(surroundings: Surroundings<'_>) -> Result<Started, StartError> {
    let Surroundings { config, kubernetes, policies, secrets, clock, board, tasks } = surroundings;
    let identify = &config.identify;
    let among_pods = kubernetes.is_some() || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    let mut methods: Vec<Arc<dyn Identify>> = Vec::new();
    let mut problems = Vec::new();
    let cluster = kubernetes.filter(|_| goes_by_cluster(identify)).map(|client| {
        let directory = Arc::new(Directory::start(client.clone(), clock.clone(), &board, tasks));
        problems.push(directory.problems());
        (client, directory)
    });
    if let (Some(method), Some((client, directory))) = (&identify.service_account_token, &cluster) {
        let (verifier, audiences) = (verifier(method, client, &clock, tasks)?, method.audiences.clone());
        let tokens = ServiceAccountTokens::new(verifier, directory.clone(), audiences, clock.clone(), tasks);
        problems.push(tokens.problems());
        methods.push(Arc::new(tokens));
    }
    if let Some(method) = &identify.proxy_token {
        let settings = convert::proxy_tokens(method, &config.state_dir, secrets);
        let tokens = ProxyTokens::start(settings, clock.clone(), tasks).map_err(StartError::Configuration)?;
        problems.push(tokens.problems());
        methods.push(Arc::new(tokens));
    }
    if identify.client_certificate {
        let accounts = cluster.as_ref().map(|(_, directory)| directory.clone() as Arc<dyn KnowAccounts>);
        methods.push(Arc::new(ClientCertificates::new(clock, accounts)));
    }
    if !identify.unix_peers.is_empty() {
        let pods = cluster.map(|(_, directory)| directory as Arc<dyn FindPods>);
        let rules = identify.unix_peers.iter().map(rule).collect();
        methods.push(Arc::new(UnixPeers::new(rules, pods).among_pods(among_pods)));
    }
    let rules = convert::rules(&config.membership);
    let zone = config.zone.as_str().into();
    let identifiers = Identifiers::new(methods, identify.insecure_node_id, policies, rules, zone);
    Ok(Started { identifiers, problems })
}

/// Whether any of the methods names service accounts or pods: if there is a cluster, they have to be in it, and their namespace
/// may say which mesh they are in.
fn goes_by_cluster(identify: &config::Identify) -> bool {
    identify.service_account_token.is_some() || identify.client_certificate || identify.asks_for_pods()
}

/// What says whether a service account token is good.
fn verifier(
    method: &ServiceAccountToken,
    client: &Client,
    clock: &Clock,
    tasks: &Tasks,
) -> Result<Verifier, StartError> {
    Ok(match method.verify.clone() {
        VerifyTokens::TokenReview => {
            let api = Arc::new(ApiServer::new(client.clone()));
            Verifier::Review(Reviewer::start(api, method.audiences.clone(), clock.clone(), tasks))
        }
        VerifyTokens::Jwks { issuer: Some(issuer), file: Some(file) } => {
            let keys = Keys::of_file(&file, issuer, tasks)
                .map_err(|error| wrong("identify.serviceAccountToken.jwks.file", error.to_string(), None))?;
            Verifier::Keys(keys)
        }
        VerifyTokens::Jwks { issuer, file: _ } => Verifier::Keys(Keys::of_cluster(client.clone(), issuer, tasks)),
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_may_name_an_account_is_looked_up_in_the_cluster() {
        let pod = UnixPeerRule { uid: None, gid: None, is: UnixPeerIs::Pod };
        let nothing = config::Identify::default;
        assert!(!goes_by_cluster(&nothing()));
        assert!(!goes_by_cluster(&config::Identify { proxy_token: Some(config::ProxyToken::default()), ..nothing() }));
        assert!(goes_by_cluster(&config::Identify { client_certificate: true, ..nothing() }));
        assert!(goes_by_cluster(&config::Identify { unix_peers: vec![pod], ..nothing() }));
    }
}
