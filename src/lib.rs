//! envoy-sds: an xDS secret discovery (SDS) server for Envoy, fed by cert-manager.

pub mod cli;
pub mod config;
pub mod document;
pub mod identify;
pub mod issue;
pub mod mesh;
pub mod model;
pub mod runtime;
pub mod serve;
