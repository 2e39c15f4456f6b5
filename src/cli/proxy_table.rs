//! Proxies as a table for people.

use std::collections::BTreeSet;

use super::proxy_json::{rfc_3339, state};
use crate::admin::proto::v1;
use crate::admin::text::escaped;

/// How much of a long text a narrow table shows.
const SHOWN: usize = 60;

/// A column: its head, what is in it, and whether only the wide table has it.
type Column = (&'static str, fn(&v1::Proxy) -> String, bool);

const COLUMNS: &[Column] = &[
    ("MESH", |proxy| proxy.mesh.clone(), false),
    ("PROXY", |proxy| proxy.name.clone(), false),
    ("SPIFFE ID", |proxy| proxy.spiffe_id.clone(), false),
    ("PROOF", proofs, false),
    ("PROVEN UNTIL", proven_until, true),
    ("NODE", |proxy| distinct(proxy, |stream| stream.node_id.clone()), true),
    ("PEER", |proxy| distinct(proxy, |stream| stream.peer.clone()), true),
    ("STREAMS", streams, false),
    ("SECRETS", |proxy| subscriptions(proxy, false), false),
    ("VERSIONS", |proxy| subscriptions(proxy, true), true),
    ("SERIAL", serial, false),
    ("ISSUER", |proxy| proxy.certificate.as_ref().map(|leaf| leaf.issuer.clone()).unwrap_or_default(), true),
    ("EXPIRES", |proxy| seconds(proxy.certificate.as_ref().and_then(|leaf| leaf.not_after.as_ref())), false),
    ("RENEWAL", |proxy| seconds(proxy.next_attempt.as_ref()), false),
    ("ERROR", errors, false),
];

/// The table, with a line for each proxy. A cell is on one line and cannot do anything to the terminal.
pub(super) fn table(proxies: &[v1::Proxy], wide: bool) -> String {
    let columns: Vec<&Column> = COLUMNS.iter().filter(|(.., only_wide)| wide || !only_wide).collect();
    let limit = if wide { usize::MAX } else { SHOWN };
    let mut rows = vec![columns.iter().map(|(head, ..)| (*head).to_owned()).collect::<Vec<_>>()];
    rows.extend(proxies.iter().map(|proxy| columns.iter().map(|(_, text, _)| cell(&text(proxy), limit)).collect()));
    let mut widths = vec![0; columns.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut table = String::new();
    for row in rows {
        let line: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        table.push_str(line.join("   ").trim_end());
        table.push('\n');
    }
    table
}

/// A text in a cell: escaped, shortened, `-` if there is none.
fn cell(text: &str, limit: usize) -> String {
    let text = escaped(text);
    match text.char_indices().nth(limit) {
        _ if text.is_empty() => "-".to_owned(),
        None => text,
        Some(_) => text.chars().take(limit - 1).chain(['…']).collect(),
    }
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

/// To the second.
fn seconds(time: Option<&prost_types::Timestamp>) -> String {
    rfc_3339(time.map(|time| prost_types::Timestamp { nanos: 0, ..*time }).as_ref())
}

#[cfg(test)]
#[path = "proxies_tests.rs"]
mod tests;
