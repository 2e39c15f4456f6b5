//! A stream whose client is known: its subscriptions, and what there is to send.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use tokio::time::{Instant, Sleep};
use tokio_stream::wrappers::WatchStream;
use tonic::Status;

use super::variant::Variant;
use crate::identify::{NodeClaim, Proof};
use crate::model::held::HeldLeaf;
use crate::model::identity::Identity;
use crate::model::policy::PolicySet;
use crate::serve::admission::ProxyPlace;
use crate::serve::feed::Feed;
use crate::serve::metrics::{Subscribed, Withheld};
use crate::serve::naming::SecretKind;
use crate::serve::open::{self, label};
use crate::serve::roster::{Listing, StreamRecord};
use crate::serve::shared::Shared;
use crate::serve::state::{Core, Door, Limits, Verdict};
use crate::serve::version::Version;
use crate::serve::wire::outbound::Response;
use crate::serve::wire::{Node, Request};

/// The longest version of a client's that is looked at; ours have some 90 bytes.
const VERSION: usize = 256;

/// See the module.
#[derive(Debug)]
pub(super) struct Live<V> {
    pub(super) identity: Identity,
    /// What the identity was made of, for when policies change.
    proof: Option<Box<Proof>>,
    /// All that is kept of the node (items 8, 20 and 21).
    pub(super) claim: NodeClaim,
    /// Changes of what decides about the identity.
    policies: WatchStream<Arc<PolicySet>>,
    machine: V,
    /// When it began.
    began: Instant,
    feeds: Vec<(Arc<str>, Feed)>,
    resync: Option<Resync>,
    withheld_before: bool,
    large_before: bool,
    /// What operators see of it.
    listing: Listing,
    subscribed: Subscribed,
    _place: ProxyPlace,
}

impl<V: Variant> Live<V> {
    pub(super) fn start(
        shared: &Shared,
        door: Door,
        proof: Option<Box<Proof>>,
        node: Option<&Node>,
        peer: Arc<str>,
    ) -> Result<Self, Status> {
        let claim = open::claim(node)?;
        // Before the identity is made, so that no change is missed.
        let policies = WatchStream::from_changes(shared.authenticate.changes());
        let identity = open::complete(shared, proof.as_deref(), &claim)?;
        let place = shared.admission.enter_as(&identity)?;
        let listing = shared.roster.enter(StreamRecord {
            protocol: V::protocol(door),
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
            subscribed: shared.metrics.subscribed(),
            identity,
            proof,
            claim,
            policies,
            machine: V::new(Core::new(door, Limits::default(), fastrand::u32(..))),
            began: Instant::now(),
            feeds: Vec::new(),
            resync: shared.ads_resync.filter(|_| door == Door::Aggregated).map(Resync::new),
            withheld_before: false,
            large_before: false,
        })
    }

