//! Validation contexts that proxies have, each content once in memory: thousands of them have the same.

use std::collections::HashMap;
use std::sync::Mutex;

use bytes::Bytes;

use super::meters::lock;

/// So many contents are kept without asking whether somebody has them.
const FEW: usize = 16;

/// Those of a run.
#[derive(Debug, Default)]
pub(crate) struct Contexts(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    by_digest: HashMap<u64, Bytes>,
    /// How many there may be before those are looked for that nobody has any more.
    room: usize,
}

impl Contexts {
    /// This content, in memory that all who have it share.
    pub(crate) fn shared(&self, digest: u64, content: &[u8]) -> Bytes {
        self.shared_by(digest, content, |known, content| known == content)
    }

    /// The lock is held to look a digest up and to enter one. What takes as long as the content is large, comparing and copying,
    /// is done without it: a push comes to thousands at a time.
    fn shared_by(&self, digest: u64, content: &[u8], are_equal: impl Fn(&[u8], &[u8]) -> bool) -> Bytes {
        loop {
            let known = lock(&self.0).by_digest.get(&digest).cloned();
            if let Some(same) = known.as_ref().filter(|known| are_equal(known, content)) {
                return same.clone();
            }
            let copy = Bytes::copy_from_slice(content);
            if lock(&self.0).enter(digest, known.as_ref(), &copy) {
                return copy;
            }
            // Somebody else was faster, quite likely with the same.
        }
    }
}

impl Known {
    /// Enters a content in the place of `other`, which is what this digest had; says whether it still had that.
    fn enter(&mut self, digest: u64, other: Option<&Bytes>, content: &Bytes) -> bool {
        if self.by_digest.get(&digest).map(|known| known.as_ptr()) != other.map(|other| other.as_ptr()) {
            return false;
        }
        self.make_room();
        self.by_digest.insert(digest, content.clone());
        true
    }

    /// Forgets what nobody has any more, each time that there is twice as much as was left.
    fn make_room(&mut self) {
        if self.by_digest.len() >= self.room {
            self.by_digest.retain(|_, content| !content.is_unique());
            self.room = FEW.max(2 * self.by_digest.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_is_in_memory_once() {
        let contexts = Contexts::default();
        let [one, same, other] =
            [(1, b"a"), (1, b"a"), (2, b"b")].map(|(digest, content)| contexts.shared(digest, content));
        assert_eq!((one.as_ptr(), &same[..]), (same.as_ptr(), &b"a"[..]));
        assert_eq!(&other[..], b"b");
        assert_eq!(&contexts.shared(1, b"c")[..], b"c", "the content counts, whatever its digest");
    }

    #[test]
    fn nobody_waits_for_another_who_compares() {
        let contexts = Contexts::default();
        let held = contexts.shared(1, b"a");
        let compared = std::cell::Cell::new(0);
        let same = contexts.shared_by(1, b"a", |known, content| {
            compared.set(compared.get() + 1);
            contexts.0.try_lock().is_ok() && known == content
        });
        assert_eq!((compared.get(), same.as_ptr()), (1, held.as_ptr()));
    }

    #[test]
    fn of_all_who_bring_a_content_at_once_one_enters_it() {
        let contexts = Contexts::default();
        // While this one compares with what was there, another enters what it has.
        let stale = contexts.shared(1, b"stale");
        let entered = std::cell::OnceCell::new();
        let found = contexts.shared_by(1, b"new", |known, content| {
            entered.get_or_init(|| contexts.shared(1, b"new"));
            known == content
        });
        assert_eq!(found.as_ptr(), entered.get().unwrap().as_ptr());
        assert_ne!(found.as_ptr(), stale.as_ptr());

        let content = vec![b'x'; 1 << 16];
        let start = std::sync::Barrier::new(8);
        let copies: Vec<Bytes> = std::thread::scope(|scope| {
            let bring = || {
                start.wait();
                contexts.shared(2, &content)
            };
            let all: Vec<_> = (0..8).map(|_| scope.spawn(bring)).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(copies.iter().all(|copy| copy.as_ptr() == copies[0].as_ptr()));
        assert_eq!(lock(&contexts.0).by_digest.len(), 2);
    }

    #[test]
    fn what_nobody_has_any_more_is_forgotten() {
        let contexts = Contexts::default();
        let held = contexts.shared(0, b"held");
        (1..1000).for_each(|digest| drop(contexts.shared(digest, b"pushed, and then another")));
        assert!(lock(&contexts.0).by_digest.len() <= FEW);
        assert_eq!(contexts.shared(0, b"held").as_ptr(), held.as_ptr());
    }
}
