//! A stream whose client is known: its subscriptions, and what there is to send.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};
use tonic::Status;

use super::variant::Variant;
use crate::identify::Proof;
use crate::model::held::HeldLeaf;
use crate::serve::client::{Client, Found, audit};
use crate::serve::feed::Feed;
use crate::serve::metrics::{Subscribed, Withheld};
use crate::serve::naming::SecretKind;
use crate::serve::open::label;
use crate::serve::roster::{Listing, StreamRecord};
use crate::serve::shared::Shared;
use crate::serve::state::{Core, Door, Owed, Verdict};
use crate::serve::version::Version;
use crate::serve::wire::response::Response;
use crate::serve::wire::{Node, Request};

/// The longest version of a client's that is looked at; ours have some 90 bytes.
const VERSION: usize = 256;

/// See the module.
#[derive(Debug)]
pub(super) struct Live<V> {
    pub(super) client: Client,
    machine: V,
    /// When it began.
    began: Instant,
    feeds: Vec<(Arc<str>, Feed)>,
    resync: Option<Resync>,
    /// Runs while the client is owed an answer (item 87).
    owed: Option<Pin<Box<Sleep>>>,
    crowded_before: bool,
    withheld_before: bool,
    rejected_before: bool,
    /// What operators see of it.
    listing: Listing,
    subscribed: Subscribed,
}

impl<V: Variant> Live<V> {
    pub(super) fn start(
        shared: &Shared,
        door: Door,
        proof: Option<Box<Proof>>,
        node: Option<&Node>,
        (peer, host): (Arc<str>, Arc<str>),
    ) -> Result<Self, Status> {
        let client = Client::new(shared, host, proof, node)?;
        let listing = shared.roster.enter(StreamRecord {
            protocol: V::protocol(door),
            peer,
            node_id: client.claim.id.as_str().into(),
            node_cluster: client.claim.cluster.as_str().into(),
            identity: client.identity.clone(),
            opened: shared.clock.now(),
            names: HashMap::new(),
        });
        Ok(Self {
            client,
            listing,
            subscribed: shared.metrics.subscribed(),
            machine: V::new(Core::new(door, shared.limits, fastrand::u32(..))),
            began: Instant::now(),
            feeds: Vec::new(),
            resync: shared.ads_resync.filter(|_| door == Door::Aggregated).map(Resync::new),
            owed: None,
            crowded_before: false,
            withheld_before: false,
            rejected_before: false,
        })
    }

    pub(super) fn request(&mut self, request: &V::Request, shared: &Shared) -> Result<(), Status> {
        // Items 20 and 22. An empty id is an omitted one.
        if request.node().is_some_and(|node| !node.id.is_empty() && *node.id != *self.client.claim.id) {
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
            self.record(&verdict, shared);
            self.listing.answered(&verdict, shared.clock.now());
        }
        if let Some(reason) = &outcome.complaint {
            if std::mem::replace(&mut self.rejected_before, true) {
                tracing::debug!(reason, "the proxy has rejected the removal of names");
            } else {
                tracing::warn!(reason, "the proxy has rejected the removal of names (further rejections: at debug)");
            }
        }
        // A name that is dropped, and one that is asked for next, may be of the same certificate.
        let _certificate = self.client.hold_certificate();
        outcome.unsubscribe.iter().for_each(|name| self.listing.unsubscribed(name));
        self.feeds.retain(|(name, _)| !outcome.unsubscribe.contains(name));
        if outcome.refused > 0 {
            shared.metrics.withheld_names(Withheld::TooManyNames, outcome.refused);
            if !std::mem::replace(&mut self.crowded_before, true) {
                tracing::warn!(names = outcome.refused, "withheld: more names than limits.namesPerStream");
            }
        }
        for name in &outcome.subscribe {
            let held = outcome.reported(name).and_then(Held::read);
            let found = self.client.find(name, held.as_ref().map(|held| &held.leaf), shared);
            let held = held.filter(|_| found.kind() == Some(SecretKind::Certificate)).map(|held| held.text);
            self.listing.subscribed(name, found.kind(), held);
            self.put(name, found, true, shared);
        }
        self.look_up(&outcome.again, true, shared);
        self.subscribed.set(self.machine.core().subscribed());
        Ok(())
    }

