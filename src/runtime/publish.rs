//! Publishing of what may not have changed: who watches is woken by news only.

use std::sync::Arc;

use tokio::sync::watch;

/// Publishes `value` if it is another than what was published last; says whether it is.
pub fn if_changed<T: PartialEq>(publish: &watch::Sender<Arc<T>>, value: T) -> bool {
    publish.send_if_modified(|current| {
        let changed = **current != value;
        if changed {
            *current = Arc::new(value);
        }
        changed
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_news_wakes() {
        let (publish, mut watched) = watch::channel(Arc::new(1));
        assert!(!if_changed(&publish, 1));
        assert!(!watched.has_changed().unwrap());
        assert!(if_changed(&publish, 2));
        assert_eq!(**watched.borrow_and_update(), 2);
    }
}
