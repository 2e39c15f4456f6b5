//! envoy-sds: an xDS secret discovery (SDS) server for Envoy, fed by cert-manager.
//!
//! The modules are the stages of one pipeline; ARCHITECTURE.md has the picture and the rules, and a test holds the imports
//! to them.

pub mod model;

pub mod runtime;

pub mod observe;

pub mod document;

pub mod config;

pub mod mesh;

pub mod identify;

pub mod issue;

pub mod trust;

pub mod serve;

pub mod admin;

pub mod app;

pub mod bootstrap;

pub mod demo;

pub mod load;

pub mod cli;

#[doc(hidden)]
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;

#[cfg(test)]
mod testing;
