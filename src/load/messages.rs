//! Messages of a simulated Envoy, and how they go onto the wire.

use std::fmt;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

/// The messages of `proto/envoy_sds/load`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/load/load.rs"));
}

pub(crate) use generated::envoy_sds::load::v1::*;

/// The type URL of a secret.
pub(crate) const SECRET_TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// Length of gRPC's message header: a compression flag and the message's length.
pub(crate) const HEADER: usize = 5;

/// `DiscoveryRequest.node` and `DeltaDiscoveryRequest.node`.
pub(crate) const SOTW_NODE: u32 = 2;
pub(crate) const DELTA_NODE: u32 = 1;

/// A Node in two parts: what is the proxy's own, and what all of them share.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// `id` and `cluster`.
    pub(crate) own: Arc<[u8]>,
    /// All other fields.
    pub(crate) shared: Bytes,
}

/// A request with gRPC's header: two pieces, of which the second is the node's shared part, not copied.
pub(crate) fn frame(request: &impl Message, node: Option<(u32, &Node)>) -> [Bytes; 2] {
    let mut own = BytesMut::with_capacity(HEADER + request.encoded_len() + 64);
    own.put_bytes(0, HEADER);
    // The buffer grows as needed, so this cannot fail.
    let _ = request.encode(&mut own);
    let mut shared = Bytes::new();
    if let Some((field, node)) = node {
        encode_key(field, WireType::LengthDelimited, &mut own);
        encode_varint((node.own.len() + node.shared.len()) as u64, &mut own);
        own.put_slice(&node.own);
        shared = node.shared.clone();
    }
    let length = u32::try_from(own.len() - HEADER + shared.len()).unwrap_or(u32::MAX);
    (&mut own[1..HEADER]).put_u32(length);
    [own.freeze(), shared]
}

impl DataSource {
    /// The bytes that are in it; `None` if they are elsewhere.
    pub(crate) fn inline(&self) -> Option<&[u8]> {
        match self.specifier.as_ref()? {
            data_source::Specifier::InlineBytes(bytes) => Some(bytes),
            data_source::Specifier::InlineString(text) => Some(text.as_bytes()),
        }
    }
}

/// There may be a private key in it.
impl fmt::Debug for DataSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataSource").field("bytes", &self.inline().map(<[u8]>::len)).finish()
    }
}

/// Likewise.
impl fmt::Debug for Any {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Any").field("type_url", &self.type_url).field("bytes", &self.value.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_with_its_node_is_one_message() {
        let node = Node { own: Arc::from(&b"\x0a\x01a"[..]), shared: Bytes::from_static(b"\x32\x05envoy") };
        let request = SotwRequest { type_url: SECRET_TYPE.to_owned(), ..SotwRequest::default() };
        let pieces = frame(&request, Some((SOTW_NODE, &node)));
        assert_eq!(pieces[1].as_ptr(), node.shared.as_ptr(), "the shared part is not copied");
        let whole = pieces.concat();
        let (header, message) = whole.split_at(HEADER);
        assert_eq!((header[0], u32::from_be_bytes(header[1..].try_into().unwrap()) as usize), (0, message.len()));
        assert!(message.ends_with(b"\x12\x0a\x0a\x01a\x32\x05envoy"), "{message:?}");
        assert_eq!(SotwRequest::decode(message).unwrap(), request, "and it is skipped by who does not know it");
        assert!(frame(&request, None)[1].is_empty());
    }

    #[test]
    fn no_content_is_shown() {
        let key = Bytes::from_static(b"-----BEGIN PRIVATE KEY-----");
        let source = DataSource { specifier: Some(data_source::Specifier::InlineBytes(key.clone())) };
        let shown = format!("{source:?} {:?}", Any { type_url: String::new(), value: key });
        assert!(!shown.contains("PRIVATE") && shown.contains("27"), "{shown}");
    }
}
