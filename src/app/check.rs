//! What is looked into at once before anything is started, by `envoy-sds check` and by a server that begins: the files that
//! configuration and resources name, most of which a server reads only when they are used.

use std::sync::Arc;

use tokio::sync::watch;

use crate::config::{Config, Kubernetes, VerifyTokens};
use crate::identify::client_certificate::{PATHS, reads_back};
use crate::identify::service_account::Keys;
use crate::mesh::{Compiled, LiveResources, Settings};
use crate::model::diagnostic::{Location, Problem};
use crate::model::policy::{PolicySet, Selector};
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

/// Compiles the resources of files, and looks into the files that they name. What a cluster has is not known here; where meshes
/// can only be its objects, there is none.
pub fn resources(config: &Config, kubernetes_available: bool, clock: &Clock) -> Compiled {
    let settings = Settings {
        paths: config.resources.clone(),
        kubernetes_available,
        system_namespace: config.system_namespace.clone(),
        zone: config.zone.clone(),
        read_file: Some(regular_file::read),
        state_dir: None,
    };
    let mut resources = LiveResources::of_files(settings, clock.clone());
    if config.has_meshes_of_the_cluster_alone() {
        resources = resources.with_meshes_of_the_cluster();
    }
    resources.load()
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

/// The meshes that the configuration names and that there are not: wrong where the resources of files are all that there are,
/// and what may be mended by an object of the cluster elsewhere.
pub fn unknown_meshes(config: &Config, policies: &PolicySet) -> Found {
    let may_be_in_cluster = config.kubernetes != Kubernetes::Off && config.cluster_resources;
    let found = |(field, mesh): (String, String)| {
        let at = Location { field: Some(field), ..Location::default() };
        let hint = policies.meshes.keys().map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
        let hint = (!hint.is_empty()).then(|| format!("there is {hint}"));
        let is_off = policies.unserved.off.contains(mesh.as_str());
        let (what, hint) = match (is_off, may_be_in_cluster) {
            (true, _) => ("has no identity to give: its mTLS is off", None),
            (false, true) => ("is in no resource file: the cluster has to have it", hint),
            (false, false) => ("is not there", hint),
        };
        (is_off, Problem { at, what: format!("the mesh {mesh:?} {what}"), hint })
    };
    // What is broken is told as such.
    let is_known = |mesh: &str| policies.meshes.contains_key(mesh) || policies.unserved.may_have(mesh).is_some();
    let unknown = config.unknown_meshes(is_known).into_iter().map(found);
    let (warnings, problems): (Vec<_>, Vec<_>) = unknown.partition(|(is_off, _)| *is_off || may_be_in_cluster);
    let told = |found: Vec<(bool, Problem)>| found.into_iter().map(|(_, problem)| problem).collect();
    Found { problems: told(problems), warnings: told(warnings) }
}

/// The identities whose certificates are no proof, although `clientCertificate` is on.
pub fn no_client_certificates(config: &Config, policies: &PolicySet) -> Vec<Problem> {
    let mut warnings = Vec::new();
    for mesh in policies.meshes.values().filter(|_| config.identify.client_certificate) {
        for identity in mesh.identities.iter().filter(|identity| identity.selector != Selector::Nobody) {
            let Some(path) = &identity.path else { continue };
            if !reads_back(path, &mesh.name, &config.zone) {
                let resource = Some(format!("MeshIdentity {} of mesh {}", identity.name, mesh.name));
                let field = Some("spec.spiffeID.path".to_owned());
                warnings.push(Problem {
                    at: Location { resource, field, ..Location::default() },
                    what: "clientCertificate does not accept certificates with such an ID".to_owned(),
                    hint: Some(format!("workloads are read from {PATHS} alone; its proxies need another proof")),
                });
            }
        }
    }
    warnings
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::{Overrides, Surroundings};
    use crate::model::policy::{IdentityPolicy, MeshPolicy};
    use crate::model::template::PathTemplate;

    #[test]
    fn identities_that_a_client_certificate_cannot_prove_are_told() {
        let mut config = Config::load(None, Overrides { state_dir: Some("/s".into()), ..Overrides::default() }, &{
            Surroundings::default()
        })
        .unwrap();
        config.zone = "east".to_owned();
        let identity = |path: Option<&str>, selector| {
            Arc::new(IdentityPolicy {
                name: path.unwrap_or("default").into(),
                selector,
                trust_domain: "prod".into(),
                path: path.map(|path| PathTemplate::parse(path).unwrap()),
                backend: "ca".into(),
            })
        };
        let everybody = || Selector::Labels(BTreeMap::default());
        let unread = ["/{{ .Zone }}/{{ .Workload }}", "/{{ .Name }}", "/ns/{{ .ServiceAccount }}/sa/{{ .Namespace }}"];
        let read = ["/ns/{{ .Namespace }}/sa/{{ .ServiceAccount }}", "/{{ .Workload }}", "/ns/{{ .Namespace }}/sa/a"];
        let identities = unread.into_iter().chain(read).map(|path| identity(Some(path), everybody()));
        let others = [identity(None, everybody()), identity(Some("/a/b"), Selector::Nobody)];
        let mesh = MeshPolicy {
            identities: identities.chain(others).collect(),
            ..MeshPolicy::classic("prod".into(), "ca".into(), Vec::new())
        };
        let policies = PolicySet { meshes: [("prod".into(), Arc::new(mesh))].into(), ..PolicySet::default() };
        assert_eq!(no_client_certificates(&config, &policies), []);
        config.identify.client_certificate = true;
        let warnings = no_client_certificates(&config, &policies);
        assert_eq!(warnings.len(), unread.len(), "{warnings:?}");
        for (warning, path) in warnings.iter().zip(unread) {
            assert_eq!(warning.at.resource, Some(format!("MeshIdentity {path} of mesh prod")));
        }
    }
}
