//! Whose token is verified next: clients take turns, each with its own line, so that nobody who brings many keeps those waiting
//! who bring one. Who brings alone has half of all turns at once, and with each further client that comes the share is smaller:
//! something is always left for the next one, or soon will be.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::AT_ONCE;
use super::queue::Client;

/// Of so many, what each of `clients` may have, so that as much is left for one more.
fn share(all: usize, clients: usize) -> usize {
    (all / (clients + 1)).max(1)
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    taken: usize,
    clients: HashMap<Client, OfClient>,
    /// Those who wait, the next one first.
    line: VecDeque<Client>,
}

#[derive(Debug, Default)]
struct OfClient {
    taken: usize,
    /// Not empty if, and only if, the client is in the line.
    waiting: VecDeque<oneshot::Sender<Turn>>,
}

/// The turn of one token; over when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Turns>,
    client: Client,
}

impl Turns {
    /// Waits for a turn of `client`.
    pub(super) async fn take(self: &Arc<Self>, client: Client) -> Turn {
        let turn = self.wait(client);
        self.give();
        match turn.await {
            Ok(turn) => turn,
            // They are given as long as the turns are there, which is as long as this waits.
            Err(_closed) => std::future::pending().await,
        }
    }

    fn wait(&self, client: Client) -> oneshot::Receiver<Turn> {
        let (give, turn) = oneshot::channel();
        let mut state = self.lock();
        let of_client = state.clients.entry(client).or_default();
        let is_first = of_client.waiting.is_empty();
        of_client.waiting.push_back(give);
        if is_first {
            state.line.push_back(client);
        }
        turn
    }

    /// Gives what can be given.
    fn give(self: &Arc<Self>) {
        loop {
            // Not while it is sent: who waits no more gives it back at once.
            let next = self.lock().next();
            let Some((client, give)) = next else { return };
            let _ = give.send(Turn { turns: self.clone(), client });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes a turn for the next one who may have it.
    fn next(&mut self) -> Option<(Client, oneshot::Sender<Turn>)> {
        for _ in 0..self.line.len() {
            if self.taken >= AT_ONCE {
                return None;
            }
            let client = self.line.pop_front()?;
            let bound = share(AT_ONCE, self.clients.len());
            let Some(of_client) = self.clients.get_mut(&client) else { continue };
            of_client.waiting.retain(|waiting| !waiting.is_closed());
            if of_client.waiting.is_empty() {
                self.forget_if_idle(client);
                continue;
            }
            if of_client.taken >= bound {
                self.line.push_back(client);
                continue;
            }
            let Some(give) = of_client.waiting.pop_front() else { continue };
            (of_client.taken, self.taken) = (of_client.taken + 1, self.taken + 1);
            if !of_client.waiting.is_empty() {
                self.line.push_back(client);
            }
            return Some((client, give));
        }
        None
    }

    fn forget_if_idle(&mut self, client: Client) {
        if self.clients.get(&client).is_some_and(|of_client| of_client.taken == 0 && of_client.waiting.is_empty()) {
            self.clients.remove(&client);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        {
            let mut state = self.turns.lock();
            state.taken -= 1;
            if let Some(of_client) = state.clients.get_mut(&self.client) {
                of_client.taken -= 1;
            }
            state.forget_if_idle(self.client);
        }
        self.turns.give();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::identify::Evidence;

    fn client(host: u8) -> Client {
        Client::of(&Evidence { address: Some(([10, 0, 0, host], 4711).into()), ..Evidence::default() })
    }

    /// So many of a client's wait, and those who have their turn at once.
    fn come(turns: &Arc<Turns>, host: u8, count: usize) -> (Vec<Turn>, Vec<impl Future<Output = Turn> + Unpin>) {
        let (mut have, mut wait) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let turns = turns.clone();
            let mut turn = Box::pin(async move { turns.take(client(host)).await });
            match (&mut turn).now_or_never() {
                Some(turn) => have.push(turn),
                None => wait.push(turn),
            }
        }
        (have, wait)
    }

    #[test]
    fn greedy_clients_leave_turns_to_others() {
        let turns = Arc::new(Turns::default());
        let (mut first, _waiting) = come(&turns, 1, 100);
        let (second, _waiting_too) = come(&turns, 2, 100);
        assert_eq!((first.len(), second.len()), (AT_ONCE / 2, AT_ONCE / 3));
        let (third, mut thirds) = come(&turns, 3, 100);
        assert_eq!(third.len(), AT_ONCE - first.len() - second.len());
        // All are taken: who comes now is the next when one is over.
        let (fourth, mut fourths) = come(&turns, 4, 1);
        assert!(fourth.is_empty());
        drop(first.pop());
        let third_or_fourth = [(&mut thirds[0]).now_or_never(), (&mut fourths[0]).now_or_never()];
        assert_eq!(third_or_fourth.iter().flatten().count(), 1);
        drop(first.pop());
        assert!(third_or_fourth[1].is_some() || (&mut fourths[0]).now_or_never().is_some());
    }

    #[test]
    fn who_waits_no_more_is_passed_over_and_nothing_is_kept() {
        let turns = Arc::new(Turns::default());
        let (have, wait) = come(&turns, 1, 100);
        drop(wait);
        drop(have);
        let state = turns.lock();
        assert_eq!((state.taken, state.clients.len(), state.line.len()), (0, 0, 0));
    }
}
