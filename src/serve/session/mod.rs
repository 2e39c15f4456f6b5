//! One stream of either variant of the protocol, as a `Stream` of responses that HTTP/2 polls when it has sent the one
//! before. No task, no channel and no buffer of its own: a slow proxy is simply polled less often, is sent the newest
//! version only (xds-conformance item 94), and delays nobody (95).
//!
//! While a response waits for a proxy that does not read, nothing in here runs, so what ends a stream (its proof, a change
//! of policy) takes effect up to `send_limit` later, when `blocked` closes the connection; shutdown does not wait for it.

mod live;
pub(super) mod timer;
mod variant;
mod wakes;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;
use tonic::body::Body;
use tracing::{Span, field};

use self::live::Live;
use self::timer::Timer;
use self::wakes::Wakes;
use super::admission::Place;
use super::bucket::Bucket;
use super::metrics::LiveStream;
use super::open::{Opened, label};
use super::refusals::host;
use super::shared::Shared;
use super::state::Door;
use super::wire::Request;
use super::wire::inbound::Inbound;
use super::wire::response::Response;
use crate::identify::Proof;

pub(super) use self::variant::Variant;

/// How long the rest of a request may take that has begun to arrive.
const REST: Duration = Duration::from_secs(30);

/// After this many requests in one go, others get their turn.
const TURN: usize = 16;

/// So many requests are read at once, and so many a second after that (item 63). A client acknowledges each secret that it
/// is sent, and an Envoy on ADS has a request for each secret that it learns of; so where many names are allowed, it is more
/// (`REQUESTS_PER_NAME`). What a client sends
/// beyond that stays with HTTP/2, whose window then closes.
const REQUESTS: u32 = 256;
const REQUESTS_PER_SECOND: u32 = 50;
const REQUESTS_PER_NAME: usize = 4;

/// See the module.
#[derive(Debug)]
pub(super) struct Session<V: Variant> {
    span: Span,
    inner: Inner<V>,
}

#[derive(Debug)]
struct Inner<V: Variant> {
    shared: Arc<Shared>,
    door: Door,
    inbound: Inbound<V::Request>,
    phase: Phase<V>,
    /// Where it calls from, with the port and without.
    peer: (Arc<str>, Arc<str>),
    timer: Option<Timer>,
    requests: Bucket,
    /// Runs while no request is read because there were too many.
    throttled: Option<Pin<Box<Sleep>>>,
    /// Runs while there is a part of a request.
    rest: Option<Pin<Box<Sleep>>>,
    /// When the connection is to end; `None` once that has begun.
    leave: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    wakes: Wakes,
    _live: LiveStream,
    place: Place,
}

#[derive(Debug)]
enum Phase<V> {
    /// The peer is let in; who it is says the first request.
    Opening(Option<Box<Proof>>),
    Live(Box<Live<V>>),
    /// The client has turned out to be somebody else, or nobody; it is sent nothing any more and soon learns why.
    Leaving,
    Closed,
}

impl<V: Variant> Session<V> {
    pub(super) fn new(shared: Arc<Shared>, opened: Opened, body: Body, door: Door) -> Self {
        let peer = opened.peer;
        let protocol = V::protocol(door);
        let span = tracing::info_span!("stream", %peer, protocol = protocol.as_str(), node = field::Empty, identity = field::Empty);
        let for_names = shared.limits.names.saturating_mul(REQUESTS_PER_NAME);
        let requests = u32::try_from(for_names).unwrap_or(u32::MAX).max(REQUESTS);
        let inner = Inner {
            door,
            inbound: Inbound::new(body),
            phase: Phase::Opening(opened.proof.map(Box::new)),
            peer: (peer.to_string().into(), host(&peer)),
            timer: Some(Timer::for_first_request()),
            requests: Bucket::of_size(requests, REQUESTS_PER_SECOND, Instant::now()),
            throttled: None,
            rest: None,
            leave: Some(Box::pin(peer.leave.cancelled_owned())),
            wakes: Wakes::new(),
            _live: shared.metrics.live_stream(protocol),
            place: opened.place,
            shared,
        };
        Self { span, inner }
    }
}

impl<V: Variant> Stream for Session<V> {
    type Item = Result<Response, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { span, inner } = &mut *self;
        let _entered = span.enter();
        if matches!(inner.phase, Phase::Closed) {
            return Poll::Ready(None);
        }
        let item = ready!(inner.poll(cx, span)).transpose();
        match &item {
            Some(Ok(_)) => {}
            Some(Err(status)) => inner.close(status.message()),
            None => inner.close("the client has ended it"),
        }
        Poll::Ready(item)
    }
}

impl<V: Variant> Drop for Session<V> {
    fn drop(&mut self) {
        let _entered = self.span.enter();
        self.inner.close("the client has gone");
    }
}

