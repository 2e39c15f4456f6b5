//! Sources of CA certificates; one file each.

pub mod mesh_secret;
