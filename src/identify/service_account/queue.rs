//! Tokens that are being verified: each once, however many streams bring it, and so many at a time of one client and in all.
//! A place is held until the token is verified, also if whoever brought it has gone meanwhile.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, watch};

use super::{AT_ONCE, TokenDigest, Verdict};
use crate::identify::Evidence;

/// Places of one client: many proxies may come from one address, that of a gateway.
pub(super) const OF_CLIENT: usize = 256;

/// Tokens of one client that are verified at once. The others' places among all that are stay free for other clients.
const OF_CLIENT_AT_ONCE: usize = AT_ONCE / 2;

/// Places in all.
const OF_ALL: usize = 2048;

/// Where tokens come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Client {
    address: Option<IpAddr>,
    /// On a unix socket.
    user: Option<u32>,
}

impl Client {
    pub(super) fn of(evidence: &Evidence) -> Self {
        let address = evidence.address.map(|address| address.ip().to_canonical());
        Self { address, user: evidence.unix_peer.map(|peer| peer.uid) }
    }
}

/// Waits for a verdict.
pub(super) type Told = watch::Receiver<Option<Arc<Verdict>>>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Queue(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    tokens: HashMap<TokenDigest, Told>,
    clients: HashMap<Client, OfClient>,
}

#[derive(Debug)]
struct OfClient {
    places: usize,
    turns: Arc<Semaphore>,
}

/// What is to be done for a verdict.
#[derive(Debug)]
pub(super) enum Entered {
    /// To verify the token, and to tell.
    First(Place, Told),
    /// To wait for whoever does.
    Other(Told),
}

/// The place of one token; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    queue: Arc<Mutex<State>>,
    client: Client,
    pub(super) token: TokenDigest,
    /// To be had before the token is verified.
    pub(super) turns: Arc<Semaphore>,
    tell: watch::Sender<Option<Arc<Verdict>>>,
}

impl Queue {
    /// A place for a token, or that of the same one; none if there is no room.
    pub(super) fn enter(&self, token: TokenDigest, client: Client) -> Option<Entered> {
        let mut state = lock(&self.0);
        if let Some(told) = state.tokens.get(&token) {
            return Some(Entered::Other(told.clone()));
        }
        let taken = state.clients.get(&client).map_or(0, |of_client| of_client.places);
        if taken >= OF_CLIENT || state.tokens.len() >= OF_ALL {
            return None;
        }
        let (tell, told) = watch::channel(None);
        state.tokens.insert(token, told.clone());
        let turns = || Arc::new(Semaphore::new(OF_CLIENT_AT_ONCE));
        let of_client = state.clients.entry(client).or_insert_with(|| OfClient { places: 0, turns: turns() });
        of_client.places += 1;
        let turns = of_client.turns.clone();
        Some(Entered::First(Place { queue: self.0.clone(), client, token, turns, tell }, told))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        lock(&self.0).tokens.len()
    }
}

impl Place {
    /// Tells everybody who waits.
    pub(super) fn tell(self, verdict: Arc<Verdict>) {
        self.tell.send_replace(Some(verdict));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = lock(&self.queue);
        state.tokens.remove(&self.token);
        if let Some(of_client) = state.clients.get_mut(&self.client) {
            of_client.places -= 1;
            if of_client.places == 0 {
                state.clients.remove(&self.client);
            }
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
