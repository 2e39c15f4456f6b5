//! Places that are counted, and given back when dropped.

use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;

/// One in a count, until dropped.
#[derive(Debug)]
pub(super) struct One(Arc<AtomicUsize>);

impl One {
    pub(super) fn take(count: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        let taken = count.fetch_add(1, Ordering::Relaxed);
        let one = Self(count.clone());
        (taken < limit).then_some(one)
    }
}

impl Drop for One {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One in the count of `key`, until dropped.
#[derive(Debug)]
pub(super) struct Counted<K: Hash + Eq> {
    counts: Arc<DashMap<K, usize>>,
    key: K,
}

impl<K: Hash + Eq + Clone> Counted<K> {
    pub(super) fn take(counts: &Arc<DashMap<K, usize>>, key: K, limit: usize) -> Option<Self> {
        let mut count = counts.entry(key.clone()).or_default();
        *count += 1;
        let admitted = *count <= limit;
        drop(count);
        let counted = Self { counts: counts.clone(), key };
        admitted.then_some(counted)
    }
}

impl<K: Hash + Eq> Drop for Counted<K> {
    fn drop(&mut self) {
        self.counts.remove_if_mut(&self.key, |_, count| {
            *count = count.saturating_sub(1);
            *count == 0
        });
    }
}
