//! Between HTTP/2 and the protocol: requests in, responses out, and secrets encoded once.
//!
//! Messages are framed here and not by tonic's codec, for two reasons that show at thousands of proxies. A real Envoy
//! repeats a 61 KB node in every request, and tonic's `Streaming` keeps its largest buffer for as long as the stream;
//! [`inbound`] keeps nothing between messages. And tonic's encoder copies every message into a buffer of its own that
//! it never wipes, where [`response`] wipes what it copies, and hands on what is large by reference.

pub(crate) mod encoding;
pub(crate) mod inbound;
pub(crate) mod metadata;
pub(crate) mod outbound;
pub(crate) mod response;

/// The messages of `proto/`: what this server reads of Envoy's requests.
#[allow(dead_code, unreachable_pub, reason = "generated, and some of it only declares the services' types")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/proto.rs"));
}

pub(crate) use generated::envoy::config::core::v3::Node;
pub(crate) use generated::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
pub(crate) use generated::google::rpc::Status as ErrorDetail;

/// The type URL of a secret; the only one that this server answers for.
pub(crate) const SECRET_TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// What requests of all variants of the protocol have.
pub(crate) trait Request: prost::Message + Default + std::fmt::Debug {
    /// Who says it; need not be repeated.
    fn node(&self) -> Option<&Node>;
    /// Which response it answers; may be empty.
    fn nonce(&self) -> &str;
    /// Why that is rejected, if it is. Not for the log as it is (item 45).
    fn error(&self) -> Option<&str>;
}

impl Request for DiscoveryRequest {
    fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    fn nonce(&self) -> &str {
        &self.response_nonce
    }

    fn error(&self) -> Option<&str> {
        self.error_detail.as_ref().map(|detail| detail.message.as_str())
    }
}

impl Request for DeltaDiscoveryRequest {
    fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    fn nonce(&self) -> &str {
        &self.response_nonce
    }

    fn error(&self) -> Option<&str> {
        self.error_detail.as_ref().map(|detail| detail.message.as_str())
    }
}

/// The text may hold a private key (item 45).
impl std::fmt::Debug for ErrorDetail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Status").field("code", &self.code).field("message", &self.message.len()).finish()
    }
}

/// Length of gRPC's message header: a compression flag and the message's length.
const HEADER: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn item_45_no_request_shows_the_key_in_its_error() {
        let key = crate::serve::testing::svid("web").key.expose().to_owned();
        let error_detail = Some(ErrorDetail { code: 3, message: key });
        let sotw = DiscoveryRequest { error_detail: error_detail.clone(), ..Default::default() };
        let delta = DeltaDiscoveryRequest { error_detail, ..Default::default() };
        for shown in [format!("{sotw:?}"), format!("{delta:?}")] {
            assert!(shown.contains("code: 3") && !shown.contains("PRIVATE KEY"), "{shown}");
        }
    }
}
