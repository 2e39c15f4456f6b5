//! The responses that a client may still answer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::serve::naming::SecretKind;
use crate::serve::redact;
use crate::serve::version::Version;

/// What the client said about a secret that it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The number of the response: later ones have larger numbers.
    pub(crate) number: u64,
    pub(crate) name: Arc<str>,
    pub(crate) kind: SecretKind,
    pub(crate) version: Version,
    /// `Err` with the client's reason, redacted, for a NACK.
    pub(crate) result: Result<(), String>,
    /// How long it took to answer.
    pub(crate) after: Duration,
}

/// What a request says by its nonce.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing: it has none.
    None,
    /// What it thinks of a response.
    Verdict(Verdict),
    /// What it thinks of a response that had no secret in it; `Err` is redacted.
    Bare(Result<(), String>),
    /// The response that it has answered last.
    Last { accepted: bool },
    /// Another response, or another stream's.
    Stale,
}

/// Nonces, and what became of the responses that have them.
#[derive(Debug)]
pub(super) struct Nonces {
    /// Tells this stream's nonces from those a client remembers of an earlier one (item 34).
    stream: u32,
    count: u64,
    /// Bounds `awaited`.
    capacity: usize,
    awaited: VecDeque<Awaited>,
    /// The response that was answered last, and whether with an ACK.
    last: Option<(u64, bool)>,
}

#[derive(Debug)]
struct Awaited {
    number: u64,
    /// `None` for a response without a secret.
    content: Option<(Arc<str>, SecretKind, Version)>,
    sent: Duration,
}

impl Nonces {
    pub(super) fn new(stream: u32, capacity: usize) -> Self {
        Self { stream, count: 0, capacity, awaited: VecDeque::new(), last: None }
    }

    /// The number of the next response.
    pub(super) fn upcoming(&self) -> u64 {
        self.count + 1
    }

    /// A nonce for a response, sent at `at`: never empty, never the same twice on a stream (item 33).
    pub(super) fn next(&mut self, content: Option<(Arc<str>, SecretKind, Version)>, at: Duration) -> String {
        self.count += 1;
        if self.awaited.len() >= self.capacity {
            self.awaited.pop_front();
        }
        self.awaited.push_back(Awaited { number: self.count, content, sent: at });
        format!("{:08x}-{}", self.stream, self.count)
    }

    /// What a request says about the response that its nonce names: that one, not the newest (item 40).
    pub(super) fn answer(&mut self, nonce: &str, error: Option<&str>, version: Option<&str>, at: Duration) -> Answer {
        if nonce.is_empty() {
            return Answer::None;
        }
        let Some(number) = self.number(nonce) else { return Answer::Stale };
        let Some(position) = self.awaited.iter().position(|awaited| awaited.number == number) else {
            return match self.last {
                Some((last, accepted)) if last == number => Answer::Last { accepted },
                _ => Answer::Stale,
            };
        };
        let Some(Awaited { content, sent, .. }) = self.awaited.remove(position) else { return Answer::Stale };
        if self.awaited.is_empty() {
            self.awaited = VecDeque::new();
        }
        // Item 44: an older version with the nonce of a newer response rejects without saying so.
        let is_other = matches!((&content, version), (Some((_, _, sent)), Some(version)) if version != sent.as_str());
        let result = match error {
            // Item 45: what Envoy says here may hold the private key.
            Some(message) => Err(redact::redact(message)),
            None if is_other => Err("implicit: acknowledged with another version".to_owned()),
            None => Ok(()),
        };
        self.last = Some((number, result.is_ok()));
        match content {
            None => Answer::Bare(result),
            Some((name, kind, version)) => {
                let after = at.saturating_sub(sent);
                Answer::Verdict(Verdict { number, name, kind, version, result, after })
            }
        }
    }

    /// That of a nonce of this stream.
    fn number(&self, nonce: &str) -> Option<u64> {
        let (stream, number) = nonce.split_once('-')?;
        if u32::from_str_radix(stream, 16) != Ok(self.stream) {
            return None;
        }
        number.parse().ok()
    }

    /// How many responses are waiting for a verdict.
    #[cfg(test)]
    pub(super) fn awaited(&self) -> usize {
        self.awaited.len()
    }
}
