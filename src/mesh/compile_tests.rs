//! All resources together: what counts beside what is broken, off or there twice.

use std::sync::Arc;

use super::tests::{compile_text, mesh, now, texts};
use super::*;
use crate::document;

#[test]
fn one_bad_mesh_does_not_harm_another() {
    let text = mesh("{name: b, type: valt}") + "---\n" + &mesh("{name: b, type: builtin}").replace("default", "other");
    let compiled = compile_text(&text, true);
    assert_eq!(compiled.problems.len(), 1);
    assert_eq!(compiled.resources.policies.meshes.keys().map(|name| &**name).collect::<Vec<_>>(), ["other"]);
}

#[test]
fn mtls_off_is_told_and_is_no_error() {
    for text in
        ["type: Mesh\nname: default\nnetworking: {outbound: {}}", "type: Mesh\nname: default\nmtls: {backends: []}"]
    {
        let compiled = compile_text(text, true);
        assert_eq!(texts(&compiled.problems), [""; 0]);
        assert!(compiled.resources.policies.meshes.is_empty());
        assert!(compiled.notices[0].what.contains("mTLS is off"));
    }
}

/// What is behind the place where a file is cut off is not removed.
#[test]
fn a_file_that_is_broken_removes_nothing() {
    let context = Context {
        kubernetes_available: false,
        system_namespace: String::new(),
        zone: String::new(),
        read_file: None,
        now: now(),
    };
    let mut known = KnownGood::default();
    let mut step = |text: &str| {
        let documents = Ok(document::parse(text).unwrap());
        let compiled = compile(&[Source { path: Arc::new("m.yaml".into()), documents }], &context, &mut known);
        compiled.resources.policies.meshes.keys().map(|name| &**name).collect::<Vec<_>>().join(" ")
    };
    let one = mesh("{name: b, type: builtin}");
    let two = one.replace("default", "two");
    assert_eq!(step(&format!("{one}---\n{two}")), "default two");
    let cut: String = one.lines().take(5).map(|line| format!("{line}\n")).collect();
    assert_eq!(step(&cut), "default two");
    assert_eq!(step(&one), "default");
}

/// Moving from `enabledBackend` to a MeshIdentity: the CAs of before stay trusted.
#[test]
fn without_an_enabled_backend_the_listed_ones_stay_and_sign_for_nobody() {
    let mesh = "type: Mesh\nname: default\nmtls: {skipValidation: true, backends: [{name: b, type: builtin}]}\n";
    let compiled = compile_text(mesh, true);
    let policy = &compiled.resources.policies.meshes["default"];
    assert_eq!((policy.enabled_backend.as_ref(), policy.backends.len(), policy.skip_validation), (None, 1, true));
    let told = texts(&compiled.notices);
    assert!(told.len() == 1 && told[0].contains("Mesh default: mtls: mTLS is off (no enabledBackend)"), "{told:?}");

    let provider = "{type: Bundled, bundled: {insecureAllowSelfSigned: true, autogenerate: {enabled: true}}}";
    let identity = format!("---\ntype: MeshIdentity\nname: i\nspec: {{provider: {provider}}}\n");
    let compiled = compile_text(&format!("{mesh}{identity}"), true);
    let policy = &compiled.resources.policies.meshes["default"];
    let names: Vec<_> = policy.backends.iter().map(|backend| &*backend.name).collect();
    assert_eq!((names, policy.skip_validation), (vec!["b", "MeshIdentity/i"], true));
    assert_eq!(texts(&compiled.notices), [""; 0]);
    let alone = mesh.replace("{name: b, type: builtin}", "");
    let compiled = compile_text(&format!("{alone}{identity}"), true);
    assert!(compiled.resources.policies.meshes["default"].skip_validation);
}

#[test]
fn duplicates_name_both_places() {
    let context = Context {
        kubernetes_available: true,
        system_namespace: String::new(),
        zone: String::new(),
        read_file: None,
        now: now(),
    };
    let source =
        |file: &str, text: &str| Source { path: Arc::new(file.into()), documents: Ok(document::parse(text).unwrap()) };
    let text = mesh("{name: b, type: builtin}");
    let mut known = KnownGood::default();
    let one = compile(&[source("a.yaml", &text)], &context, &mut known);
    let two = compile(&[source("a.yaml", &text), source("b.yaml", &text)], &context, &mut known);
    assert_eq!(
        texts(&two.problems),
        ["b.yaml:2: Mesh default: name: is there twice, first at a.yaml:2; none of them counts (remove one)"]
    );
    assert_eq!(two.resources, one.resources, "the last good one stays");
    assert!(
        compile(&[source("a.yaml", &format!("{text}---\n{text}"))], &context, &mut KnownGood::default())
            .resources
            .policies
            .meshes
            .is_empty()
    );
}
