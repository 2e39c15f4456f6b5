//! What the variants of the protocol differ in outside of their rules: which messages they send, and what they are called.

use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};

use crate::serve::metrics::Protocol;
use crate::serve::shared::Shared;
use crate::serve::state::{Door, Machine, delta, sotw};
use crate::serve::wire::SECRET_TYPE;
use crate::serve::wire::encoding::Encoder;
use crate::serve::wire::outbound::Response;

/// A variant of the protocol.
pub(in crate::serve) trait Variant: Machine + Send + Unpin + 'static {
    /// What it is called where it comes in by `door`.
    fn protocol(door: Door) -> Protocol;

    /// Who encodes its secrets.
    fn encoder(shared: &Shared) -> &Encoder;

    /// The response that has `nonce` and what its encoder has made of a secret.
    fn response(nonce: String, secret: Bytes) -> Response;

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

    fn encoder(shared: &Shared) -> &Encoder {
        &shared.sotw
    }

    fn response(nonce: String, secret: Bytes) -> Response {
        Response::new(&DiscoveryResponse { nonce, ..Default::default() }, [secret])
    }
}

impl Variant for delta::State {
    fn protocol(door: Door) -> Protocol {
        match door {
            Door::Dedicated => Protocol::Delta,
            Door::Aggregated => Protocol::AdsDelta,
        }
    }

    fn encoder(shared: &Shared) -> &Encoder {
        &shared.delta
    }

    fn response(nonce: String, secret: Bytes) -> Response {
        Response::new(&DeltaDiscoveryResponse { nonce, ..Default::default() }, [secret])
    }

    fn next_bare(&mut self, shared: &Shared, at: Duration) -> Option<Response> {
        let removal = self.next_removal(at)?;
        tracing::debug!(names = removal.names.len(), nonce = removal.nonce, "removal of what is withheld");
        let response = DeltaDiscoveryResponse {
            type_url: SECRET_TYPE.to_owned(),
            nonce: removal.nonce,
            removed_resources: removal.names.iter().map(|name| name.as_ref().to_owned()).collect(),
            control_plane: Some(shared.delta.control_plane()),
            ..Default::default()
        };
        Some(Response::new(&response, []))
    }
}
