//! From what the configuration says to what the stages take: no stage knows the configuration.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

use crate::config::{Endpoint, Kubernetes, Limits, Listener, Membership, ProxyToken, Revocations};
use crate::identify::membership::{AllowRule, Rules, ServiceAccount};
use crate::identify::proxy_token::{self, KEY_FOLDER, KeySource, RevocationSource};
use crate::issue::schedule::REMEMBERED;
use crate::model::secrets::KnownSecrets;
use crate::runtime::cluster;
use crate::serve::{StreamLimits, listen};

pub(super) fn kubernetes(mode: Kubernetes) -> cluster::Mode {
    match mode {
        Kubernetes::Auto => cluster::Mode::Auto,
        Kubernetes::On => cluster::Mode::On,
        Kubernetes::Off => cluster::Mode::Off,
    }
}

pub(super) fn listeners(listeners: &[Listener]) -> Vec<listen::ListenerSettings> {
    let of = |listener: &Listener| listen::ListenerSettings {
        endpoint: match &listener.at {
            Endpoint::Tcp(address) => listen::Endpoint::Tcp(address.to_string()),
            Endpoint::Unix(path) => listen::Endpoint::Unix { path: path.clone(), mode: listener.mode },
        },
        tls: listener.tls.as_ref().map(|tls| listen::TlsFiles {
            certificate: tls.certificate.clone(),
            private_key: tls.private_key.clone(),
            client_ca: tls.client_ca.clone(),
            client_crl: tls.client_crl.clone(),
        }),
    };
    listeners.iter().map(of).collect()
}

pub(super) fn stream_limits(limits: &Limits) -> StreamLimits {
    StreamLimits {
        streams: limits.streams,
        per_proxy: limits.streams_per_proxy,
        per_identity: limits.streams_per_identity,
        remembered: REMEMBERED.unsigned_abs(),
        new_per_second: limits.new_streams_per_second,
        names: limits.names_per_stream,
    }
}

pub(super) fn rules(membership: &Membership) -> Rules {
    let rule = |rule: &crate::config::AllowRule| AllowRule {
        mesh: rule.mesh.as_str().into(),
        namespaces: rule.namespaces.iter().map(|name| name.as_str().into()).collect(),
        service_accounts: rule
            .service_accounts
            .iter()
            .map(|account| ServiceAccount {
                namespace: account.namespace.as_deref().map(Into::into),
                name: account.name.as_str().into(),
            })
            .collect(),
        workloads: rule.workloads.iter().map(|name| name.as_str().into()).collect(),
        labels: rule.labels.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect(),
    };
    Rules { default: membership.default.as_deref().map(Into::into), allow: membership.allow.iter().map(rule).collect() }
}

pub(super) fn proxy_tokens(
    method: &ProxyToken,
    state_dir: &Path,
    secrets: watch::Receiver<Arc<KnownSecrets>>,
) -> proxy_token::Settings {
    let keys = match method.public_keys.as_slice() {
        [] => KeySource::Folder(state_dir.join(KEY_FOLDER)),
        keys => KeySource::Files(keys.iter().map(|key| (key.kid.clone(), key.file.clone())).collect()),
    };
    let revocations = method.revocations.clone().map(|revocations| match revocations {
        Revocations::File(file) => RevocationSource::File(file),
        Revocations::Secret(name) => RevocationSource::Secret { name, secrets },
    });
    proxy_token::Settings { keys, audiences: method.audiences.clone(), revocations }
}
