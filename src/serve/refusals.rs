//! Whom the server has refused lately, and why: for operators, since the client is told the bare minimum. Written where
//! calls are refused, read by the admin API. What is kept is bounded, however many are refused and whatever they send.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::listen::Peer;

/// The most that are remembered …
const KEPT: usize = 256;

/// … and of one peer: whoever is refused for ever new reasons makes the server forget its own, not others'.
const OF_A_PEER: usize = 32;

/// The refusals that are remembered. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Refusals(Arc<Mutex<Vec<Refused>>>);

/// What one peer was refused for, once or several times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Where it came from, without the port: `192.0.2.1`, `unix:uid=0,gid=0`.
    pub host: Arc<str>,
    /// `node.id` of the last time, if the peer had said it: a label of its own choice, bounded.
    pub node_id: Option<Arc<str>>,
    /// The method that refused it, or that had proven who it is; `None` if there was no evidence.
    pub method: Option<&'static str>,
    /// Why; redacted and bounded, but otherwise text that the peer may have had a part in.
    pub reason: Arc<str>,
    /// The first time of those that are counted here.
    pub first: Timestamp,
    /// The last time.
    pub last: Timestamp,
    /// How many times.
    pub count: u64,
}

/// Where a peer calls from, whichever connection it is.
pub(super) fn host(peer: &Peer) -> Arc<str> {
    match peer.address {
        Some(address) => address.ip().to_canonical().to_string().into(),
        None => peer.to_string().into(),
    }
}

impl Refusals {
    /// All that are remembered, the last first.
    pub fn snapshot(&self) -> Vec<Refused> {
        self.locked().iter().rev().cloned().collect()
    }

    /// Remembers one: with the like of it if there is any, else instead of the oldest if there are too many.
    pub(crate) fn record(
        &self,
        host: &Arc<str>,
        node_id: Option<&str>,
        method: Option<&'static str>,
        reason: &str,
        now: Timestamp,
    ) {
        // The last one is at the end.
        let mut kept = self.locked();
        let alike = |refused: &Refused| refused.host == *host && refused.method == method && *refused.reason == *reason;
        let mut refused = match kept.iter().position(alike) {
            Some(position) => kept.remove(position),
            None => {
                make_room(&mut kept, host);
                let (host, reason) = (host.clone(), reason.into());
                Refused { host, node_id: None, method, reason, first: now, last: now, count: 0 }
            }
        };
        refused.node_id = node_id.map(Into::into).or(refused.node_id);
        refused.last = now;
        refused.count = refused.count.saturating_add(1);
        kept.push(refused);
    }

    /// Entries are whole after each statement, so a writer that has panicked left nothing broken.
    fn locked(&self) -> MutexGuard<'_, Vec<Refused>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets the oldest: of this peer if it has its share, of all if there is no room.
fn make_room(kept: &mut Vec<Refused>, host: &Arc<str>) {
    let own = |refused: &Refused| refused.host == *host;
    if kept.iter().filter(|refused| own(refused)).count() >= OF_A_PEER {
        let oldest = kept.iter().position(own);
        oldest.map(|oldest| kept.remove(oldest));
    } else if kept.len() >= KEPT {
        kept.remove(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_like_of_it_is_counted() {
        let refusals = Refusals::default();
        let (one, other) = ("192.0.2.1".into(), "192.0.2.2".into());
        refusals.record(&one, None, Some("proxyToken"), "expired", at(1));
        refusals.record(&one, Some("web-0"), Some("proxyToken"), "no such mesh", at(2));
        refusals.record(&other, None, Some("proxyToken"), "expired", at(3));
        refusals.record(&one, Some("web-1"), Some("proxyToken"), "expired", at(4));
        refusals.record(&one, None, Some("proxyToken"), "expired", at(5));
        let shown: Vec<_> = refusals
            .snapshot()
            .into_iter()
            .map(|refused| (refused.host.to_string(), refused.count, refused.first, refused.last, refused.node_id))
            .collect();
        let expected = [
            ("192.0.2.1".to_owned(), 3, at(1), at(5), Some("web-1".into())),
            ("192.0.2.2".to_owned(), 1, at(3), at(3), None),
            ("192.0.2.1".to_owned(), 1, at(2), at(2), Some("web-0".into())),
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn what_is_kept_is_bounded_and_one_peer_does_not_push_out_others() {
        let refusals = Refusals::default();
        let (honest, attacker) = ("192.0.2.1".into(), "192.0.2.2".into());
        refusals.record(&honest, None, None, "no proof", at(0));
        for number in 0..10_000 {
            refusals.record(&attacker, None, None, &format!("reason {number}"), at(number));
        }
        let kept = refusals.snapshot();
        assert_eq!(kept.len(), 1 + OF_A_PEER);
        assert_eq!((&*kept[0].reason, &*kept[OF_A_PEER].host), ("reason 9999", "192.0.2.1"));
        for number in 0..10_000 {
            refusals.record(&format!("10.0.{}.{}", number / 250, number % 250).into(), None, None, "no proof", at(1));
        }
        assert_eq!(refusals.snapshot().len(), KEPT);
        assert_eq!(&*refusals.snapshot()[0].host, "10.0.39.249");
    }
}
