//! Which of the proxies that share an identity it is.

use std::sync::Arc;

use aws_lc_rs::digest;

use crate::identify::{NodeClaim, Proof};
use crate::model::identity::Instance;

/// The longest `node.id` that is taken as it is.
pub(super) const NODE_ID_CHARS: usize = 256;

/// What the proof names; else what `node.id` calls the proxy in this mesh.
pub(super) fn of(proof: &Proof, mesh: &str, node: &NodeClaim) -> Instance {
    match &proof.instance {
        Some(instance) => Instance::Proven(instance.as_str().into()),
        None => Instance::Node(bounded(name_in(mesh, &node.id))),
    }
}

/// What `node.id` calls the proxy: `web-0` and `<mesh>.web-0` are two ways to say the same, so it is one proxy, by the name
/// that operators look for. Another prefix is part of the name, as names may have dots.
fn name_in<'a>(mesh: &str, id: &'a str) -> &'a str {
    let name = id.strip_prefix(mesh).and_then(|rest| rest.strip_prefix('.'));
    name.filter(|name| !name.is_empty()).unwrap_or(id)
}

/// `id` if it is reasonable, else its beginning and a hash of all of it, so that different ones stay different.
pub(super) fn bounded(id: &str) -> Arc<str> {
    let printable = |c: &char| !c.is_control();
    if id.chars().count() <= NODE_ID_CHARS && id.chars().all(|c| printable(&c)) {
        return id.into();
    }
    let beginning: String = id.chars().filter(printable).take(64).collect();
    let hash = digest::digest(&digest::SHA256, id.as_bytes());
    format!("{beginning}…sha256-{}", hex::encode(&hash.as_ref()[..16])).into()
}
