//! The protocol's rules as state machines without a clock, a channel or a socket: events in, decisions out. One file for
//! each variant of the protocol, over the same subscriptions, nonces and limits. Time is what has passed since the stream
//! began; the caller says it.

pub(crate) mod delta;
mod nonces;
pub(crate) mod sotw;
mod subscriptions;
#[cfg(test)]
mod testing;
mod types;

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tonic::Status;

use self::nonces::{Answer, Nonces};
use self::subscriptions::Subscriptions;
use self::types::{ForeignTypes, Subject};
use super::naming::{MAX_NAME, SecretKind};
use super::version::Version;
use super::wire::Request;

pub(crate) use self::nonces::Verdict;
pub(crate) use self::types::{Door, check_type};

/// How much of a client's making one stream may make us keep (xds-conformance item 63).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Names on one stream, those that are withheld included.
    pub(crate) names: usize,
    /// Bytes of one name.
    pub(crate) name_length: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { names: 256, name_length: MAX_NAME }
    }
}

impl Limits {
    /// Looking for duplicates costs time for each name in a request, so there is a bound on these too.
    fn check_count<T>(self, names: &[T]) -> Result<(), Status> {
        if names.len() > self.names.saturating_mul(16) { Err(self.too_many_names()) } else { Ok(()) }
    }

    /// Envoy logs it, so it says what to change.
    fn too_many_names(self) -> Status {
        Status::resource_exhausted(format!(
            "more than {} resource names on one stream (limits.namesPerStream)",
            self.names
        ))
    }
}

/// A response with a secret, to be sent now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Push {
    pub(crate) name: Arc<str>,
    pub(crate) kind: SecretKind,
    pub(crate) version: Version,
    pub(crate) nonce: String,
    /// Whether the client has had another version of it on this stream.
    pub(crate) is_update: bool,
}

/// What a request brings about. Nothing is sent because of a verdict (items 36 and 41).
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Names that the client no longer wants; to be heeded first.
    pub(crate) unsubscribe: Vec<Arc<str>>,
    /// Names that it wants from now on.
    pub(crate) subscribe: Vec<Arc<str>>,
    /// Names that it has wanted before and asks for once more; to be looked up as if it had not.
    pub(crate) again: Vec<Arc<str>>,
    /// Versions that it says it has, of names in `subscribe` (item 107).
    pub(crate) reported: Vec<(Arc<str>, String)>,
    /// How many names there was no room for. The client is told that there is nothing under them.
    pub(crate) refused: usize,
    /// Its verdict on an earlier response.
    pub(crate) verdict: Option<Verdict>,
    /// Why it does not like a response without a secret, redacted.
    pub(crate) complaint: Option<String>,
    /// Its nonce was none that it could answer.
    pub(crate) is_stale: bool,
    /// A type that is not ours, the first time that it asks for it.
    pub(crate) foreign: Option<Box<str>>,
}

/// What a client is owed that has said the same twice.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Owed {
    Nothing,
    /// An answer, but not before so long from now.
    Later(Duration),
    /// An answer: these names are to be looked up, as after [`Machine::again`].
    Now(Vec<Arc<str>>),
}

impl Outcome {
    /// The version of `name` that the client says it has.
    pub(crate) fn reported(&self, name: &str) -> Option<&str> {
        self.reported.iter().find(|(of, _)| **of == *name).map(|(_, version)| version.as_str())
    }
}

/// A variant of the protocol, as the Secret type has it.
pub(crate) trait Machine: fmt::Debug {
    /// What clients send.
    type Request: Request;

    /// One for a stream on which nothing has been said.
    fn new(core: Core) -> Self;

    /// What all variants have.
    fn core(&mut self) -> &mut Core;

    /// Takes a request that came at `at`. Its nonce says which response a verdict is about and nothing else: its names
    /// count even if it is stale (items 39 and 57), is a NACK (42) or claims to have our version (34, 35 and 89).
    ///
    /// # Errors
    /// The status that ends the stream.
    fn request(&mut self, request: &Self::Request, at: Duration) -> Result<Outcome, Status>;

    /// The newest version of `name` is `version` now. A name that is not subscribed is ignored (item 82).
    fn available(&mut self, name: &str, kind: SecretKind, version: Version) {
        self.core().subscriptions.available(name, kind, version);
    }

    /// What was available of `name` is not to be sent any more (item 99).
    fn gone(&mut self, name: &str) {
        self.core().subscriptions.gone(name);
    }

