//! Tokens that are being verified: each once, however many streams bring it, and so many at a time of one client and in all.
//! A place is held until the token is verified, also if whoever brought it has gone meanwhile; when it is the token's turn is
//! said in `turns`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::turns::{Turn, Turns};
use super::{TokenDigest, Verdict};
use crate::identify::Evidence;

/// Places of one client: many proxies may come from one address, that of a gateway.
pub(super) const OF_CLIENT: usize = 256;

/// Places in all.
const OF_ALL: usize = 2048;

/// What of an IPv6 address tells one client from another: whoever has one address has all that share these bits (RFC 6177).
const IPV6_PREFIX: u32 = 64;

/// Where tokens come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Client {
    address: Option<IpAddr>,
    /// On a unix socket.
    user: Option<u32>,
}

impl Client {
    pub(super) fn of(evidence: &Evidence) -> Self {
        let address = evidence.address.map(|address| match address.ip().to_canonical() {
            IpAddr::V6(address) => {
                let network = address.to_bits() & (u128::MAX << (u128::BITS - IPV6_PREFIX));
                IpAddr::V6(network.into())
            }
            address @ IpAddr::V4(_) => address,
        });
        Self { address, user: evidence.unix_peer.map(|peer| peer.uid) }
    }
}

/// Waits for a verdict.
pub(super) type Told = watch::Receiver<Option<Arc<Verdict>>>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Arc<Mutex<State>>,
    turns: Arc<Turns>,
}

#[derive(Debug, Default)]
struct State {
    tokens: HashMap<TokenDigest, Told>,
    /// The places that each has.
    clients: HashMap<Client, usize>,
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
    turns: Arc<Turns>,
    client: Client,
    pub(super) token: TokenDigest,
    tell: watch::Sender<Option<Arc<Verdict>>>,
}

impl Queue {
    /// A place for a token, or that of the same one; none if there is no room.
    pub(super) fn enter(&self, token: TokenDigest, client: Client) -> Option<Entered> {
        let mut state = lock(&self.state);
        if let Some(told) = state.tokens.get(&token) {
            return Some(Entered::Other(told.clone()));
        }
        let taken = state.clients.get(&client).copied().unwrap_or_default();
        // No more than are left: so each further client that wants all leaves half of them.
        if taken >= OF_CLIENT || taken >= OF_ALL.saturating_sub(state.tokens.len()) {
            return None;
        }
        let (tell, told) = watch::channel(None);
        state.tokens.insert(token, told.clone());
        *state.clients.entry(client).or_default() += 1;
        let (queue, turns) = (self.state.clone(), self.turns.clone());
        Some(Entered::First(Place { queue, turns, client, token, tell }, told))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        lock(&self.state).tokens.len()
    }
}

impl Place {
    /// Waits until the token may be verified.
    pub(super) async fn turn(&self) -> Turn {
        self.turns.take(self.client).await
    }

    /// Tells everybody who waits.
    pub(super) fn tell(self, verdict: Arc<Verdict>) {
        self.tell.send_replace(Some(verdict));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = lock(&self.queue);
        state.tokens.remove(&self.token);
        if let Some(places) = state.clients.get_mut(&self.client) {
            *places -= 1;
            if *places == 0 {
                state.clients.remove(&self.client);
            }
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(address: &str) -> Client {
        let address = Some((address.parse::<IpAddr>().unwrap(), 4711).into());
        Client::of(&Evidence { address, ..Evidence::default() })
    }

    fn token(number: usize) -> TokenDigest {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&number.to_be_bytes());
        digest
    }

    #[test]
    fn a_client_is_an_ipv4_address_or_an_ipv6_network() {
        assert_eq!(client("2001:db8:1:2::1"), client("2001:db8:1:2:ffff::2"));
        assert_ne!(client("2001:db8:1:2::1"), client("2001:db8:1:3::1"));
        assert_eq!(client("::ffff:10.0.0.1"), client("10.0.0.1"));
        assert_ne!(client("10.0.0.1"), client("10.0.0.2"));
    }

    #[test]
    fn greedy_clients_leave_places_to_others() {
        let queue = Queue::default();
        let mut places = Vec::new();
        for host in 1..=OF_ALL / OF_CLIENT + 5 {
            let greedy = client(&format!("10.0.0.{host}"));
            let numbers = (0..2 * OF_CLIENT).map(|number| token(host * 1000 + number));
            places.extend(numbers.filter_map(|token| queue.enter(token, greedy)));
            assert!(places.len() < OF_ALL, "{host}");
        }
        assert!(matches!(queue.enter(token(0), client("10.0.1.1")), Some(Entered::First(..))));
        drop(places);
        assert_eq!(queue.len(), 0);
    }
}
