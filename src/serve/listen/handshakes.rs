//! TLS handshakes beside the accept loop, so many at a time.
//!
//! Who takes part in one is not known before its end, so a peer that opens connections and says nothing could take all
//! places. A handshake that is meant takes milliseconds: when there is no place left, the oldest one gives its own up as soon
//! as it has had a second. Until then nothing is accepted: thousands of proxies that come at once wait in the kernel's queue,
//! and none is turned away, which would cost it up to half a minute.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::failed_handshakes::FailedHandshakes;
use super::places::ConnectionPlace;
use crate::identify::client_ca::ClientCaWatch;
use crate::runtime::tasks::Tasks;
use crate::serve::metrics::Metrics;

/// Handshakes at a time on one listener.
pub(super) const HANDSHAKES: usize = 256;

/// How long a handshake keeps its place when others want it.
const PATIENCE: Duration = Duration::from_secs(1);

/// A listener's TLS handshakes.
#[derive(Debug)]
pub(super) struct Handshakes {
    config: watch::Receiver<Arc<ServerConfig>>,
    client_ca: Option<ClientCaWatch>,
    places: Places,
    metrics: Metrics,
    failed: Arc<FailedHandshakes>,
}

impl Handshakes {
    /// Handshakes with whatever `config` is when they begin. `client_ca` is what it verifies client certificates against;
    /// `failed` is told of those that fail.
    pub(super) fn new(
        config: watch::Receiver<Arc<ServerConfig>>,
        client_ca: Option<ClientCaWatch>,
        metrics: Metrics,
        failed: FailedHandshakes,
    ) -> Self {
        Self { config, client_ca, places: Places::default(), metrics, failed: Arc::new(failed) }
    }

    /// Waits until another one can begin. To be called by the one loop that also starts them.
    pub(super) async fn room(&self) {
        self.places.room().await;
    }

    /// Starts one. It has to be done by `deadline`.
    pub(super) fn start(
        &self,
        stream: TcpStream,
        connection: Option<ConnectionPlace>,
        deadline: Instant,
        tasks: &Tasks,
        accepted: mpsc::Sender<Connection>,
    ) {
        let Some(place) = self.places.take(Instant::now()) else {
            tracing::debug!(peer = ?stream.peer_addr(), "too many TLS handshakes; the connection is closed");
            return;
        };
        let (metrics, failed, client_ca) = (self.metrics.clone(), self.failed.clone(), self.client_ca.clone());
        let acceptor = TlsAcceptor::from(self.config.borrow().clone());
        tasks.spawn(async move {
            let peer = stream.peer_addr().ok();
            let handshake = tokio::time::timeout_at(deadline, acceptor.accept(stream));
            match place.given_up.run_until_cancelled(handshake).await {
                Some(Ok(Ok(stream))) => {
                    drop(place);
                    let made = Connection::tls(stream, deadline, client_ca).at(connection);
                    // An error means that the server is gone.
                    drop(accepted.send(made).await);
                }
                Some(Ok(Err(error))) => failed.failed(peer, &error),
                Some(Err(_elapsed)) => failed.timed_out(peer),
                None => {
                    metrics.handshake_given_up();
                    tracing::debug!(?peer, "a TLS handshake that led nowhere made way for another");
                }
            }
        });
    }
}

#[derive(Debug, Default, Clone)]
struct Places(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Oldest first; the numbers ascend.
    taken: Mutex<VecDeque<Taken>>,
    /// One has been given back.
    freed: Notify,
    /// Whether it has been told that there are too many; once, until there is room again.
    told: AtomicBool,
}

#[derive(Debug)]
struct Taken {
    number: u64,
    since: Instant,
    given_up: CancellationToken,
}

/// Given back when dropped.
#[derive(Debug)]
struct Place {
    places: Places,
    number: u64,
    /// Cancelled when another handshake has it.
    given_up: CancellationToken,
}

impl Places {
    fn taken(&self) -> MutexGuard<'_, VecDeque<Taken>> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until one can be had.
    async fn room(&self) {
        loop {
            let oldest = {
                let taken = self.taken();
                taken.front().filter(|_| taken.len() >= HANDSHAKES).map(|oldest| oldest.since)
            };
            let Some(until) = oldest.map(|since| since + PATIENCE).filter(|until| *until > Instant::now()) else {
                return;
            };
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                () = self.0.freed.notified() => {}
            }
        }
    }

    fn take(&self, now: Instant) -> Option<Place> {
        let mut taken = self.taken();
        if taken.len() >= HANDSHAKES {
            if !self.0.told.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    limit = HANDSHAKES,
                    "too many TLS handshakes at a time; those that lead nowhere are ended"
                );
            }
            taken.front().filter(|oldest| now.saturating_duration_since(oldest.since) >= PATIENCE)?;
            taken.pop_front().inspect(|oldest| oldest.given_up.cancel());
        }
        let number = taken.back().map_or(0, |newest| newest.number + 1);
        let given_up = CancellationToken::new();
        taken.push_back(Taken { number, since: now, given_up: given_up.clone() });
        Some(Place { places: self.clone(), number, given_up })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        // Numbers begin again when nothing is left; a place that was given up is not this one's any more.
        if !self.given_up.is_cancelled()
            && let Ok(position) = taken.binary_search_by_key(&self.number, |taken| taken.number)
        {
            taken.remove(position);
            self.places.0.freed.notify_one();
        }
        if taken.len() < HANDSHAKES / 2 {
            self.places.0.told.store(false, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn thousands_at_once_wait_for_a_place_and_none_is_turned_away() {
        let places = Places::default();
        let start = Instant::now();
        let mut held: Vec<_> = (0..HANDSHAKES).map(|_| places.take(Instant::now()).unwrap()).collect();
        // One is done after a moment: its place is had at once.
        let done = async {
            tokio::time::sleep(PATIENCE / 4).await;
            held.pop();
        };
        tokio::join!(places.room(), done);
        assert_eq!(start.elapsed(), PATIENCE / 4);
        held.push(places.take(Instant::now()).unwrap());
        // None is done: the oldest are given their time.
        places.room().await;
        assert_eq!(start.elapsed(), PATIENCE);
        for _ in 1..HANDSHAKES {
            places.room().await;
            held.push(places.take(Instant::now()).unwrap());
        }
        assert_eq!(start.elapsed(), PATIENCE);
        assert_eq!(held.iter().filter(|place| place.given_up.is_cancelled()).count(), HANDSHAKES - 1);
        places.room().await;
        assert_eq!(start.elapsed(), PATIENCE + PATIENCE / 4);
    }

    #[test]
    fn a_handshake_that_leads_nowhere_makes_way() {
        let (places, start) = (Places::default(), Instant::now());
        let mut held: Vec<_> = (0..HANDSHAKES).map(|_| places.take(start).unwrap()).collect();
        assert!(places.take(start + PATIENCE / 2).is_none(), "they may be meant");
        let newer = places.take(start + PATIENCE).unwrap();
        assert!(held[0].given_up.is_cancelled() && !held[1].given_up.is_cancelled());
        // What was given up gives nothing back; the others do, in whatever order.
        drop(held.remove(0));
        assert_eq!(places.taken().len(), HANDSHAKES);
        assert!(places.0.told.load(Ordering::Relaxed));
        held.swap_remove(7);
        assert_eq!(places.taken().len(), HANDSHAKES - 1);
        drop(newer);
        drop(held);
        assert!(places.taken().is_empty());
        assert!(!places.0.told.load(Ordering::Relaxed), "the next time is told again");
    }
}
