//! Stage 3, whom it may believe: the trust bundle of each mesh, from the sources that its backends name.

pub mod domains;
pub mod learned;
mod memory;
mod own;
mod per_mesh;
mod record;
pub mod source;
pub mod state;
pub mod store;
