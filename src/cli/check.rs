//! `envoy-sds check`: everything that is wrong, before anything is started.

use std::path::PathBuf;

use clap::Args;

use super::{Failure, ServerFlags, counted, output};
use crate::config::{Config, Kubernetes};
use crate::mesh::{LiveResources, Resources, Settings};
use crate::model::bundle::Bundle;
use crate::model::diagnostic::{Location, Problem};
use crate::model::policy::{Backend, BackendKind, CaSource, MeshPolicy};
use crate::runtime::clock::Clock;

/// Check configuration and resources: report all errors at once, with file, line and field
///
/// It needs no cluster, and takes one for available unless `kubernetes` is off. Exit code 64 if anything is wrong.
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
        // Without a file, the configuration is the embedded default, about which there is nothing to warn here.
        if self.flags.config.is_some() && problems.is_empty() {
            config.warnings().iter().for_each(|warning| output::error(format_args!("warning: {warning}")));
        }
        let settings = Settings {
            paths: config.resources.clone(),
            kubernetes_available: config.kubernetes != Kubernetes::Off,
            system_namespace: config.system_namespace.clone(),
            zone: config.zone.clone(),
        };
        let compiled = LiveResources::of_files(settings, clock.clone()).load();
        compiled.notices.iter().for_each(|notice| output::error(format_args!("notice: {notice}")));
        problems.extend(compiled.problems);
        problems.extend(ca_files(&compiled.resources, &clock));
        problems.extend(tls_files(&config));
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

/// TLS files are read when the server starts; that they are there should be known beforehand.
fn tls_files(config: &Config) -> Vec<Problem> {
    let files = config.listeners.iter().filter_map(|listener| listener.tls.as_ref());
    let files = files.flat_map(|tls| [Some(&tls.certificate), Some(&tls.private_key), tls.client_ca.as_ref()]);
    let check = |path: &PathBuf| {
        let error = std::fs::read(path).err()?;
        let at = Location { field: Some("listeners".to_owned()), ..Location::default() };
        Some(Problem { at, what: format!("{}: cannot be read: {error}", path.display()), hint: None })
    };
    files.flatten().filter_map(check).collect()
}

/// CA files are watched by the server and so are no part of the resources; but a missing one should be known beforehand.
fn ca_files(resources: &Resources, clock: &Clock) -> Vec<Problem> {
    let check = |mesh: &MeshPolicy, backend: &Backend| {
        let BackendKind::CertManager { trust: CaSource::File(path), .. } = &backend.kind else { return None };
        let what = match std::fs::read(path) {
            Ok(pem) => Bundle::from_pem(&pem, clock.now()).err()?.to_string(),
            Err(error) => format!("cannot be read: {error}"),
        };
        let at = Location {
            resource: Some(format!("Mesh {}", mesh.name)),
            field: Some(format!("caCert.file of backend {}", backend.name)),
            ..Location::default()
        };
        Some(Problem { at, what: format!("{}: {what}", path.display()), hint: None })
    };
    let meshes = resources.policies.meshes.values();
    meshes.flat_map(|mesh| mesh.backends.iter().filter_map(move |backend| check(mesh, backend))).collect()
}

fn summary(config: &Config, resources: &Resources) -> String {
    let mesh = |mesh: &MeshPolicy| {
        let signer = mesh.enabled().map_or(String::new(), |backend| match &backend.kind {
            BackendKind::Builtin(_) => "builtin CA".to_owned(),
            BackendKind::CertManager { issuer, .. } => format!("cert-manager {} {}", issuer.kind, issuer.name),
            BackendKind::Provided(_) => "provided CA".to_owned(),
            BackendKind::NotInProgram(name) => format!("{name} (not in the program yet)"),
        });
        format!("{}: {signer}", mesh.name)
    };
    let meshes: Vec<_> = resources.policies.meshes.values().map(|policy| mesh(policy)).collect();
    let names = if meshes.is_empty() { String::new() } else { format!(" ({})", meshes.join(", ")) };
    format!(
        "ok: {}, {}{names}, {}",
        counted(config.listeners.len(), "listener"),
        counted(meshes.len(), "mesh"),
        counted(resources.secrets.iter().count(), "Secret"),
    )
}
