//! Text of a proxy's choice (names, node ids, reasons) before somebody's eyes.

/// Characters that show nothing themselves, or turn the direction of writing: with them, a text looks like another.
pub fn is_misleading(c: char) -> bool {
    matches!(
        c,
        '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
    )
}
