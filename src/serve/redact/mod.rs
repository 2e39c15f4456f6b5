//! NACK texts. Envoy puts the rejected message into them, private key and all (xds-conformance item 45), so nothing of
//! such a text is logged, counted or shown before it has been through here.

mod data;

use std::borrow::Cow;

use crate::model::text::is_misleading;

/// The most characters that are kept.
const KEPT: usize = 512;

/// The most bytes that are looked at; Envoy cuts its texts at 4096 characters.
const READ: usize = 16 << 10;

/// What takes the place of what is removed.
const REDACTED: &str = "[redacted]";

/// Fields whose quoted value is removed, as protobuf's text format writes them.
const FIELDS: [&str; 4] = ["inline_bytes", "inline_string", "password", "value"];

/// `text` without PEM blocks, whole or cut off, without the values of fields that may hold a secret, and without what is
/// no words but data, on one line and at most 512 characters long. It removes rather too much than too little.
pub(crate) fn redact(text: &str) -> String {
    let text = without_pem(start(text, READ));
    let text = without_fields(&text);
    let text = without_data(&text);
    let shown = |c: char| if c.is_control() || is_misleading(c) { ' ' } else { c };
    let mut short: String = text.chars().map(shown).take(KEPT).collect();
    if text.chars().nth(KEPT).is_some() {
        short.pop();
        short.push('…');
    }
    short
}

/// The start of `text`: at most `bytes` long, and whole characters.
pub(crate) fn start(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Removes from each `-----BEGIN` to the end of its `-----END …-----`, or of the text if that is missing.
fn without_pem(text: &str) -> Cow<'_, str> {
    const BEGIN: &str = "-----BEGIN";
    const END: &str = "-----END";
    let Some(start) = text.find(BEGIN) else { return Cow::Borrowed(text) };
    let mut kept = text[..start].to_owned();
    let mut rest = &text[start..];
    while let Some(start) = rest.find(BEGIN) {
        kept.push_str(&rest[..start]);
        kept.push_str(REDACTED);
        let block = &rest[start + BEGIN.len()..];
        let Some(end) = block.find(END) else { return Cow::Owned(kept) };
        let after = &block[end + END.len()..];
        // The label, then five dashes; a label is short, so what is not closed soon is not one.
        rest = match after.find("-----") {
            Some(close) if close <= 64 => &after[close + 5..],
            _ => return Cow::Owned(kept),
        };
    }
    kept.push_str(rest);
    Cow::Owned(kept)
}

/// Removes the quoted values of [`FIELDS`].
fn without_fields(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(after) = behind_field(rest) {
        kept.push_str(&rest[..after]);
        rest = &rest[after..];
        // `: "`, possibly with the quote escaped because the whole text is a quoted string itself.
        let lead = rest.find(|c: char| !(c.is_whitespace() || matches!(c, ':' | '=' | '"' | '\'' | '\\')));
        let lead = lead.unwrap_or(rest.len());
        let Some(quote) = rest[..lead].chars().find(|c| matches!(c, '"' | '\'')) else { continue };
        kept.push_str(": ");
        kept.push_str(REDACTED);
        // An empty value: both quotes were in the lead.
        if rest[..lead].matches(quote).count() > 1 {
            rest = &rest[lead..];
            continue;
        }
        let escaped = rest[..lead].contains('\\');
        let value = &rest[lead..];
        rest = &value[closing_quote(value, quote, escaped)..];
    }
    kept.push_str(rest);
    kept
}

/// Where the first name of a field in `text` ends.
fn behind_field(text: &str) -> Option<usize> {
    let mut places = text.char_indices().map(|(start, _)| (start, &text[start..]));
    places.find_map(|(start, here)| {
        FIELDS.iter().find(|field| here.starts_with(**field)).map(|field| start + field.len())
    })
}

/// Where the value that `quote` opened ends; behind the quote that closes it.
fn closing_quote(value: &str, quote: char, escaped: bool) -> usize {
    let mut backslashes = 0usize;
    for (position, c) in value.char_indices() {
        if c == '\\' {
            backslashes += 1;
            continue;
        }
        if c == quote && (backslashes == 0 || (escaped && backslashes == 1)) {
            return position + c.len_utf8();
        }
        backslashes = 0;
    }
    value.len()
}

/// Removes what [`data`] finds.
fn without_data(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut end = 0;
    for found in data::find(text) {
        kept.push_str(&text[end..found.start]);
        kept.push_str(REDACTED);
        end = found.end;
    }
    kept.push_str(&text[end..]);
    kept
}

#[cfg(test)]
#[path = "redact_tests.rs"]
mod tests;
