//! Who waits for news of an object: it is other than before, it is gone, or, being deleted, its time is over.

use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

use super::Inner;
use super::kinds::Kind;
use super::table::Key;
use crate::runtime::clock::Clock;

impl Inner {
    /// An item when the object is other than before, or gone; at once, if it is gone already.
    pub(super) fn changes(self: &Arc<Self>, kind: Kind, key: &Key) -> BoxStream<'static, ()> {
        let mut state = self.shelf(kind).lock();
        let gone = !state.table.knows(key);
        let bell = state.bells.entry(key.clone()).or_insert_with(|| watch::Sender::new(())).subscribe();
        drop(state);
        let follower = Follower { directory: self.clone(), kind, key: key.clone(), bell, told: None };
        let news = stream::unfold(Some(follower), async |follower| Some(((), follower?.next().await)));
        stream::iter(gone.then_some(())).chain(news).boxed()
    }
}

struct Follower {
    directory: Arc<Inner>,
    kind: Kind,
    key: Key,
    bell: watch::Receiver<()>,
    /// The end that was told.
    told: Option<Timestamp>,
}

/// The last one that follows an object which is gone takes its bell along: nobody rings it any more.
impl Drop for Follower {
    fn drop(&mut self) {
        let mut state = self.directory.shelf(self.kind).lock();
        // Under the lock: of two that go at once, the second one sees that it is the last.
        self.bell = watch::channel(()).1;
        let is_last = state.bells.get(&self.key).is_some_and(|bell| bell.receiver_count() == 0);
        if is_last && !state.table.knows(&self.key) {
            state.bells.remove(&self.key);
        }
    }
}

impl Follower {
    /// Waits for news; gives itself back if there may be more.
    async fn next(mut self) -> Option<Self> {
        let ends = self.directory.shelf(self.kind).lock().table.end_of(&self.key);
        let untold = ends.filter(|_| ends != self.told);
        tokio::select! {
            rung = self.bell.changed() => rung.is_ok().then_some(self),
            () = until(&self.directory.clock, untold) => {
                self.told = untold;
                Some(self)
            }
        }
    }
}

async fn until(clock: &Clock, at: Option<Timestamp>) {
    let Some(at) = at else { return std::future::pending().await };
    loop {
        let left = at.duration_since(clock.now());
        if left <= SignedDuration::ZERO {
            return;
        }
        tokio::time::sleep(left.unsigned_abs()).await;
    }
}
