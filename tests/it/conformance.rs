//! Holds `docs/conformance.md` to the code: what the protocol demands is all in there, each demand that must be met has a
//! test, and each test that it names exists. A test that has a demand's number in its own name is listed there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

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
fn every_item_is_in_the_table_and_what_must_be_has_a_test() {
    let items = items();
    let numbers: Vec<u32> = items.iter().map(|item| item.number).collect();
    assert_eq!(numbers, (1..=ITEMS).collect::<Vec<_>>(), "all numbers, once and in order");
    let mut wrong = Vec::new();
    for Item { number, level, summary, tests, remark } in &items {
        if !LEVELS.contains(&level.as_str()) || summary.is_empty() {
            wrong.push(format!("{number}: {level:?} is none of {LEVELS:?}, or nothing is said of it"));
        }
        let may_lack = !level.starts_with("MUST") && remark.strip_prefix(NOT_DONE).is_some_and(|why| !why.is_empty());
        if tests.is_empty() && !may_lack {
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

/// The path of every test of the library and of this program, as cargo prints it.
fn tests() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for crate_root in ["src/lib.rs", "tests/it/main.rs"] {
        read_module(&root().join(crate_root), &[], true, &mut found);
    }
    assert!(found.contains("conformance::reads_numbers_in_names"), "this very test was not found");
    found
}

/// Adds the tests of a module's file and of the modules below it. The files are rustfmt's work, so a module in a file begins
/// with `mod NAME {` and ends with a `}` of the same indentation.
fn read_module(file: &Path, path: &[String], has_own_folder: bool, found: &mut BTreeSet<String>) {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let folder = file.parent().expect("a file is in a folder");
    let name = file.file_stem().and_then(|name| name.to_str()).expect("a module's name");
    let below = if has_own_folder || name == "mod" { folder.to_owned() } else { folder.join(name) };
    // The modules in this file that a line is in, each with its indentation.
    let mut inside: Vec<(usize, String)> = Vec::new();
    let (mut is_test, mut elsewhere) = (false, None);
    for line in text.lines() {
        let code = line.trim_start();
        let indentation = line.len() - code.len();
        if code == "}" && inside.last().is_some_and(|(of, _)| *of == indentation) {
            inside.pop();
        } else if code.starts_with("#[test]") || code.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some(path) = code.strip_prefix("#[path = \"").and_then(|rest| rest.strip_suffix("\"]")) {
            elsewhere = Some(path.to_owned());
        } else if let Some(declared) = module_in(code) {
            let at = |name: &str| path.iter().chain(inside.iter().map(|(_, name)| name)).cloned().chain([name.into()]);
            if let Some(name) = declared.strip_suffix(" {") {
                inside.push((indentation, name.to_owned()));
            } else if let Some(name) = declared.strip_suffix(';') {
                let nested = inside.iter().fold(below.clone(), |folder, (_, name)| folder.join(name));
                let (file, has_own_folder) = match elsewhere.take() {
                    Some(path) => (folder.join(path), true),
                    None if nested.join(format!("{name}.rs")).exists() => (nested.join(format!("{name}.rs")), false),
                    None => (nested.join(name).join("mod.rs"), true),
                };
                if file.exists() {
                    read_module(&file, &at(name).collect::<Vec<_>>(), has_own_folder, found);
                }
            }
        } else if let Some(name) = function_in(code).filter(|_| std::mem::take(&mut is_test)) {
            let modules = path.iter().chain(inside.iter().map(|(_, name)| name)).cloned();
            found.insert(modules.chain([name.to_owned()]).collect::<Vec<_>>().join("::"));
        }
    }
}

/// What follows `mod` in a line that declares a module.
fn module_in(code: &str) -> Option<&str> {
    let code =
        code.strip_prefix("pub ").or_else(|| Some(code.strip_prefix("pub(")?.split_once(") ")?.1)).unwrap_or(code);
    code.strip_prefix("mod ")
}

/// The name of the function that a line begins.
fn function_in(code: &str) -> Option<&str> {
    let code = code.strip_prefix("async ").unwrap_or(code);
    code.strip_prefix("fn ")?.split(['(', '<']).next()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}
