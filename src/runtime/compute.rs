//! Where computing is done that would hold up streams: making keys, signing, verifying.

/// Runs `work` off the threads that serve streams, and waits for it. There are as many threads for it as cores, and a queue
/// before them: thousands of keys at once are no reason for hundreds of threads that take the cores from one another.
///
/// # Errors
/// A sentence, if `work` died.
#[cfg(not(test))]
pub async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let (done, outcome) = tokio::sync::oneshot::channel();
    pool::get()?.spawn(move || {
        // Nobody waits any more if the request was given up.
        let _ = done.send(work());
    });
    outcome.await.map_err(|_dropped| "the computation died".to_owned())
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
mod pool {
    use std::sync::OnceLock;

    use rayon::{ThreadPool, ThreadPoolBuilder};

    /// The threads, started when they are first needed.
    pub(super) fn get() -> Result<&'static ThreadPool, String> {
        static POOL: OnceLock<Result<ThreadPool, String>> = OnceLock::new();
        let start = || {
            ThreadPoolBuilder::new()
                .thread_name(|number| format!("compute-{number}"))
                // What died is told by who waits for it; without this, the process would end.
                .panic_handler(|_| tracing::error!("a computation has died"))
                .build()
                .map_err(|error| format!("cannot start the threads that compute: {error}"))
        };
        POOL.get_or_init(start).as_ref().map_err(Clone::clone)
    }
}
