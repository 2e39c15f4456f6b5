//! Deletes requests in the background, until each is gone.
//!
//! What nobody wants any more is deleted at once, before somebody signs it. What is answered lies in nobody's way, and
//! yields to new requests: deleting it costs the API server a quarter of what having it signed costs
//! (docs/performance.md), and a crowd of proxies is served so much sooner if it comes after. It never lies long, and
//! there are never many.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::resource::CertificateRequest;
use super::{ObjectRef, Timing};
use crate::runtime::cluster::{explain, is_not_found};

/// How many deletions are under way at once: enough to keep pace with 64 issuances in flight (a DELETE takes a third of
/// the time of a POST and its answer), few enough not to crowd out new requests.
const AT_ONCE: usize = 16;

/// When so long nothing more was answered, the crowd is served.
const QUIET: Duration = Duration::from_millis(200);

/// The longest that an answered request is left lying.
const AT_MOST: Duration = Duration::from_secs(20);

/// How many answered requests are left lying: 6 MB in etcd, and 4 s of work for a shutdown.
const LYING: usize = 1024;

/// Takes orders to delete. Cheap to clone.
#[derive(Clone)]
pub(super) struct Cleaner {
    orders: mpsc::UnboundedSender<Order>,
    /// Uids ordered and not gone yet: every event of an unwanted object orders it anew.
    known: Arc<Mutex<HashSet<String>>>,
}

#[derive(Debug)]
struct Order {
    object: ObjectRef,
    answered: bool,
}

/// The orders, for the task that carries them out.
#[derive(Debug)]
pub(super) struct Orders {
    orders: mpsc::UnboundedReceiver<Order>,
    known: Arc<Mutex<HashSet<String>>>,
}

impl Cleaner {
    pub(super) fn new() -> (Self, Orders) {
        // Unbounded, but no larger than the number of requests in the cluster: an order is a name and a uid.
        let (send, orders) = mpsc::unbounded_channel();
        let known = Arc::<Mutex<HashSet<String>>>::default();
        (Self { orders: send, known: known.clone() }, Orders { orders, known })
    }

    /// Deletes `object` as soon as can be, and surely as long as the process lives: nobody wants it, and it may still be
    /// signed.
    pub(super) fn delete(&self, object: ObjectRef) {
        self.order(Order { object, answered: false });
    }

    /// Deletes `object`, of which nothing more will come, when there is nothing better to do, or in 20 s.
    pub(super) fn delete_answered(&self, object: ObjectRef) {
        self.order(Order { object, answered: true });
    }

    fn order(&self, order: Order) {
        let new = self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(order.object.uid.clone());
        if new {
            // No receiver: shutdown has begun, which deletes everything itself.
            let _ = self.orders.send(order);
        }
    }
}

impl fmt::Debug for Cleaner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cleaner").finish_non_exhaustive()
    }
}

impl Orders {
    /// Carries out orders for ever.
    pub(super) async fn run(self, api: Api<CertificateRequest>, timing: Timing) {
        let Self { mut orders, known } = self;
        let (mut line, mut under_way) = (Line::default(), FuturesUnordered::new());
        loop {
            while under_way.len() < AT_ONCE
                && let Some(object) = line.pop(Instant::now())
            {
                let (api, known) = (&api, &known);
                under_way.push(async move {
                    until_gone(api, &object, timing).await;
                    known.lock().unwrap_or_else(PoisonError::into_inner).remove(&object.uid);
                });
            }
            let due = line.due().filter(|_| under_way.len() < AT_ONCE);
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => line.push(order, Instant::now()),
                    None => return,
                },
                Some(()) = under_way.next() => {}
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
    }
}

/// What is to be deleted, and when.
#[derive(Debug, Default)]
struct Line {
    unwanted: VecDeque<ObjectRef>,
    /// With the time when each was answered, in this order.
    answered: VecDeque<(Instant, ObjectRef)>,
    /// When the last of them was.
    newest: Option<Instant>,
}

