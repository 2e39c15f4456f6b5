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
        let mut known = lock(&self.0);
        if let Some(same) = known.by_digest.get(&digest).filter(|same| ***same == *content) {
            return same.clone();
        }
        known.make_room();
        let copy = Bytes::copy_from_slice(content);
        known.by_digest.insert(digest, copy.clone());
        copy
    }
}

impl Known {
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
    fn what_nobody_has_any_more_is_forgotten() {
        let contexts = Contexts::default();
        let held = contexts.shared(0, b"held");
        (1..1000).for_each(|digest| drop(contexts.shared(digest, b"pushed, and then another")));
        assert!(lock(&contexts.0).by_digest.len() <= FEW);
        assert_eq!(contexts.shared(0, b"held").as_ptr(), held.as_ptr());
    }
}