    /// Takes it from where it is to come from now on. `asked` says that the client has asked for it.
    fn put(&mut self, name: &Arc<str>, found: Found, asked: bool, shared: &Shared) {
        if let Some(reason) = found.withheld.filter(|_| asked) {
            self.withhold(name, reason, shared);
        }
        let position = self.feeds.iter().position(|(of, _)| of == name);
        match (found.feed, position) {
            (Some(feed), Some(position)) => self.feeds[position].1 = feed,
            (Some(feed), None) => self.feeds.push((name.clone(), feed)),
            (None, Some(position)) => drop(self.feeds.swap_remove(position)),
            (None, None) => {}
        }
    }

    /// Once more from the start, with names that are subscribed: what there is of them comes as a change. Of what the
    /// client has not asked for itself, nothing is said if there is none of it any more (item 74).
    fn look_up(&mut self, names: &[Arc<str>], asked: bool, shared: &Shared) {
        for name in names {
            // What a client has reported counts for its first request only (item 107).
            let found = self.client.find(name, None, shared);
            if asked {
                self.listing.means(name, found.kind());
            }
            self.put(name, found, asked, shared);
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

    /// Counts and logs what a client said of a response; nothing is sent because of it.
    fn record(&mut self, verdict: &Verdict, shared: &Shared) {
        shared.metrics.answered(verdict.kind, verdict.result.is_ok(), verdict.after);
        let (name, version) = (label(&verdict.name), &verdict.version);
        match &verdict.result {
            Ok(()) => tracing::debug!(name, %version, "acknowledged"),
            Err(reason) if std::mem::replace(&mut self.rejected_before, true) => {
                tracing::debug!(name, %version, reason, "the proxy has rejected a secret");
            }
            Err(reason) => {
                tracing::warn!(name, %version, reason, "the proxy has rejected a secret (further rejections: at debug)");
            }
        }
    }

    /// Item 87.
    fn poll_owed(&mut self, shared: &Shared, cx: &mut Context<'_>) {
        match self.machine.owed(self.began.elapsed()) {
            Owed::Nothing => {}
            Owed::Now(names) => {
                self.owed = None;
                self.look_up(&names, false, shared);
            }
            Owed::Later(wait) => {
                let sleep = self.owed.get_or_insert_with(|| Box::pin(tokio::time::sleep(wait)));
                if sleep.as_mut().poll(cx).is_ready() {
                    self.owed = None;
                    cx.waker().wake_by_ref();
                }
            }
        }
    }

    pub(super) fn poll_changes(&mut self, shared: &Shared, cx: &mut Context<'_>) {
        if self.resync.as_mut().is_some_and(|resync| resync.poll(cx).is_ready()) {
            let names = self.machine.again();
            tracing::debug!(names = names.len(), "sending everything again");
            self.look_up(&names, false, shared);
        }
        self.poll_owed(shared, cx);
        let now = shared.clock.now();
        for (name, feed) in &mut self.feeds {
            while let Poll::Ready(version) = feed.poll_change(&shared.encoder, now, cx) {
                self.machine.available(name, feed.kind(), version);
            }
        }
    }

    /// What has waited to be sent for longer than it is good is not sent.
    pub(super) fn drop_ended(&mut self, shared: &Shared) {
        for (name, feed) in self.feeds.iter_mut().filter(|(_, feed)| feed.is_waiting()) {
            if feed.drop_ended(shared.clock.now()) {
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
            let Some(taken) = feed.and_then(|(_, feed)| feed.take(&shared.encoder)) else {
                tracing::error!(name = label(&push.name), "a secret to be sent is not there; this is a bug");
                continue;
            };
            self.listing.sent(&push.name, push.kind, &push.version, shared.clock.now());
            shared.metrics.pushed(push.kind, push.is_update.then(|| taken.since.elapsed()));
            tracing::debug!(name = label(&push.name), version = %push.version, nonce = push.nonce, "push");
            audit(&push.name, &taken);
            let response = V::response(shared, push.nonce, &push.name, taken.secret);
            shared.note_size(&response);
            return Some(response);
        }
        // What is left is the like of what was sent before.
        self.feeds.iter_mut().for_each(|(_, feed)| feed.discard());
        None
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
        let leaf = Some(text).filter(|text| text.len() <= VERSION).and_then(Version::held_leaf)?;
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
