//! From what the configuration says to what the stages take: no stage knows the configuration.

use crate::config::{Endpoint, Kubernetes, Limits, Listener};
use crate::issue::schedule::REMEMBERED;
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
