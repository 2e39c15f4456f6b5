//! Stage 3, whom a proxy may believe: where the CA certificates of a mesh come from.

pub mod source;
