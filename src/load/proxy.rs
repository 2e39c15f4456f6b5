//! One simulated Envoy: its streams, and what of them the whole run needs to know.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::HeaderMap;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::backoff::Backoff;
use super::check::Leaf;
use super::contexts::Contexts;
use super::messages::Node;
use super::meters::{Current, Meters, lock};
use super::plan::Role;
use super::protocol::{Change, Kind, Manner, News, Silence, Subscription};
use super::results::PhaseKind;
use crate::model::certificate::Validity;
use crate::runtime::clock::Clock;

/// What a proxy has, for the checks between phases.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) number: usize,
    /// Whether it has its next leaf as soon as that is sent: who looks away has to bear with the old one.
    pub(crate) keeps_up: bool,
    pub(crate) secrets: Mutex<KeptSecrets>,
}

/// See [`Kept`].
#[derive(Debug, Default)]
pub(crate) struct KeptSecrets {
    /// The Secrets, encoded, in the order of the run's names.
    pub(crate) latest: Vec<Option<Bytes>>,
    /// Whether one of them has come since the last check.
    pub(crate) unchecked: bool,
    /// What the last check found under each of the names.
    pub(crate) leaves: Vec<Option<Leaf>>,
}

/// One stream's part of a proxy, for as long as the proxy lives.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) subscription: Subscription,
    /// The stream's names, as places in the list of all.
    names: Vec<usize>,
    /// The last phase in which a new version of that name came.
    seen: Vec<u32>,
    /// Whether it is served in this life of the stream.
    ready: bool,
    /// When the stream is opened again, if it ends and its connection does not.
    pub(crate) backoff: Backoff,
}

/// A proxy, as its connection's task has it.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) number: usize,
    pub(crate) role: Role,
    pub(crate) manner: Manner,
    pub(crate) headers: HeaderMap,
    pub(crate) channels: Vec<Channel>,
    pub(crate) kept: Arc<Kept>,
    began: Instant,
    /// Whether it had all its secrets when it began to connect.
    came_with: bool,
    /// What the server may leave unsaid if it had.
    silence: Silence,
    connected: bool,
    /// Whether it has what it connected for.
    pub(crate) served: bool,
    /// Whether it was given up.
    pub(crate) failed: bool,
    /// The last phase in which it came to be served.
    counted: u32,
    /// When it left, if that was churn, and it is not back.
    left: Option<Instant>,
}

/// What a proxy has to know of the run.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    pub(crate) meters: Arc<Meters>,
    pub(crate) clock: Clock,
    pub(crate) renew_by: f64,
    /// What the server may leave unsaid to who comes back.
    pub(crate) silence: Silence,
    pub(crate) contexts: Arc<Contexts>,
}

impl Channel {
    pub(crate) fn new(subscription: Subscription, names: Vec<usize>) -> Self {
        let seen = vec![0; names.len()];
        Self { subscription, names, seen, ready: false, backoff: Backoff::default() }
    }
}

impl Proxy {
    pub(crate) fn new(number: usize, role: Role, manner: Manner, headers: HeaderMap, names: usize) -> Self {
        let secrets = KeptSecrets { latest: vec![None; names], leaves: vec![None; names], unchecked: false };
        Self {
            number,
            role,
            manner,
            headers,
            channels: Vec::new(),
            kept: Arc::new(Kept { number, keeps_up: role == Role::Sound, secrets: Mutex::new(secrets) }),
            began: Instant::now(),
            came_with: false,
            silence: Silence::Never,
            connected: false,
            served: false,
            failed: false,
            counted: 0,
            left: None,
        }
    }

    /// Adds the stream of these names.
    pub(crate) fn subscribe(&mut self, names: &[(usize, Arc<str>)], node: Node) {
        let texts: Vec<_> = names.iter().map(|(_, name)| name.clone()).collect();
        let places = names.iter().map(|(place, _)| *place).collect();
        self.channels.push(Channel::new(Subscription::new(&texts, node), places));
    }

