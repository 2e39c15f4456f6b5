//! Turns between two parts of one task that keep calling each other: a connection has something for its calls to read, they
//! have something for it to write.
//!
//! To wake the task for that, which is running, would have it scheduled anew, and everything in it looked at again. So who
//! calls is remembered, and the task is woken only if it is not looking anyway.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use futures::task::AtomicWaker;

/// The two parts, and the task that they are in.
#[derive(Debug)]
pub(super) struct Turns {
    pub(super) connection: Part,
    pub(super) calls: Part,
    task: Arc<Task>,
}

/// Something of a task that is polled with a waker of its own.
#[derive(Debug)]
pub(super) struct Part {
    bell: Arc<Bell>,
    waker: Waker,
}

#[derive(Debug)]
struct Bell {
    rung: AtomicBool,
    task: Arc<Task>,
}

#[derive(Debug, Default)]
struct Task {
    waker: AtomicWaker,
    /// It looks at the bells before it rests.
    is_looking: AtomicBool,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // In one order for all threads, as in `Turns::rest`: either this sees that the task rests, or that sees the bell.
        self.rung.store(true, Ordering::SeqCst);
        if !self.task.is_looking.load(Ordering::SeqCst) {
            self.task.waker.wake();
        }
    }
}

impl Part {
    fn new(task: &Arc<Task>) -> Self {
        // Nothing has been polled yet.
        let bell = Arc::new(Bell { rung: AtomicBool::new(true), task: task.clone() });
        Self { waker: bell.clone().into(), bell }
    }

    /// What this part is polled with.
    pub(super) fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Has it polled the next time, without waking the task.
    pub(super) fn ring(&self) {
        self.bell.rung.store(true, Ordering::SeqCst);
    }

    /// Whether it has called since it was last asked. It is to be polled now, until it is pending: it calls no second time
    /// otherwise.
    pub(super) fn has_called(&self) -> bool {
        self.bell.rung.swap(false, Ordering::SeqCst)
    }

    fn calls(&self) -> bool {
        self.bell.rung.load(Ordering::SeqCst)
    }
}

impl Turns {
    /// Both have something to say.
    pub(super) fn new() -> Self {
        let task = Arc::new(Task::default());
        Self { connection: Part::new(&task), calls: Part::new(&task), task }
    }

    /// The task with this waker looks at its parts from here on, until [`Self::rest`].
    pub(super) fn look(&self, waker: &Waker) {
        self.task.waker.register(waker);
        self.task.is_looking.store(true, Ordering::SeqCst);
    }

    /// Whether one of them is to be polled (again).
    pub(super) fn any(&self) -> bool {
        self.connection.calls() || self.calls.calls()
    }

    /// The task looks no more until it is woken: by whoever calls from here on, and at once if somebody has.
    pub(super) fn rest(&self) {
        self.task.is_looking.store(false, Ordering::SeqCst);
        if self.any() {
            self.task.waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::task::{ArcWake, waker};

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl ArcWake for Woken {
        fn wake_by_ref(task: &Arc<Self>) {
            task.0.store(true, Ordering::Relaxed);
        }
    }

    fn task() -> (Waker, impl Fn() -> bool) {
        let task = Arc::new(Woken::default());
        (waker(task.clone()), move || task.0.swap(false, Ordering::Relaxed))
    }

    #[test]
    fn a_task_that_looks_is_not_woken_and_one_that_rests_is() {
        let (turns, (of_task, woken)) = (Turns::new(), task());
        turns.look(&of_task);
        assert!(turns.connection.has_called() && turns.calls.has_called(), "nothing has been polled yet");
        assert!(!turns.any());
        turns.calls.waker().wake_by_ref();
        assert!(
            (!woken(), turns.any(), turns.connection.has_called(), turns.calls.has_called())
                == (true, true, false, true)
        );
        turns.rest();
        assert!(!woken());
        turns.connection.waker().wake_by_ref();
        assert!(woken() && turns.any());
    }

    #[test]
    fn who_calls_before_the_task_rests_and_was_not_polled_has_it_woken() {
        let (turns, (of_task, woken)) = (Turns::new(), task());
        turns.look(&of_task);
        assert!(turns.connection.has_called() && turns.calls.has_called());
        turns.connection.waker().wake_by_ref();
        turns.rest();
        assert!(woken());
    }

    #[test]
    fn whoever_looked_last_is_woken() {
        let (turns, (first, first_woken), (second, second_woken)) = (Turns::new(), task(), task());
        for of_task in [&first, &second] {
            turns.look(of_task);
            let _ = (turns.connection.has_called(), turns.calls.has_called());
            turns.rest();
        }
        turns.calls.waker().wake_by_ref();
        assert!(second_woken() && !first_woken());
    }
}
