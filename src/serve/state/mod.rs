//! The protocol's rules as state machines without a clock, a channel or a socket: events in, decisions out. One file for
//! each variant of the protocol, over the same subscriptions, nonces and limits.

pub(crate) mod sotw;

use std::collections::VecDeque;
use std::sync::Arc;

use tonic::Status;

use super::naming::SecretKind;
use super::version::Version;
use super::wire::SECRET_TYPE;

/// How much of a client's making one stream may make us keep (xds-conformance item 63).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Names on one stream.
    pub(crate) names: usize,
    /// Bytes of one name.
    pub(crate) name_length: usize,
}

impl Default for Limits {
    /// 64 names; 2048 bytes is the longest a SPIFFE ID may be (SPIFFE-ID §2.3).
    fn default() -> Self {
        Self { names: 64, name_length: 2048 }
    }
}

/// A response to be sent now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Push {
    pub(crate) name: Arc<str>,
    pub(crate) kind: SecretKind,
    pub(crate) version: Version,
    pub(crate) nonce: String,
    /// Whether the client has had another version of it on this stream.
    pub(crate) is_update: bool,
}

/// What the client said about a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) name: Arc<str>,
    pub(crate) kind: SecretKind,
    pub(crate) version: Version,
    /// `Err` with the client's reason, redacted, for a NACK.
    pub(crate) result: Result<(), String>,
}

/// Items 28 and 29: on the SDS methods no type means secrets, and any other type is an error.
pub(crate) fn check_type(type_url: &str) -> Result<(), Status> {
    match type_url {
        "" | SECRET_TYPE => Ok(()),
        _ => Err(Status::invalid_argument("this service has secrets only: wrong type_url")),
    }
}

/// Items 60, 61 and 63: the distinct names, exactly as they are written.
pub(crate) fn distinct_names(names: &[String], limits: Limits) -> Result<Vec<&str>, Status> {
    // Looking for duplicates costs time for each of them, so there is a bound on these too.
    if names.len() > limits.names.saturating_mul(16) {
        return Err(too_many_names());
    }
    let mut distinct: Vec<&str> = Vec::with_capacity(names.len().min(limits.names));
    for name in names {
        if name.len() > limits.name_length {
            return Err(Status::resource_exhausted("a resource name is too long"));
        }
        if distinct.contains(&name.as_str()) {
            continue;
        }
        if distinct.len() == limits.names {
            return Err(too_many_names());
        }
        distinct.push(name);
    }
    Ok(distinct)
}

fn too_many_names() -> Status {
    Status::resource_exhausted("too many resource names on one stream")
}

/// The names that the client wants, what there is of each, and what it has been sent.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions(Vec<Subscription>);

#[derive(Debug)]
struct Subscription {
    name: Arc<str>,
    /// The newest version there is; `None` while the secret is pending, unknown or withheld, which all look the same
    /// to the client (items 27, 68 and 70).
    newest: Option<(SecretKind, Version)>,
    sent: Option<Version>,
}

impl Subscriptions {
    fn position(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|subscription| &*subscription.name == name)
    }

    /// Starts one, as if the name had never been asked for; `None` if there is one already.
    pub(crate) fn add(&mut self, name: &str) -> Option<Arc<str>> {
        if self.position(name).is_some() {
            return None;
        }
        let name: Arc<str> = name.into();
        self.0.push(Subscription { name: name.clone(), newest: None, sent: None });
        Some(name)
    }

    /// Ends those that `keep` does not want, and forgets what was sent for them (item 59).
    pub(crate) fn retain(&mut self, keep: impl Fn(&str) -> bool) -> Vec<Arc<str>> {
        self.0.extract_if(.., |subscription| !keep(&subscription.name)).map(|ended| ended.name).collect()
    }

    /// The newest version of a name is `version` now; older ones that were not sent yet never will be (item 94).
    pub(crate) fn available(&mut self, name: &str, kind: SecretKind, version: Version) {
        if let Some(position) = self.position(name) {
            self.0[position].newest = Some((kind, version));
        }
    }

    /// There is nothing of a name to send any more; what was sent stays sent.
    pub(crate) fn gone(&mut self, name: &str) {
        if let Some(position) = self.position(name) {
            self.0[position].newest = None;
        }
    }

    /// The next that the client does not have, trust bundles first (item 92); it counts as sent. The only reason to
    /// send is that content has changed or that it is new to this subscription (items 43 and 86).
    pub(crate) fn next_to_send(&mut self) -> Option<(Arc<str>, SecretKind, Version, bool)> {
        let (subscription, kind, version) = self
            .0
            .iter_mut()
            .filter_map(|subscription| {
                let (kind, version) = subscription.newest.clone()?;
                (subscription.sent.as_ref() != Some(&version)).then_some((subscription, kind, version))
            })
            .min_by_key(|(_, kind, _)| *kind)?;
        let is_update = subscription.sent.replace(version.clone()).is_some();
        Some((subscription.name.clone(), kind, version, is_update))
    }
}

/// The responses that a client may still answer.
#[derive(Debug)]
pub(crate) struct Nonces {
    /// Tells this stream's nonces from those a client remembers of an earlier one (item 34).
    stream: u32,
    count: u64,
    /// Bounds `awaited`.
    capacity: usize,
    awaited: VecDeque<Awaited>,
}

#[derive(Debug)]
struct Awaited {
    number: u64,
    name: Arc<str>,
    kind: SecretKind,
    version: Version,
}

impl Nonces {
    pub(crate) fn new(stream: u32, capacity: usize) -> Self {
        Self { stream, count: 0, capacity, awaited: VecDeque::new() }
    }

    /// A nonce for a response: never empty, never the same twice on a stream (item 33).
    pub(crate) fn next(&mut self, name: Arc<str>, kind: SecretKind, version: Version) -> String {
        self.count += 1;
        if self.awaited.len() >= self.capacity {
            self.awaited.pop_front();
        }
        self.awaited.push_back(Awaited { number: self.count, name, kind, version });
        format!("{:08x}-{}", self.stream, self.count)
    }

    /// What a request says about the response that its nonce names (item 40: that one, not the newest); `None` if there
    /// is no such response on this stream, or if its verdict is known.
    pub(crate) fn verdict(&mut self, nonce: &str, error: Option<&str>, version: Option<&str>) -> Option<Verdict> {
        let (stream, number) = nonce.split_once('-')?;
        if u32::from_str_radix(stream, 16) != Ok(self.stream) {
            return None;
        }
        let number: u64 = number.parse().ok()?;
        let position = self.awaited.iter().position(|awaited| awaited.number == number)?;
        let Awaited { name, kind, version: sent, .. } = self.awaited.remove(position)?;
        let result = match error {
            // Item 45: what Envoy says here may hold the private key.
            Some(message) => Err(super::redact::redact(message)),
            // Item 44: an older version with the nonce of a newer response rejects without saying so.
            None if version.is_some_and(|version| version != sent.as_str()) => {
                Err("implicit: acknowledged with another version".to_owned())
            }
            None => Ok(()),
        };
        if self.awaited.is_empty() {
            self.awaited = VecDeque::new();
        }
        Some(Verdict { name, kind, version: sent, result })
    }

    /// How many responses are waiting for a verdict.
    #[cfg(test)]
    pub(crate) fn awaited(&self) -> usize {
        self.awaited.len()
    }
}
