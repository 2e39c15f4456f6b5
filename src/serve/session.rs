//! One SotW stream, as a `Stream` of responses that HTTP/2 polls when it has sent the one before. No task, no channel and
//! no buffer of its own: a slow proxy is simply polled less often, is sent the newest version only (xds-conformance item
//! 94), and delays nobody (95).
//!
//! While a response waits for a proxy that does not read, nothing in here runs, so what ends a stream (its proof, a change
//! of policy) takes effect up to `send_limit` later, when `blocked` closes the connection; shutdown does not wait for it.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::DiscoveryResponse;
use futures::Stream;
use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, Sleep};
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;
use tonic::body::Body;
use tracing::{Span, field};

use super::admission::{Place, ProxyPlace};
use super::feed::Feed;
use super::metrics::{LiveStream, Protocol, Withheld};
use super::naming::SecretRef;
use super::open::{self, Opened, label};
use super::roster::{Listing, StreamRecord};
use super::shared::Shared;
use super::state::{Limits, Verdict, sotw};
use super::wire::inbound::Inbound;
use super::wire::outbound::Response;
use super::wire::{DiscoveryRequest, Node};
use crate::identify::{NodeClaim, Proof};
use crate::model::identity::Identity;
use crate::model::policy::PolicySet;

/// A client that opens a stream and says nothing is not worth the memory.
const FIRST_REQUEST: Duration = Duration::from_secs(10);

/// Wall-clock deadlines are looked at this often, so that steps of the clock and suspends are noticed.
const LOOK: Duration = Duration::from_secs(60);

/// The end of a proof is brought forward by up to this much, so that the streams of one proof do not all end at once.
const PROOF_JITTER: SignedDuration = SignedDuration::from_secs(60);

/// Streams that a change of policy ends do so within this time, so that their proxies do not all come back at once.
const REVOKE_JITTER: Duration = Duration::from_secs(2);

/// How long the rest of a request may take that has begun to arrive.
const REST: Duration = Duration::from_secs(30);

/// After this many requests in one go, others get their turn.
const TURN: usize = 16;

/// See the module.
#[derive(Debug)]
pub(super) struct Session {
    span: Span,
    inner: Inner,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    inbound: Inbound<DiscoveryRequest>,
    phase: Phase,
    peer: Arc<str>,
    timer: Option<Timer>,
    /// Runs while there is a part of a request.
    rest: Option<Pin<Box<Sleep>>>,
    /// `None` once shutdown has begun.
    shutdown: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    _live: LiveStream,
    place: Place,
}

#[derive(Debug)]
enum Phase {
    /// The peer is let in; who it is says the first request.
    Opening(Option<Box<Proof>>),
    Live(Box<Live>),
    /// The client has turned out to be somebody else, or nobody; it is sent nothing any more and soon learns why.
    Leaving,
    Closed,
}

/// What will end the stream, and when.
#[derive(Debug)]
struct Timer {
    sleep: Pin<Box<Sleep>>,
    end: End,
}

#[derive(Debug)]
enum End {
    NoRequest,
    Revoked(Status),
    ProofExpires(Timestamp),
    Drained,
}

impl Session {
    pub(super) fn new(shared: Arc<Shared>, opened: Opened, body: Body) -> Self {
        let peer = opened.peer;
        let span = tracing::info_span!("stream", %peer, node = field::Empty, identity = field::Empty);
        let inner = Inner {
            inbound: Inbound::new(body),
            phase: Phase::Opening(opened.proof.map(Box::new)),
            peer: peer.to_string().into(),
            timer: Some(Timer::new(FIRST_REQUEST, End::NoRequest)),
            rest: None,
            shutdown: Some(Box::pin(peer.leave.cancelled_owned())),
            _live: shared.metrics.live_stream(Protocol::Sotw),
            place: opened.place,
            shared,
        };
        Self { span, inner }
    }
}

impl Stream for Session {
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

impl Drop for Session {
    fn drop(&mut self) {
        let _entered = self.span.enter();
        self.inner.close("the client has gone");
    }
}

impl Inner {
    /// The next response; `None` when the client has ended the stream.
    fn poll(&mut self, cx: &mut Context<'_>, span: &Span) -> Poll<Result<Option<Response>, Status>> {
        for turn in 0.. {
            match self.inbound.poll_message(cx) {
                Poll::Pending => break,
                Poll::Ready(None) => return Poll::Ready(Ok(None)),
                Poll::Ready(Some(request)) => self.request(&request?, span)?,
            }
            self.rest = None;
            if turn == TURN {
                cx.waker().wake_by_ref();
                break;
            }
        }
        if let Phase::Live(live) = &mut self.phase
            && let Some(status) = live.poll_identity(&self.shared, cx)
        {
            self.phase = Phase::Leaving;
            if self.shutdown.is_some() {
                self.timer = Some(Timer::new(REVOKE_JITTER.mul_f64(fastrand::f64()), End::Revoked(status)));
            }
        }
        self.poll_end(cx)?;
        let Phase::Live(live) = &mut self.phase else { return Poll::Pending };
        live.poll_changes(&self.shared, cx);
        live.next_response(&self.shared).map_or(Poll::Pending, |response| Poll::Ready(Ok(Some(response))))
    }

