//! Why a stream is polled. HTTP/2 asks it again after each response, and wakes it for each request and each change; to look
//! at all that may have happened each time is most of what a push costs. So what a stream waits for is told apart, and
//! only what has called is looked at.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use futures::task::AtomicWaker;

/// The two kinds of things that a stream waits for. Whatever is polled with one of these wakers calls by it, and the stream's
/// task is woken as it would have been. What has not called since it was last polled is waiting still.
#[derive(Debug)]
pub(super) struct Wakes {
    requests: Call,
    rest: Call,
    task: Arc<AtomicWaker>,
}

/// What has called, and may have something to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Called {
    /// The client's requests, and what holds them up.
    pub(super) requests: bool,
    /// Everything else.
    pub(super) rest: bool,
}

#[derive(Debug)]
struct Call {
    bell: Arc<Bell>,
    waker: Waker,
}

#[derive(Debug)]
struct Bell {
    rung: AtomicBool,
    task: Arc<AtomicWaker>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Before the task is woken, so that it sees it.
        self.rung.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl Call {
    fn new(task: &Arc<AtomicWaker>) -> Self {
        // Nothing has been polled yet.
        let bell = Arc::new(Bell { rung: AtomicBool::new(true), task: task.clone() });
        Self { waker: bell.clone().into(), bell }
    }

    fn take(&self) -> bool {
        self.bell.rung.swap(false, Ordering::AcqRel)
    }
}

impl Wakes {
    pub(super) fn new() -> Self {
        let task = Arc::new(AtomicWaker::new());
        Self { requests: Call::new(&task), rest: Call::new(&task), task }
    }

    /// What has called since this was asked the last time. It is to be polled now, each with its own context, until it is
    /// pending: it calls no second time otherwise. From here on the task of `cx` is woken.
    pub(super) fn called(&self, cx: &Context<'_>) -> Called {
        // First, so that who calls from now on finds the task.
        self.task.register(cx.waker());
        Called { requests: self.requests.take(), rest: self.rest.take() }
    }

    /// What the client's requests are polled with.
    pub(super) fn requests(&self) -> Waker {
        self.requests.waker.clone()
    }

    /// What everything else is polled with.
    pub(super) fn rest(&self) -> Waker {
        self.rest.waker.clone()
    }
}

#[cfg(test)]
mod tests {
    use futures::task::{ArcWake, waker};

    use super::*;

    #[derive(Default)]
    struct Task(AtomicBool);

    impl ArcWake for Task {
        fn wake_by_ref(task: &Arc<Self>) {
            task.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn who_calls_is_told_apart_and_always_wakes_the_task_that_asked_last() {
        let (wakes, task) = (Wakes::new(), Arc::new(Task::default()));
        let of_task = waker(task.clone());
        let called = || wakes.called(&Context::from_waker(&of_task));
        let woken = || task.0.swap(false, Ordering::Relaxed);
        assert_eq!(called(), Called { requests: true, rest: true }, "nothing has been polled yet");
        assert_eq!((called(), woken()), (Called { requests: false, rest: false }, false));
        wakes.requests().wake_by_ref();
        assert!(woken());
        wakes.rest().wake();
        assert_eq!(called(), Called { requests: true, rest: true });
        // A call between being asked and being polled is one for the next time.
        wakes.rest().wake();
        assert_eq!((woken(), called()), (true, Called { requests: false, rest: true }));
        let other = Arc::new(Task::default());
        assert_eq!(wakes.called(&Context::from_waker(&waker(other.clone()))), Called { requests: false, rest: false });
        wakes.requests().wake();
        assert!(other.0.load(Ordering::Relaxed) && !woken());
    }
}