    /// Begins to connect, as it was to at `at`.
    pub(crate) fn begin(&mut self, at: Instant, forget: bool, run: &Surroundings) {
        for channel in &mut self.channels {
            channel.ready = false;
            if forget {
                channel.subscription.forget();
            }
        }
        self.set_out(at, run);
    }

    /// With what it has, it waits to be served from `at` on.
    fn set_out(&mut self, at: Instant, run: &Surroundings) {
        self.began = at;
        self.came_with = self.channels.iter().all(|channel| channel.subscription.is_complete());
        // A server that has nothing to say of a certificate is told from one that is mute by the bundle that it sends.
        let has_bundle = self.channels.iter().any(|channel| channel.subscription.holds(Kind::ValidationContext));
        self.silence = match run.silence {
            Silence::OnCertificates if !has_bundle => Silence::Never,
            silence => silence,
        };
    }

    pub(crate) fn connected(&mut self, run: &Surroundings) {
        self.connected = true;
        run.meters.connected.fetch_add(1, Relaxed);
    }

    /// The connection is gone.
    pub(crate) fn disconnected(&mut self, run: &Surroundings) {
        if std::mem::take(&mut self.connected) {
            run.meters.connected.fetch_sub(1, Relaxed);
        }
        self.leave(run);
    }

    /// One of its streams has ended, and is opened again at `at`. It is no new process, so it forgets nothing.
    pub(crate) fn reopens(&mut self, channel: usize, at: Instant, run: &Surroundings) {
        self.channels[channel].ready = false;
        // Who was waiting already has been since it began.
        if self.leave(run) {
            self.set_out(at, run);
        }
    }

    /// It is not served any more; says whether it was.
    fn leave(&mut self, run: &Surroundings) -> bool {
        let was_served = std::mem::take(&mut self.served);
        if was_served {
            run.meters.served.fetch_sub(1, Relaxed);
        }
        if was_served && self.role != Role::Refuses && !self.failed {
            run.meters.left();
            let current = run.meters.current();
            if current.kind == PhaseKind::Churn {
                current.expect_one();
                self.left = Some(Instant::now());
            }
        }
        was_served
    }

    /// The server has let a stream in. Who has all it needs and says so may hear nothing more on it.
    pub(crate) fn let_in(&mut self, channel: usize, run: &Surroundings) {
        if self.channels[channel].subscription.is_settled(self.silence) {
            self.settle(channel, run);
        }
    }

    /// A response came on a stream at `at`.
    pub(crate) fn received(&mut self, channel: usize, changes: Vec<Change>, at: Instant, run: &Surroundings) {
        let current = run.meters.current();
        self.channels[channel].backoff.reset();
        run.meters.counters.secrets.fetch_add(changes.len() as u64, Relaxed);
        for change in changes {
            if self.role == Role::Refuses {
                continue;
            }
            match change.news {
                News::Unchanged => {
                    run.meters.counters.unchanged.fetch_add(1, Relaxed);
                    continue;
                }
                News::First => self.holds(channel, &change, run),
                News::Changed => self.has_new(channel, &change, &current, at, run),
                News::Again => {}
            }
            let place = self.channels[channel].names[change.index];
            let secret = match change.kind {
                Kind::Certificate => Bytes::copy_from_slice(&change.secret),
                Kind::ValidationContext => run.contexts.shared(change.digest, &change.secret),
            };
            let mut kept = lock(&self.kept.secrets);
            kept.latest[place] = Some(secret);
            kept.unchecked = true;
        }
        if self.role == Role::Refuses || self.channels[channel].subscription.is_settled(self.silence) {
            self.settle(channel, run);
        }
    }

    fn holds(&mut self, channel: usize, change: &Change, run: &Surroundings) {
        let place = self.channels[channel].names[change.index];
        let name = &run.meters.names[place];
        if *name.kind.get_or_init(|| change.kind) != change.kind {
            let number = self.number;
            run.meters.fail("a name is a certificate for one proxy and a validation context for another", || {
                format!("proxy {number}, the name at place {place}")
            });
        }
        let first = lock(&self.kept.secrets).latest[place].is_none();
        if first && self.role == Role::Sound {
            name.holders.fetch_add(1, Relaxed);
        }
    }

