//! Fragments of YAML with placeholders, and the scalars that go into them.

use std::fmt;
use std::str::FromStr;

use crate::model::text::is_unsafe;

/// What a user gives for a name, a path or the like: text that fits on one line of YAML, and of a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text(String);

/// The longest, in bytes; as that of a secret's name.
const MAX_TEXT: usize = 2048;

impl Text {
    /// # Errors
    /// What is wrong, in a sentence: nothing in it, too much, or what YAML or people could take for the end of a line.
    pub fn new(text: impl Into<String>) -> Result<Self, String> {
        let text = text.into();
        // Among the unsafe ones is all that ends a line; the others are no characters of YAML.
        let unprintable = |c: &char| is_unsafe(*c) || matches!(c, '\u{fffe}' | '\u{ffff}');
        if text.trim().is_empty() {
            return Err("there is nothing in it".to_owned());
        }
        if text.len() > MAX_TEXT {
            return Err(format!("it has {} bytes, and {MAX_TEXT} fit", text.len()));
        }
        match text.chars().find(unprintable) {
            Some(c) => {
                Err(format!("it has the character {:?}, which cannot be in a name or a path here", c.to_string()))
            }
            None => Ok(Self(text)),
        }
    }

    /// The text itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Text {
    type Err = String;

    /// # Errors
    /// See [`Text::new`].
    fn from_str(text: &str) -> Result<Self, String> {
        Self::new(text)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A scalar that means exactly this text, whatever is in it: JSON's strings are YAML's double-quoted ones.
pub(super) fn quoted(text: impl fmt::Display) -> String {
    serde_json::Value::String(text.to_string()).to_string()
}

/// A fragment with its placeholders `${NAME}` replaced.
///
/// The lines of a value after its first are indented as the line that has the placeholder; a line with nothing but the placeholder of an empty
/// value is left out. What comes in by a value is not looked through for placeholders.
pub(super) fn fill(fragment: &str, values: &[(&str, String)]) -> String {
    let mut lines = Vec::new();
    for line in fragment.lines() {
        let filled = fill_line(line, values);
        if !filled.trim().is_empty() || line.trim().is_empty() {
            lines.push(filled.trim_end().to_owned());
        }
    }
    lines.join("\n")
}

fn fill_line(line: &str, values: &[(&str, String)]) -> String {
    let indent = &line[..line.len() - line.trim_start().len()];
    let mut filled = String::new();
    let mut rest = line;
    while let Some((before, (value, after))) = rest.split_once("${").and_then(|(before, from)| {
        let (name, after) = from.split_once('}')?;
        let (_, value) = values.iter().find(|(known, _)| *known == name)?;
        Some((before, (value, after)))
    }) {
        filled.push_str(before);
        for (number, part) in value.split('\n').enumerate() {
            if number > 0 {
                filled.push('\n');
                filled.push_str(if part.is_empty() { "" } else { indent });
            }
            filled.push_str(part);
        }
        rest = after;
    }
    filled.push_str(rest);
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_indented_and_empty_lines_are_left_out() {
        let values = [
            ("BLOCK", "one:\n  two\n\nthree".to_owned()),
            ("EMPTY", String::new()),
            ("INLINE", "&a\n  b: ${BLOCK}".to_owned()),
        ];
        let fragment = "x:\n  ${BLOCK}\n  ${EMPTY}\n\n  - y: ${INLINE} # ${EMPTY}z\n  unknown: ${OTHER}\n";
        let expected = "x:\n  one:\n    two\n\n  three\n\n  - y: &a\n    b: ${BLOCK} # z\n  unknown: ${OTHER}";
        assert_eq!(fill(fragment, &values), expected);
    }

    #[test]
    fn any_text_comes_out_of_yaml_as_it_went_in() {
        for text in ["web-0", "a \"b\" 'c' \\ ${NODE_ID} # : {x}", "%REQ(x)%", "null", "0x10", "é 漢 🦀", "- a", "*b"]
        {
            let text = Text::new(text).unwrap();
            let read: String = serde_saphyr::from_str(&quoted(&text)).unwrap();
            assert_eq!(read, text.as_str());
        }
        let read: String = serde_saphyr::from_str(&quoted("two\nlines")).unwrap();
        assert_eq!(read, "two\nlines");
    }

    #[test]
    fn what_ends_a_line_is_refused() {
        for text in ["", "  ", "a\nb", "a\rb", "a\0b", "a\tb", "\u{85}", "a\u{2028}b", "\u{feff}a", &"x".repeat(2049)] {
            assert!(Text::new(text).is_err(), "{text:?}");
        }
        assert_eq!(
            Text::new("web\n0").unwrap_err(),
            "it has the character \"\\n\", which cannot be in a name or a path here"
        );
    }
}
