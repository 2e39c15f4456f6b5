//! State of the world: each request lists every name that the client wants (xDS protocol, "SotW").

use std::sync::Arc;

use tonic::Status;

use super::{Limits, Nonces, Push, Subscriptions, Verdict, check_type, distinct_names};
use crate::serve::naming::SecretKind;
use crate::serve::version::Version;
use crate::serve::wire::DiscoveryRequest;

/// One SotW stream of the Secret type.
#[derive(Debug)]
pub(crate) struct State {
    limits: Limits,
    subscriptions: Subscriptions,
    nonces: Nonces,
}

/// What a request brings about.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Names that the client wants from now on.
    pub(crate) subscribe: Vec<Arc<str>>,
    /// Names that it no longer wants.
    pub(crate) unsubscribe: Vec<Arc<str>>,
    /// Its verdict on an earlier response. Nothing is sent because of one (items 36 and 41).
    pub(crate) verdict: Option<Verdict>,
}

impl State {
    /// A stream on which nothing has been said. `stream` should differ from that of other streams.
    pub(crate) fn new(limits: Limits, stream: u32) -> Self {
        Self { limits, subscriptions: Subscriptions::default(), nonces: Nonces::new(stream, limits.names) }
    }

    /// Takes a request. Its nonce says which response a verdict is about and nothing else; its names count even if it
    /// is stale (39), is a NACK (42) or claims to have our version (34, 35). An empty list means no names (51, 53).
    ///
    /// # Errors
    /// The status that ends the stream.
    pub(crate) fn request(&mut self, request: &DiscoveryRequest) -> Result<Outcome, Status> {
        check_type(&request.type_url)?;
        let names = distinct_names(&request.resource_names, self.limits)?;
        let error = request.error_detail.as_ref().map(|detail| detail.message.as_str());
        let verdict = self.nonces.verdict(&request.response_nonce, error, Some(&request.version_info));
        let unsubscribe = self.subscriptions.retain(|name| names.contains(&name));
        let subscribe = names.iter().filter_map(|name| self.subscriptions.add(name)).collect();
        Ok(Outcome { subscribe, unsubscribe, verdict })
    }

    /// The newest version of `name` is `version` now. A name that is not subscribed is ignored (item 82).
    pub(crate) fn available(&mut self, name: &str, kind: SecretKind, version: Version) {
        self.subscriptions.available(name, kind, version);
    }

    /// What was available of `name` is not to be sent any more (item 99).
    pub(crate) fn gone(&mut self, name: &str) {
        self.subscriptions.gone(name);
    }

    /// What to send next, one secret at a time (item 78); to be asked when the transport has room. The caller sends
    /// it: it counts as sent from here on.
    pub(crate) fn next_push(&mut self) -> Option<Push> {
        let (name, kind, version, is_update) = self.subscriptions.next_to_send()?;
        let nonce = self.nonces.next(name.clone(), kind, version.clone());
        Some(Push { name, kind, version, nonce, is_update })
    }
}

#[cfg(test)]
#[path = "sotw_tests.rs"]
mod tests;
