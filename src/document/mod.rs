//! What users write, before anybody knows what it means: YAML and JSON as a tree that remembers its lines, and a decoder
//! that reports every problem in it instead of the first one. Knows neither configuration nor resources.

mod decode;
mod node;
mod yaml;

pub use decode::{Field, Fields, Report, may_mean, quoted};
pub use node::{Entry, Map, NOT_KEPT, Node, Scalar, ScalarKind, Value};
pub use yaml::{MAX_BYTES, MAX_DEPTH, SyntaxError, parse, parse_each};

#[cfg(test)]
mod tests;
