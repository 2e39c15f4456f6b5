//! Trust domains and paths: who keeps what.

use std::sync::Arc;

use super::cluster::{Acceptance, ObjectKind, ObjectRef};
use super::identity_tests::identity;
use super::tests::{check, mesh, now, texts};
use super::*;
use crate::document;

#[test]
fn a_trust_domain_belongs_to_one_mesh_and_templates_do_not_meet() {
    let classic = mesh("{name: b, type: builtin}");
    let with = |parts: &[String]| parts.join("---\n");
    let of = |name: &str, in_mesh: &str, domain: &str, path: &str| {
        identity(name, in_mesh, &format!("spiffeID: {{trustDomain: {domain}, path: '{path}'}}"))
    };
    let path = "/{{ .Namespace }}/{{ .Workload }}";
    for (text, expected) in [
        (with(&[classic.clone(), of("a", "other", "default", path)]), Some("belongs to another mesh, by its name")),
        (with(&[of("a", "m", "x", path), of("b", "other", "x", path)]), Some("by MeshIdentity \"a\" of mesh \"m\"")),
        (with(&[of("a", "m", "other", path), of("b", "other", "x", path)]), Some("by its name")),
        (with(&[of("a", "m", "x", path), of("b", "m", "x", path)]), None),
        (
            with(&[of("a", "m", "x", path), of("b", "m", "x", "/{{ .Workload }}/{{ .Namespace }}")]),
            Some("one SPIFFE ID"),
        ),
        (with(&[of("a", "m", "x", path), of("b", "m", "y", "/{{ .Workload }}/{{ .Namespace }}")]), None),
        (with(&[classic.clone(), of("a", "default", "default", "/{{ .Name }}")]), Some("that no MeshIdentity selects")),
        (with(&[of("a", "default", "default", "/{{ .Name }}")]), None),
        (with(&[classic.clone(), of("a", "default", "x", "/{{ .Name }}")]), None),
        (with(&[classic.clone(), of("a", "default", "default", path)]), None),
    ] {
        let problems = check(&text);
        match expected {
            None => assert_eq!(problems, [""; 0], "{text}"),
            Some(expected) => assert!(problems.len() == 1 && problems[0].contains(expected), "{text}: {problems:#?}"),
        }
    }
    assert!(check(&mesh("{name: MeshIdentity/a, type: builtin}")).iter().any(|p| p.contains("names that begin with")));
}

#[test]
fn a_new_identity_never_pushes_a_good_one_out() {
    let mut known = KnownGood::default();
    let context = Context {
        kubernetes_available: true,
        system_namespace: "kong-mesh-system".to_owned(),
        zone: String::new(),
        read_file: None,
        now: now(),
    };
    let mut step = |text: String| {
        let documents = Ok(document::parse(&text).unwrap());
        let compiled = compile(&[Source { path: Arc::new("m.yaml".into()), documents }], &context, &mut known);
        let domains = compiled.resources.policies.meshes.iter().flat_map(|(mesh, policy)| {
            policy.identities.iter().map(move |identity| format!("{mesh}={}", identity.trust_domain))
        });
        (domains.collect::<Vec<_>>().join(" "), compiled.problems.len())
    };
    let of = |in_mesh: &str, domain: &str| identity("i", in_mesh, &format!("spiffeID: {{trustDomain: {domain}}}"));
    assert_eq!(step(of("b", "x")), ("b=x".to_owned(), 0));
    assert_eq!(step(of("a", "x") + "---\n" + &of("b", "x")), ("b=x".to_owned(), 1), "though its mesh comes first");
    assert_eq!(step(of("a", "y") + "---\n" + &of("b", "x")), ("a=y b=x".to_owned(), 0));
    assert_eq!(step(of("a", "x") + "---\n" + &of("b", "y")), ("a=x b=y".to_owned(), 0), "they may change places");
    assert_eq!(step(of("a", "y") + "---\n" + &of("b", "y")), ("a=x b=y".to_owned(), 1), "the last good one stays");
}

/// A mesh's name is a trust domain like another: who has had it first keeps it.
#[test]
fn nor_does_a_new_mesh_push_out_an_identity_by_its_name_or_by_its_mtls() {
    let context = Context {
        kubernetes_available: true,
        system_namespace: "kong-mesh-system".to_owned(),
        zone: String::new(),
        read_file: None,
        now: now(),
    };
    let mut known = KnownGood::default();
    let refused = ObjectRef { kind: ObjectKind::Mesh, name: "x".into() };
    let mut step = |documents: &[String]| {
        let (object, files) = documents.split_last().unwrap();
        let source = |path: std::path::PathBuf, text: &str| {
            let documents = if text.is_empty() { Ok(Vec::new()) } else { Ok(document::parse(text).unwrap()) };
            Source { path: Arc::new(path), documents }
        };
        let sources = [source("m.yaml".into(), &files.join("---\n")), source(refused.path(), object)];
        let compiled = compile(&sources, &context, &mut known);
        let shown = compiled.resources.policies.meshes.iter().map(|(mesh, policy)| {
            let classic = policy.enabled_backend.as_ref().map(|_| "classic");
            let domains = policy.identities.iter().map(|identity| &*identity.trust_domain);
            format!("{mesh}={}", classic.into_iter().chain(domains).collect::<Vec<_>>().join("+"))
        });
        let standing = compiled.standings.get(&refused).map(|standing| (standing.acceptance, standing.in_force));
        (shown.collect::<Vec<_>>().join(" "), texts(&compiled.problems).join("; "), standing)
    };
    let of = |in_mesh: &str, spec: &str| identity("i", in_mesh, &format!("spiffeID: {{{spec}}}"));
    let none = String::new;
    let in_force = of("b", "trustDomain: x");
    assert_eq!(step(&[in_force.clone(), none()]).0, "b=x");

    let mesh_off = "{type: Mesh, name: x}".to_owned();
    let mesh_on = "{type: Mesh, name: x, mtls: {enabledBackend: c, backends: [{name: c, type: builtin}]}}".to_owned();
    for new in [mesh_off, mesh_on] {
        let (meshes, problems, standing) = step(&[in_force.clone(), new]);
        assert_eq!((meshes.as_str(), standing), ("b=x", Some((Acceptance::Invalid, false))));
        assert!(problems.contains("a trust domain already, that of MeshIdentity \"i\" of mesh \"b\""), "{problems}");
    }
    let (meshes, problems, _) = step(&[in_force.clone(), of("x", "trustDomain: y"), none()]);
    assert_eq!(meshes, "b=x");
    assert!(problems.starts_with("m.yaml:") && problems.contains("trust domain already"), "{problems}");
    // It gives the domain back.
    assert_eq!(step(&[of("b", "trustDomain: z"), of("x", "trustDomain: y"), none()]).0, "b=z x=y");

    // The default paths of a mesh are in force from when its classic mTLS is on.
    let path = of("default", "path: '/{{ .Name }}'");
    assert_eq!(step(&[path.clone(), "type: Mesh\nname: default\n".to_owned(), none()]).0, "default=default");
    let (meshes, problems, _) = step(&[path.clone(), mesh("{name: b, type: builtin}"), none()]);
    assert_eq!(meshes, "default=default");
    assert!(problems.contains("Mesh default: name: with an enabled backend two workloads"), "{problems}");
}
