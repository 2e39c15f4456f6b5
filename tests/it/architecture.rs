//! Holds the code to the import directions of ARCHITECTURE.md. To read it: a module may use what is listed beside it,
//! and nothing else of this crate.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Module → the modules of this crate that it may use. `testing` is for tests everywhere.
const MAY_USE: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("runtime", &[]),
    ("observe", &["model"]),
    ("document", &["model"]),
    ("config", &["document", "model"]),
    ("mesh", &["document", "model", "runtime"]),
    ("identify", &["model", "runtime"]),
    ("issue", &["model", "runtime"]),
    ("trust", &["model", "runtime"]),
    ("serve", &["identify", "model", "runtime"]),
    ("admin", &["issue", "model", "observe", "runtime", "serve", "trust"]),
    ("app", &["admin", "config", "identify", "issue", "mesh", "model", "observe", "runtime", "serve", "trust"]),
    ("bootstrap", &["config", "model"]),
    ("demo", &["app", "bootstrap", "config", "identify", "runtime"]),
    ("load", &["identify", "model", "runtime"]),
    (
        "cli",
        &["admin", "app", "bootstrap", "config", "demo", "identify", "load", "mesh", "model", "observe", "runtime"],
    ),
    ("fuzzing", &["identify", "model", "serve"]),
    ("testing", &["model", "runtime", "identify", "serve"]),
];

/// Crate → the only places that may use it.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("envoy_types", &["serve"]), // what Envoy is sent
    // The other gRPC: the admin API, and the commands that are its clients.
    ("tonic", &["serve", "admin", "cli"]),
    ("tonic_health", &["admin"]),
    ("tonic_reflection", &["admin"]),
    (
        "kube",
        &[
            "runtime/cluster",
            "app/cluster_secrets",
            "app/identify",
            "app/object_status",
            "mesh/cluster",
            "issue/ca/cert_manager",
            "identify/directory",
            "identify/service_account",
            "trust/source/mesh_secret",
        ],
    ),
    ("axum", &["admin", "app"]),
    ("h2", &["load"]), // the server's is driven by hyper
    ("rcgen", &["issue/csr.rs", "issue/ca/builtin.rs", "issue/ca/local.rs", "issue/ca/provided.rs", "testing"]),
    ("saphyr", &["document"]),
    ("clap", &["cli", "main.rs"]),
    ("indicatif", &["load/progress"]),
    ("maud", &["load/report"]),
    ("plotters", &["load/report"]),
];

#[test]
fn imports_go_one_way() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let module = module_of(&file);
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == module) else { continue };
        for used in uses(&text) {
            if used != module && used != "testing" && !allowed.contains(&used.as_str()) {
                wrong.push(format!("src/{file}: {module} must not use {used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The admin API reads what streams are doing from their roster, and who was refused one from the refusals, with the types
/// that are in them; it has no other way into the protocol.
#[test]
fn the_admin_api_knows_of_the_protocol_what_the_roster_says() {
    const SEEN: [&str; 5] = ["metrics::Protocol", "naming::SecretKind", "refusals::", "roster::", "version::Version"];
    let wrong: Vec<_> = sources()
        .into_iter()
        .filter(|(file, _)| module_of(file) == "admin")
        .flat_map(|(file, text)| text.lines().map(|line| format!("src/{file}: {line}")).collect::<Vec<_>>())
        .filter(|line| {
            let after = line.split("crate::serve::").nth(1);
            after.is_some_and(|after| !SEEN.iter().any(|seen| after.starts_with(seen)))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_has_a_place_in_the_picture() {
    let known: BTreeSet<&str> = MAY_USE.iter().map(|(name, _)| *name).chain(["lib.rs", "main.rs"]).collect();
    let modules: BTreeSet<String> = sources().keys().map(|file| module_of(file)).collect();
    let unknown: Vec<_> = modules.iter().filter(|module| !known.contains(module.as_str())).collect();
    assert!(unknown.is_empty(), "not in the table of {}: {unknown:?}", file!());
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md is there");
    let missing: Vec<_> = MAY_USE.iter().filter(|(name, _)| !text.contains(&format!("`{name}"))).collect();
    assert!(missing.is_empty(), "not in ARCHITECTURE.md: {missing:?}");
}

#[test]
fn foreign_crates_stay_at_the_rim() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        // Tests make their own certificates and fake servers.
        if ["tests.rs", "testing.rs"].iter().any(|end| file.ends_with(end)) || file.starts_with("testing/") {
            continue;
        }
        for (name, places) in ONLY_IN {
            let used = text.lines().any(|line| mentions(line, name));
            if used && !places.iter().any(|place| file.starts_with(place)) {
                wrong.push(format!("src/{file}: {name} belongs into {places:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether a line of code uses the crate `name`: `name::` that is not the end of a longer path or name.
fn mentions(line: &str, name: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    code.match_indices(&format!("{name}::")).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}

/// The modules of this crate that a text names as `crate::NAME` or in `use crate::{…}`.
fn uses(text: &str) -> BTreeSet<String> {
    let code: String =
        text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    code.match_indices("crate::")
        .filter(|(at, _)| !code[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$'))
        .map(|(at, found)| {
            let rest = &code[at + found.len()..];
            assert!(!rest.starts_with('{'), "write `use crate::a; use crate::b;`, so that this test can read it");
            rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
        })
        .collect()
}

fn module_of(file: &str) -> String {
    match file.split_once('/') {
        Some((module, _)) => module.to_owned(),
        None if matches!(file, "lib.rs" | "main.rs") => file.to_owned(),
        None => file.trim_end_matches(".rs").to_owned(),
    }
}

/// Path below `src` → text.
fn sources() -> BTreeMap<String, String> {
    let src = root().join("src");
    let mut sources = BTreeMap::new();
    let mut folders = vec![src.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("src can be read") {
            let path = entry.expect("src can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&src).expect("below src").to_string_lossy().into_owned();
                sources.insert(name, std::fs::read_to_string(&path).expect("readable"));
            }
        }
    }
    assert!(sources.len() > 20, "the sources were not found");
    sources
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}
