//! What will end a stream other than its client, and when.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, Sleep};
use tonic::Status;

use crate::runtime::clock::Clock;
use crate::serve::open;

/// A client that opens a stream and says nothing is not worth the memory.
const FIRST_REQUEST: Duration = Duration::from_secs(10);

/// Wall-clock deadlines are looked at this often, so that steps of the clock and suspends are noticed.
const LOOK: Duration = Duration::from_secs(60);

/// The end of a proof is brought forward by up to this much, so that the streams of one proof do not all end at once.
const PROOF_JITTER: SignedDuration = SignedDuration::from_secs(60);

/// Streams that a change of policy ends do so within this time, so that their proxies do not all come back at once.
const REVOKE_JITTER: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub(in crate::serve) struct Timer {
    sleep: Pin<Box<Sleep>>,
    end: End,
}

#[derive(Debug)]
enum End {
    NoRequest,
    Revoked(Status),
    ProofExpires(Timestamp),
    Drained { reason: &'static str },
}

impl Timer {
    fn new(after: Duration, end: End) -> Self {
        Self { sleep: Box::pin(tokio::time::sleep(after)), end }
    }

    /// Unless a first request comes.
    pub(super) fn for_first_request() -> Self {
        Self::new(FIRST_REQUEST, End::NoRequest)
    }

    /// Soon, with the status that says why the client is no longer who it was.
    pub(super) fn for_revocation(status: Status) -> Self {
        Self::new(REVOKE_JITTER.mul_f64(fastrand::f64()), End::Revoked(status))
    }

    /// Some time within `drain`, because the connection is to end.
    pub(super) fn for_drain(drain: Duration, reason: &'static str) -> Self {
        Self::new(drain.mul_f64(fastrand::f64()), End::Drained { reason })
    }

    /// Item 26: some time before the proof ends, at most a tenth of what is left of it.
    pub(in crate::serve) fn for_proof(until: Timestamp, now: Timestamp) -> Self {
        let left = until.duration_since(now).max(SignedDuration::ZERO);
        let jitter = PROOF_JITTER.min(left / 10).mul_f64(fastrand::f64());
        let at = until.saturating_sub(jitter).unwrap_or(until);
        Self::new(at.duration_since(now).max(SignedDuration::ZERO).unsigned_abs().min(LOOK), End::ProofExpires(at))
    }

    /// Ready with the stream's status when it is to end.
    pub(in crate::serve) fn poll(&mut self, clock: &Clock, cx: &mut Context<'_>) -> Poll<Status> {
        while self.sleep.as_mut().poll(cx).is_ready() {
            match &self.end {
                End::NoRequest => return Poll::Ready(Status::deadline_exceeded("no request came")),
                End::Revoked(status) => return Poll::Ready(status.clone()),
                End::Drained { reason } => return Poll::Ready(Status::unavailable(*reason)),
                End::ProofExpires(at) => {
                    let left = at.duration_since(clock.now());
                    if !left.is_positive() {
                        return Poll::Ready(open::expired());
                    }
                    self.sleep.as_mut().reset(Instant::now() + left.unsigned_abs().min(LOOK));
                }
            }
        }
        Poll::Pending
    }
}
