//! What resources claim that are broken from the start, and what may be hidden in what nobody understands.

use std::sync::Arc;

use super::tests::{now, texts};
use super::*;
use crate::document;

const ON: &str = "mtls: {enabledBackend: b, backends: [{name: b, type: builtin}]}";
const BROKEN: &str = "mtls: {enabledBackend: nonsense}";

fn mesh(name: &str, mtls: &str) -> String {
    format!("{{type: Mesh, name: {name}, {mtls}}}")
}

fn identity(name: &str, mesh: &str, spiffe_id: &str, is_good: bool) -> String {
    let good = "{type: Bundled, bundled: {insecureAllowSelfSigned: true, autogenerate: {enabled: true}}}";
    let provider = if is_good { good } else { "{}" };
    format!("{{type: MeshIdentity, name: {name}, mesh: {mesh}, spec: {{spiffeID: {spiffe_id}, provider: {provider}}}}}")
}

/// Compiles a file for each of these. Shows the meshes in force with the trust domains that are signed for, and the problems.
fn step(known: &mut KnownGood, files: &[&str]) -> (String, String) {
    let context = Context {
        kubernetes_available: true,
        system_namespace: "kong-mesh-system".to_owned(),
        zone: String::new(),
        read_file: None,
        now: now(),
    };
    let source = |(index, text): (usize, &&str)| Source {
        path: Arc::new(format!("{index}.yaml").into()),
        documents: document::parse(text).map_err(|_errors| Vec::new()),
    };
    let sources: Vec<Source> = files.iter().enumerate().map(source).collect();
    let compiled = compile(&sources, &context, known);
    let shown = compiled.resources.policies.meshes.values().map(|policy| {
        let signed = policy.identities.iter().filter(|identity| policy.backend(&identity.backend).is_some());
        let domains = signed.map(|identity| &*identity.trust_domain);
        let all: Vec<&str> = policy.enabled_backend.iter().map(|_| "classic").chain(domains).collect();
        format!("{}={}", policy.name, all.join("+"))
    });
    (shown.collect::<Vec<_>>().join(" "), texts(&compiled.problems).join("; "))
}

#[test]
fn a_mesh_that_is_broken_from_the_start_holds_its_name() {
    let foreign = identity("i", "dev", "{trustDomain: prod}", true);
    let (broken, good) = (mesh("prod", BROKEN), mesh("prod", ON));
    for begins in [false, true] {
        let mut known = KnownGood::default();
        for _ in 0..3 {
            let (shown, problems) = step(&mut known, &[&broken, &foreign]);
            assert_eq!(shown, "");
            assert!(problems.contains("\"prod\" belongs to another mesh, by its name"), "{problems}");
            if begins {
                known.begin();
            }
        }
        assert_eq!(step(&mut known, &[&good, &foreign]).0, "prod=classic", "when it is mended");
        assert_eq!(step(&mut known, &["{type: Mesh, name: other}", &foreign]).0, "dev=prod", "when it is gone");
    }
}

#[test]
fn what_is_broken_when_it_appears_pushes_nothing_out_and_nor_does_what_was_refused() {
    let foreign = identity("i", "dev", "{trustDomain: prod}", true);
    let (broken, good) = (mesh("prod", BROKEN), mesh("prod", ON));
    for begins in [false, true] {
        let mut known = KnownGood::default();
        assert_eq!(step(&mut known, &["{type: Mesh, name: other}", &foreign]).0, "dev=prod");
        if begins {
            known.begin();
        }
        for text in [&broken, &good, &broken, &good] {
            let (shown, problems) = step(&mut known, &[text, &foreign]);
            assert_eq!(shown, "dev=prod", "{problems}");
        }
    }
}

#[test]
fn a_broken_identity_holds_its_trust_domain_as_far_as_it_can_be_read() {
    let other = identity("i", "b", "{trustDomain: shop}", true);
    for (broken, expected) in [
        (identity("x", "a", "{trustDomain: shop}", false), ""),
        (identity("x", "a", "{trustDomain: shop, path: 7}", false), ""),
        (identity("x", "shop", "{}", false), ""),
        (identity("x", "shop", "7", false), ""),
        (identity("x", "a", "{trustDomain: [shop]}", false), "b=shop"),
        // As if it were good: then the order of mesh and name decides.
        (identity("x", "c", "{trustDomain: shop}", false), "b=shop"),
        (identity("x", "b", "{trustDomain: shop}", false), "b=shop"),
    ] {
        let mut known = KnownGood::default();
        for _ in 0..2 {
            let (shown, problems) = step(&mut known, &[&broken, &other]);
            assert_eq!(shown, expected, "{broken}: {problems}");
            known.begin();
        }
    }
    let mut known = KnownGood::default();
    let file = |is_good| identity("x", "m", "{trustDomain: shop, path: '/{{ .Name }}'}", is_good);
    let first = identity("i", "a", "{trustDomain: shop}", true);
    step(&mut known, &[&file(false)]);
    known.begin();
    assert_eq!(
        step(&mut known, &[&file(false), &first]).0,
        "",
        "who comes later does not get it, though it is first by name"
    );
    assert_eq!(step(&mut known, &[&file(true), &first]).0, "m=shop", "nor when it is mended");
}

#[test]
fn while_something_is_not_understood_no_new_foreign_trust_domain_is_given_out() {
    let (own, foreign) = (identity("own", "dev", "{}", true), identity("i", "dev", "{trustDomain: prod}", true));
    let mut known = KnownGood::default();
    for _ in 0..2 {
        let (shown, problems) = step(&mut known, &["type: [", &own, &foreign]);
        assert_eq!(shown, "dev=dev");
        assert!(problems.contains("what is in 0.yaml has not been understood"), "{problems}");
        known.begin();
    }
    let mended = step(&mut known, &[&mesh("prod", ON), &own, &foreign]);
    assert_eq!(mended.0, "dev=dev prod=classic", "it was the mesh of that name");

    let mut known = KnownGood::default();
    step(&mut known, &["type: [", &foreign]);
    known.begin();
    assert_eq!(step(&mut known, &["{type: Mesh, name: other}", &foreign]).0, "dev=prod", "it was another");
    assert_eq!(step(&mut known, &["type: [", &foreign]).0, "dev=prod", "who holds it keeps it");
}
