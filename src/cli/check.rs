//! `envoy-sds check`: everything that is wrong, before anything is started.

use std::path::PathBuf;

use clap::Args;

use super::{Failure, ServerFlags, counted, output};
use crate::config::{Config, Kubernetes};
use crate::mesh::{LiveResources, Resources, Settings};
use crate::model::bundle::Bundle;
use crate::model::ca_pair::{CaChain, CaKey, CaPairError};
use crate::model::diagnostic::{Location, Problem};
use crate::model::policy::{Backend, BackendKind, CaSource, DataSource, MeshPolicy, ProvidedCa};
use crate::model::secrets::SecretBytes;
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
        let meshes = &compiled.resources.policies.meshes;
        for (field, mesh) in config.membership.unknown(|mesh| meshes.contains_key(mesh)) {
            output::error(format_args!("warning: {field}: there is no mesh {mesh:?}"));
        }
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
    let files = files.flat_map(|tls| {
        [Some(&tls.certificate), Some(&tls.private_key), tls.client_ca.as_ref(), tls.client_crl.as_ref()]
    });
    let check = |path: &PathBuf| {
        let error = std::fs::read(path).err()?;
        let at = Location { field: Some("listeners".to_owned()), ..Location::default() };
        Some(Problem { at, what: format!("{}: cannot be read: {error}", path.display()), hint: None })
    };
    files.flatten().filter_map(check).collect()
}

/// CA files are watched by the server and so are no part of the resources; but a missing one should be known beforehand.
fn ca_files(resources: &Resources, clock: &Clock) -> Vec<Problem> {
    let now = clock.now();
    let check = |backend: &Backend| match &backend.kind {
        BackendKind::CertManager { trust: CaSource::File(path), .. } => {
            let what = match std::fs::read(path) {
                Ok(pem) => Bundle::from_pem(&pem, now).err().map(|error| error.to_string()),
                Err(error) => Some(format!("cannot be read: {error}")),
            };
            what.map(|what| vec![("caCert.file", format!("{}: {what}", path.display()), None)]).unwrap_or_default()
        }
        BackendKind::Provided(ca) => provided(ca, now),
        _ => Vec::new(),
    };
    let mut problems = Vec::new();
    for mesh in resources.policies.meshes.values() {
        for backend in &mesh.backends {
            problems.extend(check(backend).into_iter().map(|(field, what, hint)| {
                let at = Location {
                    resource: Some(format!("Mesh {}", mesh.name)),
                    field: Some(format!("{field} of backend {}", backend.name)),
                    ..Location::default()
                };
                Problem { at, what, hint }
            }));
        }
    }
    problems
}

/// What is wrong with the files of a provided CA: the field, what, and a hint.
fn provided(ca: &ProvidedCa, now: jiff::Timestamp) -> Vec<(&'static str, String, Option<String>)> {
    let mut problems = Vec::new();
    // What is inline was checked with the resource. Secrets and variables are the server's.
    let mut read = |field, source: &DataSource| match source {
        DataSource::Inline(content) => Some((String::new(), content.clone())),
        DataSource::File(path) => match std::fs::read(path) {
            Ok(content) => Some((format!("{}: ", path.display()), SecretBytes::new(content))),
            Err(error) => {
                problems.push((field, format!("{}: cannot be read: {error}", path.display()), None));
                None
            }
        },
        DataSource::Secret(_) | DataSource::EnvVar(_) => None,
    };
    let (certificate, key) = (read("certificate", &ca.certificate), read("key", &ca.private_key));
    let mut tell = |field, file: &str, error: CaPairError| {
        problems.push((field, format!("{file}{error}"), error.hint().map(str::to_owned)));
    };
    let chain = certificate.and_then(|(file, content)| {
        let chain = CaChain::from_pem(content.expose(), ca.allow_self_signed, now);
        chain.map_err(|error| tell("certificate", &file, error)).ok()
    });
    if let Some((file, content)) = key {
        let checked = CaKey::from_pem(content.expose())
            .and_then(|key| chain.map_or(Ok(()), |chain| key.check_belongs_to(&chain)));
        if let Err(error) = checked {
            tell("key", &file, error);
        }
    }
    problems
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
    format!(
        "ok: {}, {}{names}, {}",
        counted(config.listeners.len(), "listener"),
        counted(meshes.len(), "mesh"),
        counted(resources.secrets.iter().count(), "Secret"),
    )
}
