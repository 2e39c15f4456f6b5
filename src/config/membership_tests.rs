use super::super::tests::load;
use super::*;

#[test]
fn it_is_read() {
    let text = "membership:\n  default: prod\n  allow:\n  - mesh: prod\n    namespaces: [shop]\n    serviceAccounts: [bank/web, \
                api]\n    workloads: [web]\n    labels: {tier: front}\n  - {mesh: test, labels: {env: ''}}\n";
    let membership = load(text).unwrap().membership;
    assert_eq!(membership.default.as_deref(), Some("prod"));
    let account = |namespace: Option<&str>, name: &str| ServiceAccountName {
        namespace: namespace.map(str::to_owned),
        name: name.to_owned(),
    };
    let rule = AllowRule {
        mesh: "prod".to_owned(),
        namespaces: vec!["shop".to_owned()],
        service_accounts: vec![account(Some("bank"), "web"), account(None, "api")],
        workloads: vec!["web".to_owned()],
        labels: [("tier".to_owned(), "front".to_owned())].into(),
    };
    assert_eq!(membership.allow[0], rule);
    assert_eq!(membership.allow.len(), 2);
    let named = membership.meshes();
    assert_eq!(named[named.len() - 1], ("membership.allow[1].mesh".to_owned(), "test".to_owned()));
    assert_eq!(load("zone: a").unwrap().membership, Membership::default());
    assert_eq!(load("membership: {}").unwrap().membership, Membership::default());
}

#[test]
fn what_could_mean_everybody_or_nobody_is_refused() {
    let rule = |rest: &str| format!("membership: {{allow: [{{mesh: prod, {rest}}}]}}");
    for (text, part) in [
        ("membership:".to_owned(), "s.yaml:1: membership: expected a map, found nothing"),
        ("membership: {allow:}".to_owned(), "membership.allow: expected a list"),
        ("membership: {allow: []}".to_owned(), "membership.allow: must not be empty"),
        ("membership: {deny: []}".to_owned(), "unknown field \"deny\""),
        ("membership: {default: ''}".to_owned(), "membership.default: must not be empty"),
        ("membership: {allow: [{mesh: prod}]}".to_owned(), "membership.allow[0]: has no criterion"),
        ("membership: {allow: [{namespaces: [a]}]}".to_owned(), "membership.allow[0].mesh: is missing"),
        (rule("namespaces: []"), "membership.allow[0].namespaces: must not be empty"),
        (rule("namespaces:"), "membership.allow[0].namespaces: expected a list"),
        (rule("workloads: ['']"), "membership.allow[0].workloads[0]: must not be empty"),
        (rule("labels: {}"), "membership.allow[0].labels: must not be empty"),
        (rule("labels: {a: 1}"), "membership.allow[0].labels.a: expected text"),
        (rule("serviceAccounts: []"), "membership.allow[0].serviceAccounts: must not be empty"),
        (rule("serviceAccounts: [web]"), "serviceAccounts[0]: every namespace may have a service account of that name"),
        (rule("serviceAccounts: [a/b/c]"), "serviceAccounts[0]: is not a service account; expected NAMESPACE/NAME"),
        (rule("serviceAccounts: [/web]"), "serviceAccounts[0]: is not a service account"),
        (rule("namespace: [a]"), "unknown field \"namespace\" (did you mean namespaces?)"),
    ] {
        let problems = load(&text).unwrap_err();
        assert!(problems.iter().any(|problem| problem.contains(part)), "{text}: {part:?} is not in {problems:#?}");
    }
}
