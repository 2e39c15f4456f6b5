//! Incremental: each request says which names the client wants besides, and which no longer (xDS protocol, "Delta").

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tonic::Status;

use super::{Admitted, Core, Machine, Outcome, distinct_names};
use crate::serve::wire::DeltaDiscoveryRequest;

/// One Delta stream of the Secret type.
#[derive(Debug)]
pub(crate) struct State {
    core: Core,
    /// Names for which there was no room, to be told of.
    refused: Vec<Arc<str>>,
}

/// A response that says that there are no such secrets, to be sent now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Removal {
    pub(crate) names: Vec<Arc<str>>,
    pub(crate) nonce: String,
}

impl Machine for State {
    type Request = DeltaDiscoveryRequest;

    fn new(core: Core) -> Self {
        Self { core, refused: Vec::new() }
    }

    fn core(&mut self) -> &mut Core {
        &mut self.core
    }

    /// Every name that is subscribed is answered, known or not, unchanged or not (items 55, 71 and 89); an unsubscribed one
    /// never is, and need not have been subscribed (56). Nothing is a wildcard (51, 54 and 58), and names that are in
    /// `initial_resource_versions` only are none that the client wants (90).
    ///
    /// Names beyond the bound do not end the stream: clients have not always chosen them (an Envoy that asks for secrets on
    /// demand is told by its peers for which), and all other secrets of the stream would be gone with it. They take the
    /// places of names that the client has been told there is nothing of, the oldest first, which it has to ask for anew
    /// if it is to hear of them; and when there are none of these, there is nothing under the new name.
    ///
    /// Of a name that is in both lists the protocol's description says nothing. It is unsubscribed first, and so begins
    /// anew: the worst that comes of that is a secret sent once too often, where the other order would lose a
    /// subscription for good. (Envoy itself sends a name in one of the lists only, and drop-then-want as a subscription.)
    fn request(&mut self, request: &DeltaDiscoveryRequest, at: Duration) -> Result<Outcome, Status> {
        let core = &mut self.core;
        let may_report = match core.admit(&request.type_url)? {
            Admitted::Secrets { may_report } => may_report,
            Admitted::Foreign(foreign) => return Ok(Outcome { foreign, ..Outcome::default() }),
        };
        let names = distinct_names(&request.resource_names_subscribe, core.limits)?;
        core.limits.check_count(&request.resource_names_unsubscribe)?;
        let ended: HashSet<&str> = request.resource_names_unsubscribe.iter().map(String::as_str).collect();
        let mut outcome =
            Outcome { unsubscribe: core.subscriptions.retain(|name| !ended.contains(name)), ..Outcome::default() };
        for name in names {
            if let Some(name) = core.subscriptions.restart(name) {
                outcome.again.push(name);
                continue;
            }
            if core.subscriptions.len() >= core.limits.names {
                match core.subscriptions.displace() {
                    Some(displaced) => outcome.unsubscribe.push(displaced),
                    None => {
                        self.refused.push(name.into());
                        outcome.refused += 1;
                        continue;
                    }
                }
            }
            outcome.subscribe.extend(core.subscriptions.add(name));
        }
        core.limits.check_count(&self.refused)?;
        if may_report {
            let reported =
                |name: &Arc<str>| Some((name.clone(), request.initial_resource_versions.get(&**name)?.clone()));
            outcome.reported = outcome.subscribe.iter().filter_map(reported).collect();
        }
        core.judge(request, None, at, &mut outcome);
        Ok(outcome)
    }

    /// To be told once for each subscription (item 71). Never for what is pending (69).
    fn withheld(&mut self, name: &str) {
        self.core.subscriptions.deny(name);
    }
}

impl State {
    /// What there is to say of names that are withheld; they share a response, without a secret (item 76). The caller
    /// sends it: it counts as sent at `at`.
    pub(crate) fn next_removal(&mut self, at: Duration) -> Option<Removal> {
        let mut names = std::mem::take(&mut self.refused);
        names.extend(self.core.subscriptions.take_denied());
        if names.is_empty() {
            return None;
        }
        let nonce = self.core.nonces.next(None, at);
        Some(Removal { names, nonce })
    }
}

#[cfg(test)]
#[path = "delta_tests.rs"]
mod tests;