    /// There is no secret `name` for this client. Unless the variant has a way to say so, it hears nothing (item 70).
    fn withheld(&mut self, _name: &str) {}

    /// Sends everything again, as it then is, but what the client has rejected; says which names are to be looked up for
    /// that (item 88).
    fn again(&mut self) -> Vec<Arc<str>> {
        self.core().subscriptions.again()
    }

    /// What the client is owed because it has repeated itself (item 87); to be asked after each request, and when it was
    /// said to be asked again.
    fn owed(&mut self, _at: Duration) -> Owed {
        Owed::Nothing
    }

    /// What to send next, one secret at a time (item 78); to be asked when the transport has room. The caller sends
    /// it: it counts as sent at `at`.
    fn next_push(&mut self, at: Duration) -> Option<Push> {
        let Core { subscriptions, nonces, .. } = self.core();
        let due = subscriptions.next_to_send(nonces.upcoming())?;
        let nonce = nonces.next(Some((due.name.clone(), due.kind, due.version.clone())), at);
        Some(Push { name: due.name, kind: due.kind, version: due.version, nonce, is_update: due.is_update })
    }
}

/// What all variants have.
#[derive(Debug)]
pub(crate) struct Core {
    door: Door,
    limits: Limits,
    subscriptions: Subscriptions,
    nonces: Nonces,
    foreign: ForeignTypes,
    is_begun: bool,
}

/// What is to be done with a request.
enum Admitted {
    /// `may_report`: it may say which versions the client has.
    Secrets { may_report: bool },
    /// Nothing; the type, if it is to be logged.
    Foreign(Option<Box<str>>),
}

impl Core {
    /// For a stream on which nothing has been said. `stream` should differ from that of other streams.
    pub(crate) fn new(door: Door, limits: Limits, stream: u32) -> Self {
        Self {
            door,
            limits,
            subscriptions: Subscriptions::default(),
            nonces: Nonces::new(stream, limits.names),
            foreign: ForeignTypes::default(),
            is_begun: false,
        }
    }

    /// How many names the client wants.
    pub(crate) fn subscribed(&self) -> usize {
        self.subscriptions.len()
    }

    fn admit(&mut self, type_url: &str) -> Result<Admitted, Status> {
        // Item 107: on ADS a version says nothing about one secret, and on a stream that has begun nothing new.
        let may_report = self.door == Door::Dedicated && !std::mem::replace(&mut self.is_begun, true);
        Ok(match self.door.subject(type_url)? {
            Subject::Secrets => Admitted::Secrets { may_report },
            Subject::Foreign => Admitted::Foreign(self.foreign.note(type_url)),
        })
    }

    /// Puts what the nonce says into `outcome`; says whether the request repeats the last ACK.
    fn judge(&mut self, request: &impl Request, version: Option<&str>, at: Duration, outcome: &mut Outcome) -> bool {
        match self.nonces.answer(request.nonce(), request.error(), version, at) {
            Answer::None => {}
            Answer::Stale => outcome.is_stale = true,
            Answer::Bare(result) => outcome.complaint = result.err(),
            Answer::Last { accepted } => return accepted && request.error().is_none(),
            Answer::Verdict(verdict) => {
                if verdict.result.is_err() {
                    self.subscriptions.rejected(&verdict.name, verdict.number);
                }
                outcome.verdict = Some(verdict);
            }
        }
        false
    }
}

/// Items 60, 61 and 63: the distinct names, exactly as they are written; not more than one stream may have.
pub(crate) fn names_of_one(names: &[String], limits: Limits) -> Result<Vec<&str>, Status> {
    let distinct = distinct_names(names, limits)?;
    if distinct.len() > limits.names { Err(limits.too_many_names()) } else { Ok(distinct) }
}

/// The distinct names, as many as one request may have.
fn distinct_names(names: &[String], limits: Limits) -> Result<Vec<&str>, Status> {
    limits.check_count(names)?;
    let room = names.len().min(limits.names);
    let (mut distinct, mut seen) = (Vec::with_capacity(room), HashSet::with_capacity(room));
    for name in names {
        if name.len() > limits.name_length {
            return Err(Status::resource_exhausted("a resource name is too long"));
        }
        if seen.insert(name.as_str()) {
            distinct.push(name.as_str());
        }
    }
    Ok(distinct)
}

#[cfg(test)]
#[path = "interleaving_tests.rs"]
mod tests;