impl Line {
    fn push(&mut self, order: Order, now: Instant) {
        if order.answered {
            self.answered.push_back((now, order.object));
            self.newest = Some(now);
        } else {
            self.unwanted.push_back(order.object);
        }
    }

    /// The next one whose time has come.
    fn pop(&mut self, now: Instant) -> Option<ObjectRef> {
        if self.unwanted.is_empty() && self.due()? > now {
            return None;
        }
        self.unwanted.pop_front().or_else(|| self.answered.pop_front().map(|(_, object)| object))
    }

    /// When the time of the oldest answered one comes, or came.
    fn due(&self) -> Option<Instant> {
        let (oldest, newest) = (self.answered.front()?.0, self.newest?);
        let crowded = self.answered.len() > LYING;
        Some(if crowded { oldest } else { (newest + QUIET).min(oldest + AT_MOST) })
    }
}

async fn until_gone(api: &Api<CertificateRequest>, object: &ObjectRef, timing: Timing) {
    let mut pause = timing.delete_retry;
    loop {
        let Err(error) = delete_once(api, object, timing.api_call).await else { return };
        tracing::debug!(request = %object.name, error, "cannot delete the CertificateRequest yet");
        tokio::time::sleep(pause.mul_f64(0.8 + 0.4 * fastrand::f64())).await;
        pause = (pause * 2).min(timing.delete_retry_at_most);
    }
}

/// One DELETE of exactly this object; `Ok` once it is gone.
pub(super) async fn delete_once(
    api: &Api<CertificateRequest>,
    object: &ObjectRef,
    timeout: Duration,
) -> Result<(), String> {
    let same = Preconditions { uid: Some(object.uid.clone()), resource_version: None };
    let params = DeleteParams::default().preconditions(same);
    match tokio::time::timeout(timeout, Box::pin(api.delete(&object.name, &params))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) if is_not_found(&error) => Ok(()),
        // The precondition: another object has the name now, so this one is gone.
        Ok(Err(kube::Error::Api(status))) if status.is_conflict() => Ok(()),
        Ok(Err(error)) => Err(explain(&error)),
        Err(_elapsed) => Err("no answer".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(name: &str, answered: bool) -> Order {
        Order { object: ObjectRef { name: name.to_owned(), uid: name.to_owned() }, answered }
    }

    fn popped(line: &mut Line, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| line.pop(now)).map(|object| object.name).collect()
    }

    #[test]
    fn what_is_answered_waits_until_it_is_quiet() {
        let (mut line, start) = (Line::default(), Instant::now());
        line.push(order("a", true), start);
        line.push(order("b", true), start + QUIET / 2);
        assert!(popped(&mut line, start + QUIET).is_empty());
        assert_eq!(line.due(), Some(start + QUIET / 2 + QUIET));
        assert_eq!(popped(&mut line, start + QUIET / 2 + QUIET), ["a", "b"]);
        assert_eq!(line.due(), None);
    }

    #[test]
    fn it_waits_no_longer_than_it_may_however_busy_it_is() {
        let (mut line, start) = (Line::default(), Instant::now());
        let step = QUIET / 2;
        let mut gone = Vec::new();
        for n in 0..=AT_MOST.as_millis() / step.as_millis() {
            let now = start + step * u32::try_from(n).unwrap();
            line.push(order(&n.to_string(), true), now);
            gone.extend(popped(&mut line, now));
        }
        assert_eq!(gone, ["0"]);
    }

    #[test]
    fn never_many_lie() {
        let (mut line, now) = (Line::default(), Instant::now());
        for n in 0..LYING + 3 {
            line.push(order(&n.to_string(), true), now);
        }
        assert_eq!(popped(&mut line, now), ["0", "1", "2"]);
    }

    #[test]
    fn what_nobody_wants_goes_at_once_and_takes_nothing_else_along() {
        let (mut line, now) = (Line::default(), Instant::now());
        line.push(order("answered", true), now);
        line.push(order("unwanted", false), now);
        assert_eq!(popped(&mut line, now), ["unwanted"]);
    }
}
