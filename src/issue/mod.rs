//! Stage 2, its certificate: from an identity to a verified leaf that is renewed for as long as somebody wants it.

pub mod ca;
