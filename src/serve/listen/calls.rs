//! The calls of a connection, in the connection's own task.
//!
//! A call and its connection speak to each other at every frame, under a lock that they share (h2's). In tasks of their own
//! they are on two threads as soon as there are two: each waits for the other's lock, and one has to be woken for what the
//! other could do at once. One peer's calls take turns instead (with the connection by [`super::turns`]), and no peer gets more
//! of the machine by opening more of them.

use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use hyper::rt::Executor;
use tokio::task::unconstrained;

use super::turns::Turns;

/// How often a connection and its calls look after each other at a time, before others have their turn: a request that is
/// read, answered, and the answer written is two.
const AT_A_TIME: usize = 4;

type Call = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A connection, with the calls that are under way on it. Resolves when the connection has come to its end.
pub(super) struct WithCalls<C> {
    connection: Pin<Box<C>>,
    calls: Calls,
    turns: Turns,
}

struct Calls {
    running: FuturesUnordered<Call>,
    begun: Begun,
}

/// Where hyper leaves the calls that begin. All clones are one.
#[derive(Clone, Default)]
pub(super) struct Begun(Arc<Mutex<Vec<Call>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Begun {
    fn execute(&self, call: F) {
        // As in a task of its own, a panic costs this call and no other.
        let call = AssertUnwindSafe(call).catch_unwind().map(|_panicked| ());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::pin(call));
    }
}

impl<C> WithCalls<C> {
    /// The connection that leaves its calls in `begun`.
    pub(super) fn new(connection: C, begun: Begun) -> Self {
        let calls = Calls { running: FuturesUnordered::new(), begun };
        Self { connection: Box::pin(connection), calls, turns: Turns::new() }
    }

    /// The connection, for something that it is to do when this is polled next.
    pub(super) fn connection(&mut self) -> Pin<&mut C> {
        self.turns.connection.ring();
        self.connection.as_mut()
    }

    /// Lets go of the connection, and runs what is left of its calls, which end soon then.
    pub(super) fn rest(self) -> impl Future<Output = ()> {
        let mut calls = self.calls;
        poll_fn(move |cx| calls.poll(cx))
    }
}

impl<C: Future> Future for WithCalls<C> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let Self { connection, calls, turns } = &mut *self;
        let mut ended = Poll::Pending;
        turns.look(cx.waker());
        for _ in 0..AT_A_TIME {
            if turns.connection.has_called() {
                ended = connection.as_mut().poll(&mut Context::from_waker(turns.connection.waker()));
            }
            // What has been read is there for them; what they write has the connection called.
            turns.calls.has_called();
            // A peer that never stops sending uses up what a task may do at a time (tokio's budget), and its calls are to notice
            // all the same that their time is over. They do little each time, and no more than their peer has sent.
            let mut of_calls = Context::from_waker(turns.calls.waker());
            let _ = pin!(unconstrained(poll_fn(|cx| calls.poll(cx)))).poll(&mut of_calls);
            if ended.is_ready() || !turns.any() {
                break;
            }
        }
        turns.rest();
        ended
    }
}

impl Calls {
    /// Ready when there is none.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.running.extend(self.begun.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..));
        loop {
            match self.running.poll_next_unpin(cx) {
                Poll::Ready(Some(())) => {}
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// A call that has not been taken yet holds on to where it lies: hyper gives each the place where calls begin.
impl Drop for Calls {
    fn drop(&mut self) {
        let left = std::mem::take(&mut *self.begun.0.lock().unwrap_or_else(PoisonError::into_inner));
        drop(left);
    }
}

impl<C> fmt::Debug for WithCalls<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithCalls").field("running", &self.calls.running.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Begun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Begun").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Waker;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn calls_run_while_the_connection_does_and_after_it_and_none_takes_others_along() {
        let begun = Begun::default();
        let ((tell, told), (tell_later, told_later)) = (oneshot::channel(), oneshot::channel());
        let (go, gone) = oneshot::channel::<()>();
        let beginner = begun.clone();
        let connection = async move {
            beginner.execute(async { panic!("as the test wants it") });
            beginner.execute(async move { tell.send(()).unwrap() });
            beginner.execute(async move {
                gone.await.unwrap();
                tell_later.send(()).unwrap();
            });
            // Nothing but the call can have told.
            told.await.unwrap();
            "ended"
        };
        let mut served = WithCalls::new(connection, begun);
        assert_eq!((&mut served).await, "ended");
        go.send(()).unwrap();
        served.rest().await;
        told_later.await.unwrap();
    }

    #[tokio::test]
    async fn a_peer_that_never_stops_does_not_keep_its_calls_from_noticing_the_time() {
        let begun = Begun::default();
        let (tell, told) = oneshot::channel();
        begun.execute(async move {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            tell.send(()).unwrap();
        });
        let busy = async {
            loop {
                tokio::task::consume_budget().await;
            }
        };
        tokio::select! {
            () = WithCalls::new(busy, begun) => {}
            told = told => told.unwrap(),
            () = tokio::time::sleep(std::time::Duration::from_secs(10)) => panic!("it has not noticed"),
        }
    }

    #[tokio::test]
    async fn a_connection_that_has_nothing_to_do_is_not_looked_at() {
        let (begun, looks) = (Begun::default(), AtomicUsize::new(0));
        let ((go, gone), (tell, told)) = (oneshot::channel::<()>(), oneshot::channel());
        begun.execute(async move {
            gone.await.unwrap();
            tell.send(()).unwrap();
        });
        let connection = poll_fn(|_cx| {
            looks.fetch_add(1, Ordering::Relaxed);
            Poll::<()>::Pending
        });
        let mut served = WithCalls::new(connection, begun);
        tokio::select! {
            biased;
            () = &mut served => {}
            told = async move { go.send(()).unwrap(); told.await } => told.unwrap(),
        }
        assert_eq!(looks.load(Ordering::Relaxed), 1);
        assert!(served.connection().now_or_never().is_none());
        assert_eq!(looks.load(Ordering::Relaxed), 2);
        assert!((&mut served).now_or_never().is_none());
        assert_eq!(looks.load(Ordering::Relaxed), 3, "somebody had it in hand");
    }

    #[tokio::test]
    async fn a_connection_is_looked_at_again_for_what_a_call_has_left() {
        let (begun, left) = (Begun::default(), Arc::new(Mutex::new((false, None::<Waker>))));
        let from_call = left.clone();
        begun.execute(async move {
            let waker = {
                let mut left = from_call.lock().unwrap();
                left.0 = true;
                left.1.take()
            };
            waker.unwrap().wake();
        });
        let connection = poll_fn(|cx| {
            let mut left = left.lock().unwrap();
            left.1 = Some(cx.waker().clone());
            if left.0 { Poll::Ready("ended") } else { Poll::Pending }
        });
        assert_eq!(WithCalls::new(connection, begun).now_or_never(), Some("ended"), "all at once");
    }

    #[tokio::test]
    async fn a_connection_that_is_dropped_takes_its_calls_with_it() {
        let begun = Begun::default();
        let (held, dropped) = oneshot::channel::<()>();
        begun.execute(async move {
            let _held = held;
            pending::<()>().await;
        });
        let mut served = WithCalls::new(pending::<()>(), begun);
        assert!((&mut served).now_or_never().is_none());
        drop(served);
        assert!(dropped.await.is_err());
    }
}
