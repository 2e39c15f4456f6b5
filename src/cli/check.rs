//! `envoy-sds check`: everything that is wrong, before anything is started.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::{Failure, ServerFlags, counted, output};
use crate::app;
use crate::config::{Config, Kubernetes};
use crate::mesh::Resources;
use crate::model::diagnostic::{Location, Problem};
use crate::model::policy::{Backend, BackendKind, MeshPolicy};
use crate::runtime::clock::Clock;

/// Said of a configuration that names no resource files, with `kubernetes: on`.
const OF_THE_CLUSTER: &str = "notice: no resource files are named, so the meshes are the cluster's (Mesh objects), which are not looked at \
     here; while there is none, the server is not ready, and serves nobody";

/// Check configuration and resources: report all errors at once, with file, line and field
///
/// It needs no cluster, and takes one for available unless `kubernetes` (--kubernetes) is off. Exit code 64 if anything is wrong.
#[derive(Debug, Args)]
#[command(after_help = "Example: envoy-sds check --config server.yaml mesh.yaml")]
pub(super) struct Check {
    /// Resource files or folders, like --resources
    #[arg(value_name = "PATH")]
    files: Vec<PathBuf>,

    #[command(flatten)]
    flags: ServerFlags,
}

impl Check {
    pub(super) fn run(mut self) -> Result<(), Failure> {
        self.flags.resources.append(&mut self.files);
        let clock = Clock::system();
        let (config, mut problems) = self.flags.inspect();
        if problems.is_empty() {
            config.warnings().iter().for_each(|warning| output::error(format_args!("warning: {warning}")));
        }
        let compiled = app::check::resources(&config, config.kubernetes != Kubernetes::Off, &clock);
        compiled.notices.iter().for_each(|notice| output::error(format_args!("notice: {notice}")));
        if config.has_meshes_of_the_cluster_alone() {
            output::error(OF_THE_CLUSTER);
        }
        let policies = &compiled.resources.policies;
        let app::check::Found { problems: unknown_meshes, mut warnings } =
            app::check::unknown_meshes(&config, policies);
        warnings.extend(app::check::no_client_certificates(&config, policies));
        problems.extend(unknown_meshes);
        problems.extend(compiled.problems);
        let secrets = Arc::new(compiled.resources.secrets.clone());
        let in_files = app::check::files(&config, &secrets, &clock);
        problems.extend(in_files.problems);
        warnings.extend(in_files.warnings);
        warnings.iter().for_each(|warning| output::error(format_args!("warning: {warning}")));
        if config.kubernetes == Kubernetes::Off && config.identify.service_account_token.is_some() {
            let at = Location { field: Some("identify.serviceAccountToken".to_owned()), ..Location::default() };
            let what = "needs Kubernetes, which is turned off".to_owned();
            problems.push(Problem { at, what, hint: None });
        }
        if !problems.is_empty() {
            return Err(Failure::Configuration(problems));
        }
        output::line(summary(&config, &compiled.resources))
    }
}

fn summary(config: &Config, resources: &Resources) -> String {
    let signer = |backend: &Backend| match &backend.kind {
        BackendKind::Builtin(_) => "builtin CA".to_owned(),
        BackendKind::CertManager { issuer, .. } => format!("cert-manager {} {}", issuer.kind, issuer.name),
        BackendKind::Provided(_) => "provided CA".to_owned(),
        BackendKind::NotInProgram(name) => format!("{name} (not in the program yet)"),
    };
    let mesh = |mesh: &MeshPolicy| {
        let enabled = mesh.enabled().map(|backend| signer(backend));
        let identities = mesh.identities.iter().filter_map(|identity| {
            let backend = mesh.backend(&identity.backend)?;
            Some(format!("MeshIdentity {} by {}", identity.name, signer(backend)))
        });
        let trusts = mesh.trusts.iter().map(|trust| format!("MeshTrust {} of {}", trust.name, trust.trust_domain));
        let signers: Vec<_> = enabled.into_iter().chain(identities).collect();
        let none = signers.is_empty().then(|| "no signer".to_owned());
        let parts: Vec<_> = none.into_iter().chain(signers).chain(trusts).collect();
        format!("{}: {}", mesh.name, parts.join(", "))
    };
    let meshes: Vec<_> = resources.policies.meshes.values().map(|policy| mesh(policy)).collect();
    let names = if meshes.is_empty() { String::new() } else { format!(" ({})", meshes.join(", ")) };
    let meshes = format!("{}{names}", counted(meshes.len(), "mesh"));
    let may_have_cluster = config.kubernetes != Kubernetes::Off && config.cluster_resources;
    let meshes = match (config.resources.is_empty(), may_have_cluster) {
        (true, true) if config.has_meshes_of_the_cluster_alone() => "the meshes of the cluster".to_owned(),
        // `auto`: where this is going to run there may be a cluster, or none.
        (true, true) => format!("{meshes}, or where a cluster is configured those that it has"),
        _ => meshes,
    };
    format!(
        "ok: {}, {meshes}, {}",
        counted(config.listeners.len(), "listener"),
        counted(resources.secrets.iter().count(), "Secret"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Overrides, Surroundings};

    /// What it says of a configuration without resources.
    fn told(kubernetes: Kubernetes, cluster_resources: bool) -> String {
        let overrides = Overrides { state_dir: Some("/s".into()), ..Overrides::default() };
        let config = Config::load(None, overrides, &Surroundings::default()).unwrap();
        let config = Config { kubernetes, cluster_resources, ..config };
        summary(&config, &app::check::resources(&config, kubernetes != Kubernetes::Off, &Clock::system()).resources)
    }

    #[test]
    fn a_ca_of_its_own_is_told_only_where_it_would_be_made() {
        let own = "ok: 2 listeners, 1 mesh (default: builtin CA)";
        assert_eq!(told(Kubernetes::Off, true), format!("{own}, 0 Secrets"));
        assert_eq!(told(Kubernetes::On, false), format!("{own}, 0 Secrets"));
        let auto = told(Kubernetes::Auto, true);
        assert_eq!(auto, format!("{own}, or where a cluster is configured those that it has, 0 Secrets"));
        assert_eq!(told(Kubernetes::On, true), "ok: 2 listeners, the meshes of the cluster, 0 Secrets");
    }
}
