//! Holds docs/configuration.md against the program: each field that the decoder asks for has a row there and each row is a field,
//! defaults and bounds are the program's, and so are flags. And what the documents show of configurations and resources is right.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use serde_json::Value;

use super::ServerFlags;
use crate::config::{Config, Limits, Overrides, Surroundings};
use crate::mesh::{LiveResources, Settings};
use crate::model::diagnostic::Problem;
use crate::model::duration;
use crate::runtime::clock::Clock;
use crate::testing::asked;
use crate::testing::certs::TestCa;

/// The ways to name what is elsewhere, of which one is given at a time.
const SOURCES: [&str; 4] = ["inlineString", "inline", "file", "secret"];

/// What the examples of the reference do not have: further types of CA, and of sources. They need not be right, as long as all of
/// their maps are read.
const BACKENDS: [&str; 5] = [
    "{name: a, type: certmanager, mode: STRICT, rootChain: {requestTimeout: 1s}, certManager: {issuerName: a, caCert: {file: a}}}",
    "{name: a, type: provided, conf: {cert: {file: a}, key: {file: b}}}",
    "{name: a, type: vault, conf: {fromCp: {address: 'http://a', role: a, auth: {token: {file: a}, tls: {clientCert: {file: a}, \
     clientKey: {file: a}}, aws: {}}, tls: {caCert: {file: a}, clientCert: {file: a}, clientKey: {file: a}}}}}",
    "{name: a, type: acm, conf: {arn: a, caCert: {file: a}, auth: {awsCredentials: {accessKey: {file: a}, accessKeySecret: {file: b}}}}}",
    "{name: a, type: acm, acm: {arn: a, caCert: {file: a}, auth: {awsCredentials: {accessKey: {file: a}, accessKeySecret: {file: b}}}}}",
];
const PROVIDERS: [&str; 7] = [
    "{type: Spire, spire: {}, vault: {}, acmpca: {}}",
    "{type: CertManager, certManager: {issuerRef: {name: a}, caCert: {file: a}, certificateParameters: {}}}",
    "{type: Extension, extension: {name: CertManager, config: {issuerRef: {name: a}, caCert: {file: a}, certificateParameters: {}}}}",
    "{type: Bundled, bundled: {certificateParameters: {}, autogenerate: {}, ca: {certificate: {type: Secret, secretRef: {}}, \
     privateKey: {type: Secret, secretRef: {}}}}}",
    "{type: Bundled, bundled: {ca: {certificate: {type: File, file: {}}, privateKey: {type: File, file: {}}}}}",
    "{type: Bundled, bundled: {ca: {certificate: {type: EnvVar, envVar: {}}, privateKey: {type: EnvVar, envVar: {}}}}}",
    "{type: Bundled, bundled: {ca: {certificate: {type: InsecureInline, insecureInline: {}}, privateKey: {type: InsecureInline, \
     insecureInline: {}}}}}",
];
const METADATA: &str = "apiVersion: kuma.io/v1alpha1, metadata: {name: a, labels: {}}";

/// A table of a section of the reference, by what its first column has in backticks.
type Table = BTreeMap<String, Vec<String>>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn reference() -> String {
    fs::read_to_string(root().join("docs/configuration.md")).unwrap()
}

/// The rows of the section with that heading; a name with braces is several.
fn table(section: &str) -> Table {
    let text = reference();
    let (_, after) = text.split_once(&format!("\n## {section}\n")).unwrap();
    let section = after.split("\n## ").next().unwrap();
    let mut table = Table::new();
    for row in section.lines().filter_map(|line| line.strip_prefix("| `")) {
        let cells: Vec<_> = row.trim_end_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect();
        let name = cells[0].strip_suffix('`').unwrap_or_else(|| panic!("{row}"));
        for name in expanded(name) {
            assert!(table.insert(name.clone(), cells.clone()).is_none(), "{name} is there twice");
        }
    }
    table
}

/// `a.{b,c}` is `a.b` and `a.c`.
fn expanded(name: &str) -> Vec<String> {
    let Some((before, rest)) = name.split_once('{') else { return vec![name.to_owned()] };
    let (choices, after) = rest.split_once('}').unwrap();
    choices.split(',').flat_map(|choice| expanded(&format!("{before}{choice}{after}"))).collect()
}

