//! What counts against a run and is known only at its end.

use super::meters::Meters;
use super::plan::Plan;
use super::results::{Phase, PhaseKind};

/// Notes it. `interrupted` says why the run did not come to its end, if it did not; `compared` is how many leaves were held against
/// the identity that was expected.
pub(crate) fn note(plan: &Plan, phases: &[Phase], interrupted: Option<&str>, compared: u64, meters: &Meters) {
    if let Some(why) = interrupted {
        let at = match phases.last() {
            Some(phase) => {
                let missing = if phase.kind == PhaseKind::Connect { never_came(plan, meters) } else { String::new() };
                format!("in {}, which {} of {} had reached{missing}", phase.name, phase.reached, phase.expected)
            }
            None => "before anything".to_owned(),
        };
        return meters.fail(why, || at + &most_often(meters));
    }
    if plan.expect_identity.is_some() && compared == 0 && meters.failed() == 0 {
        meters.fail("no identity was compared", || "no certificate has come (--expect-identity)".to_owned());
    }
    if let Some(expected) = plan.expect_issued {
        issued(expected, phases, meters);
    }
}

/// What the server has issued once all had connected.
fn issued(expected: u64, phases: &[Phase], meters: &Meters) {
    let later = phases.iter().filter(|phase| phase.kind != PhaseKind::Connect);
    let told: Vec<(&str, u64)> = later.filter_map(|phase| Some((phase.name.as_str(), phase.issued?))).collect();
    let issued: u64 = told.iter().map(|(_, issued)| issued).sum();
    if issued != expected {
        let by_phase: Vec<_> =
            told.iter().filter(|(_, issued)| *issued > 0).map(|(name, issued)| format!("{issued} in {name}")).collect();
        let by_phase = if by_phase.is_empty() { String::new() } else { format!(": {}", by_phase.join(", ")) };
        meters.fail("another number of certificates was issued than expected", || {
            format!("{issued} instead of {expected} once all had connected (--expect-issued){by_phase}")
        });
    }
}

/// Names under which nobody has got a secret though others came, to be read after something else: a server may not have them, and
/// says nothing then.
fn never_came(plan: &Plan, meters: &Meters) -> String {
    let all = plan.names.iter().zip(&meters.names);
    let missing: Vec<&str> = all.filter(|(_, name)| name.kind.get().is_none()).map(|(text, _)| &**text).collect();
    match missing.len() {
        0 => String::new(),
        count if count == plan.names.len() => "; no secret has come".to_owned(),
        _ => format!("; nobody has got {} (--names)", missing.join(", ")),
    }
}

/// What has kept proxies away most often, to be read after something else.
pub(crate) fn most_often(meters: &Meters) -> String {
    let interruptions = meters.interruptions();
    let most = interruptions.first().map(|most| format!("; {}", most.in_short()));
    most.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::load::meters::{Concerns, Current};
    use crate::load::phases::{Processes, Record};
    use crate::load::plan::tests::plan;
    use crate::load::protocol::Kind;

    /// What is told of a run whose phases have issued so many.
    fn told(plan: &Plan, issued: &[(PhaseKind, u64)], interrupted: Option<&str>) -> Vec<(String, String)> {
        let first = Current::new(0, String::new(), PhaseKind::Rest, Concerns::Nothing, 0);
        let meters = Arc::new(Meters::new(1, 1, 100, first));
        let mut record = Record::new(meters.clone(), Arc::new(Processes::new(None)));
        for (place, (kind, issued)) in issued.iter().enumerate() {
            record.begin(*kind, Concerns::Nothing, 3);
            record.end();
            record.phases[place].issued = Some(*issued);
        }
        meters.interrupt("cannot connect: connection refused", || "connection 3".to_owned());
        note(plan, &record.phases, interrupted, 0, &meters);
        meters.failures().into_iter().map(|failure| (failure.what, failure.example)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn certificates_are_counted_once_all_have_connected() {
        let phases = [(PhaseKind::Connect, 9), (PhaseKind::Storm, 0), (PhaseKind::Storm, 2), (PhaseKind::Churn, 1)];
        let expecting = |expect_issued| Plan { expect_issued, ..plan(9) };
        for good in [None, Some(3)] {
            assert!(told(&expecting(good), &phases, None).is_empty());
        }
        let what = "another number of certificates was issued than expected".to_owned();
        let example = "3 instead of 0 once all had connected (--expect-issued): 2 in storm-2, 1 in churn";
        assert_eq!(told(&expecting(Some(0)), &phases, None), [(what.clone(), example.to_owned())]);
        let example = "0 instead of 1 once all had connected (--expect-issued)";
        assert_eq!(told(&expecting(Some(1)), &phases[..2], None), [(what, example.to_owned())]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_server_does_not_have_is_named() {
        let first = Current::new(0, String::new(), PhaseKind::Rest, Concerns::Nothing, 0);
        let (plan, meters) = (plan(1), Meters::new(1, 2, 100, first));
        assert_eq!(never_came(&plan, &meters), "; no secret has come");
        meters.names[0].kind.set(Kind::Certificate).unwrap();
        assert_eq!(never_came(&plan, &meters), "; nobody has got ROOTCA (--names)");
        meters.names[1].kind.set(Kind::ValidationContext).unwrap();
        assert_eq!(never_came(&plan, &meters), "");
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_was_ended_says_where_it_was_and_nothing_else() {
        let plan = Plan { expect_issued: Some(7), expect_identity: Some("x".to_owned()), ..plan(9) };
        let example = "in storm, which 0 of 3 had reached; cannot connect: connection refused (once; connection 3)";
        let expected = ("given up".to_owned(), example.to_owned());
        assert_eq!(told(&plan, &[(PhaseKind::Connect, 1), (PhaseKind::Storm, 0)], Some("given up")), [expected]);
        let unmet = told(&plan, &[], None).into_iter().map(|(what, _)| what).collect::<Vec<_>>();
        assert_eq!(unmet.len(), 2, "{unmet:?}");
    }
}
