//! Proxies as one JSON document, with the field names of the API's own JSON form. What there is not is left out.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::admin::proto::v1;
use crate::model::text::is_unsafe;

/// The document. Text of a proxy's choice cannot do anything to a terminal that it is shown on.
///
/// # Errors
/// None that is known of.
pub(super) fn document(proxies: &[v1::Proxy]) -> Result<String, serde_json::Error> {
    let proxies: Vec<Value> = proxies.iter().map(proxy).collect();
    pretty(&json!({ "proxies": proxies }))
}

/// A document for programs that people may look at.
pub(super) fn pretty(document: &Value) -> Result<String, serde_json::Error> {
    let text = serde_json::to_string_pretty(document)?;
    // JSON leaves some control characters as they are; they are inside of strings only.
    let escaped = |c: char| match c {
        '\n' => "\n".to_owned(),
        c if is_unsafe(c) => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    };
    Ok(text.chars().map(escaped).collect())
}

/// An object without its empty fields.
pub(super) fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let is_there = |value: &Value| match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Number(number) => number.as_u64() != Some(0),
        Value::Bool(_) | Value::Object(_) => true,
    };
    let fields = fields.into_iter().filter(|(_, value)| is_there(value));
    Value::Object(fields.map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
}

fn optional<T>(part: Option<&T>, value: impl Fn(&T) -> Value) -> Value {
    part.map_or(Value::Null, value)
}

fn list<T>(items: &[T], value: impl Fn(&T) -> Value) -> Value {
    Value::Array(items.iter().map(value).collect())
}

pub(super) fn time(time: Option<&prost_types::Timestamp>) -> Value {
    text(rfc_3339(time))
}

pub(super) fn text(text: impl Serialize) -> Value {
    json!(text)
}

/// RFC 3339 in UTC; empty for none.
pub(super) fn rfc_3339(time: Option<&prost_types::Timestamp>) -> String {
    let time = time.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok());
    time.map(|time| time.to_string()).unwrap_or_default()
}

fn proxy(proxy: &v1::Proxy) -> Value {
    object([
        ("mesh", text(&proxy.mesh)),
        ("name", text(&proxy.name)),
        ("nameIsProven", text(proxy.name_is_proven)),
        ("spiffeId", text(&proxy.spiffe_id)),
        ("workload", optional(proxy.workload.as_ref(), workload)),
        ("certificate", optional(proxy.certificate.as_ref(), certificate)),
        ("nextAttempt", time(proxy.next_attempt.as_ref())),
        ("lastError", text(&proxy.last_error)),
        ("streams", list(&proxy.streams, stream)),
        ("streamsOmitted", text(proxy.streams_omitted)),
    ])
}

fn workload(workload: &v1::Workload) -> Value {
    object([
        ("name", text(&workload.name)),
        ("namespace", text(&workload.namespace)),
        ("serviceAccount", text(&workload.service_account)),
        ("pod", text(&workload.pod)),
    ])
}

fn certificate(certificate: &v1::Certificate) -> Value {
    object([
        ("serial", text(&certificate.serial)),
        ("issuer", text(&certificate.issuer)),
        ("notBefore", time(certificate.not_before.as_ref())),
        ("notAfter", time(certificate.not_after.as_ref())),
        ("heldByProxyOnly", text(certificate.held_by_proxy_only)),
    ])
}

fn stream(stream: &v1::Stream) -> Value {
    object([
        ("protocol", text(&stream.protocol)),
        ("peer", text(&stream.peer)),
        ("nodeId", text(&stream.node_id)),
        ("nodeCluster", text(&stream.node_cluster)),
        ("opened", time(stream.opened.as_ref())),
        ("proof", optional(stream.proof.as_ref(), proof)),
        ("subscriptions", list(&stream.subscriptions, subscription)),
    ])
}

fn proof(proof: &v1::Proof) -> Value {
    object([("method", text(&proof.method)), ("validUntil", time(proof.valid_until.as_ref()))])
}

fn subscription(subscription: &v1::Subscription) -> Value {
    let event =
        |event: &v1::VersionEvent| object([("version", text(&event.version)), ("time", time(event.time.as_ref()))]);
    let kind = match subscription.kind() {
        v1::SecretKind::Unspecified => "",
        kind => short(kind.as_str_name(), "SECRET_KIND_"),
    };
    object([
        ("name", text(&subscription.name)),
        ("kind", text(kind)),
        ("state", text(state(subscription))),
        ("sent", optional(subscription.sent.as_ref(), event)),
        ("acked", optional(subscription.acked.as_ref(), event)),
        ("nacked", optional(subscription.nacked.as_ref(), rejection)),
        ("heldVersion", text(&subscription.held_version)),
    ])
}

fn rejection(rejection: &v1::Rejection) -> Value {
    object([
        ("version", text(&rejection.version)),
        ("time", time(rejection.time.as_ref())),
        ("reason", text(&rejection.reason)),
    ])
}

/// How far it is: `ACKED`, `PENDING`, …
pub(super) fn state(subscription: &v1::Subscription) -> &'static str {
    short(subscription.state().as_str_name(), "SUBSCRIPTION_STATE_")
}

fn short(name: &'static str, prefix: &str) -> &'static str {
    name.strip_prefix(prefix).unwrap_or(name)
}
