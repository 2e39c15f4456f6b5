//! What is in force after a start, whatever comes first.

use std::sync::Arc;

use super::tests::{Rig, failed, mesh, with_identity};
use crate::model::policy::{Backend, IdentityPolicy, MeshPolicy, PolicySet};
use crate::model::preflight::{Conflict, Outcome, Rules};

/// Every order of the numbers below `count`.
fn orders(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let shorter = orders(count - 1).into_iter();
    shorter
        .flat_map(|order| {
            (0..count).map(move |at| {
                let mut order = order.clone();
                order.insert(at, count - 1);
                order
            })
        })
        .collect()
}

#[test]
fn kinds_that_come_one_by_one_in_any_order_come_into_force_together() {
    // The mesh of a file or the cluster, identity policies, and what has passed before the start.
    let whole = |there: &[usize]| {
        let mut policy = mesh("listed=three");
        policy.enabled_backend = None;
        if there.contains(&0) {
            policy = mesh("a=one listed=three");
        }
        for (number, name) in [(1, "web"), (2, "api")] {
            if there.contains(&number) {
                policy = with_identity(policy, name, "two");
            }
        }
        policy
    };
    for passed in [&[][..], &["a"], &["of-web"], &["a", "of-web", "of-api"]] {
        for order in orders(3) {
            let mut rig = Rig::beginning();
            for come in 1..=order.len() {
                rig.want_remembering(whole(&order[..come]), passed);
                assert!(rig.state.in_force().meshes.is_empty() && rig.to_test().is_empty(), "{order:?}");
            }
            rig.state.begin();
            let expected = "a: a=one listed=three of-web=two of-api=two";
            assert_eq!(rig.in_force(), expected, "{order:?}, {passed:?} have passed");
            assert_eq!(rig.to_test().len(), 3 - passed.len());
            assert!(rig.state.verdicts().values().all(|verdict| !verdict.holds_back));
            // From now on there is something to keep.
            rig.want_remembering(with_identity(whole(&[0, 1, 2]), "db", "four"), passed);
            rig.told("of-db", failed());
            assert_eq!(rig.in_force(), expected);
        }
    }
}

#[test]
fn a_restart_with_the_same_resources_ends_in_the_same_state() {
    let enabled = |name: &str, policy: MeshPolicy| MeshPolicy { enabled_backend: Some(name.into()), ..policy };
    let skipping = |policy: MeshPolicy| MeshPolicy { skip_validation: true, ..policy };
    for (name, before, wanted, expected) in [
        ("another backend is enabled", mesh("a=one b=two"), enabled("b", mesh("a=one b=two")), "a: a=one b=two"),
        ("one is listed and enabled at once", mesh("a=one"), mesh("b=two a=one"), "a: a=one"),
        ("a new identity policy", mesh("a=one"), with_identity(mesh("a=one"), "web", "two"), "a: a=one"),
        (
            "one beside another one",
            with_identity(mesh("a=one"), "web", "two"),
            with_identity(with_identity(mesh("a=one x=more"), "web", "two"), "api", "three"),
            "a: a=one x=more of-web=two",
        ),
        (
            "mTLS beside an identity policy",
            MeshPolicy { enabled_backend: None, ..with_identity(mesh("x=more"), "web", "two") },
            with_identity(mesh("a=one x=more"), "web", "two"),
            ": x=more of-web=two",
        ),
    ] {
        // Good ones: those that were in force first; and in a second round ones that were in force without ever passing.
        for passes in [true, false] {
            let mut rig = Rig::new();
            rig.want(before.clone());
            let tested = if passes { rig.to_test() } else { Vec::new() };
            for backend in &tested {
                rig.told(backend, Outcome::Passed);
            }
            let passed: &[&str] = &tested.iter().map(String::as_str).collect::<Vec<_>>();
            rig.want(wanted.clone());
            let was = rig.in_force();
            assert_eq!(was, expected, "{name}: before the restart");
            let verdicts = held(&rig);
            for _ in 0..2 {
                rig.restart(vec![wanted.clone()], passed);
                assert_eq!(rig.in_force(), was, "{name}, {passes}");
                assert_eq!(held(&rig), verdicts, "{name}, {passes}");
            }
            // It is not for ever; and without the test it is at once.
            rig.restart(vec![skipping(wanted.clone())], passed);
            assert_eq!(*rig.state.in_force().meshes["default"], skipping(wanted.clone()), "{name}");
            rig.restart(vec![wanted.clone()], passed);
            assert_eq!(*rig.state.in_force().meshes["default"], wanted, "{name}");
        }
    }
}

#[test]
fn a_mesh_of_which_nothing_was_in_force_has_nothing_to_keep() {
    let mut rig = Rig::new();
    rig.want(mesh("a=one"));
    rig.restart(vec![mesh("a=other")], &[]);
    assert_eq!((rig.in_force(), rig.to_test()), ("a: a=other".into(), vec!["a".into()]));
    // A mesh that comes late, and what was in force of it before.
    rig.restart(vec![], &[]);
    rig.want(with_identity(mesh("a=other"), "web", "two"));
    assert_eq!(rig.in_force(), "a: a=other");
    // One that goes while the server runs leaves nothing.
    rig.want_all(vec![], &[]);
    rig.want(mesh("a=two"));
    assert_eq!(rig.in_force(), "a: a=two");
}

