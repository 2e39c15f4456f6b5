//! What strangers send to this stage, given to the code that reads it: the part of [`crate::fuzzing`] that is private to
//! `serve`. No sockets, no tasks.

use std::collections::HashSet;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use http_body::Frame;
use http_body_util::StreamBody;
use prost::Message;
use tonic::Status;
use tonic::body::Body;

use super::listen::Peer;
use super::naming::{NameSettings, Names, Profile};
use super::open;
use super::state::{Core, Door, Limits, Machine, Owed, delta, sotw};
use super::version::Version;
use super::wire::Request;
use super::wire::inbound::Inbound;
use crate::identify::BearerToken;
use crate::model::identity::{Identity, Instance, Workload};

/// A SotW stream.
pub(crate) fn sotw(data: &[u8]) {
    for door in [Door::Dedicated, Door::Aggregated] {
        stream::<sotw::State>(data, door, |_state, _at| 0);
    }
}

/// A Delta stream.
pub(crate) fn delta(data: &[u8]) {
    for door in [Door::Dedicated, Door::Aggregated] {
        stream::<delta::State>(data, door, |state, at| state.next_removal(at).map_or(0, |removal| removal.names.len()));
    }
}

/// gRPC frames in pieces, the state machine, and a client that takes all that there is.
fn stream<M: Machine>(data: &[u8], door: Door, mut removals: impl FnMut(&mut M, Duration) -> usize) {
    let limits = Limits::default();
    let mut state = M::new(Core::new(door, limits, 7));
    let mut wanted: HashSet<Arc<str>> = HashSet::new();
    let (identity, names) = (identity(), every_name());
    let mut at = Duration::ZERO;
    each_request::<M::Request>(data, |request| {
        at += Duration::from_secs(1);
        // The node may be left out after the first request; that is the session's to know.
        if request.node().is_some() && open::claim(request.node()).is_err() {
            return false;
        }
        let Ok(outcome) = state.request(request, at) else { return false };
        outcome.unsubscribe.iter().for_each(|name| assert!(wanted.remove(name), "ended and not begun"));
        assert!(outcome.again.iter().all(|name| wanted.contains(name)), "again, and never before");
        for name in outcome.subscribe.iter().chain(&outcome.again) {
            match names.resolve(name, &identity) {
                Some(secret) => {
                    let reported = outcome.reported(name).and_then(Version::held_leaf);
                    state.available(name, secret.kind(), reported.map_or("1", |_held| "2").into());
                }
                None => state.withheld(name),
            }
            wanted.insert(name.clone());
        }
        assert!(wanted.len() <= limits.names && state.core().subscribed() == wanted.len());
        if let Owed::Now(owed) = state.owed(at) {
            assert!(owed.iter().all(|name| wanted.contains(name)), "owed, and not wanted");
        }
        assert!(removals(&mut state, at) <= limits.names * 17);
        let mut pushes = 0;
        while let Some(push) = state.next_push(at) {
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
    let mut inbound = Inbound::<T>::new(Body::new(StreamBody::new(futures::stream::iter(frames))));
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

/// What a proxy says it holds: what is read of it makes sense, and is bounded.
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
        identity_policy: None,
        instance: Instance::Proven("web".into()),
        workload: Workload { name: Some("web".into()), ..Workload::default() },
        method: "fuzzing",
        proven_until: None,
    }
}
