//! TLS handshakes beside the accept loop, so many at a time.
//!
//! Who takes part in one is not known before its end, so a peer that opens connections and says nothing could take all
//! places. A handshake that is meant takes milliseconds: when there is no place left, the oldest one gives its own up if it
//! has had a second; only if all of them are younger is the new connection turned away.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::connection::{Connection, Io};
use crate::runtime::tasks::Tasks;

/// Handshakes at a time on one listener.
pub(super) const HANDSHAKES: usize = 256;

/// How long a handshake keeps its place when others want it.
const PATIENCE: Duration = Duration::from_secs(1);

/// A listener's TLS handshakes.
#[derive(Debug)]
pub(super) struct Handshakes {
    config: watch::Receiver<Arc<ServerConfig>>,
    places: Places,
}

impl Handshakes {
    /// Handshakes with whatever `config` is when they begin.
    pub(super) fn new(config: watch::Receiver<Arc<ServerConfig>>) -> Self {
        Self { config, places: Places::default() }
    }

    /// Starts one. It has to be done by `deadline`.
    pub(super) fn start(
        &self,
        stream: TcpStream,
        deadline: Instant,
        tasks: &Tasks,
        accepted: mpsc::Sender<Connection>,
    ) {
        let Some(place) = self.places.take(Instant::now()) else {
            tracing::debug!(peer = ?stream.peer_addr(), "too many TLS handshakes; the connection is closed");
            return;
        };
        let acceptor = TlsAcceptor::from(self.config.borrow().clone());
        tasks.spawn(async move {
            let peer = stream.peer_addr();
            let handshake = tokio::time::timeout_at(deadline, acceptor.accept(stream));
            match place.given_up.run_until_cancelled(handshake).await {
                Some(Ok(Ok(stream))) => {
                    drop(place);
                    // An error means that the server is gone.
                    drop(accepted.send(Connection::new(Io::Tls(Box::new(stream)), deadline)).await);
                }
                Some(Ok(Err(error))) => tracing::debug!(?peer, %error, "TLS handshake failed"),
                Some(Err(_elapsed)) => tracing::debug!(?peer, "TLS handshake took too long"),
                None => tracing::debug!(?peer, "a TLS handshake that led nowhere made way for another"),
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
        }
        if taken.len() < HANDSHAKES / 2 {
            self.places.0.told.store(false, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
