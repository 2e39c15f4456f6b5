//! Whom a server has refused, as a table for people and as JSON for programs.

use serde_json::{Value, json};

use super::proxy_json::{object, pretty, text, time};
use super::table::Shown::{Full, Short, Wide};
use super::table::{self, Column, seconds};
use crate::admin::proto::v1;

const COLUMNS: &[Column<v1::Refusal>] = &[
    ("LAST", |refusal| seconds(refusal.last.as_ref()), Short),
    ("FIRST", |refusal| seconds(refusal.first.as_ref()), Wide),
    ("TIMES", |refusal| refusal.count.to_string(), Short),
    ("PEER", |refusal| refusal.peer.clone(), Short),
    ("NODE", |refusal| refusal.node_id.clone(), Short),
    ("PROOF", |refusal| refusal.method.clone(), Short),
    // In full: it is what one came for.
    ("REASON", |refusal| refusal.reason.clone(), Full),
];

/// The table, with a line for each.
pub(super) fn table(refusals: &[v1::Refusal], wide: bool) -> String {
    table::of(refusals, COLUMNS, wide)
}

/// The document, with the field names of the API's own JSON form.
///
/// # Errors
/// None that is known of.
pub(super) fn document(refusals: &[v1::Refusal]) -> Result<String, serde_json::Error> {
    let refusals: Vec<Value> = refusals.iter().map(refusal).collect();
    pretty(&json!({ "refusals": refusals }))
}

fn refusal(refusal: &v1::Refusal) -> Value {
    object([
        ("peer", text(&refusal.peer)),
        ("nodeId", text(&refusal.node_id)),
        ("method", text(&refusal.method)),
        ("reason", text(&refusal.reason)),
        ("count", text(refusal.count)),
        ("first", time(refusal.first.as_ref())),
        ("last", time(refusal.last.as_ref())),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::text::is_unsafe;

    fn refused(node_id: &str, reason: &str) -> v1::Refusal {
        let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 5_000_000 });
        v1::Refusal {
            peer: "192.0.2.1".to_owned(),
            node_id: node_id.to_owned(),
            method: "proxyToken".to_owned(),
            reason: reason.to_owned(),
            count: 12,
            first: time(1_800_000_000),
            last: time(1_800_000_060),
        }
    }

    #[test]
    fn a_refusal_is_a_line_with_the_whole_reason() {
        let long = format!("not allowed: {}", "because ".repeat(20).trim_end());
        let unknown = v1::Refusal { node_id: String::new(), method: String::new(), ..refused("", &long) };
        let expected = format!(
            "\
LAST                   TIMES   PEER        NODE    PROOF        REASON
2027-01-15T08:01:00Z   12      192.0.2.1   web-0   proxyToken   expired
2027-01-15T08:01:00Z   12      192.0.2.1   -       -            {long}
"
        );
        assert_eq!(table(&[refused("web-0", "expired"), unknown], false), expected);
        assert!(table(&[refused("web-0", "expired")], true).contains("2027-01-15T08:00:00Z"));
    }

    #[test]
    fn json_has_the_names_of_the_api() {
        let read: Value = serde_json::from_str(&document(&[refused("web-0", "expired")]).unwrap()).unwrap();
        let expected = json!({"refusals": [{
            "peer": "192.0.2.1",
            "nodeId": "web-0",
            "method": "proxyToken",
            "reason": "expired",
            "count": 12,
            "first": "2027-01-15T08:00:00.005Z",
            "last": "2027-01-15T08:01:00.005Z",
        }]});
        assert_eq!(read, expected);
    }

    #[test]
    fn no_peer_can_write_to_the_terminal() {
        let evil = "\u{1b}[2J\u{9b}31m\u{202e}\r\n\u{7f}evil";
        let refusals = [refused(evil, evil)];
        for text in [table(&refusals, false), table(&refusals, true), document(&refusals).unwrap()] {
            assert!(text.contains("evil") && text.chars().all(|c| c == '\n' || !is_unsafe(c)), "{text:?}");
        }
    }
}
