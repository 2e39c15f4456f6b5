use super::*;
use crate::identify::Proof;
use crate::model::identity::Workload;

fn set(names: &[&str]) -> BTreeSet<Arc<str>> {
    names.iter().map(|name| (*name).into()).collect()
}

fn labels(labels: &[(&str, &str)]) -> Labels {
    labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

fn account(namespace: Option<&str>, name: &str) -> ServiceAccount {
    ServiceAccount { namespace: namespace.map(Into::into), name: name.into() }
}

fn prod() -> AllowRule {
    AllowRule { mesh: "prod".into(), ..AllowRule::default() }
}

fn pod(namespace: &str, account: &str) -> Proof {
    let workload =
        Workload { namespace: Some(namespace.into()), service_account: Some(account.into()), ..Workload::default() };
    Proof { workload, ..Proof::default() }
}

fn vm(name: &str) -> Proof {
    Proof { workload: Workload { name: Some(name.into()), ..Workload::default() }, ..Proof::default() }
}

fn vm_in(name: &str, namespace: &str) -> Proof {
    Proof { labels: labels(&[("k8s.kuma.io/namespace", namespace)]), ..vm(name) }
}

fn admit(rules: &[AllowRule], mesh: &str, proof: &Proof) -> Result<(), String> {
    let rules = Rules { default: None, allow: rules.to_vec() };
    rules.admit(mesh, &Subject::of(proof), &proof.labels).map_err(|error| error.to_string())
}

#[test]
fn a_rule_lets_in_who_matches_all_of_it() {
    let namespaces = || AllowRule { namespaces: set(&["shop", "bank"]), ..prod() };
    let accounts = || AllowRule { service_accounts: vec![account(Some("shop"), "web")], ..prod() };
    let bare = || AllowRule { service_accounts: vec![account(None, "web")], ..namespaces() };
    let workloads = || AllowRule { workloads: set(&["web"]), ..prod() };
    let both = || AllowRule { namespaces: set(&["shop"]), ..workloads() };
    let labelled = || AllowRule { labels: labels(&[("tier", "front"), ("app", "web")]), ..prod() };
    let with = |pairs: &[(&str, &str)]| Proof { labels: labels(pairs), ..vm("web") };
    let own = || Proof { labels: labels(&[("tier", "front"), ("app", "web")]), ..pod("shop", "web") };
    let of_a_pod = "labels (those of a pod count only beside namespaces or serviceAccounts)";
    for (rule, proof, unmet) in [
        (namespaces(), pod("shop", "web"), None),
        (namespaces(), pod("shop2", "web"), Some("namespaces")),
        (namespaces(), vm("shop"), Some("namespaces")),
        (namespaces(), vm_in("web", "bank"), None),
        (accounts(), pod("shop", "web"), None),
        (accounts(), pod("bank", "web"), Some("serviceAccounts")),
        (accounts(), pod("shop", "db"), Some("serviceAccounts")),
        (accounts(), vm("web"), Some("serviceAccounts")),
        (bare(), pod("bank", "web"), None),
        (bare(), pod("other", "web"), Some("namespaces")),
        (bare(), pod("bank", "db"), Some("serviceAccounts")),
        // Nobody can write this; if it were there, it would let in nobody.
        (AllowRule { namespaces: set(&[]), ..bare() }, pod("bank", "web"), Some("serviceAccounts")),
        (workloads(), vm("web"), None),
        (workloads(), vm("db"), Some("workloads")),
        (workloads(), pod("any", "web"), Some("workloads")),
        (both(), pod("shop", "web"), None),
        (both(), pod("bank", "web"), Some("namespaces")),
        (labelled(), with(&[("tier", "front"), ("app", "web"), ("x", "y")]), None),
        (labelled(), with(&[("tier", "front")]), Some("labels")),
        (labelled(), with(&[("tier", "back"), ("app", "web")]), Some("labels")),
        // Whoever may make a pod chooses its labels.
        (labelled(), own(), Some(of_a_pod)),
        (labelled(), pod("shop", "web"), Some("labels")),
        (AllowRule { namespaces: set(&["shop"]), ..labelled() }, own(), None),
        (AllowRule { namespaces: set(&["bank"]), ..labelled() }, own(), Some("namespaces")),
        (AllowRule { service_accounts: vec![account(Some("shop"), "web")], ..labelled() }, own(), None),
    ] {
        let got = admit(std::slice::from_ref(&rule), "prod", &proof);
        match unmet {
            None => assert_eq!(got, Ok(()), "{rule:?} {proof:?}"),
            Some(unmet) => assert!(got.unwrap_err().ends_with(&format!("allow[0].{unmet}")), "{rule:?} {proof:?}"),
        }
    }
}

#[test]
fn one_of_a_meshs_rules_is_enough_and_other_meshes_do_not_matter() {
    let rules = [
        AllowRule { namespaces: set(&["shop"]), ..prod() },
        AllowRule { mesh: "test".into(), workloads: set(&["probe"]), ..AllowRule::default() },
        AllowRule { workloads: set(&["web"]), ..prod() },
    ];
    for (mesh, proof) in [("prod", pod("shop", "any")), ("prod", vm("web")), ("test", vm("probe")), ("dev", vm("any"))]
    {
        assert_eq!(admit(&rules, mesh, &proof), Ok(()), "{mesh} {proof:?}");
    }
    let refused = admit(&rules, "prod", &vm("probe")).unwrap_err();
    let expected = "membership does not let workload \"probe\" into mesh \"prod\": it does not match allow[0].namespaces, \
                    allow[2].workloads";
    assert!(refused.ends_with(expected), "{refused}");
    let refused = admit(&rules, "test", &pod("shop", "probe")).unwrap_err();
    assert!(refused.contains("let namespace \"shop\", service account \"probe\" into mesh"), "{refused}");
}
