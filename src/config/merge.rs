//! File, flags and defaults become one configuration, and what no single field can show is checked.

use std::iter;

use super::endpoint::{Endpoint, HostPort};
use super::file::File;
use super::{Config, DEFAULT_SYSTEM_NAMESPACE, Kubernetes, Listener, Overrides, Surroundings, defaults};
use crate::model::diagnostic::{Location, Problem};

/// Puts `overrides` on what `file` says (`None`: there is none), and defaults under both and under what is broken.
pub(super) fn merge(
    file: Option<(File, Vec<Problem>)>,
    overrides: Overrides,
    surroundings: &Surroundings,
) -> (Config, Vec<Problem>) {
    let (file, mut problems) =
        file.unwrap_or_else(|| (File { identify: defaults::identify(), ..File::default() }, Vec::new()));
    let flag = |name: &str| Location { field: Some(name.to_owned()), ..Location::default() };

    let state_dir = overrides.state_dir.or(file.state_dir).or_else(|| surroundings.state_dir()).unwrap_or_else(|| {
        let what = "neither it, nor XDG_STATE_HOME, nor HOME is set".to_owned();
        let hint = Some("say where keys are to be kept: stateDir, or --state-dir".to_owned());
        problems.push(Problem { at: flag("stateDir"), what, hint });
        std::path::PathBuf::default()
    });
    let listeners: Vec<(Listener, Location)> = match (overrides.listen, file.listeners) {
        (flags, Some(listeners)) if flags.is_empty() => listeners,
        (flags, None) if flags.is_empty() => {
            defaults::listeners(&state_dir).into_iter().map(|listener| (listener, flag("listeners"))).collect()
        }
        (flags, _) => flags.into_iter().map(|at| (Listener::plain(at), flag("--listen"))).collect(),
    };
    let (admin, admin_at) = overrides
        .admin
        .map(|admin| (admin, flag("--admin")))
        .or(file.admin.address)
        .unwrap_or_else(|| (defaults::admin(), flag("admin.address")));
    let system_namespace =
        overrides.system_namespace.map(|name| (name, flag("--system-namespace"))).or(file.system_namespace);
    let zone = overrides.zone.map(|zone| (zone, flag("--zone"))).or(file.zone);
    let kubernetes = overrides.kubernetes.unwrap_or(file.kubernetes);
    let mut identify = file.identify;
    identify.insecure_node_id |= overrides.insecure_node_id;

    let metrics = file.admin.metrics_address;
    let others = iter::once((&admin, &admin_at)).chain(metrics.iter().map(|(address, at)| (address, at)));
    problems.extend(clashes(&listeners, others));
    problems.extend(system_namespace.as_ref().and_then(|(name, at)| check_namespace(name, at)));
    problems.extend(zone.as_ref().and_then(|(zone, at)| check_zone(zone, at)));
    if let Some(at) = file.places.client_certificate
        && !listeners.iter().any(|(listener, _)| listener.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some()))
    {
        let what = "no listener asks for client certificates".to_owned();
        problems.push(Problem { at, what, hint: Some("give one of them tls.clientCa".to_owned()) });
    }
    if let Some(at) = file.places.unix_peer.clone()
        && identify.asks_for_pods()
        && kubernetes == Kubernetes::Off
    {
        let what = "a rule asks for the pod behind a peer, and Kubernetes is turned off".to_owned();
        problems.push(Problem { at, what, hint: Some("leave kubernetes: off out, or name the proxy".to_owned()) });
    }
    if let Some(at) = file.places.unix_peer
        && !listeners.iter().any(|(listener, _)| matches!(listener.at, Endpoint::Unix(_)))
    {
        problems.push(Problem { at, what: "no listener is a unix socket".to_owned(), hint: None });
    }

    problems.sort();
    let config = Config {
        listeners: listeners.into_iter().map(|(listener, _)| listener).collect(),
        admin,
        admin_host_names: file.admin.host_names,
        metrics: metrics.map(|(address, _)| address),
        resources: if overrides.resources.is_empty() { file.resources } else { overrides.resources },
        state_dir,
        system_namespace: system_namespace.map_or_else(|| DEFAULT_SYSTEM_NAMESPACE.to_owned(), |(name, _)| name),
        zone: zone.map(|(zone, _)| zone).unwrap_or_default(),
        kubernetes,
        cluster_resources: file.cluster_resources.unwrap_or(true),
        kubeconfig: overrides.kubeconfig,
        identify,
        membership: file.membership,
        naming: file.naming,
        limits: file.limits,
        ads: file.ads,
    };
    (config, problems)
}

/// Addresses that are there twice. Port 0 never clashes.
fn clashes<'a>(
    listeners: &'a [(Listener, Location)],
    others: impl Iterator<Item = (&'a HostPort, &'a Location)>,
) -> Vec<Problem> {
    let listeners = listeners.iter().map(|(listener, location)| (listener.at.clone(), location));
    let others = others.map(|(address, location)| (Endpoint::Tcp(address.clone()), location));
    let mut seen: Vec<Endpoint> = Vec::new();
    let mut problems = Vec::new();
    for (at, location) in listeners.chain(others) {
        if seen.contains(&at) && !matches!(at, Endpoint::Tcp(HostPort { port: 0, .. })) {
            let what = format!("{at} is there twice");
            problems.push(Problem { at: location.clone(), what, hint: None });
        }
        seen.push(at);
    }
    problems
}

/// A namespace is a DNS label (RFC 1123).
fn check_namespace(name: &str, at: &Location) -> Option<Problem> {
    let usable = (1..=63).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    let what = "is not the name of a Kubernetes namespace: lower-case letters, digits and -, at most 63".to_owned();
    (!usable).then(|| Problem { at: at.clone(), what, hint: None })
}

/// A zone becomes the value of a Kubernetes label.
fn check_zone(zone: &str, at: &Location) -> Option<Problem> {
    let edge = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    let usable = zone.len() <= 63
        && zone.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
        && edge(zone.chars().next())
        && edge(zone.chars().next_back());
    let what = "does not fit a Kubernetes label: letters, digits, -, _ and ., at most 63".to_owned();
    (!usable).then(|| Problem { at: at.clone(), what, hint: None })
}
