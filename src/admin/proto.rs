//! The messages of `proto/envoy_sds` and of Envoy's status service, and the services that have them: the server's side for
//! this module, the client's for the commands.

#[allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    reason = "generated; the documentation is in the .proto files"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/admin/admin.rs"));
}

pub use generated::envoy;
pub use generated::envoy_sds::admin::v1;

/// The descriptors of all of it, for reflection.
pub(super) const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/admin/descriptors.binpb"));
