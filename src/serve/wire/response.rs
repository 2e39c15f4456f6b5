//! Response messages, put together from what is a response's own and from encodings that streams share.
//!
//! Protobuf lets a message be written field by field in any order, and again and again. So a secret's encoding without its
//! name goes last in each of the messages that are around it, and all the rest of them, with the name, before it.

use std::collections::VecDeque;
use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use envoy_types::pb::envoy::config::core::v3::ControlPlane;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse, Resource};
use envoy_types::pb::google::protobuf::Any;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use zeroize::Zeroizing;

use super::encoding::Encoded;
use super::{HEADER, SECRET_TYPE};
use crate::serve::version::Version;

/// A response of more bytes than this is worth a look: so large is no bundle of a mesh that is well.
const LARGE: usize = 1 << 20;

/// A response of no more bytes is copied into one piece. HTTP/2 makes a frame of each piece, and writes to the socket for nearly
/// every frame, which costs a hundred times as much as copying what a leaf or a few CAs take.
const COPIED: usize = 4096;

/// Numbers of fields.
const ANY_VALUE: u32 = 2;
const RESOURCE_RESOURCE: u32 = 2;
const RESOURCES: u32 = 2;

/// One response message.
pub(crate) struct Response {
    pieces: VecDeque<Bytes>,
}

impl Response {
    /// A `DiscoveryResponse` with one secret (item 78).
    pub(crate) fn sotw(control_plane: &str, nonce: String, name: &str, secret: Encoded) -> Self {
        let own = DiscoveryResponse {
            version_info: secret.version.to_string(),
            type_url: SECRET_TYPE.to_owned(),
            nonce,
            control_plane: named(control_plane),
            ..Default::default()
        };
        Self::new(&own, [Nested::secret(name, secret)])
    }

    /// A `DiscoveryResponse` with several: the answer to `FetchSecrets`, which nobody answers in turn.
    pub(crate) fn fetched(control_plane: &str, version: &Version, secrets: Vec<(&str, Encoded)>) -> Self {
        let own = DiscoveryResponse {
            version_info: version.to_string(),
            type_url: SECRET_TYPE.to_owned(),
            control_plane: named(control_plane),
            ..Default::default()
        };
        Self::new(&own, secrets.into_iter().map(|(name, secret)| Nested::secret(name, secret)))
    }

    /// A `DeltaDiscoveryResponse` with one secret. Item 79: three times the same name. Item 49: the resource's version is
    /// what counts; the other one is what Envoy shows as `version_text`.
    pub(crate) fn delta(control_plane: &str, nonce: String, name: &str, secret: Encoded) -> Self {
        let version = secret.version.to_string();
        let own = DeltaDiscoveryResponse {
            system_version_info: version.clone(),
            type_url: SECRET_TYPE.to_owned(),
            nonce,
            control_plane: named(control_plane),
            ..Default::default()
        };
        let resource = Resource { name: name.to_owned(), version, ..Default::default() };
        Self::new(&own, [Nested::secret(name, secret).within(&resource, RESOURCE_RESOURCE)])
    }

    /// A `DeltaDiscoveryResponse` that says that there are no such secrets.
    pub(crate) fn removal(control_plane: &str, nonce: String, names: Vec<String>) -> Self {
        let own = DeltaDiscoveryResponse {
            type_url: SECRET_TYPE.to_owned(),
            nonce,
            removed_resources: names,
            control_plane: named(control_plane),
            ..Default::default()
        };
        Self::new(&own, [])
    }

    /// The response that has the fields of `own` and these resources.
    fn new(own: &impl Message, resources: impl IntoIterator<Item = Nested>) -> Self {
        let mut pieces = Vec::with_capacity(2);
        // The header, `own` and what goes before the first secret are one piece.
        let mut head = vec![0; HEADER];
        head.extend_from_slice(&own.encode_to_vec());
        for resource in resources {
            resource.open(RESOURCES, &mut head);
            pieces.push(std::mem::take(&mut head).into());
            pieces.push(resource.last);
        }
        if !head.is_empty() {
            pieces.push(head.into());
        }
        let length: usize = pieces.iter().map(Bytes::len).sum();
        if length <= COPIED {
            // There may be a private key in it.
            let mut whole = Zeroizing::new(Vec::with_capacity(length));
            pieces.drain(..).for_each(|piece| whole.extend_from_slice(&piece));
            set_length(&mut whole, length);
            pieces.push(Bytes::from_owner(whole));
        } else if let Some(first) = pieces.first_mut() {
            let mut head = BytesMut::from(&first[..]);
            set_length(&mut head, length);
            *first = head.freeze();
        }
        Self { pieces: pieces.into() }
    }

    /// Its length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum::<usize>().saturating_sub(HEADER)
    }

    /// Whether operators should know of it (item 9). Envoy takes much larger ones.
    pub(crate) fn is_large(&self) -> bool {
        self.len() > LARGE
    }

    /// As it goes onto the wire, gRPC's header included.
    pub(super) fn into_pieces(self) -> VecDeque<Bytes> {
        self.pieces
    }
}

/// There may be a private key in it.
impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response").field("length", &self.len()).finish_non_exhaustive()
    }
}

/// Completes gRPC's header, which is the first of the `length` bytes of a response.
fn set_length(head: &mut [u8], length: usize) {
    // No secret comes near 4 GiB: bundles are bounded in certificates, and requests in names.
    let length = u32::try_from(length - HEADER).unwrap_or(u32::MAX);
    (&mut head[1..HEADER]).put_u32(length);
}

fn named(control_plane: &str) -> Option<ControlPlane> {
    Some(ControlPlane { identifier: control_plane.to_owned() })
}