    fn has_new(&mut self, channel: usize, change: &Change, current: &Current, at: Instant, run: &Surroundings) {
        let channel = &mut self.channels[channel];
        let (place, seen) = (channel.names[change.index], &mut channel.seen[change.index]);
        if self.role != Role::Sound || *seen == current.number || !current.is_concerned(place, change.kind) {
            return;
        }
        *seen = current.number;
        let since = *current.since.get_or_init(|| at);
        current.time("fan-out", at.saturating_duration_since(since));
        if change.kind == Kind::Certificate {
            let known = validity_in(&change.before)
                .or_else(|| lock(&self.kept.secrets).leaves[place].as_ref().map(|leaf| leaf.validity));
            if let Some(lag) = known.and_then(|validity| lag(validity, run.renew_by, run.clock.now())) {
                current.time("renewal-lag", lag);
            }
        }
        current.reach();
    }

    /// A stream has all that it was opened for.
    fn settle(&mut self, channel: usize, run: &Surroundings) {
        let channel = &mut self.channels[channel];
        let was_ready = std::mem::replace(&mut channel.ready, true);
        if was_ready || self.served || self.failed || !self.channels.iter().all(|c| c.ready) {
            return;
        }
        self.served = true;
        run.meters.served.fetch_add(1, Relaxed);
        if self.role == Role::Refuses {
            return;
        }
        let current = run.meters.current();
        let what = if self.came_with { "let-in" } else { "first-secret" };
        current.time(what, self.began.elapsed());
        let counted = std::mem::replace(&mut self.counted, current.number) == current.number;
        match current.kind {
            // Each time that somebody leaves, it has to come back.
            PhaseKind::Churn => {
                if let Some(left) = self.left.take() {
                    current.time("served-again", left.elapsed());
                    current.reach();
                }
            }
            // Who is cut off twice is back only once.
            PhaseKind::Storm if !counted => {
                current.time("served-again", current.began.elapsed());
                current.reach();
            }
            PhaseKind::Connect if !counted => current.reach(),
            _ => {}
        }
        // Last: once nobody is away, what was counted is read.
        run.meters.back();
    }

    /// Something went wrong for which the proxy is given up.
    pub(crate) fn fail(&mut self, run: &Surroundings, what: impl Into<String>, detail: &str) {
        let number = self.number;
        run.meters.fail(what, || format!("proxy {number}: {detail}"));
        if std::mem::replace(&mut self.failed, true) || self.role == Role::Refuses {
            return;
        }
        run.meters.given_up.fetch_add(1, Relaxed);
        if !self.served {
            run.meters.back();
        }
        let current = run.meters.current();
        if current.is_about_proxies() && self.counted != current.number {
            current.lose();
        }
        for channel in &self.channels {
            for (place, seen) in channel.names.iter().zip(&channel.seen) {
                let name = &run.meters.names[*place];
                let held = lock(&self.kept.secrets).latest[*place].is_some();
                if !held || self.role != Role::Sound {
                    continue;
                }
                name.holders.fetch_sub(1, Relaxed);
                let concerned = name.kind.get().is_some_and(|kind| current.is_concerned(*place, *kind));
                if concerned && *seen != current.number {
                    current.lose();
                }
            }
        }
    }
}

/// What this server's versions say of a leaf, `certificate.<notBefore>.<notAfter>.…`; `None` for other servers'.
fn validity_in(version: &str) -> Option<Validity> {
    let mut parts = version.strip_prefix("certificate.")?.split('.');
    let mut time = || parts.next()?.parse().ok().and_then(|second| Timestamp::from_second(second).ok());
    Some(Validity { not_before: time()?, not_after: time()? })
}

/// How late a successor comes at `now`; `None` before it is due.
fn lag(validity: Validity, renew_by: f64, now: Timestamp) -> Option<std::time::Duration> {
    let life = validity.not_after.duration_since(validity.not_before).max(SignedDuration::ZERO);
    let due = validity.not_before.saturating_add(life.mul_f64(renew_by)).ok()?;
    now.duration_since(due).try_into().ok()
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