/// The documents of a YAML text.
fn documents(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The YAML that a document shows, without the indentation of a list that it may be in.
fn examples(markdown: &str) -> Vec<String> {
    let mut examples = Vec::new();
    let mut lines = markdown.lines();
    while let Some(line) = lines.next() {
        let indent = line.len() - line.trim_start().len();
        if line.trim_start() == "```yaml" {
            let inside = lines.by_ref().take_while(|line| line.trim_start() != "```");
            examples.push(inside.map(|line| format!("{}\n", line.get(indent..).unwrap_or_default())).collect());
        }
    }
    examples
}

/// Paths with their indices left out.
fn generic(path: &str) -> String {
    let mut parts = path.split('[');
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |path, part| format!("{path}[]{}", part.split_once(']').unwrap().1))
}

/// Every path at which a document has something.
fn present(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                present(value, &path, found);
                found.insert(path);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| present(item, &format!("{path}[]"), found)),
        _ => {}
    }
}

fn read_config(text: &str) -> (Config, Vec<Problem>) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    let surroundings = Surroundings { home: Some("/home/user".into()), ..Surroundings::default() };
    Config::inspect(Some(file.path()), Overrides::default(), &surroundings)
}

/// What is wrong with resources, whatever files they name.
fn read_resources(text: &str, zone: &str) -> Vec<Problem> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("resources.yaml");
    fs::write(&file, text).unwrap();
    let settings = Settings {
        paths: vec![file],
        kubernetes_available: true,
        system_namespace: "kong-mesh-system".to_owned(),
        zone: zone.to_owned(),
        read_file: None,
        state_dir: None,
    };
    LiveResources::of_files(settings, Clock::system()).load().problems
}

/// What the decoder asks for in these documents has to be what the section's table has; and every map that it asks for has to be in
/// one of them, or else nobody knows what it would ask that map for.
fn assert_documented(section: &str, texts: &[String], decode: impl Fn(&str)) {
    let mut known = BTreeSet::new();
    let mut found = BTreeSet::new();
    for text in texts {
        known.extend(asked::during(|| decode(text)).iter().map(|path| generic(path)));
        documents(text).iter().for_each(|document| present(document, "", &mut found));
    }
    let rows = table(section);
    let unknown: Vec<_> = rows.keys().filter(|row| !known.contains(*row)).collect();
    assert!(unknown.is_empty(), "{section}: in the reference, and unknown to the program: {unknown:#?}");
    let missing: Vec<_> = known.iter().filter(|path| !rows.contains_key(*path)).collect();
    assert!(missing.is_empty(), "{section}: known to the program, and not in the reference: {missing:#?}");
    let scalar = |path: &str| {
        let is_source = SOURCES.iter().any(|source| path.ends_with(&format!(".{source}")));
        is_source || !rows[path][1].contains("map") && !rows[path][1].contains("list")
    };
    let unseen: Vec<_> = known.iter().filter(|path| !scalar(path) && !found.contains(*path)).collect();
    assert!(unseen.is_empty(), "{section}: maps or lists that are in no example: {unseen:#?}");
}

#[test]
fn every_field_of_the_configuration_has_a_row_and_every_row_is_one() {
    let example = examples(&reference()).remove(0);
    assert_documented("server.yaml", &[example], |text| drop(read_config(text)));
}

#[test]
fn every_field_of_resources_has_a_row_and_every_row_is_one() {
    let shown = examples(&reference());
    let of_kind =
        |kind: &str| shown.iter().filter(|text| text.contains(&format!("\nkind: {kind}\n"))).cloned().collect();
    let decode = |text: &str| drop(read_resources(text, "east"));

    let mut meshes: Vec<String> = of_kind("Mesh");
    meshes.extend(
        BACKENDS.map(|backend| format!("{{kind: Mesh, {METADATA}, spec: {{mtls: {{backends: [{backend}]}}}}}}")),
    );
    assert_documented("Mesh", &meshes, decode);

    let mut identities: Vec<String> = of_kind("MeshIdentity");
    identities.extend(
        PROVIDERS.map(|provider| format!("{{kind: MeshIdentity, {METADATA}, spec: {{provider: {provider}}}}}")),
    );
    assert_documented("MeshIdentity", &identities, decode);

    let bundles = "trustDomain: a, caBundles: [{type: Pem, pem: {value: a}}], origin: {}, status: {}";
    assert_documented("MeshTrust", &[format!("{{kind: MeshTrust, {METADATA}, spec: {{{bundles}}}}}")], decode);

    let mut secrets: Vec<String> = of_kind("Secret");
    secrets.push(secrets[0].replace("\ndata: ", "\nstringData: "));
    assert_documented("Mesh Secrets", &secrets, decode);

    let universal = shown.iter().find(|text| text.starts_with("type: Mesh\n")).unwrap();
    let top: Vec<_> = universal.split("---\n").map(|document| format!("{document}spec: {{}}\n")).collect();
    let of_mtls = |path: &str| path.starts_with("mtls.");
    let known: BTreeSet<_> =
        top.iter().flat_map(|text| asked::during(|| decode(text))).filter(|path| !of_mtls(path)).collect();
    // Where `spec` is looked into for the same.
    let known: Vec<_> = known.iter().filter(|path| *path != "spec.mtls").cloned().collect();
    assert_eq!(known, table("Universal form").into_keys().collect::<Vec<_>>());
}

