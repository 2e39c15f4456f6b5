//! What the programs in `benches/` measure of this stage: thin doors to code that is private to it. No sockets, no tasks.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use http_body_util::StreamBody;
use prost::Message;
use tonic::Status;
use tonic::body::Body;

use super::naming::SecretKind;
use super::state::{Core, Door, Limits, Machine, Push, delta, sotw};
use super::version::Version;
use super::wire::encoding::{Encoded, Encoder};
use super::wire::inbound::Inbound;
use super::wire::response::Response;
use super::wire::{DeltaDiscoveryRequest, DiscoveryRequest, SECRET_TYPE};
use crate::model::bundle::Bundle;
use crate::model::svid::Svid;

/// How the replica is called that all of this would be sent by.
const CONTROL_PLANE: &str = "envoy-sds/bench";

/// A variant of the protocol: one stream's state machine, and the messages that go with it.
pub trait Variant {
    /// What clients send, decoded.
    type Request;

    /// A stream on which nothing has been said.
    fn new() -> Self;

    /// The request for `names` that a client sends first.
    fn first(names: &[&str]) -> Self::Request;

    /// The request that accepts `sent`, of a client that has subscribed to `names`.
    fn ack(sent: &Sent, names: &[&str]) -> Self::Request;

    /// Takes a request; says how many names it subscribes to, and whether it was a verdict.
    fn take(&mut self, request: &Self::Request) -> (usize, bool);

    /// Notes that `name` is in this version now.
    fn available(&mut self, name: &str, secret: &Secret);

    /// What is to be sent next, if there is something.
    fn next(&mut self) -> Option<Sent>;

    /// The response that has it, framed; gives its length in bytes.
    fn respond(sent: Sent, secret: &Secret) -> usize;

    /// Decodes whatever requests there are in `frames`, cut as HTTP/2 has cut them; says how many.
    fn decode(frames: Vec<Bytes>) -> usize;
}

/// A secret's version and encoding, as streams share it.
#[derive(Debug, Clone)]
pub struct Secret {
    kind: SecretKind,
    encoded: Encoded,
}

/// A push that the state machine has decided on.
#[derive(Debug, Clone)]
pub struct Sent(Push);

/// The server's encoder.
#[derive(Debug, Default)]
pub struct Secrets(Encoder);

impl Secrets {
    /// A certificate, which has one reader and is encoded for it.
    pub fn certificate(&self, svid: &Svid) -> Secret {
        let encoded = self.0.certificate(svid, Version::of_certificate(svid));
        Secret { kind: SecretKind::Certificate, encoded }
    }

    /// A trust bundle, encoded once for a content.
    pub fn trust_bundle(&self, bundle: &Bundle) -> Secret {
        Secret { kind: SecretKind::Bundle, encoded: self.0.trust_bundle(bundle) }
    }
}

/// A state-of-the-world stream.
#[derive(Debug)]
pub struct Sotw(sotw::State);

impl Variant for Sotw {
    type Request = SotwRequest;

    fn new() -> Self {
        Self(sotw::State::new(core()))
    }

    fn first(names: &[&str]) -> SotwRequest {
        let (resource_names, type_url) = (owned(names), SECRET_TYPE.to_owned());
        SotwRequest(DiscoveryRequest { resource_names, type_url, ..Default::default() })
    }

    fn ack(sent: &Sent, names: &[&str]) -> SotwRequest {
        let (version_info, response_nonce) = (sent.0.version.to_string(), sent.0.nonce.clone());
        SotwRequest(DiscoveryRequest { version_info, response_nonce, ..Self::first(names).0 })
    }

    fn take(&mut self, request: &SotwRequest) -> (usize, bool) {
        take(&mut self.0, &request.0)
    }

    fn available(&mut self, name: &str, secret: &Secret) {
        self.0.available(name, secret.kind, secret.encoded.version.clone());
    }

    fn next(&mut self) -> Option<Sent> {
        self.0.next_push(Duration::ZERO).map(Sent)
    }

    fn respond(sent: Sent, secret: &Secret) -> usize {
        Response::sotw(CONTROL_PLANE, sent.0.nonce, &sent.0.name, secret.encoded.clone()).len()
    }

    fn decode(frames: Vec<Bytes>) -> usize {
        decode::<DiscoveryRequest>(frames)
    }
}

/// A Delta stream.
#[derive(Debug)]
pub struct Delta(delta::State);

impl Variant for Delta {
    type Request = DeltaRequest;

    fn new() -> Self {
        Self(delta::State::new(core()))
    }

    fn first(names: &[&str]) -> DeltaRequest {
        let (resource_names_subscribe, type_url) = (owned(names), SECRET_TYPE.to_owned());
        DeltaRequest(DeltaDiscoveryRequest { resource_names_subscribe, type_url, ..Default::default() })
    }

    fn ack(sent: &Sent, _names: &[&str]) -> DeltaRequest {
        DeltaRequest(DeltaDiscoveryRequest { response_nonce: sent.0.nonce.clone(), ..Self::first(&[]).0 })
    }

    fn take(&mut self, request: &DeltaRequest) -> (usize, bool) {
        take(&mut self.0, &request.0)
    }

    fn available(&mut self, name: &str, secret: &Secret) {
        self.0.available(name, secret.kind, secret.encoded.version.clone());
    }

    fn next(&mut self) -> Option<Sent> {
        self.0.next_push(Duration::ZERO).map(Sent)
    }

    fn respond(sent: Sent, secret: &Secret) -> usize {
        Response::delta(CONTROL_PLANE, sent.0.nonce, &sent.0.name, secret.encoded.clone()).len()
    }

    fn decode(frames: Vec<Bytes>) -> usize {
        decode::<DeltaDiscoveryRequest>(frames)
    }
}

/// A request on a SotW stream.
#[derive(Debug)]
pub struct SotwRequest(DiscoveryRequest);

/// A request on a Delta stream.
#[derive(Debug)]
pub struct DeltaRequest(DeltaDiscoveryRequest);

fn core() -> Core {
    Core::new(Door::Dedicated, Limits::default(), 7)
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn take<M: Machine>(machine: &mut M, request: &M::Request) -> (usize, bool) {
    let outcome = machine.request(request, Duration::ZERO).unwrap_or_default();
    (outcome.subscribe.len(), outcome.verdict.is_some())
}

fn decode<T: Message + Default>(frames: Vec<Bytes>) -> usize {
    let frames = frames.into_iter().map(|frame| Ok::<_, Status>(Frame::data(frame)));
    let mut inbound = Inbound::<T>::new(Body::new(StreamBody::new(futures::stream::iter(frames))));
    let mut cx = Context::from_waker(Waker::noop());
    let mut decoded = 0;
    while let Poll::Ready(Some(Ok(_request))) = inbound.poll_message(&mut cx) {
        decoded += 1;
    }
    decoded
}
