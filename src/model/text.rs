//! Text of a proxy's choice (names, node ids, reasons) before somebody's eyes, or on somebody's terminal; and text for a shell.

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

/// Characters that show nothing themselves, or turn the direction of writing: with them, a text looks like another.
pub fn is_misleading(c: char) -> bool {
    matches!(
        c,
        '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
    )
}

/// One word for a shell, whatever is in it.
pub fn for_shell(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
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
