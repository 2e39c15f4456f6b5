//! The alerting rules, by the real promtool, and what `docs/metrics.md` says of them.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::support::parts;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn promtool(arguments: &[&str]) -> String {
    let output = Command::new(parts::program("promtool"))
        .args(arguments)
        .current_dir(format!("{ROOT}/deploy"))
        .output()
        .expect("promtool starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    said
}

fn read(name: &str) -> String {
    fs::read_to_string(format!("{ROOT}/{name}")).expect("the file is there")
}

fn rules() -> Vec<Value> {
    let file: Value = serde_saphyr::from_str(&read("deploy/prometheus-rules.yaml")).expect("it is YAML");
    let rules = file["groups"].as_array().into_iter().flatten().flat_map(|group| group["rules"].as_array());
    rules.flatten().cloned().collect()
}

#[test]
fn promtool_finds_nothing_wrong_with_the_rules() {
    let said = promtool(&["check", "rules", "prometheus-rules.yaml"]);
    assert!(said.contains("SUCCESS"), "{said}");
}

/// For each alert what fires it and what does not is in `deploy/prometheus-rules.test.yaml`.
#[test]
fn alerts_fire_when_they_are_to() {
    let said = promtool(&["test", "rules", "prometheus-rules.test.yaml"]);
    assert!(said.contains("SUCCESS"), "{said}");
    let tests = read("deploy/prometheus-rules.test.yaml");
    for rule in rules() {
        let name = rule["alert"].as_str().unwrap_or_default();
        let of_it: Vec<_> = tests.split("alertname: ").filter(|test| test.lines().next() == Some(name)).collect();
        assert!(of_it.iter().any(|test| test.contains("exp_labels")), "{name}: nothing fires it in the tests");
        assert!(of_it.iter().any(|test| !test.contains("exp_labels")), "{name}: nothing leaves it silent in the tests");
    }
}

#[test]
fn every_alert_says_what_to_do_and_has_its_heading() {
    let page = read("docs/metrics.md");
    let headings: BTreeSet<&str> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let names: BTreeSet<String> =
        rules().iter().map(|rule| rule["alert"].as_str().unwrap_or_default().to_owned()).collect();
    assert_eq!(headings, names.iter().map(String::as_str).collect::<BTreeSet<_>>(), "headings and alerts");
    for rule in rules() {
        let name = rule["alert"].as_str().unwrap_or_default();
        assert_eq!(rule["annotations"]["runbook"], format!("docs/metrics.md#{}", name.to_lowercase()));
        assert!(["warning", "critical"].contains(&rule["labels"]["severity"].as_str().unwrap_or_default()), "{name}");
        for text in ["summary", "description"] {
            assert!(rule["annotations"][text].as_str().is_some_and(|text| !text.is_empty()), "{name} has no {text}");
        }
        let expr = rule["expr"].as_str().unwrap_or_default();
        let words = expr.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for metric in words.filter(|word| word.starts_with("envoy_sds_")) {
            let row = |end| page.contains(&format!("\n| `{metric}{end}"));
            assert!(row('`') || row('{'), "{name}: {metric} is not in docs/metrics.md");
        }
    }
}
