//! Proxies leave and come back at a rate. Only those leave that have their secrets: one that was cut off while it waits would take
//! its wait with it, and a server that is too slow would look as good as one that is not.

use std::sync::atomic::Ordering::Relaxed;

use tokio::time::Interval;

use super::meters::{Current, Meters};
use super::nudge::Nudge;
use super::plan::Plan;

/// Has a proxy leave with each tick, until nobody is left or this is dropped. One that would have to leave when nobody can is
/// noted in `phase`.
pub(crate) async fn churn(mut ticks: Interval, plan: &Plan, nudges: &[Nudge], meters: &Meters, phase: &Current) {
    let (all, largest) = (plan.readers(), plan.proxies_on(0));
    let mut due = 0;
    while meters.given_up.load(Relaxed) < all {
        ticks.tick().await;
        due += 1;
        // Who shares a connection leaves with the others on it.
        if due < largest {
            continue;
        }
        match one_that_is_served(nudges, meters) {
            Some(left) => due -= plan.proxies_on(left),
            None => {
                phase.miss(due);
                due = 0;
            }
        }
    }
}

/// Tells one connection to leave, any of those on which nobody waits; which one it is.
fn one_that_is_served(nudges: &[Nudge], meters: &Meters) -> Option<usize> {
    let first = fastrand::usize(..nudges.len());
    (first..nudges.len()).chain(0..first).find(|index| nudges[*index].give_to_served(meters))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{interval, timeout};

    use super::*;
    use crate::load::meters::Concerns;
    use crate::load::plan::tests::plan;
    use crate::load::results::PhaseKind;

    /// Of six proxies on so many connections, of which these are served, twelve are to leave within a second: how often the
    /// connections were told, and how many proxies could not leave.
    async fn told(connections: usize, served: &[usize]) -> (u64, u64) {
        let plan = Plan { connections: Some(connections), ..plan(6) };
        let phase = Current::new(1, "churn".to_owned(), PhaseKind::Churn, Concerns::Nothing, 0);
        let meters = Meters::new(0, 1, 1, Current::new(0, String::new(), PhaseKind::Rest, Concerns::Nothing, 0));
        let nudges: Vec<Nudge> = (0..connections).map(|_| Nudge::default()).collect();
        served.iter().for_each(|index| nudges[*index].serves(true));
        let ticks = interval(Duration::from_secs(1) / 12);
        let _ = timeout(Duration::from_millis(950), churn(ticks, &plan, &nudges, &meters, &phase)).await;
        (meters.away(), phase.missed())
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_left_alone_and_what_does_not_happen_is_noted() {
        assert_eq!(told(6, &[0, 1, 2, 3, 4, 5]).await, (6, 6), "each once, as none comes back here");
        assert_eq!(told(6, &[1, 4]).await, (2, 10));
        assert_eq!(told(6, &[]).await, (0, 12));
        assert_eq!(told(3, &[0, 1, 2]).await, (3, 6), "two with each connection");
    }
}
