//! What is accepted of how proxies prove who they are.

use super::*;

#[test]
fn peers_of_unix_sockets() {
    let with = |rules: &str, kubernetes: &str| {
        let text = format!("listeners: [{{unix: /tmp/s}}]\nkubernetes: {kubernetes}\nidentify:\n  unixPeer: {rules}\n");
        load(&text).map(|config| config.identify.unix_peers)
    };
    let rules = with("[{pod: true}, {pod: true, gid: 7}, {uid: 7, gid: 7, name: a, workload: a}]", "auto").unwrap();
    let ids: Vec<_> = rules.iter().map(|rule| (rule.uid, rule.gid, rule.is_pod())).collect();
    assert_eq!(ids, [(None, None, true), (None, Some(7), true), (Some(7), Some(7), false)]);
    for (rules, kubernetes, problem) in [
        ("[{pod: true}, {pod: true}]", "auto", "the same peer is there twice"),
        ("[{pod: true, name: a}]", "auto", "name"),
        ("[{uid: 7, name: a, workload: b/c}]", "auto", "cannot be part of a SPIFFE ID"),
        ("[{uid: 7, name: a, workload: ..}]", "auto", "cannot be part of a SPIFFE ID"),
        ("[{uid: 7, mesh: Prod, name: a, workload: a}]", "auto", "mesh \\\"Prod\\\" is no trust domain"),
        ("[{uid: 7, name: ' a', workload: a}]", "auto", "space around it"),
        (r#"[{uid: 7, name: "a\u202eb", workload: a}]"#, "auto", "characters in it that cannot be shown"),
        ("[{uid: 7, name: a, workload: a, labels: {a b: c}}]", "auto", "has a space in its key"),
        (
            r#"[{uid: 7, name: a, workload: a, labels: {a: "b\u200b"}}]"#,
            "auto",
            "characters in it that cannot be shown",
        ),
        ("[{pod: false}]", "auto", "uid: is missing"),
        ("[{gid: 7, name: a, workload: a}]", "auto", "uid: is missing"),
        ("[{pod: true, uid: -1}]", "auto", "must be a whole number"),
        ("[{pod: true}]", "off", "Kubernetes is turned off"),
        (&format!("[{{uid: 7, name: a, workload: {}}}]", "w".repeat(254)), "auto", "at most 253"),
    ] {
        let problems = with(rules, kubernetes).unwrap_err();
        assert!(format!("{problems:?}").contains(problem), "{rules}: {problems:?}");
    }
}

#[test]
fn a_cluster_that_a_flag_turns_off_is_off_for_pods_too() {
    let file = "listeners: [{unix: /tmp/s}]\nidentify: {unixPeer: [{pod: true}]}";
    let with = |kubernetes| load_with(file, Overrides { kubernetes, ..Overrides::default() }).1;
    assert_eq!(with(None), []);
    let problems = with(Some(Kubernetes::Off));
    assert!(format!("{problems:?}").contains("Kubernetes is turned off"), "{problems:?}");
}

#[test]
fn proxy_tokens_have_keys_audiences_and_revocations() {
    let method = |text: &str| load(&format!("identify: {{proxyToken: {text}}}")).map(|config| config.identify);
    let proxy_token = |text: &str| method(text).unwrap().proxy_token.unwrap();
    assert_eq!(proxy_token("{}"), ProxyToken::default());
    assert!(method("{}").unwrap().is_by_own_tokens_alone());
    let full = proxy_token("{audiences: [a, b], publicKeys: [{kid: k, file: k.pem}], revocations: {file: r.txt}}");
    assert_eq!(full.audiences, ["a", "b"]);
    assert_eq!(full.public_keys, [PublicKey { kid: "k".to_owned(), file: "k.pem".into() }]);
    assert_eq!(full.revocations, Some(Revocations::File("r.txt".into())));
    assert!(!method("{publicKeys: [{kid: k, file: k.pem}]}").unwrap().is_by_own_tokens_alone());
    assert!(method("{revocations: {secret: s-<mesh>}}").unwrap().names_secrets());
    for (wrong, told) in [
        ("{audiences: []}", "identify.proxyToken.audiences: must not be empty"),
        ("{revocations: {}}", "identify.proxyToken.revocations: says neither file nor secret"),
        ("{revocations: {secret: s}}", "identify.proxyToken.revocations.secret: must have <mesh> in it, once"),
        ("{revocations: {secret: <mesh>}}", "must have <mesh> in it, once, and more"),
        ("{revocations: {secret: a-<mesh>-<mesh>}}", "must have <mesh> in it, once"),
        ("{revocations: {file: a, secret: b}}", "identify.proxyToken.revocations.secret: there is a file as well"),
        (
            "{publicKeys: [{kid: k, file: a}, {kid: k, file: b}]}",
            "identify.proxyToken.publicKeys[1]: the kid \"k\" is there",
        ),
    ] {
        let problems = method(wrong).unwrap_err();
        assert!(problems.iter().any(|problem| problem.to_string().contains(told)), "{wrong}: {problems:?}");
    }
}
