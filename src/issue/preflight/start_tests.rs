//! What is in force after a start, whatever comes first.

use std::sync::Arc;

use super::tests::{Rig, failed, mesh, with_identity};
use crate::model::policy::{Backend, BackendKind, DataSource, IdentityPolicy, MeshPolicy, PolicySet, ProvidedCa};
use crate::model::preflight::{Conflict, Outcome, Rules};
use crate::model::secrets::SecretBytes;
use crate::testing::certs::TestCa;

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
fn a_mesh_that_comes_late_finds_what_was_in_force_of_it_and_one_that_was_deleted_leaves_nothing() {
    let mut rig = Rig::new();
    rig.want(mesh("a=one"));
    rig.restart(vec![], &[]);
    rig.restart(vec![], &[]);
    rig.want(mesh("a=other"));
    assert_eq!(rig.in_force(), "a: a=one");
    // While the server runs.
    rig.want_all(vec![], &[]);
    rig.want(mesh("a=two"));
    assert_eq!(rig.in_force(), "a: a=two");
    // While none ran.
    rig.restart(vec![], &[]);
    rig.state.forget_kept();
    rig.want(mesh("a=three"));
    assert_eq!(rig.in_force(), "a: a=three");
}

#[test]
fn what_was_changed_in_its_place_is_held_back_over_restarts_and_can_be_taken_back() {
    let of_web = |issuer: &str| with_identity(mesh("a=one"), "web", issuer);
    for (name, before, changed, signer, expected) in [
        ("the only signer", mesh("a=one"), mesh("a=other"), "a", "a: a=one"),
        ("with others listed", mesh("a=one b=two"), mesh("a=other b=two"), "a", "a: a=one b=two"),
        ("of an identity policy", of_web("two"), of_web("three"), "of-web", "a: a=one of-web=two"),
    ] {
        // Whether it was changed while the server ran.
        for live in [true, false] {
            let mut rig = Rig::new();
            rig.want(before.clone());
            let passed: Vec<String> = rig.to_test();
            for backend in &passed {
                rig.told(backend, Outcome::Passed);
            }
            if live {
                rig.want(changed.clone());
                rig.told(signer, failed());
            }
            let others: Vec<&str> = passed.iter().map(String::as_str).filter(|other| *other != signer).collect();
            for _ in 0..2 {
                rig.restart(vec![changed.clone()], &others);
                rig.told(signer, failed());
                assert_eq!((rig.in_force().as_str(), held(&rig)), (expected, vec![signer.into()]), "{name}, {live}");
            }
            rig.restart(vec![before.clone()], &others);
            assert_eq!((*rig.state.in_force().meshes["default"]).clone(), before, "{name}, {live}");
            assert_eq!(held(&rig).len(), 0, "{name}, {live}");
            rig.restart(vec![changed.clone()], &others);
            rig.told(signer, Outcome::Passed);
            assert_eq!((*rig.state.in_force().meshes["default"]).clone(), changed, "{name}, {live}");
        }
    }
}

#[test]
fn a_private_key_that_was_not_kept_is_found_in_what_is_wanted() {
    let inline = |text: &str| DataSource::Inline(SecretBytes::new(text.as_bytes().to_vec()));
    let certificate = TestCa::root("given").certificate().pem();
    let ca = ProvidedCa {
        certificate: inline(&(certificate + "\n")),
        private_key: inline("the key"),
        allow_self_signed: true,
    };
    let given = |policy: MeshPolicy| {
        let is_it = |backend: &Arc<Backend>| &*backend.name == "given";
        let kind = BackendKind::Provided(ca.clone());
        let swap = |backend: &Arc<Backend>| match is_it(backend) {
            true => Arc::new(Backend { kind: kind.clone(), ..Backend::clone(backend) }),
            false => backend.clone(),
        };
        MeshPolicy { backends: policy.backends.iter().map(swap).collect(), ..policy }
    };
    let key = |rig: &Rig| match &rig.state.in_force().meshes["default"].enabled().unwrap().kind {
        BackendKind::Provided(ca) => ca.private_key.clone(),
        _ => unreachable!(),
    };
    let mut rig = Rig::new();
    rig.want(given(mesh("given=x")));
    let other = MeshPolicy { enabled_backend: Some("b".into()), ..given(mesh("given=x b=two")) };
    rig.restart(vec![other], &["given"]);
    assert_eq!((held(&rig), key(&rig)), (vec!["b".into()], ca.private_key.clone()));
    rig.restart(vec![mesh("b=two")], &["given"]);
    assert_eq!((held(&rig), key(&rig)), (vec!["b".into()], DataSource::NotKept));
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
