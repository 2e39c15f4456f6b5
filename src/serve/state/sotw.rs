//! State of the world: each request lists every name that the client wants (xDS protocol, "SotW").

use std::time::Duration;

use tonic::Status;

use super::{Admitted, Core, Door, Machine, Outcome, Owed, names_of_one};
use crate::serve::wire::DiscoveryRequest;

/// One SotW stream of the Secret type.
#[derive(Debug)]
pub(crate) struct State {
    core: Core,
    repeats: Repeats,
    /// A repetition that has not been answered; however many there were, one answer serves them all.
    owes: bool,
}

impl Machine for State {
    type Request = DiscoveryRequest;

    fn new(core: Core) -> Self {
        Self { core, repeats: Repeats::default(), owes: false }
    }

    fn core(&mut self) -> &mut Core {
        &mut self.core
    }

    /// An empty list means no names (items 51 and 53). Too many of them end the stream: there is no way to say that there
    /// is nothing under some, and silence would look like a certificate that does not come.
    fn request(&mut self, request: &DiscoveryRequest, at: Duration) -> Result<Outcome, Status> {
        let core = &mut self.core;
        let may_report = match core.admit(&request.type_url)? {
            Admitted::Secrets { may_report } => may_report,
            Admitted::Foreign(foreign) => return Ok(Outcome { foreign, ..Outcome::default() }),
        };
        let names = names_of_one(&request.resource_names, core.limits)?;
        let mut outcome = Outcome {
            unsubscribe: core.subscriptions.retain(|name| names.contains(&name)),
            subscribe: names.iter().filter_map(|name| core.subscriptions.add(name)).collect(),
            ..Outcome::default()
        };
        if may_report && let [name] = outcome.subscribe.as_slice() {
            outcome.reported = vec![(name.clone(), request.version_info.clone())];
        }
        let repeats = core.judge(request, Some(&request.version_info), at, &mut outcome);
        let same_names = outcome.subscribe.is_empty() && outcome.unsubscribe.is_empty();
        self.owes |= repeats && same_names && core.door == Door::Aggregated;
        Ok(outcome)
    }

    fn owed(&mut self, at: Duration) -> Owed {
        if !self.owes {
            return Owed::Nothing;
        }
        match self.repeats.permit(at) {
            Ok(()) => {
                self.owes = false;
                Owed::Now(self.core.subscriptions.again())
            }
            Err(wait) => Owed::Later(wait),
        }
    }
}

/// How often a repeated request is answered (item 87): a client has one for each new user of a secret that it has, so some
/// may come at once, and a client that does nothing but repeat itself is not worth the work.
#[derive(Debug)]
struct Repeats {
    left: u32,
    /// When the one that comes back next began to come back.
    since: Duration,
}

impl Repeats {
    const AT_ONCE: u32 = 8;
    const EACH: Duration = Duration::from_secs(3);

    /// Takes one; or says how long it is until there is one.
    fn permit(&mut self, at: Duration) -> Result<(), Duration> {
        while self.left < Self::AT_ONCE && at.saturating_sub(self.since) >= Self::EACH {
            self.left += 1;
            self.since += Self::EACH;
        }
        if self.left == Self::AT_ONCE {
            self.since = at;
        }
        if self.left == 0 {
            return Err((self.since + Self::EACH).saturating_sub(at));
        }
        self.left -= 1;
        Ok(())
    }
}

impl Default for Repeats {
    fn default() -> Self {
        Self { left: Self::AT_ONCE, since: Duration::ZERO }
    }
}

#[cfg(test)]
#[path = "sotw_tests.rs"]
mod tests;
