//! The configured proofs of identity, in the order in which they are asked: one line each.

use std::sync::Arc;

use kube::Client;
use tokio::sync::watch;

use super::{StartError, convert, wrong};
use crate::config::{Config, VerifyTokens};
use crate::identify::Identify;
use crate::identify::chain::Identifiers;
use crate::identify::directory::Directory;
use crate::identify::proxy_token::ProxyTokens;
use crate::identify::service_account::{ApiServer, Keys, ServiceAccountTokens, Verifier};
use crate::model::diagnostic::Problem;
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

/// The methods, and what is wrong with the files and Secrets that they read, of each that reads any.
pub(super) struct Started {
    pub(super) identifiers: Identifiers,
    pub(super) problems: Vec<watch::Receiver<Arc<Vec<Problem>>>>,
}

/// Makes them.
///
/// # Errors
/// What is wrong with the configuration or with the files that it names.
pub(super) fn start(surroundings: Surroundings<'_>) -> Result<Started, StartError> {
    let Surroundings { config, kubernetes, policies, secrets, clock, tasks } = surroundings;
    let identify = &config.identify;
    let mut methods: Vec<Arc<dyn Identify>> = Vec::new();
    let mut problems = Vec::new();
    if let Some(method) = &identify.proxy_token {
        let settings = convert::proxy_tokens(method, &config.state_dir, secrets);
        let tokens = ProxyTokens::start(settings, clock.clone(), tasks).map_err(StartError::Configuration)?;
        problems.push(tokens.problems());
        methods.push(Arc::new(tokens));
    }
    if let (Some(method), Some(client)) = (&identify.service_account_token, kubernetes) {
        let verifier = match method.verify.clone() {
            VerifyTokens::TokenReview => Verifier::Review(Arc::new(ApiServer::new(client.clone()))),
            VerifyTokens::Jwks { issuer: Some(issuer), file: Some(file) } => {
                let keys = Keys::of_file(&file, issuer, tasks)
                    .map_err(|error| wrong("identify.serviceAccountToken.jwks.file", error.to_string(), None))?;
                Verifier::Keys(keys)
            }
            VerifyTokens::Jwks { issuer, file: _ } => Verifier::Keys(Keys::of_cluster(client.clone(), issuer, tasks)),
        };
        let directory = Arc::new(Directory::start(client, tasks));
        let audiences = method.audiences.clone();
        methods.push(Arc::new(ServiceAccountTokens::new(verifier, directory, audiences, clock, tasks)));
    }
    let rules = convert::rules(&config.membership);
    let zone = config.zone.as_str().into();
    let identifiers = Identifiers::new(methods, identify.insecure_node_id, policies, rules, zone);
    Ok(Started { identifiers, problems })
}
