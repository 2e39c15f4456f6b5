//! Where computing is done that would hold up streams: making keys, signing.

#[cfg(not(test))]
use std::panic::{AssertUnwindSafe, catch_unwind};
#[cfg(not(test))]
use std::sync::atomic::{AtomicBool, Ordering};

/// Runs `work`, which takes no longer than a TLS handshake's arithmetic (some tens of microseconds): on the thread that asks,
/// if nobody else is just doing so, else [`aside`]. Two changes of threads take longer than a P-256 key and its leaf, and on
/// cores that others use, too, the second may wait for milliseconds; so who comes alone is served at once. Of a thousand who come together one
/// thread at most is held up, for one key at a time, and the others' work is done aside.
///
/// # Errors
/// A sentence, if `work` died.
#[cfg(not(test))]
pub async fn brief<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    /// Whether a thread that serves streams is computing.
    static BUSY: AtomicBool = AtomicBool::new(false);

    /// Ends it.
    struct Done;
    impl Drop for Done {
        fn drop(&mut self) {
            BUSY.store(false, Ordering::Release);
        }
    }

    if BUSY.swap(true, Ordering::Acquire) {
        return aside(work).await;
    }
    let _done = Done;
    catch_unwind(AssertUnwindSafe(work)).map_err(|_panic| "it panicked".to_owned())
}

#[cfg(test)]
pub use aside as brief;

/// Runs `work` off the threads that serve streams, and waits for it. There are as many threads for it as cores, and a queue
/// before them: thousands of keys at once are no reason for hundreds of threads that take the cores from one another. They
/// are apart from the runtime's own threads for blocking calls, which wait for files and names, and so may be many.
///
/// # Errors
/// A sentence, if `work` died.
#[cfg(not(test))]
pub async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    threads::get()?.spawn_blocking(work).await.map_err(|error| error.to_string())
}

/// In unit tests it is done at once: they count what other tasks do meanwhile, which must not depend on how fast another
/// thread is.
///
/// # Errors
/// None.
#[cfg(test)]
pub async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    std::future::ready(Ok(work())).await
}

#[cfg(not(test))]
mod threads {
    use std::sync::OnceLock;
    use std::thread::available_parallelism;

    use tokio::runtime::{Builder, Runtime};

    /// A runtime of which only the threads for blocking calls are used, started when they are first needed. They sleep while
    /// there is nothing to do; a pool that spins (rayon's, tried) costs the same, but needs one more crate.
    pub(super) fn get() -> Result<&'static Runtime, String> {
        static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();
        let start = || {
            Builder::new_current_thread()
                .max_blocking_threads(available_parallelism().map_or(1, usize::from))
                .thread_name("compute")
                .build()
                .map_err(|error| format!("cannot start the threads that compute: {error}"))
        };
        RUNTIME.get_or_init(start).as_ref().map_err(Clone::clone)
    }
}
