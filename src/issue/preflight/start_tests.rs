//! What is in force after a start, whatever comes first.

use super::tests::{Rig, failed, mesh, with_identity};

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