/// A message whose end is elsewhere.
struct Nested {
    head: Vec<u8>,
    last: Bytes,
}

impl Nested {
    /// A secret in an `Any`.
    fn secret(name: &str, secret: Encoded) -> Self {
        let name = Secret { name: name.to_owned(), r#type: None };
        let secret = Self { head: name.encode_to_vec(), last: secret.bytes };
        secret.within(&Any { type_url: SECRET_TYPE.to_owned(), value: Vec::new() }, ANY_VALUE)
    }

    /// The message that has the fields of `outer`, and this one as its field `number`.
    fn within(self, outer: &impl Message, number: u32) -> Self {
        let mut head = outer.encode_to_vec();
        self.open(number, &mut head);
        Self { head, last: self.last }
    }

    /// Writes it as field `number` of another message, but for its end.
    fn open(&self, number: u32, to: &mut Vec<u8>) {
        encode_key(number, WireType::LengthDelimited, to);
        encode_varint((self.head.len() + self.last.len()) as u64, to);
        to.extend_from_slice(&self.head);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::secret as render;
    use crate::serve::testing::{bundle, svid};
    use crate::serve::wire::encoding::Encoder;

    /// The message as a client gets it.
    fn read<M: Message + Default>(response: Response) -> M {
        let length = response.len();
        let bytes = response.into_pieces().into_iter().flatten().collect::<Vec<u8>>();
        let (header, message) = bytes.split_at(HEADER);
        assert_eq!((header[0], u32::from_be_bytes(header[1..].try_into().unwrap()) as usize), (0, length));
        assert_eq!(message.len(), length);
        M::decode(message).unwrap()
    }

    #[test]
    fn items_32_80_and_81_a_certificate_decodes_to_the_message_meant() {
        let svid = svid("a");
        let version = Version::of_certificate(&svid);
        let encoded = Encoder::default().certificate(&svid, version.clone());
        let secret = render::certificate("default", &svid);
        let expected = DiscoveryResponse {
            version_info: version.to_string(),
            resources: vec![Any { type_url: SECRET_TYPE.to_owned(), value: secret.encode_to_vec() }],
            type_url: SECRET_TYPE.to_owned(),
            nonce: "n-1".to_owned(),
            control_plane: Some(ControlPlane { identifier: "replica-0".to_owned() }),
            ..Default::default()
        };
        let response = Response::sotw("replica-0", "n-1".to_owned(), "default", encoded);
        assert_eq!(read::<DiscoveryResponse>(response), expected);
    }

    #[test]
    fn items_49_50_and_79_a_delta_response_names_and_versions_its_resource() {
        let bundle = bundle("a");
        let value = render::validation_context("spiffe://a", &bundle).encode_to_vec();
        let version = Version::of_bundle(&bundle).to_string();
        let resource = Resource {
            name: "spiffe://a".to_owned(),
            version: version.clone(),
            resource: Some(Any { type_url: SECRET_TYPE.to_owned(), value }),
            ..Default::default()
        };
        let expected = DeltaDiscoveryResponse {
            system_version_info: version,
            resources: vec![resource],
            type_url: SECRET_TYPE.to_owned(),
            nonce: "n-1".to_owned(),
            control_plane: Some(ControlPlane { identifier: "replica-0".to_owned() }),
            ..Default::default()
        };
        let encoded = Encoder::default().trust_bundle(&bundle);
        let response = Response::delta("replica-0", "n-1".to_owned(), "spiffe://a", encoded);
        assert_eq!(read::<DeltaDiscoveryResponse>(response), expected);
    }

    #[test]
    fn several_secrets_none_and_names_of_any_length() {
        let (encoder, bundle) = (Encoder::default(), bundle("a"));
        let names = ["", "x", &"y".repeat(127), &"z".repeat(2048)];
        let secrets = names.map(|name| (name, encoder.trust_bundle(&bundle))).to_vec();
        let response: DiscoveryResponse = read(Response::fetched("", &"v".into(), secrets));
        for (resource, name) in response.resources.iter().zip(names) {
            let secret = Secret::decode(&*resource.value).unwrap();
            assert_eq!(secret, render::validation_context(name, &bundle));
        }
        assert_eq!(response.resources.len(), names.len());
        let removal: DeltaDiscoveryResponse = read(Response::removal("", "n".to_owned(), vec!["x".to_owned()]));
        assert_eq!((removal.removed_resources, removal.resources), (vec!["x".to_owned()], Vec::new()));
    }

    #[test]
    fn what_is_small_goes_out_in_one_frame_and_what_is_large_by_reference() {
        let (encoder, svid, bundle) = (Encoder::default(), svid("web"), bundle("a"));
        let certificate = encoder.certificate(&svid, Version::of_certificate(&svid));
        let context = encoder.trust_bundle(&bundle);
        for secret in [certificate, context] {
            assert_eq!(Response::delta("", "n".to_owned(), &"x".repeat(255), secret).into_pieces().len(), 1);
        }
        let large = Encoded { version: "v".into(), bytes: vec![7; COPIED].into() };
        let pieces = Response::sotw("", "n".to_owned(), "x", large.clone()).into_pieces();
        assert_eq!((pieces.len(), pieces[1].as_ptr()), (2, large.bytes.as_ptr()));
    }

    #[test]
    fn no_response_shows_the_key_in_it() {
        let svid = svid("web");
        let encoded = Encoder::default().certificate(&svid, Version::of_certificate(&svid));
        let shown = format!("{:?}", Response::sotw("", "n".to_owned(), "default", encoded));
        assert!(shown.contains("length") && shown.len() < 100, "{shown}");
    }
}
