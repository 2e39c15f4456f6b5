//! What strangers send to this stage, given to the code that reads it: the part of [`crate::fuzzing`] that is private to
//! `serve`. No sockets, no tasks.

use std::collections::HashSet;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderValue, header};
use http_body::Frame;
use http_body_util::StreamBody;
use prost::Message;
use tonic::Status;
use tonic::body::Body;

use super::listen::Peer;
use super::naming::{NameSettings, Names, Profile};
use super::open;
use super::state::{Limits, sotw};
use super::version::Version;
use super::wire::DiscoveryRequest;
use super::wire::inbound::Inbound;
use crate::identify::BearerToken;
use crate::model::identity::{Identity, Instance, Workload};

/// A SotW stream: gRPC frames in pieces, the state machine, and a client that takes all that there is.
pub(crate) fn sotw(data: &[u8]) {
    let limits = Limits::default();
    let mut state = sotw::State::new(limits, 7);
    let mut wanted: HashSet<Arc<str>> = HashSet::new();
    let (identity, names) = (identity(), every_name());
    each_request::<DiscoveryRequest>(data, |request| {
        if open::claim(request.node.as_ref()).is_err() {
            return false;
        }
        let Ok(outcome) = state.request(request) else { return false };
        outcome.unsubscribe.iter().for_each(|name| assert!(wanted.remove(name), "ended and not begun"));
        for name in outcome.subscribe {
            if let Some(secret) = names.resolve(&name, &identity) {
                let version = Version::held_leaf(&request.version_info).map_or("1", |_held| "2");
                state.available(&name, secret.kind(), version.into());
            }
            wanted.insert(name);
        }
        assert!(wanted.len() <= limits.names);
        let mut pushes = 0;
        while let Some(push) = state.next_push() {
            assert!(wanted.contains(&push.name) && !push.nonce.is_empty());
            pushes += 1;
            assert!(pushes <= limits.names, "the same is sent again and again");
        }
        true
    });
}

/// Gives every request that there is in `data` to `act`, until that says no or one does not decode. The first byte says
/// into how large pieces HTTP/2 has cut the rest.
fn each_request<T: Message + Default>(data: &[u8], mut act: impl FnMut(&T) -> bool) {
    let Some((piece, rest)) = data.split_first() else { return };
    let piece = usize::from(*piece).max(1) * 64;
    let frames: Vec<_> =
        rest.chunks(piece).map(|piece| Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(piece)))).collect();
    let mut inbound = Inbound::<T>::new(Body::new(StreamBody::new(stream::iter(frames))));
    let mut cx = Context::from_waker(Waker::noop());
    while let Poll::Ready(Some(Ok(request))) = inbound.poll_message(&mut cx) {
        if !act(&request) {
            return;
        }
    }
}

/// Secret names, one a line: whoever may have one gets the kind that it has for everybody.
pub(crate) fn names(data: &[u8]) {
    let (identity, names) = (identity(), every_name());
    for name in String::from_utf8_lossy(data).split('\n') {
        if let Some(secret) = names.resolve(name, &identity) {
            assert_eq!(Some(secret.kind()), names.kind(name), "{name:?}");
        }
    }
}

/// The token of an authorization header, if it is one that goes on to be looked at.
pub(crate) fn authorization(data: &[u8]) -> Option<BearerToken> {
    let value = HeaderValue::from_bytes(data).ok()?;
    let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
    open::evidence(&Peer::default(), &headers).ok()?.bearer_token
}

/// What a proxy says it holds: anything that is read is what was written.
pub(crate) fn versions(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(held) = Version::held_leaf(text) {
        assert!(held.not_before < held.not_after && held.policy_digest.len() == 16);
    }
}

fn every_name() -> Names {
    use Profile::{EnvoyGateway, Istio, Kuma, Osm, Spire};
    let settings = NameSettings { profiles: vec![Spire, Istio, Kuma, Osm, EnvoyGateway], ..NameSettings::default() };
    Names::new(settings).unwrap_or_else(|_conflicts| unreachable!("nothing is listed that could be in conflict"))
}

fn identity() -> Identity {
    Identity {
        mesh: "default".into(),
        spiffe_id: "spiffe://default/web".parse().unwrap_or_else(|_error| unreachable!("it is one")),
        instance: Instance::Proven("web".into()),
        workload: Workload { name: Some("web".into()), ..Workload::default() },
        method: "fuzzing",
        proven_until: None,
    }
}
