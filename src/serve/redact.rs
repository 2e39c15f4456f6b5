//! NACK texts. Envoy puts the rejected message into them, private key and all (xds-conformance item 45), so nothing of
//! such a text is logged, counted or shown before it has been through here.

use std::borrow::Cow;

/// The most characters that are kept.
const KEPT: usize = 512;

/// The most bytes that are looked at; Envoy cuts its texts at 4096 characters.
const READ: usize = 16 << 10;

/// This many characters of base64 in a row are taken for key material. A P-256 scalar has 43.
const RUN: usize = 32;

/// What takes the place of what is removed.
const REDACTED: &str = "[redacted]";

/// Fields whose quoted value is removed, as protobuf's text format writes them.
const FIELDS: [&str; 4] = ["inline_bytes", "inline_string", "password", "value"];

/// `text` without PEM blocks, whole or cut off, without the values of fields that may hold a secret, and without long
/// runs of base64, on one line and at most 512 characters long. It removes rather too much than too little.
pub(crate) fn redact(text: &str) -> String {
    let text = without_pem(start(text, READ));
    let text = without_fields(&text);
    let text = without_runs(&text);
    let mut short: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(KEPT).collect();
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
    while let Some((start, field)) =
        FIELDS.iter().filter_map(|field| Some((rest.find(field)?, *field))).min_by_key(|(start, _)| *start)
    {
        let after = start + field.len();
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

/// Removes runs of base64, also where line breaks, real ones or escaped, are in them.
fn without_runs(text: &str) -> String {
    let is_base64 = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '-' | '_');
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if !is_base64(c) {
            kept.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        }
        let (mut length, mut count) = (0, 0);
        loop {
            let tail = &rest[length..];
            let digits = tail.find(|c| !is_base64(c)).unwrap_or(tail.len());
            count += digits;
            length += digits;
            let gap = line_break(&tail[digits..]);
            if digits == 0 || gap == 0 {
                break;
            }
            length += gap;
        }
        kept.push_str(if count >= RUN { REDACTED } else { &rest[..length] });
        rest = &rest[length..];
    }
    kept
}

/// Length of the line breaks at the start of `text`: real ones, and `\n` and `\r` escaped any number of times, with the
/// next line's indentation.
fn line_break(text: &str) -> usize {
    let mut length = 0;
    loop {
        let tail = &text[length..];
        if tail.starts_with(['\n', '\r']) || (length > 0 && tail.starts_with([' ', '\t'])) {
            length += 1;
            continue;
        }
        let escape = tail.trim_start_matches('\\');
        if escape.len() < tail.len() && escape.starts_with(['n', 'r']) {
            length += tail.len() - escape.len() + 1;
            continue;
        }
        return length;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_reasons_survive() {
        let text = "Failed to load private key from <inline>, Cause: KEY_VALUES_MISMATCH";
        assert_eq!(redact(text), text);
    }

    #[test]
    fn what_envoy_echoes() {
        let envoy = r#"Proto constraint validation failed (Secret.TlsCertificate): name: "default" tls_certificate { private_key { inline_bytes: "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMG\n-----END PRIVATE KEY-----\n" } watched_directory { } }"#;
        let redacted = redact(envoy);
        assert!(redacted.starts_with("Proto constraint validation failed (Secret.TlsCertificate)"), "{redacted}");
        assert!(redacted.ends_with("watched_directory { } }"), "{redacted}");
        assert!(!redacted.contains("MIGH"), "{redacted}");
    }

    #[test]
    fn blocks_that_are_cut_off() {
        assert_eq!(redact("x -----BEGIN PRIVATE KEY-----\\nMIGH"), "x [redacted]");
        assert_eq!(redact(r#"x inline_bytes: "MIGH"#), "x inline_bytes: [redacted]");
        assert!(redact("inline_bytes: \"\\060\\201\\207\\002\" } x").ends_with(" } x"));
    }

    #[test]
    fn long_texts_are_cut() {
        let long = redact(&"é ".repeat(2000));
        assert_eq!(long.chars().count(), 512);
        assert!(long.ends_with('…'));
    }

    proptest! {
        /// Whatever is around a key, however its lines are broken and wherever the text is cut: no piece of it that
        /// would be of use survives.
        #[test]
        fn no_key_material_survives(
            before in "[ -~]{0,40}", after in "[ -~]{0,40}",
            key in prop::collection::vec(any::<u8>(), 100..200),
            newline in prop::sample::select(vec!["\n", "\\n", "\\\\n", "\r\n", "\\r\\n"]),
            shape in 0..4, skipped in 0usize..100, kept in 100usize..400,
        ) {
            use base64::Engine as _;
            let body = base64::engine::general_purpose::STANDARD.encode(&key);
            let lines: Vec<&str> = body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
            let body = lines.join(newline);
            let block = match shape {
                0 => format!("-----BEGIN PRIVATE KEY-----{newline}{body}{newline}-----END PRIVATE KEY-----{newline}"),
                1 => format!("-----BEGIN PRIVATE KEY-----{newline}{body}").chars().take(kept).collect(),
                2 => format!("{body}{newline}-----END PRIVATE KEY-----").chars().skip(skipped).collect(),
                _ => format!("inline_bytes: \"{body}\""),
            };
            let redacted = redact(&format!("{before} {block} {after}"));
            for line in &lines {
                for piece in line.as_bytes().windows(32) {
                    let piece = std::str::from_utf8(piece).unwrap();
                    prop_assert!(!redacted.contains(piece), "{piece} in {redacted}");
                }
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,200}") {
            redact(&text);
        }
    }
}
