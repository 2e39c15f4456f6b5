//! How many connections there may be: fewer than there are file descriptors, so that proxies (or whoever opens connections)
//! cannot take those that the admin address and the API server need. Who comes when all places are taken waits in the
//! kernel's queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The places of all listeners; clones share them.
#[derive(Debug, Clone)]
pub(super) struct ConnectionPlaces {
    free: Arc<Semaphore>,
    /// Whether it has been told that there are none; once, until there are some again.
    told: Arc<AtomicBool>,
}

/// One connection's place, given back when dropped.
#[derive(Debug)]
pub(super) struct ConnectionPlace {
    _permit: OwnedSemaphorePermit,
}

impl ConnectionPlaces {
    /// For `most` connections at a time.
    pub(super) fn new(most: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))), told: Arc::default() }
    }

    /// Waits for a place; `None` never, as nobody closes them.
    pub(super) async fn take(&self) -> Option<ConnectionPlace> {
        if let Ok(place) = self.free.clone().try_acquire_owned() {
            self.told.store(false, Ordering::Relaxed);
            return Some(ConnectionPlace { _permit: place });
        }
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!("as many connections as there are file descriptors for (ulimit -n); further ones wait");
        }
        self.free.clone().acquire_owned().await.ok().map(|place| ConnectionPlace { _permit: place })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn who_comes_when_all_places_are_taken_waits_for_one() {
        let places = ConnectionPlaces::new(2);
        let (first, _second) = (places.take().await.unwrap(), places.clone().take().await.unwrap());
        let mut third = Box::pin(places.take());
        assert!(third.as_mut().now_or_never().is_none());
        drop(first);
        assert!(third.as_mut().now_or_never().flatten().is_some());
    }
}
