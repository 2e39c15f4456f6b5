//! Whether the server can do its work, and if not, what it is waiting for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// The named reasons why the server is not ready; ready is having none. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    reasons: Mutex<BTreeMap<&'static str, String>>,
    ready: watch::Sender<bool>,
}

/// A reason not to be ready, until it is dropped.
#[derive(Debug)]
pub struct Blocker {
    name: &'static str,
    readiness: Readiness,
}

impl Readiness {
    /// Ready, until somebody objects.
    pub fn new() -> Self {
        Self(Arc::new(Inner { reasons: Mutex::default(), ready: watch::channel(true).0 }))
    }

    /// Not ready because of `reason`, for as long as the blocker lives.
    pub fn block(&self, name: &'static str, reason: impl Into<String>) -> Blocker {
        self.reasons_mut().insert(name, reason.into());
        self.tell();
        Blocker { name, readiness: self.clone() }
    }

    /// What it is waiting for, by name.
    pub fn reasons(&self) -> BTreeMap<&'static str, String> {
        self.reasons_mut().clone()
    }

    /// Follows whether it is ready.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.0.ready.subscribe()
    }

    fn reasons_mut(&self) -> MutexGuard<'_, BTreeMap<&'static str, String>> {
        self.0.reasons.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        // What is told last has to be what is true last, so both are one step.
        self.0.ready.send_if_modified(|told| {
            let ready = self.reasons_mut().is_empty();
            std::mem::replace(told, ready) != ready
        });
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Blocker {
    /// It is for another reason now; in between, nobody sees it ready.
    pub fn restate(&self, reason: impl Into<String>) {
        self.readiness.reasons_mut().insert(self.name, reason.into());
    }
}

impl Drop for Blocker {
    fn drop(&mut self) {
        self.readiness.reasons_mut().remove(self.name);
        self.readiness.tell();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_ready_when_the_last_blocker_is_gone() {
        let readiness = Readiness::new();
        let ready = readiness.watch();
        let one = readiness.block("trust", "mesh default has none");
        let two = readiness.block("kubernetes", "not listed");
        drop(one);
        assert!(!*ready.borrow());
        assert_eq!(readiness.reasons(), BTreeMap::from([("kubernetes", "not listed".to_owned())]));
        drop(two);
        assert!(*ready.borrow());
    }
}
