//! Which fields the decoder asks documents for: a field is known to the program if it does. By this, the reference of the
//! configuration is held against the code.

use std::cell::RefCell;
use std::collections::BTreeSet;

thread_local! {
    static ASKED: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
}

/// The decoder asks the map at `path` for `key`.
pub(crate) fn note(path: &str, key: &str) {
    let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    ASKED.with_borrow_mut(|asked| asked.insert(path));
}

/// The paths that were asked for on this thread while `decode` ran, such as `listeners[0].tls`.
pub(crate) fn during(decode: impl FnOnce()) -> BTreeSet<String> {
    ASKED.take();
    decode();
    ASKED.take()
}
