use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// Decodes a fixed shape and gives the problems in text.
fn check(text: &str) -> Vec<String> {
    let documents = match parse(text) {
        Ok(documents) => documents,
        Err(errors) => return errors.iter().map(ToString::to_string).collect(),
    };
    let report = Report::new(Some(Arc::new("f.yaml".into())));
    for document in &documents {
        decode(&report.root(document));
    }
    report.finish().0.iter().map(ToString::to_string).collect()
}

fn decode(root: &Field<'_>) -> Option<()> {
    let fields = root.map()?;
    let _ = fields.required("name").and_then(|field| field.name());
    let _ = fields.optional("port").and_then(|field| field.integer(0..=65535));
    let hour = Duration::from_secs(3600);
    let _ = fields.optional("every").and_then(|field| field.duration(Duration::from_secs(1)..=hour));
    let _ = fields.optional("mode").and_then(|field| field.one_of(&[("auto", 1), ("off", 2)]));
    let _ = fields.optional("strict").and_then(|field| field.boolean());
    for item in fields.optional("items").and_then(|field| field.list()).into_iter().flatten() {
        let Some(item) = item.map() else { continue };
        let _ = item.required("key").and_then(|field| field.text());
        item.refuse_others();
    }
    fields.refuse_others();
    Some(())
}

#[test]
fn says_everything_at_once() {
    for (text, expected) in [
        ("name: a\nport: 5678\nevery: 10s\nmode: off\nstrict: true\nitems: [{key: x}]", &[][..]),
        ("port: 1", &["f.yaml:1: name: is missing"]),
        ("name:", &["f.yaml:1: name: is missing"]),
        ("name: 1.10", &["f.yaml:1: name: expected text, found a number (put it in quotes)"]),
        (
            "name: ''\nport: 70000\nevery: 10\nmode: ofs\n",
            &[
                "f.yaml:1: name: must not be empty",
                "f.yaml:2: port: must be a whole number from 0 to 65535",
                "f.yaml:3: every: \"10\" has no unit (such as 10s, 24h, 1h30m or 30d)",
                "f.yaml:4: mode: \"ofs\" is not one of auto, off (did you mean off?)",
            ],
        ),
        ("name: a\nevery: 2h", &["f.yaml:2: every: 2h is out of bounds; it must be from 1s to 1h"]),
        (
            "name: a\nitems:\n- key: b\n- Key: c",
            &["f.yaml:4: items[1].key: is missing", "f.yaml:4: items[1]: unknown field \"Key\" (did you mean key?)"],
        ),
        (
            "name: a\nstrict: maybe\nitems: x",
            &["f.yaml:2: strict: expected true or false, found text", "f.yaml:3: items: expected a list, found text"],
        ),
        ("[1]", &["f.yaml:1: expected a map, found a list"]),
    ] {
        assert_eq!(check(text), expected, "{text}");
    }
}

#[test]
fn an_object_from_the_cluster_has_no_lines() {
    let node = Node::from(serde_json::json!({"name": 1}));
    let report = Report::new(None);
    report.about("Mesh default (cluster)");
    decode(&report.root(&node));
    let problems = report.finish().0;
    assert_eq!(
        problems[0].to_string(),
        "Mesh default (cluster): name: expected text, found a number (put it in quotes)"
    );
}

#[test]
fn long_text_and_pem_are_not_quoted() {
    let problems =
        check("name: a\nmode: -----BEGIN PRIVATE KEY-----\nevery: MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQ");
    assert!(problems.iter().all(|problem| !problem.contains("MIGH") && !problem.contains("BEGIN")), "{problems:?}");
}

proptest! {
    #[test]
    fn arbitrary_documents_never_panic(text in "((name|port|every|mode|items|strict|key): |[0-9a-z~\"'-]{1,4}|\n|  |- |\\[|\\]|\\{|\\}|,){0,40}") {
        let _ = check(&text);
    }
}
