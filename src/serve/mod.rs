//! Stage 4, hand it to Envoy: listeners, the xDS protocol, secrets by name.

pub mod source;