/// A default that is a word or a number is the program's; those that are a sentence are told by nobody.
#[test]
fn the_defaults_are_the_programs() {
    let (config, problems) = read_config("{}");
    assert_eq!(problems, []);
    let Limits {
        streams,
        streams_per_proxy,
        streams_per_identity,
        new_streams_per_second: None,
        names_per_stream,
        max_connection_age: None,
        issuances_in_flight,
    } = config.limits
    else {
        panic!("{:?}", config.limits)
    };
    let (full, _) = read_config("identify: {serviceAccountToken: {}, proxyToken: {}}");
    let (accounts, tokens) = (full.identify.service_account_token.unwrap(), full.identify.proxy_token.unwrap());
    let list = |items: &[String]| format!("[{}]", items.join(", "));
    let word = |text: String| text.to_lowercase();
    let naming = config.naming.profiles.iter().map(|profile| word(format!("{profile:?}"))).collect::<Vec<_>>();
    let (unix, _) = read_config("listeners: [{unix: /a}]");
    let verify = format!("{:?}", accounts.verify);
    let expected = [
        ("admin.address", config.admin.to_string()),
        ("listeners[].mode", format!("\"0{:o}\"", unix.listeners[0].mode)),
        ("systemNamespace", config.system_namespace),
        ("zone", format!("{:?}", config.zone)),
        ("kubernetes", word(format!("{:?}", config.kubernetes))),
        ("clusterResources", config.cluster_resources.to_string()),
        ("identify.insecureNodeId", config.identify.insecure_node_id.to_string()),
        ("identify.serviceAccountToken.audiences", list(&accounts.audiences)),
        ("identify.serviceAccountToken.verify", verify[..1].to_lowercase() + &verify[1..]),
        ("identify.proxyToken.audiences", list(&tokens.audiences)),
        ("naming.profiles", list(&naming)),
        ("naming.spiffeValidator", config.naming.spiffe_validator.to_string()),
        ("limits.streams", streams.to_string()),
        ("limits.streamsPerProxy", streams_per_proxy.to_string()),
        ("limits.streamsPerIdentity", streams_per_identity.to_string()),
        ("limits.newStreamsPerSecond", "0".to_owned()),
        ("limits.namesPerStream", names_per_stream.to_string()),
        ("limits.maxConnectionAge", "0s".to_owned()),
        ("limits.issuancesInFlight", issuances_in_flight.to_string()),
    ];
    assert_eq!(config.ads.resync, None);
    assert!(config.identify.is_empty() && config.membership.allow.is_empty() && config.resources.is_empty());
    assert_eq!(config.state_dir, PathBuf::from("/home/user/.local/state/envoy-sds"));
    let rows = table("server.yaml");
    for (field, default) in expected {
        assert_eq!(rows[field][2], format!("`{default}`"), "{field}");
    }
}

/// Numbers and durations are taken from one bound to the other, and not beyond.
#[test]
fn the_bounds_are_the_programs() {
    let mut checked = 0;
    for (field, row) in table("server.yaml") {
        let (range, unit) = match row[1].strip_prefix("duration, ") {
            Some(range) => (range, "s"),
            None => (row[1].as_str(), ""),
        };
        let (Some((section, key)), Some((least, most))) = (field.split_once('.'), range.split_once(" to ")) else {
            continue;
        };
        let number = |text: &str| match unit {
            "s" => duration::parse(text).unwrap().as_secs(),
            _ => text.parse().unwrap(),
        };
        let (least, most) = (number(least), number(most));
        let is_taken = |value: u64| read_config(&format!("{section}: {{{key}: {value}{unit}}}")).1.is_empty();
        assert!(is_taken(least) && is_taken(most), "{field}: from {least} to {most}");
        assert!(!is_taken(most + 1), "{field}: more than {most}");
        assert!(least == 0 || !is_taken(least - 1), "{field}: less than {least}");
        checked += 1;
    }
    assert!(checked >= 8, "only {checked} were found");
}