impl<V: Variant> Inner<V> {
    /// The next response; `None` when the client has ended the stream.
    fn poll(&mut self, cx: &mut Context<'_>, span: &Span) -> Poll<Result<Option<Response>, Status>> {
        let called = self.wakes.called(cx);
        if called.requests {
            let waker = self.wakes.requests();
            if self.poll_requests(&mut Context::from_waker(&waker), span)?.is_none() {
                return Poll::Ready(Ok(None));
            }
        }
        if called.requests || called.rest {
            // A request may have brought something new to wait for.
            let waker = self.wakes.rest();
            self.poll_rest(&mut Context::from_waker(&waker))?;
        }
        let Phase::Live(live) = &mut self.phase else { return Poll::Pending };
        live.drop_ended(&self.shared);
        live.next_response(&self.shared).map_or(Poll::Pending, |response| Poll::Ready(Ok(Some(response))))
    }

    /// Hears what the client says; `None` when it has ended the stream.
    fn poll_requests(&mut self, cx: &mut Context<'_>, span: &Span) -> Result<Option<()>, Status> {
        for turn in 0.. {
            if self.poll_room(cx).is_pending() {
                break;
            }
            match self.inbound.poll_message(cx) {
                Poll::Pending => break,
                Poll::Ready(None) => return Ok(None),
                Poll::Ready(Some(request)) => self.request(&request?, span)?,
            }
            self.requests.take(Instant::now());
            self.rest = None;
            if turn == TURN {
                cx.waker().wake_by_ref();
                break;
            }
        }
        Ok(Some(()))
    }

    /// Looks at everything else that may change something.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Result<(), Status> {
        if let Phase::Live(live) = &mut self.phase
            && let Some(status) = live.client.poll_identity(&self.shared, cx)
        {
            self.phase = Phase::Leaving;
            if self.leave.is_some() {
                self.timer = Some(Timer::for_revocation(status));
            }
        }
        self.poll_end(cx)?;
        if let Phase::Live(live) = &mut self.phase {
            live.poll_changes(&self.shared, cx);
        }
        Ok(())
    }

    /// Ready if a request may be read.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(sleep) = &mut self.throttled {
                ready!(sleep.as_mut().poll(cx));
                self.throttled = None;
            }
            let wait = self.requests.wait(Instant::now());
            if wait.is_zero() {
                return Poll::Ready(());
            }
            self.throttled = Some(Box::pin(tokio::time::sleep(wait)));
        }
    }

    fn request(&mut self, request: &V::Request, span: &Span) -> Result<(), Status> {
        if let Phase::Opening(proof) = &mut self.phase {
            let live = Live::start(&self.shared, self.door, proof.take(), request.node(), self.peer.clone())?;
            self.place.heard();
            let identity = &live.client.identity;
            span.record("node", label(&live.client.claim.id));
            span.record("identity", field::display(&identity.spiffe_id));
            tracing::info!(mesh = %identity.mesh, method = identity.method, "stream opened");
            if self.leave.is_some() {
                self.timer = identity.proven_until.map(|until| Timer::for_proof(until, self.shared.clock.now()));
            }
            self.phase = Phase::Live(Box::new(live));
        }
        match &mut self.phase {
            Phase::Live(live) => live.request(request, &self.shared),
            Phase::Opening(_) | Phase::Leaving | Phase::Closed => Ok(()),
        }
    }

    /// Whether something other than the client ends the stream now.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Result<(), Status> {
        if let Some(leave) = &mut self.leave
            && leave.as_mut().poll(cx).is_ready()
        {
            self.leave = None;
            let reason = if self.shared.shutdown.is_cancelled() {
                "shutting down"
            } else {
                "the connection is at its maximum age"
            };
            self.timer = Some(Timer::for_drain(self.shared.drain, reason));
        }
        if self.inbound.is_partial() && self.throttled.is_none() {
            let rest = self.rest.get_or_insert_with(|| Box::pin(tokio::time::sleep(REST)));
            if rest.as_mut().poll(cx).is_ready() {
                return Err(Status::deadline_exceeded("the rest of a request did not come"));
            }
        } else {
            self.rest = None;
        }
        if let Some(timer) = &mut self.timer
            && let Poll::Ready(status) = timer.poll(&self.shared.clock, cx)
        {
            return Err(status);
        }
        Ok(())
    }

    /// Frees everything that the stream holds; says why it ended, the first time.
    fn close(&mut self, reason: &str) {
        match std::mem::replace(&mut self.phase, Phase::Closed) {
            Phase::Live(_) | Phase::Leaving => tracing::info!(reason, "stream ended"),
            Phase::Opening(_) => tracing::debug!(reason, "stream ended before its first request"),
            Phase::Closed => {}
        }
        self.timer = None;
        self.rest = None;
        self.throttled = None;
    }
}

#[cfg(test)]
mod node_tests;

#[cfg(test)]
#[path = "../session_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "../standing_tests.rs"]
mod standing_tests;

#[cfg(test)]
#[path = "../bounds_tests.rs"]
mod bounds_tests;

#[cfg(test)]
#[path = "../ads_tests.rs"]
mod ads_tests;

#[cfg(test)]
#[path = "../doors_tests.rs"]
mod doors_tests;

#[cfg(test)]
#[path = "../reconnect_tests.rs"]
mod reconnect_tests;
