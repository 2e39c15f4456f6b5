//! `envoy-sds load`: many simulated Envoys against any SDS server, and what they have measured.
//!
//! A connection is one task, which drives HTTP/2 and all streams of its proxies; the client shares the machine with the
//! server that it measures, so it does as little as it can while a phase runs. What was received is checked between phases.

mod backoff;
mod check;
mod churn;
mod command;
mod connection;
mod contexts;
mod engine;
mod inspect;
mod latency;
mod messages;
mod meters;
mod node;
mod nudge;
mod outcome;
mod phases;
mod plan;
pub mod progress;
mod protocol;
mod proxy;
pub mod report;
pub mod results;
mod server_metrics;
mod stream;
mod transport;
mod usage;

pub(crate) use check::expected_kind;
pub use engine::run;
pub use plan::{Credentials, Plan, Resends, ServerProcess, Share, Target, Trigger};
pub use protocol::Variant;
