//! Why a stream is refused: what is counted, and what the client is told.

use std::fmt;

use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};
use tonic::Status;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Refusal {
    /// What the server was configured with has not been read yet.
    NotReady,
    /// The server is on its way out.
    ShuttingDown,
    /// The connection is.
    ConnectionEnding,
    /// No proof of identity, or none that is accepted.
    Unproven,
    /// Whether it is to be accepted cannot be known at the moment.
    Unverifiable,
    /// An identity that policy does not let in.
    Forbidden,
    /// Too many whose proof is being verified.
    Verifying,
    /// `limits.streams`.
    Streams,
    /// `limits.newStreamsPerSecond`.
    NewStreams,
    /// Too many that have not sent a request.
    SilentStreams,
    /// `limits.streamsPerProxy`.
    StreamsPerProxy,
    /// `limits.streamsPerIdentity`.
    StreamsPerIdentity,
    /// The same, as to proxies.
    ProxiesPerIdentity,
}

impl Refusal {
    /// Each of them.
    pub(super) const ALL: [Self; 13] = [
        Self::NotReady,
        Self::ShuttingDown,
        Self::ConnectionEnding,
        Self::Unproven,
        Self::Unverifiable,
        Self::Forbidden,
        Self::Verifying,
        Self::Streams,
        Self::NewStreams,
        Self::SilentStreams,
        Self::StreamsPerProxy,
        Self::StreamsPerIdentity,
        Self::ProxiesPerIdentity,
    ];

    /// As much as the client may know.
    pub(super) fn status(self) -> Status {
        match self {
            Self::NotReady => Status::unavailable("not ready yet"),
            Self::ShuttingDown => Status::unavailable("shutting down"),
            Self::ConnectionEnding => Status::unavailable("the connection is about to end"),
            Self::Unproven => Status::unauthenticated("no proof of identity"),
            Self::Unverifiable => Status::unavailable("the proof of identity cannot be verified at the moment"),
            Self::Forbidden => Status::permission_denied("this identity may not use this server"),
            Self::Verifying => Status::resource_exhausted("too many proofs of identity to verify"),
            Self::Streams => Status::resource_exhausted("too many streams on this server"),
            Self::NewStreams => Status::resource_exhausted("too many new streams at the moment"),
            Self::SilentStreams => Status::resource_exhausted("too many streams without a request"),
            Self::StreamsPerProxy => Status::resource_exhausted("too many streams of this proxy"),
            Self::StreamsPerIdentity => Status::resource_exhausted("too many streams of this identity"),
            Self::ProxiesPerIdentity => Status::resource_exhausted("too many proxies of this identity"),
        }
    }
}

impl EncodeLabelValue for Refusal {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        match self {
            Self::NotReady => "not_ready",
            Self::ShuttingDown => "shutting_down",
            Self::ConnectionEnding => "connection_ending",
            Self::Unproven => "unproven",
            Self::Unverifiable => "unverifiable",
            Self::Forbidden => "forbidden",
            Self::Verifying => "verifying",
            Self::Streams => "streams",
            Self::NewStreams => "new_streams",
            Self::SilentStreams => "silent_streams",
            Self::StreamsPerProxy => "streams_per_proxy",
            Self::StreamsPerIdentity => "streams_per_identity",
            Self::ProxiesPerIdentity => "proxies_per_identity",
        }
        .encode(encoder)
    }
}