#[test]
fn an_identity_policy_that_was_changed_while_no_server_ran_gives_nobody_a_weaker_identity() {
    let mut rig = Rig::new();
    rig.want(with_identity(mesh("a=one"), "web", "two"));
    rig.told("a", Outcome::Passed);
    rig.told("of-web", Outcome::Passed);
    let changed = with_identity(mesh("a=one"), "web", "three");
    for _ in 0..2 {
        rig.restart(vec![changed.clone()], &["a"]);
        rig.told("of-web", failed());
        assert_eq!((rig.in_force(), held(&rig)), ("a: a=one".into(), vec!["of-web".into()]));
        let policy = &rig.state.in_force().meshes["default"];
        assert_eq!(policy.identities, changed.identities, "it still selects");
        assert_eq!(policy.signer(Some("web")), None);
    }
    rig.told("of-web", Outcome::Passed);
    assert_eq!((rig.in_force(), held(&rig).len()), ("a: a=one of-web=three".into(), 0));
}

/// What holds the mesh back.
fn held(rig: &Rig) -> Vec<Arc<str>> {
    let verdicts = rig.state.verdicts().into_iter();
    verdicts.filter(|(_, verdict)| verdict.holds_back).map(|((_, backend), _)| backend).collect()
}

/// A mesh with one identity policy, `web`, in this trust domain.
fn in_domain(name: &str, domain: &str) -> MeshPolicy {
    let mut policy = MeshPolicy { name: name.into(), enabled_backend: None, ..with_identity(mesh("x=x"), "web", "ca") };
    let backend =
        Backend { trust_domain: domain.into(), name: format!("of-{name}").into(), ..(*policy.backends[1]).clone() };
    let identity = IdentityPolicy {
        trust_domain: domain.into(),
        backend: backend.name.clone(),
        ..(*policy.identities[0]).clone()
    };
    policy.backends = vec![Arc::new(backend)];
    policy.identities = vec![Arc::new(identity)];
    policy
}

/// A trust domain belongs to one mesh, those in `before` first.
fn one_owner(policies: &PolicySet, before: &PolicySet, _: &str) -> Option<Conflict> {
    let mut domains: Vec<_> = policies.meshes.values().map(|policy| (&policy.identities[0], policy)).collect();
    domains.sort_by_key(|(identity, policy)| {
        before.meshes.get(&policy.name).is_none_or(|before| before.identities[0] != **identity)
    });
    let taken = |at: usize| domains[..at].iter().any(|(other, _)| other.trust_domain == domains[at].0.trust_domain);
    let found = (0..domains.len()).find(|at| taken(*at))?;
    let (identity, policy) = domains[found];
    let (mesh, signer) = (policy.name.clone(), Some(identity.backend.clone()));
    Some(Conflict { mesh, signer, reason: format!("{} is taken", identity.trust_domain) })
}

/// Meshes in force, and their trust domains.
fn domains(rig: &Rig) -> String {
    let policies = rig.state.in_force().meshes.values();
    let shown = policies.map(|policy| format!("{}:{}", policy.name, policy.identities[0].trust_domain));
    shown.collect::<Vec<_>>().join(" ")
}

#[test]
fn two_meshes_that_swap_their_trust_domains_do_so_together_or_not_at_all() {
    let swapped = || vec![in_domain("x", "q"), in_domain("y", "p")];
    for order in [["of-x", "of-y"], ["of-y", "of-x"]] {
        let mut rig = Rig::new();
        rig.state.rules = Rules { first_conflict: one_owner, ..Rules::default() };
        rig.want_all(vec![in_domain("x", "p"), in_domain("y", "q")], &[]);
        rig.told("of-x", Outcome::Passed);
        rig.told("of-y", Outcome::Passed);
        rig.want_all(swapped(), &[]);
        rig.told(order[0], Outcome::Passed);
        rig.told(order[1], failed());
        assert_eq!(domains(&rig), "x:p y:q");
        assert_eq!(held(&rig).len(), 2);
        let conflicts: Vec<_> = rig.state.verdicts().into_values().filter_map(|verdict| verdict.conflict).collect();
        assert_eq!(conflicts.len(), 1, "the one whose signer is good has no other reason to wait");
        // A mesh that is new and wants what the old version of one has stays away.
        rig.want_all([swapped(), vec![in_domain("z", "p")]].concat(), &[]);
        assert_eq!(domains(&rig), "x:p y:q");
        rig.want_all(swapped(), &[]);
        rig.told(order[1], Outcome::Passed);
        assert_eq!(domains(&rig), "x:q y:p");
        assert_eq!(held(&rig).len(), 0);
    }
}
