//! What is looked into at once before anything is started, by `envoy-sds check` and by a server that begins: the files that
//! configuration and resources name, most of which a server reads only when they are used.

use std::sync::Arc;

use tokio::sync::watch;

use crate::config::{Config, VerifyTokens};
use crate::identify::service_account::Keys;
use crate::mesh::{Compiled, LiveResources, Settings};
use crate::model::diagnostic::{Location, Problem};
use crate::model::secrets::{KnownSecrets, MeshSecrets};
use crate::runtime::clock::Clock;
use crate::runtime::regular_file;
use crate::serve::listen::{self, Checked};

/// What was found in files.
#[derive(Debug, Default)]
pub struct Found {
    /// What a server would not do with, or refuse everybody by.
    pub problems: Vec<Problem>,
    /// What it would only warn of.
    pub warnings: Vec<Problem>,
}

/// Compiles the resources of files, and looks into the files that they name.
pub fn resources(config: &Config, kubernetes_available: bool, clock: &Clock) -> Compiled {
    let settings = Settings {
        paths: config.resources.clone(),
        kubernetes_available,
        system_namespace: config.system_namespace.clone(),
        zone: config.zone.clone(),
        read_file: Some(regular_file::read),
        state_dir: None,
    };
    LiveResources::of_files(settings, clock.clone()).load()
}

/// Looks into the files of TLS listeners, and into keys and revocations of the proofs of identity. `secrets` are the mesh
/// Secrets of resource files.
pub fn files(config: &Config, secrets: &Arc<MeshSecrets>, clock: &Clock) -> Found {
    let problem = |field: String, what: String| {
        let at = Location { field: Some(field), ..Location::default() };
        Problem { at, what, hint: None }
    };
    let mut found = Found::default();
    for (index, listener) in super::convert::listeners(&config.listeners).into_iter().enumerate() {
        let Checked { problems, warnings } = listener.tls.map(|files| listen::check(&files, clock)).unwrap_or_default();
        found.problems.extend(problems.into_iter().map(|what| problem(format!("listeners[{index}].tls"), what)));
        found.warnings.extend(warnings);
    }
    if let Some(method) = &config.identify.proxy_token {
        let known = KnownSecrets { files: secrets.clone(), ..KnownSecrets::default() };
        let (_, known) = watch::channel(Arc::new(known));
        let settings = super::convert::proxy_tokens(method, &config.state_dir, known);
        found.problems.extend(settings.keys.problems());
        found.problems.extend(settings.revocations.into_iter().flat_map(|revocations| revocations.problems()));
    }
    let verify = config.identify.service_account_token.as_ref().map(|method| &method.verify);
    if let Some(VerifyTokens::Jwks { file: Some(file), .. }) = verify
        && let Err(error) = Keys::check_file(file)
    {
        found.problems.push(problem("identify.serviceAccountToken.jwks.file".to_owned(), error.to_string()));
    }
    found
}

/// Warns of what `check` would find in the files that resources name, beside `known`. The server begins all the same: they
/// are read again when they are used, and may be on their way.
pub(super) fn warn_of_named_files(config: &Config, kubernetes_available: bool, known: &[Problem], clock: &Clock) {
    for problem in resources(config, kubernetes_available, clock).problems {
        if !known.contains(&problem) {
            tracing::warn!("{problem}; it is read again when it is used");
        }
    }
}
