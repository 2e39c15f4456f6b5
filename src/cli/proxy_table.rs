//! Proxies as a table for people.

use std::collections::BTreeSet;

use super::proxy_json::state;
use super::table::Shown::{Short, Wide};
use super::table::{self, Column, seconds};
use crate::admin::proto::v1;

const COLUMNS: &[Column<v1::Proxy>] = &[
    ("MESH", |proxy| proxy.mesh.clone(), Short),
    ("PROXY", |proxy| proxy.name.clone(), Short),
    ("SPIFFE ID", |proxy| proxy.spiffe_id.clone(), Short),
    ("PROOF", proofs, Short),
    ("PROVEN UNTIL", proven_until, Wide),
    ("NODE", |proxy| distinct(proxy, |stream| stream.node_id.clone()), Wide),
    ("PEER", |proxy| distinct(proxy, |stream| stream.peer.clone()), Wide),
    ("STREAMS", streams, Short),
    ("SECRETS", |proxy| subscriptions(proxy, false), Short),
    ("VERSIONS", |proxy| subscriptions(proxy, true), Wide),
    ("SERIAL", serial, Short),
    ("ISSUER", |proxy| proxy.certificate.as_ref().map(|leaf| leaf.issuer.clone()).unwrap_or_default(), Wide),
    ("EXPIRES", |proxy| seconds(proxy.certificate.as_ref().and_then(|leaf| leaf.not_after.as_ref())), Short),
    ("RENEWAL", |proxy| seconds(proxy.next_attempt.as_ref()), Short),
    ("ERROR", errors, Short),
];

/// The table, with a line for each proxy.
pub(super) fn table(proxies: &[v1::Proxy], wide: bool) -> String {
    table::of(proxies, COLUMNS, wide)
}

/// What is said by at least one stream, once.
fn distinct(proxy: &v1::Proxy, text: impl Fn(&v1::Stream) -> String) -> String {
    let texts: BTreeSet<String> = proxy.streams.iter().map(text).collect();
    texts.into_iter().collect::<Vec<_>>().join(", ")
}

fn proofs(proxy: &v1::Proxy) -> String {
    distinct(proxy, |stream| stream.proof.as_ref().map(|proof| proof.method.clone()).unwrap_or_default())
}

fn proven_until(proxy: &v1::Proxy) -> String {
    distinct(proxy, |stream| seconds(stream.proof.as_ref().and_then(|proof| proof.valid_until.as_ref())))
}

/// `2 sotw`, `1 delta, 1 sotw`.
fn streams(proxy: &v1::Proxy) -> String {
    let protocols: BTreeSet<&str> = proxy.streams.iter().map(|stream| stream.protocol.as_str()).collect();
    let count = |protocol: &str| proxy.streams.iter().filter(|stream| stream.protocol == protocol).count();
    let mut texts: Vec<String> =
        protocols.into_iter().map(|protocol| format!("{} {protocol}", count(protocol))).collect();
    if proxy.streams_omitted > 0 {
        texts.push(format!("{} more", proxy.streams_omitted));
    }
    texts.join(", ")
}

/// `ROOTCA ACKED, default ACKED`: by name, each once, however many streams there are.
fn subscriptions(proxy: &v1::Proxy, with_versions: bool) -> String {
    let text = |subscription: &v1::Subscription| {
        let sent = subscription.sent.as_ref().map_or(subscription.held_version.as_str(), |sent| &sent.version);
        match (with_versions, sent) {
            (false, _) => Some(format!("{} {}", subscription.name, state(subscription))),
            (true, "") => None,
            (true, sent) => Some(format!("{} {sent}", subscription.name)),
        }
    };
    let texts: BTreeSet<String> =
        proxy.streams.iter().flat_map(|stream| &stream.subscriptions).filter_map(text).collect();
    texts.into_iter().collect::<Vec<_>>().join(", ")
}

fn serial(proxy: &v1::Proxy) -> String {
    match &proxy.certificate {
        None => String::new(),
        Some(leaf) if leaf.held_by_proxy_only => "(held by the proxy)".to_owned(),
        Some(leaf) => leaf.serial.clone(),
    }
}

/// Why there is no new certificate, and why secrets were rejected.
fn errors(proxy: &v1::Proxy) -> String {
    let rejections = proxy.streams.iter().flat_map(|stream| &stream.subscriptions).filter_map(|subscription| {
        let rejection = subscription.nacked.as_ref()?;
        Some(format!("{} rejected: {}", subscription.name, rejection.reason))
    });
    let issuance = Some(proxy.last_error.clone()).filter(|error| !error.is_empty());
    issuance.into_iter().chain(rejections).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
#[path = "proxies_tests.rs"]
mod tests;