    /// Item 26: why the client is no longer who it was when the stream began, if policies have changed that.
    pub(super) fn poll_identity(&mut self, shared: &Shared, cx: &mut Context<'_>) -> Option<Status> {
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

    pub(super) fn request(&mut self, request: &V::Request, shared: &Shared) -> Result<(), Status> {
        // Items 20 and 22. An empty id is an omitted one.
        if request.node().is_some_and(|node| !node.id.is_empty() && *node.id != *self.claim.id) {
            return Err(Status::invalid_argument("node.id has changed on the stream"));
        }
        let mut outcome = self.machine.request(request, self.began.elapsed())?;
        tracing::debug!(
            subscribes = outcome.subscribe.len() + outcome.again.len(),
            unsubscribes = outcome.unsubscribe.len(),
            nonce = label(request.nonce()),
            rejects = request.error().is_some(),
            "request"
        );
        if let Some(type_url) = &outcome.foreign {
            tracing::info!(type_url = label(type_url), "ignored: this server has secrets only");
        }
        if outcome.is_stale {
            shared.metrics.stale_nonce();
        }
        if let Some(verdict) = outcome.verdict.take() {
            record(&verdict, shared);
            self.listing.answered(&verdict, shared.clock.now());
        }
        if let Some(reason) = &outcome.complaint {
            tracing::warn!(reason, "the proxy has rejected the removal of names");
        }
        outcome.unsubscribe.iter().for_each(|name| self.listing.unsubscribed(name));
        self.feeds.retain(|(name, _)| !outcome.unsubscribe.contains(name));
        for name in &outcome.subscribe {
            let held = outcome.reported(name).and_then(Held::read);
            match self.open_feed(name, held.as_ref(), shared) {
                Some(feed) => {
                    if feed.is_unknown() {
                        self.withhold(name, Withheld::UnknownName, shared);
                    }
                    let held = held.filter(|_| feed.kind() == SecretKind::Certificate).map(|held| held.text);
                    self.listing.subscribed(name, Some(feed.kind()), held);
                    self.feeds.push((name.clone(), feed));
                }
                None => {
                    self.listing.subscribed(name, None, None);
                    self.withhold(name, Withheld::of(shared.names.kind(name)), shared);
                }
            }
        }
        self.look_up(&outcome.again, shared);
        self.subscribed.set(self.machine.core().subscribed());
        Ok(())
    }

    /// What `name` means for this client, and where that comes from; `None` if it is to be withheld.
    fn open_feed(&self, name: &str, held: Option<&Held>, shared: &Shared) -> Option<Feed> {
        let wanted = shared.names.resolve(name, &self.identity)?;
        let style = shared.names.style(&self.claim);
        Some(Feed::open(&*shared.source, wanted, &self.identity, style, held.map(|held| &held.leaf)))
    }

    /// Once more from the start, with names that are subscribed: what there is of them comes as a change. What a client
    /// has reported counts for its first request only (item 107).
    fn look_up(&mut self, names: &[Arc<str>], shared: &Shared) {
        for name in names {
            match self.open_feed(name, None, shared) {
                Some(feed) => {
                    if feed.is_unknown() {
                        self.withhold(name, Withheld::UnknownName, shared);
                    }
                    // The one before goes when the new one is there, so interest in the secret does not end in between.
                    match self.feeds.iter_mut().find(|(of, _)| of == name) {
                        Some((_, old)) => *old = feed,
                        None => self.feeds.push((name.clone(), feed)),
                    }
                }
                None => {
                    self.feeds.retain(|(of, _)| of != name);
                    self.withhold(name, Withheld::of(shared.names.kind(name)), shared);
                }
            }
        }
    }

    /// Items 64, 70, 71 and 73: silence or one removal, at no cost to anyone.
    fn withhold(&mut self, name: &str, reason: Withheld, shared: &Shared) {
        self.machine.withheld(name);
        shared.metrics.withheld(reason);
        if std::mem::replace(&mut self.withheld_before, true) {
            tracing::debug!(name = label(name), "withheld: no such secret for this proxy");
        } else {
            tracing::warn!(name = label(name), "withheld: no such secret for this proxy (further names: at debug)");
        }
    }

    pub(super) fn poll_changes(&mut self, shared: &Shared, cx: &mut Context<'_>) {
        if self.resync.as_mut().is_some_and(|resync| resync.poll(cx).is_ready()) {
            let names = self.machine.again();
            tracing::debug!(names = names.len(), "sending everything again");
            self.look_up(&names, shared);
        }
        let now = shared.clock.now();
        for (name, feed) in &mut self.feeds {
            while let Poll::Ready(version) = feed.poll_change(name, V::encoder(shared), now, cx) {
                self.machine.available(name, feed.kind(), version);
            }
            if feed.drop_ended(now) {
                self.machine.gone(name);
            }
        }
    }

    pub(super) fn next_response(&mut self, shared: &Shared) -> Option<Response> {
        let at = self.began.elapsed();
        if let Some(response) = self.machine.next_bare(shared, at) {
            return Some(response);
        }
        while let Some(push) = self.machine.next_push(at) {
            let feed = self.feeds.iter_mut().find(|(name, _)| *name == push.name);
            let Some((encoded, since)) = feed.and_then(|(name, feed)| feed.take(name, V::encoder(shared))) else {
                tracing::error!(name = label(&push.name), "a secret to be sent is not there; this is a bug");
                continue;
            };
            self.listing.sent(&push.name, &push.version, shared.clock.now());
            shared.metrics.pushed(push.kind, push.is_update.then(|| since.elapsed()));
            tracing::debug!(name = label(&push.name), version = %push.version, nonce = push.nonce, "push");
            let response = V::response(push.nonce, encoded.bytes);
            if response.is_large() {
                shared.metrics.large_response();
                if !std::mem::replace(&mut self.large_before, true) {
                    tracing::warn!(name = label(&push.name), bytes = response.len(), "a large response");
                }
            }
            return Some(response);
        }
        // What is left is the like of what was sent before.
        self.feeds.iter_mut().for_each(|(_, feed)| feed.discard());
        None
    }
}

/// Counts and logs what a client said of a response; nothing is sent because of it.
fn record(verdict: &Verdict, shared: &Shared) {
    shared.metrics.answered(verdict.kind, verdict.result.is_ok(), verdict.after);
    let (name, version) = (label(&verdict.name), &verdict.version);
    match &verdict.result {
        Ok(()) => tracing::debug!(name, %version, "acknowledged"),
        Err(reason) => tracing::warn!(name, %version, reason, "the proxy has rejected a secret"),
    }
}

/// A leaf that a client says it has: its version (item 107).
#[derive(Debug)]
struct Held {
    text: Arc<str>,
    leaf: HeldLeaf,
}

impl Held {
    fn read(text: &str) -> Option<Self> {
        let leaf = Version::held_leaf(text).filter(|_| text.len() <= VERSION)?;
        Some(Self { text: text.into(), leaf })
    }
}

/// When an ADS stream is sent everything again (item 88).
#[derive(Debug)]
struct Resync {
    every: Duration,
    sleep: Pin<Box<Sleep>>,
}

impl Resync {
    fn new(every: Duration) -> Self {
        Self { every, sleep: Box::pin(tokio::time::sleep(Self::jittered(every))) }
    }

    /// Streams that began at one time, as after a restart, drift apart.
    fn jittered(every: Duration) -> Duration {
        every.mul_f64(0.8 + 0.4 * fastrand::f64())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let due = self.sleep.as_mut().poll(cx);
        if due.is_ready() {
            self.sleep.as_mut().reset(Instant::now() + Self::jittered(self.every));
            // The timer has to see this task again to wake it.
            if self.sleep.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        due
    }
}
