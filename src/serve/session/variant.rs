//! What the variants of the protocol differ in outside of their rules: which messages they send, and what they are called.

use std::time::Duration;

use crate::serve::metrics::Protocol;
use crate::serve::shared::Shared;
use crate::serve::state::{Door, Machine, delta, sotw};
use crate::serve::wire::encoding::Encoded;
use crate::serve::wire::response::Response;

/// A variant of the protocol.
pub(in crate::serve) trait Variant: Machine + Send + Unpin + 'static {
    /// What it is called where it comes in by `door`.
    fn protocol(door: Door) -> Protocol;

    /// The response that has `nonce` and one secret.
    fn response(shared: &Shared, nonce: String, name: &str, secret: Encoded) -> Response;

    /// A response without a secret, if there is anything to say in one; it counts as sent at `at`.
    fn next_bare(&mut self, _shared: &Shared, _at: Duration) -> Option<Response> {
        None
    }
}

impl Variant for sotw::State {
    fn protocol(door: Door) -> Protocol {
        match door {
            Door::Dedicated => Protocol::Sotw,
            Door::Aggregated => Protocol::AdsSotw,
        }
    }

    fn response(shared: &Shared, nonce: String, name: &str, secret: Encoded) -> Response {
        Response::sotw(&shared.control_plane, nonce, name, secret)
    }
}

impl Variant for delta::State {
    fn protocol(door: Door) -> Protocol {
        match door {
            Door::Dedicated => Protocol::Delta,
            Door::Aggregated => Protocol::AdsDelta,
        }
    }

    fn response(shared: &Shared, nonce: String, name: &str, secret: Encoded) -> Response {
        Response::delta(&shared.control_plane, nonce, name, secret)
    }

    fn next_bare(&mut self, shared: &Shared, at: Duration) -> Option<Response> {
        let removal = self.next_removal(at)?;
        tracing::debug!(names = removal.names.len(), nonce = removal.nonce, "removal of what is withheld");
        let names = removal.names.iter().map(|name| name.as_ref().to_owned()).collect();
        Some(Response::removal(&shared.control_plane, removal.nonce, names))
    }
}
