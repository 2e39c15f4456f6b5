//! Tells a reason that a person reads from data that only looks like text: keys as hex, base64, or lists of numbers, however
//! they are grouped, quoted or broken into lines.
//!
//! It asks for words instead of looking for renderings, of which there are too many. A text is taken for the sequence of
//! its tokens, runs of ASCII letters and digits; what is between them counts for nothing. A word is a reason, any other
//! token is data and counts for the bits that it may hold. Data in a row adds up, words count it down again: the number in a
//! sentence stays, but not more of what is no sentence than [`LIMIT`].

use std::ops::Range;

use super::super::version::Version;

/// So many bits may be in a row, less than 11 bytes. A name with the hash that Kubernetes adds has about 66, and a date
/// and time 80; the smallest private key has 256.
const LIMIT: u32 = 88;

/// The count goes no further, so that what follows a long key is read again after some words.
const MOST: u32 = 2 * LIMIT;

/// Bits of a character: of a token of hexadecimal or decimal digits, and of any other. A letter of a word counts as much
/// down as one of base64 counts up.
const DIGIT: u32 = 4;
const LETTER: u32 = 6;

/// The shortest word that is known by its form alone. In shorter ones, chance makes too many.
const WORD: usize = 4;

/// The longest row of consonants in a word ("length").
const CONSONANTS: usize = 4;

/// Longer than any version.
const VERSION: usize = 128;

/// Words too short, or too odd, to be known by their form.
const WORDS: [&str; 82] = [
    "all", "an", "and", "any", "api", "apr", "are", "as", "at", "aug", "bad", "be", "but", "by", "ca", "can", "cn",
    "crl", "csr", "dec", "der", "dns", "do", "ec", "end", "env", "eof", "err", "feb", "for", "gmt", "got", "grpc",
    "had", "has", "http", "https", "id", "if", "in", "ip", "is", "it", "its", "jan", "jul", "jun", "key", "mar", "may",
    "mtls", "new", "no", "not", "nov", "ns", "oct", "of", "oid", "on", "one", "or", "out", "pem", "pkcs", "rsa", "sa",
    "san", "sds", "sep", "set", "ssl", "the", "tls", "to", "too", "uri", "url", "utc", "was", "with", "xds",
];

/// A token: where it is, and what it counts, up or down.
struct Token {
    range: Range<usize>,
    kind: Kind,
}

enum Kind {
    Data(u32),
    Word(u32),
}

/// Where data is in `text`, in order, without overlaps. Linear in the length of `text`.
pub(super) fn find(text: &str) -> Vec<Range<usize>> {
    let tokens = tokens(text);
    let mut is_data = vec![false; tokens.len()];
    // In both directions: the beginning of a key may pass for words, but not after all that follows it.
    mark(&tokens, 0..tokens.len(), &mut is_data);
    mark(&tokens, (0..tokens.len()).rev(), &mut is_data);
    let mut found: Vec<Range<usize>> = Vec::new();
    let mut in_a_row = false;
    for (token, is_data) in tokens.iter().zip(is_data) {
        match found.last_mut() {
            Some(last) if is_data && in_a_row => last.end = token.range.end,
            _ if is_data => found.push(token.range.clone()),
            _ => {}
        }
        in_a_row = is_data;
    }
    found
}

/// Adds up the tokens in this order, and marks each stretch in which there was too much: from its first data to its last.
fn mark(tokens: &[Token], order: impl Iterator<Item = usize>, is_data: &mut [bool]) {
    let mut count = 0;
    let mut too_much = false;
    let mut stretch: Option<(usize, usize)> = None;
    let mut end = |stretch: &mut Option<(usize, usize)>, too_much: &mut bool| {
        if let (Some((first, last)), true) = (stretch.take(), std::mem::take(too_much)) {
            is_data[first.min(last)..=first.max(last)].fill(true);
        }
    };
    for (at, token) in order.filter_map(|at| Some((at, tokens.get(at)?))) {
        match token.kind {
            Kind::Data(bits) => {
                count = (count + bits).min(MOST);
                too_much |= count >= LIMIT;
                stretch = Some((stretch.map_or(at, |(first, _)| first), at));
            }
            Kind::Word(bits) => {
                count = count.saturating_sub(bits);
                if count == 0 {
                    end(&mut stretch, &mut too_much);
                }
            }
        }
    }
    end(&mut stretch, &mut too_much);
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let length = match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' => {
                let rest = &text[at..];
                version(rest).unwrap_or_else(|| run(rest, |c| c.is_ascii_alphanumeric()))
            }
            _ => c.len_utf8(),
        };
        let range = at..at + length;
        at = range.end;
        if let Some(kind) = kind(&text[range.clone()]) {
            tokens.push(Token { range, kind });
        }
    }
    tokens
}

/// How much of the start of `text` is made of such characters, in bytes.
fn run(text: &str, of: impl Fn(char) -> bool) -> usize {
    text.find(|c| !of(c)).unwrap_or(text.len())
}

/// The length of the version that `text` starts with. It is public, and as long as a key.
fn version(text: &str) -> Option<usize> {
    if !text.starts_with("certificate.") {
        return None;
    }
    let text = super::start(text, VERSION);
    let version = text[..run(text, |c| c.is_ascii_alphanumeric() || c == '.')].trim_end_matches('.');
    Version::held_leaf(version).map(|_| version.len())
}

/// What a token, or a character between two, counts.
fn kind(text: &str) -> Option<Kind> {
    let length = u32::try_from(text.len()).unwrap_or(MOST).min(MOST);
    let first = text.chars().next()?;
    if !first.is_ascii_alphanumeric() {
        // Bytes that were taken for characters. Breaks and indentation are not.
        let is_byte = matches!(first, '\u{80}'..='\u{ff}' | char::REPLACEMENT_CHARACTER)
            || (first.is_ascii_control() && !matches!(first, '\n' | '\r' | '\t'));
        return is_byte.then_some(Kind::Data(LETTER));
    }
    Some(if text.contains('.') || is_words(text) {
        Kind::Word(length * LETTER)
    } else if text.bytes().all(|b| b.is_ascii_hexdigit()) {
        Kind::Data(length * DIGIT)
    } else {
        Kind::Data(length * LETTER)
    })
}

/// Whether a token is a word, or several, `WrittenLikeThis`.
fn is_words(token: &str) -> bool {
    let mut rest = token;
    while !rest.is_empty() {
        let capitals = run(rest, |c| c.is_ascii_uppercase());
        let small = run(&rest[capitals..], |c| c.is_ascii_lowercase());
        let length = match (capitals, small) {
            (0, 0) => return false,
            (0 | 1, _) => capitals + small,
            (_, 0) => capitals,
            // In `TLSCertificate`, the last capital belongs to the next word.
            _ => capitals - 1,
        };
        let (word, next) = rest.split_at(length);
        if !is_word(&word.to_ascii_lowercase()) {
            return false;
        }
        rest = next;
    }
    true
}

/// Whether `word`, of small letters, is one that is known, or can be spoken.
fn is_word(word: &str) -> bool {
    let is_vowel = |c: char| matches!(c, 'a' | 'e' | 'i' | 'o' | 'u' | 'y');
    let spoken = || word.contains(is_vowel) && word.split(is_vowel).all(|between| between.len() <= CONSONANTS);
    WORDS.binary_search(&word).is_ok() || (word.len() >= WORD && spoken())
}

#[cfg(test)]
#[test]
fn words_are_sorted() {
    assert!(WORDS.is_sorted());
}
