//! Stage 4, hand it to Envoy: listeners, the xDS protocol, secrets by name.
//!
//! A call comes in through [`listen`], is let in by `open`, and becomes a `session`, one for both variants of the protocol and both services (or a `fetch`). What the protocol
//! demands is decided in `state`, which does no I/O; what a name means, in [`naming`]; what goes onto the wire, in
//! `secret` and `wire`. Numbered items in the documentation are those of the project's conformance list for SDS servers.

mod admission;
#[doc(hidden)]
pub mod benching;
mod blocked;
mod bucket;
mod client;
#[cfg(test)]
mod client_testing;
mod counts;
mod durations;
mod feed;
mod fetch;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod instances;
pub mod listen;
pub mod metrics;
pub mod naming;
mod open;
mod redact;
mod refusal;
pub mod refusals;
pub mod roster;
mod secret;
mod server;
mod session;
mod shared;
pub mod source;
mod state;
#[cfg(test)]
mod testing;
pub mod version;
mod wire;

pub use admission::StreamLimits;
pub use server::{SdsServer, ServeSettings};