    fn request(&mut self, request: &DiscoveryRequest, span: &Span) -> Result<(), Status> {
        if let Phase::Opening(proof) = &mut self.phase {
            self.place.heard();
            let live = Live::start(&self.shared, proof.take(), request.node.as_ref(), self.peer.clone())?;
            span.record("node", label(&live.claim.id));
            span.record("identity", field::display(&live.identity.spiffe_id));
            tracing::info!(mesh = %live.identity.mesh, method = live.identity.method, "stream opened");
            if self.shutdown.is_some() {
                self.timer = live.identity.proven_until.map(|until| Timer::for_proof(until, self.shared.clock.now()));
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
        if let Some(shutdown) = &mut self.shutdown
            && shutdown.as_mut().poll(cx).is_ready()
        {
            self.shutdown = None;
            self.timer = Some(Timer::new(self.shared.drain.mul_f64(fastrand::f64()), End::Drained));
        }
        if self.inbound.is_partial() {
            let rest = self.rest.get_or_insert_with(|| Box::pin(tokio::time::sleep(REST)));
            if rest.as_mut().poll(cx).is_ready() {
                return Err(Status::deadline_exceeded("the rest of a request did not come"));
            }
        } else {
            self.rest = None;
        }
        while let Some(timer) = &mut self.timer
            && timer.sleep.as_mut().poll(cx).is_ready()
        {
            match &timer.end {
                End::NoRequest => return Err(Status::deadline_exceeded("no request came")),
                End::Revoked(status) => return Err(status.clone()),
                End::Drained if self.shared.shutdown.is_cancelled() => {
                    return Err(Status::unavailable("shutting down"));
                }
                End::Drained => return Err(Status::unavailable("the connection is at its maximum age")),
                End::ProofExpires(at) => {
                    let left = at.duration_since(self.shared.clock.now());
                    if !left.is_positive() {
                        return Err(Status::unauthenticated("proof of identity expired"));
                    }
                    timer.sleep.as_mut().reset(Instant::now() + left.unsigned_abs().min(LOOK));
                }
            }
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
    }
}

impl Timer {
    fn new(after: Duration, end: End) -> Self {
        Self { sleep: Box::pin(tokio::time::sleep(after)), end }
    }

    /// Item 26: some time before the proof ends, at most a tenth of what is left of it.
    fn for_proof(until: Timestamp, now: Timestamp) -> Self {
        let left = until.duration_since(now).max(SignedDuration::ZERO);
        let jitter = PROOF_JITTER.min(left / 10).mul_f64(fastrand::f64());
        let at = until.saturating_sub(jitter).unwrap_or(until);
        Self::new(at.duration_since(now).max(SignedDuration::ZERO).unsigned_abs().min(LOOK), End::ProofExpires(at))
    }
}

/// A stream whose client is known.
#[derive(Debug)]
struct Live {
    identity: Identity,
    /// What the identity was made of, for when policies change.
    proof: Option<Box<Proof>>,
    /// All that is kept of the node (items 8 and 20).
    claim: NodeClaim,
    /// Changes of what decides about the identity.
    policies: WatchStream<Arc<PolicySet>>,
    state: sotw::State,
    feeds: Vec<(Arc<str>, Feed)>,
    withheld_before: bool,
    /// What operators see of it.
    listing: Listing,
    _place: ProxyPlace,
}

impl Live {
    fn start(shared: &Shared, proof: Option<Box<Proof>>, node: Option<&Node>, peer: Arc<str>) -> Result<Self, Status> {
        let claim = open::claim(node)?;
        // Before the identity is made, so that no change is missed.
        let policies = WatchStream::from_changes(shared.authenticate.changes());
        let identity = open::complete(shared, proof.as_deref(), &claim)?;
        let place = shared.admission.enter_as(&identity)?;
        let listing = shared.roster.enter(StreamRecord {
            protocol: Protocol::Sotw,
            peer,
            node_id: claim.id.as_str().into(),
            node_cluster: claim.cluster.as_str().into(),
            identity: Arc::new(identity.clone()),
            opened: shared.clock.now(),
            names: HashMap::new(),
        });
        Ok(Self {
            _place: place,
            listing,
            identity,
            proof,
            claim,
            policies,
            state: sotw::State::new(Limits::default(), fastrand::u32(..)),
            feeds: Vec::new(),
            withheld_before: false,
        })
    }

    /// Item 26: why the client is no longer who it was when the stream began, if policies have changed that.
    fn poll_identity(&mut self, shared: &Shared, cx: &mut Context<'_>) -> Option<Status> {
        let mut changed = false;
        while let Poll::Ready(Some(_)) = Pin::new(&mut self.policies).poll_next(cx) {
            changed = true;
        }
        if !changed {
            return None;
        }
        match open::complete(shared, self.proof.as_deref(), &self.claim) {
            Ok(identity) if identity == self.identity => None,
            Ok(identity) => {
                tracing::info!(mesh = %identity.mesh, identity = %identity.spiffe_id, "policies give it another identity");
                Some(Status::unavailable("policies have changed"))
            }
            Err(status) => Some(status),
        }
    }

    fn request(&mut self, request: &DiscoveryRequest, shared: &Shared) -> Result<(), Status> {
        // Items 20 and 22. An empty id is an omitted one.
        if request.node.as_ref().is_some_and(|node| !node.id.is_empty() && *node.id != *self.claim.id) {
            return Err(Status::invalid_argument("node.id has changed on the stream"));
        }
        tracing::debug!(
            names = request.resource_names.len(),
            version = label(&request.version_info),
            nonce = label(&request.response_nonce),
            rejects = request.error_detail.is_some(),
            "request"
        );
        let outcome = self.state.request(request)?;
        if let Some(verdict) = outcome.verdict {
            record(&verdict, shared);
            self.listing.answered(&verdict, shared.clock.now());
        }
        outcome.unsubscribe.iter().for_each(|name| self.listing.unsubscribed(name));
        self.feeds.retain(|(name, _)| !outcome.unsubscribe.contains(name));
        for name in outcome.subscribe {
            let wanted = shared.names.resolve(&name, &self.identity);
            self.listing.subscribed(&name, wanted.as_ref().map(SecretRef::kind), None);
            match wanted {
                Some(wanted) => {
                    let style = shared.names.style(&self.claim);
                    let feed = Feed::open(&*shared.source, wanted, &self.identity, style, None);
                    if feed.is_unknown() {
                        self.withhold(&name, Withheld::UnknownName, shared);
                    }
                    self.feeds.push((name, feed));
                }
                None => self.withhold(&name, Withheld::of(shared.names.kind(&name)), shared),
            }
        }
        Ok(())
    }

    /// Items 64, 70 and 73: silence, at no cost to anyone.
    fn withhold(&mut self, name: &str, reason: Withheld, shared: &Shared) {
        shared.metrics.withheld(reason);
        if std::mem::replace(&mut self.withheld_before, true) {
            tracing::debug!(name = label(name), "withheld: no such secret for this proxy");
        } else {
            tracing::warn!(name = label(name), "withheld: no such secret for this proxy (further names: at debug)");
        }
    }

    fn poll_changes(&mut self, shared: &Shared, cx: &mut Context<'_>) {
        let now = shared.clock.now();
        for (name, feed) in &mut self.feeds {
            while let Poll::Ready(version) = feed.poll_change(name, &shared.encoder, now, cx) {
                self.state.available(name, feed.kind(), version);
            }
            if feed.drop_ended(now) {
                self.state.gone(name);
            }
        }
    }

    fn next_response(&mut self, shared: &Shared) -> Option<Response> {
        while let Some(push) = self.state.next_push() {
            let feed = self.feeds.iter_mut().find(|(name, _)| *name == push.name);
            let Some((encoded, since)) = feed.and_then(|(name, feed)| feed.take(name, &shared.encoder)) else {
                tracing::error!(name = label(&push.name), "a secret to be sent is not there; this is a bug");
                continue;
            };
            self.listing.sent(&push.name, &push.version, shared.clock.now());
            shared.metrics.pushed(push.kind, push.is_update.then(|| since.elapsed()));
            tracing::debug!(name = label(&push.name), version = %push.version, nonce = push.nonce, "push");
            let own = DiscoveryResponse { nonce: push.nonce, ..Default::default() };
            return Some(Response::new(&own, [encoded.bytes]));
        }
        // What is left is the like of what was sent before.
        self.feeds.iter_mut().for_each(|(_, feed)| feed.discard());
        None
    }
}

/// Counts and logs what a client said of a response; nothing is sent because of it.
fn record(verdict: &Verdict, shared: &Shared) {
    shared.metrics.answered(verdict.kind, verdict.result.is_ok());
    let (name, version) = (label(&verdict.name), &verdict.version);
    match &verdict.result {
        Ok(()) => tracing::debug!(name, %version, "acknowledged"),
        Err(reason) => tracing::warn!(name, %version, reason, "the proxy has rejected a secret"),
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
