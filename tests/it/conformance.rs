//! Holds `docs/conformance.md` to the code: what the protocol demands is all in there, each demand that must be met has a
//! test with its number in its name, and each test that it names is one that `cargo test` runs. A test that has a demand's
//! number in its own name is listed there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

mod sources;

/// How many items there are.
const ITEMS: u32 = 107;
const LEVELS: [&str; 5] = ["MUST", "MUST NOT", "SHOULD", "SHOULD NOT", "MAY"];
/// What a row says that has no test, before the reason.
const NOT_DONE: &str = "not done:";

/// A row of the table.
#[derive(Debug)]
struct Item {
    number: u32,
    level: String,
    summary: String,
    /// Paths of tests.
    tests: Vec<String>,
    /// What stands there beside them.
    remark: String,
}

#[test]
fn every_item_is_in_the_table_and_what_must_be_has_a_test_of_its_number() {
    let items = items();
    let numbers: Vec<u32> = items.iter().map(|item| item.number).collect();
    assert_eq!(numbers, (1..=ITEMS).collect::<Vec<_>>(), "all numbers, once and in order");
    let mut wrong = Vec::new();
    for Item { number, level, summary, tests, remark } in &items {
        if !LEVELS.contains(&level.as_str()) || summary.is_empty() {
            wrong.push(format!("{number}: {level:?} is none of {LEVELS:?}, or nothing is said of it"));
        }
        let may_lack = !level.starts_with("MUST") && remark.strip_prefix(NOT_DONE).is_some_and(|why| !why.is_empty());
        let is_named_so = |test: &String| numbers_in(test.rsplit("::").next().unwrap_or_default()).contains(number);
        if level.starts_with("MUST") && !tests.iter().any(is_named_so) {
            wrong.push(format!("{number} ({level}) has no test whose name says so (`item_{number}_…`): {summary}"));
        } else if tests.is_empty() && !may_lack {
            wrong.push(format!("{number} ({level}) has no test: {summary}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_test_in_the_table_exists() {
    let known = tests();
    let listed = |item: &Item| item.tests.iter().map(|test| (item.number, test.clone())).collect::<Vec<_>>();
    let missing: Vec<_> = items().iter().flat_map(listed).filter(|(_, test)| !known.contains(test)).collect();
    let line = |(number, test): &(u32, String)| format!("{number}: there is no {test}");
    assert!(missing.is_empty(), "{}", missing.iter().map(line).collect::<Vec<_>>().join("\n"));
}

#[test]
fn every_test_named_after_an_item_is_in_the_table() {
    let listed: BTreeMap<u32, Vec<String>> = items().into_iter().map(|item| (item.number, item.tests)).collect();
    let mut missing = Vec::new();
    for test in tests() {
        for number in numbers_in(test.rsplit("::").next().unwrap_or_default()) {
            if !listed.get(&number).is_some_and(|tests| tests.contains(&test)) {
                missing.push((number, test.clone()));
            }
        }
    }
    missing.sort();
    let line = |(number, test): &(u32, String)| format!("{number}: `{test}`");
    assert!(missing.is_empty(), "not listed:\n{}", missing.iter().map(line).collect::<Vec<_>>().join("\n"));
}

/// The numbers in `item_7_…`, `items_7_and_8_…` and `items_7_8_and_9_…`.
fn numbers_in(name: &str) -> Vec<u32> {
    let Some(rest) = name.strip_prefix("item_").or_else(|| name.strip_prefix("items_")) else { return Vec::new() };
    rest.split('_').filter(|part| *part != "and").map_while(|part| part.parse().ok()).collect()
}

#[test]
fn reads_numbers_in_names() {
    assert_eq!(numbers_in("item_5_a_callers_deadline"), [5]);
    assert_eq!(numbers_in("items_41_42_and_43_a_nack"), [41, 42, 43]);
    assert_eq!(numbers_in("items_7_and_8_the_node"), [7, 8]);
    assert_eq!(numbers_in("itemised_7"), [0_u32; 0]);
}

/// The rows of the table.
fn items() -> Vec<Item> {
    let path = root().join("docs/conformance.md");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let rows = text.lines().filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'));
    let items = rows.filter_map(|row| {
        let cells: Vec<&str> = row.split(" | ").map(str::trim).collect();
        let number = cells[0].parse().ok()?; // the head and the line below it have none
        let [_, level, summary, proof] = cells[..] else { panic!("four cells, with \" | \" between them: {row}") };
        // Every other part of a text with backticks is between two of them.
        let (mut tests, mut remark) = (Vec::new(), String::new());
        for (at, part) in proof.split('`').enumerate() {
            match at % 2 {
                1 if part.contains("::") => tests.push(part.to_owned()),
                _ => remark.push_str(part),
            }
        }
        let remark = remark.replace("<br>", " ").trim().to_owned();
        Some(Item { number, level: level.into(), summary: summary.into(), tests, remark })
    });
    items.collect()
}

/// The path of every test of the library and of this program that `cargo test` runs, as it prints it.
fn tests() -> BTreeSet<String> {
    ["src/lib.rs", "tests/it/main.rs"].iter().flat_map(|crate_root| sources::tests(&root().join(crate_root))).collect()
}

#[test]
fn what_is_read_from_the_sources_is_what_there_is_to_run() {
    let listed = |more: &[&str]| {
        let program = std::env::current_exe().expect("this program has a file");
        let output = Command::new(program).args(["--list", "--format=terse"]).args(more).output().expect("it runs");
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).expect("names are text");
        text.lines().filter_map(|line| Some(line.strip_suffix(": test")?.to_owned())).collect::<BTreeSet<_>>()
    };
    let ignored = listed(&["--ignored"]);
    let run: BTreeSet<_> = listed(&[]).difference(&ignored).cloned().collect();
    assert_eq!(sources::tests(&root().join("tests/it/main.rs")), run);
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}
