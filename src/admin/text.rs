//! Text of a proxy's choice (names, node ids, reasons) on somebody's terminal.

use crate::model::text::is_misleading;

/// The text without anything that a terminal takes for a command, or that makes it look like another text.
pub fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unsafe(c) { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    safe
}

/// Control characters, and those that are invisible or turn the direction of writing.
pub fn is_unsafe(c: char) -> bool {
    c.is_control() || is_misleading(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_that_a_terminal_obeys() {
        assert_eq!(escaped("web-0 é ☃"), "web-0 é ☃");
        assert_eq!(escaped("a\u{1b}[2Jb\n\u{9b}c\u{202e}d"), "a\\u{1b}[2Jb\\n\\u{9b}c\\u{202e}d");
    }
}