/// A resource with nothing in it but this field, and what the fields above it need so that they are looked into.
fn resource_with(kind: &str, field: &str, value: &str) -> String {
    let nest = |inside: String, key: &str| match (key.strip_suffix("[]"), inside.strip_prefix('{')) {
        (Some(list), Some(fields)) => format!("{{{list}: [{{name: a, type: builtin, {fields}]}}"),
        (None, Some(fields)) if key == "provider" => {
            let of_type = if fields.starts_with("certManager") { "CertManager" } else { "Bundled" };
            format!("{{{key}: {{type: {of_type}, {fields}}}")
        }
        _ => format!("{{{key}: {inside}}}"),
    };
    let spec = field.rsplit('.').fold(value.to_owned(), nest);
    format!("{{kind: {kind}, {METADATA}, {}", &spec[1..])
}

/// The same of resources, as far as this field is concerned.
#[test]
fn the_bounds_of_resources_are_the_programs() {
    let mut checked = 0;
    for (kind, (field, row)) in
        ["Mesh", "MeshIdentity"].iter().flat_map(|kind| table(kind).into_iter().map(move |row| (kind, row)))
    {
        let Some((least, most)) = row[1].strip_prefix("duration, ").and_then(|range| range.split_once(" to ")) else {
            continue;
        };
        let is_taken = |value: &str| {
            let problems = read_resources(&resource_with(kind, &field, value), "");
            !problems.iter().any(|problem| problem.at.field.as_deref().map(generic).as_ref() == Some(&field))
        };
        let less = duration::parse(least).unwrap().as_millis() - 1;
        let more = duration::parse(most).unwrap().as_secs() + 1;
        assert!(is_taken(least) && is_taken(most), "{field}: from {least} to {most}");
        assert!(!is_taken(&format!("{less}ms")), "{field}: less than {least}");
        assert!(!is_taken(&format!("{more}s")), "{field}: more than {most}");
        checked += 1;
    }
    assert!(checked >= 6, "only {checked} were found");
}

#[test]
fn every_flag_has_a_row_and_every_row_is_one() {
    let command = ServerFlags::augment_args(Command::new("serve"));
    let rows = table("Flags");
    let mut known = BTreeSet::new();
    for flag in command.get_arguments() {
        let name = format!("--{}", flag.get_long().unwrap());
        let row = rows.get(&name).unwrap_or_else(|| panic!("{name} is not in the reference"));
        assert_eq!(row[1], format!("`{}`", flag.get_env().unwrap().to_str().unwrap()), "{name}");
        if let [default] = flag.get_default_values() {
            assert_eq!(row[2], format!("`{}`", default.to_str().unwrap()), "{name}");
        }
        known.insert(name);
    }
    assert_eq!(known, rows.into_keys().collect());
}

/// A server.yaml or a resource that a document shows is right as it stands: whoever copies it is not told of an error. What else
/// is YAML there is somebody else's.
#[test]
fn what_the_documents_show_is_right() {
    let known: BTreeSet<_> = table("server.yaml").into_keys().collect();
    let mut files: Vec<_> = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "md"));
    files.push(root().join("README.md"));
    let root_pem = TestCa::root("partner").bundle().pem();
    let root_pem = serde_json::to_string(&root_pem).unwrap();
    let mut checked = 0;
    for file in files {
        for example in examples(&fs::read_to_string(&file).unwrap()) {
            // What is left out with dots.
            let example = example.replace("\"-----BEGIN CERTIFICATE-----…\"", &root_pem);
            let is_config = documents(&example).iter().any(|document| {
                let keys = document.as_object().into_iter().flat_map(|map| map.keys());
                document.get("kind").is_none() && keys.clone().any(|key| known.contains(key.as_str()))
            });
            let is_resource = documents(&example).iter().all(|document| {
                let kind = document["kind"].as_str().or(document["type"].as_str()).unwrap_or_default();
                let is_kuma = document.get("apiVersion").is_none_or(|version| version == "kuma.io/v1alpha1");
                is_kuma && kind.starts_with("Mesh") || document["type"] == "system.kuma.io/secret" || kind == "Secret"
            });
            let problems = match (is_config, is_resource) {
                (true, _) => read_config(&example).1,
                (false, true) => read_resources(&example, ""),
                (false, false) => continue,
            };
            assert!(problems.is_empty(), "{}:\n{example}\n{problems:#?}", file.display());
            checked += 1;
        }
    }
    assert!(checked >= 7, "only {checked} were found");
}
