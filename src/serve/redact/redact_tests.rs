use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use proptest::prelude::*;

use super::*;

#[test]
fn item_45_plain_reasons_survive() {
    for text in [
        "Failed to load private key from <inline>, Cause: KEY_VALUES_MISMATCH",
        "Failed to load certificate chain from <inline>, only P-256, P-384 or P-521 ECDSA certificates are supported",
        "Failed to load incomplete private key from path: /etc/envoy/tls.key",
        "error:0b000074:X.509 certificate routines:OPENSSL_internal:KEY_VALUES_MISMATCH",
        "Failed to load trusted CA certificates from <inline>",
        "Proto constraint validation failed (TlsCertificateValidationError.PrivateKey): value is required",
        "envoy.extensions.transport_sockets.tls.v3.Secret.tls_certificate.private_key: not set",
        "Unexpected SDS secret (name default/shop-frontend) for type.googleapis.com/google.protobuf.Any, expected \"ROOTCA\"",
        "no secret spiffe://default/ns/shop/sa/web for the pod shop/web-7d9f8b6c5-x2x9k",
        "10.244.118.203:15012 has not answered since 2026-11-22T06:10:07Z",
        "certificate.1700000000.1800000000.0123456789abcdef.89abcdef01234567.fedcba9876543210 is not \
         certificate.1700000000.1800000000.0123456789abcdef.89abcdef01234567.fedcba9876543211.",
        "bundle.0123456789abcdef was not accepted, 3 of 12 certificates are expired",
        "Certificate validity ended on Nov 22 06:10:07 2026 GMT, and it is 1 year, 3 days and 20 minutes later",
    ] {
        assert_eq!(redact(text), text);
    }
}

#[test]
fn item_45_what_envoy_echoes() {
    let envoy = r#"Proto constraint validation failed (Secret.TlsCertificate): name: "default" tls_certificate { private_key { inline_bytes: "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMG\n-----END PRIVATE KEY-----\n" } watched_directory { } }"#;
    let redacted = redact(envoy);
    assert!(redacted.starts_with("Proto constraint validation failed (Secret.TlsCertificate)"), "{redacted}");
    assert!(redacted.ends_with("watched_directory { } }"), "{redacted}");
    assert!(!redacted.contains("MIGH"), "{redacted}");
}

#[test]
fn item_45_blocks_that_are_cut_off() {
    assert_eq!(redact("x -----BEGIN PRIVATE KEY-----\\nMIGH"), "x [redacted]");
    assert_eq!(redact(r#"x inline_bytes: "MIGH"#), "x inline_bytes: [redacted]");
    assert!(redact("inline_bytes: \"\\060\\201\\207\\002\" } x").ends_with(" } x"));
}

#[test]
fn nothing_makes_it_look_like_another_text() {
    assert_eq!(redact("bad\nname\t\u{202e}lamron\u{2066}\u{200b}!"), "bad name  lamron  !");
}

#[test]
fn long_texts_are_cut() {
    let long = redact(&"☃ ".repeat(2000));
    assert_eq!(long.chars().count(), 512);
    assert!(long.ends_with('…'));
}

/// Joined by one of these, or by themselves.
const BETWEEN: [&str; 12] = ["", " ", ".", ",", ", ", ":", "\n", "\\n", "\r\n    ", "\", \"", " + ", " | "];

/// Base64 in groups of this many characters.
const GROUPS: [usize; 9] = [1, 2, 3, 4, 5, 8, 16, 32, 64];

/// `text` in groups of so many characters.
fn grouped(text: &str, group: usize, between: &str) -> String {
    let groups: Vec<&str> = text.as_bytes().chunks(group).map(|group| std::str::from_utf8(group).unwrap()).collect();
    groups.join(between)
}

/// `key` in the usual ways, each with what is not to be left of it: the digits of any 12 bytes in a row.
fn renderings(key: &[u8]) -> Vec<(String, Vec<String>)> {
    let mut renderings = Vec::new();
    for text in [STANDARD.encode(key), URL_SAFE_NO_PAD.encode(key)] {
        let characters: Vec<String> = text.chars().map(String::from).collect();
        let pieces: Vec<String> = characters.windows(16).map(|piece| piece.concat()).collect();
        for between in BETWEEN {
            renderings.extend(GROUPS.map(|group| (grouped(&text, group, between), pieces.clone())));
        }
    }
    let bytes = |of: &dyn Fn(u8) -> String| key.iter().map(|byte| of(*byte)).collect::<Vec<String>>();
    let mut by_byte = |units: &[String], between: &str| {
        let pieces = units.windows(12).map(|piece| piece.concat()).collect();
        renderings.push((format!("[{}]", units.join(between)), pieces));
    };
    for between in BETWEEN {
        by_byte(&bytes(&|byte| format!("{byte:02x}")), between);
        by_byte(&bytes(&|byte| format!("{byte:02X}")), between);
        by_byte(&bytes(&|byte| format!("0x{byte:02x}")), between);
        by_byte(&bytes(&|byte| format!("0x{byte:X}u8")), between);
        by_byte(&bytes(&|byte| format!("{byte:03}")), between);
        by_byte(&bytes(&|byte| format!("{byte:08b}")), between);
        if !between.is_empty() {
            by_byte(&bytes(&|byte| format!("{byte}")), between);
            by_byte(&bytes(&|byte| format!("{}", i16::from(byte) - 128)), between);
        }
    }
    by_byte(&bytes(&|byte| format!("\\{byte:03o}")), "");
    by_byte(&bytes(&|byte| format!("\\\\{byte:03o}")), "");
    by_byte(&bytes(&|byte| format!("\\x{byte:02x}")), "");
    by_byte(&bytes(&|byte| format!("\\u00{byte:02x}")), "");
    by_byte(&bytes(&|byte| format!("%{byte:02X}")), "");
    by_byte(&bytes(&|byte| format!("&#{byte};")), "");
    by_byte(&bytes(&|byte| byte.escape_ascii().to_string()), "");
    by_byte(&bytes(&|byte| if byte.is_ascii_graphic() { char::from(byte).into() } else { format!("\\{byte:o}") }), "");
    by_byte(&bytes(&|byte| char::from(byte).to_string()), "");
    let hex = hex::encode(key);
    for group in [4, 8, 16, 32, 40] {
        for between in BETWEEN {
            let pieces = hex.as_bytes().windows(24).map(|piece| String::from_utf8_lossy(piece).into_owned()).collect();
            renderings.push((grouped(&hex, group, between), pieces));
        }
    }
    renderings.push((format!("{key:?}"), Vec::new()));
    renderings.push((format!("{key:#?}"), Vec::new()));
    renderings.push((format!("{key:x?}"), Vec::new()));
    renderings
}

/// Nothing but letters and digits.
fn squeezed(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).collect()
}

/// That no 12 bytes of `key` in a row are left of any rendering of it between `before` and `after`.
fn assert_unreadable(key: &[u8], before: &str, after: &str) {
    for (text, pieces) in renderings(key) {
        let redacted = redact(&format!("{before}{text}{after}"));
        assert!(redacted.contains(REDACTED), "{redacted}");
        let left = squeezed(&redacted);
        for piece in pieces.iter().map(|piece| squeezed(piece)).filter(|piece| piece.len() >= 12) {
            assert!(!left.contains(&piece), "{piece} of {text} in {redacted}");
        }
    }
}

/// The 32 bytes that are the key, and all that a file of it has.
fn a_key() -> (Vec<u8>, Vec<u8>) {
    let document = rcgen::KeyPair::generate().unwrap().serialize_der();
    (document[36..68].to_vec(), document)
}

#[test]
fn item_45_a_key_in_any_rendering() {
    let (scalar, document) = a_key();
    for key in [&scalar, &document] {
        assert_unreadable(key, "Failed to load private key from <inline>: ", " (KEY_VALUES_MISMATCH)");
        assert_unreadable(key, "", "");
    }
    let reason = format!("Failed to load private key: {}, Cause: KEY_VALUES_MISMATCH", hex::encode(&scalar));
    assert_eq!(redact(&reason), "Failed to load private key: [redacted], Cause: KEY_VALUES_MISMATCH");
}

#[test]
fn item_45_what_openssl_prints() {
    let (scalar, _) = a_key();
    let pairs: Vec<String> = scalar.iter().map(|byte| format!("{byte:02x}")).collect();
    let lines: Vec<String> = pairs.chunks(15).map(|line| format!("    {}", line.join(":"))).collect();
    let text = format!("Private-Key: (256 bit)\npriv:\n{}\npub:\n    04:a1\nNIST CURVE: P-256", lines.join(":\n"));
    let redacted = redact(&text);
    assert!(redacted.starts_with("Private-Key: (") && redacted.contains(REDACTED), "{redacted}");
    assert!(pairs.windows(2).all(|pair| !redacted.contains(&pair.join(":"))), "{redacted}");
}

#[test]
fn item_45_a_long_text_is_no_work() {
    for part in ["value", "certificate.", "-----BEGIN", "\\", "a1 ", "word ", "inline_bytes: \"", "é"] {
        assert!(redact(&part.repeat(1 << 20)).chars().count() <= KEPT);
    }
}

proptest! {
    /// Whatever is around a key, however its lines are broken and wherever the text is cut: no piece of it that
    /// would be of use survives.
    #[test]
    fn item_45_no_key_material_survives(
        before in "[ -~]{0,40}", after in "[ -~]{0,40}",
        key in prop::collection::vec(any::<u8>(), 100..200),
        newline in prop::sample::select(vec!["\n", "\\n", "\\\\n", "\r\n", "\\r\\n"]),
        shape in 0..4, skipped in 0usize..100, kept in 100usize..400,
    ) {
        let body = STANDARD.encode(&key);
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

proptest! {
    // Each case is some hundred renderings.
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever bytes a key is made of, and whatever sentence is around it.
    #[test]
    fn item_45_no_rendering_of_any_key_survives(
        key in prop_oneof![prop::collection::vec(any::<u8>(), 32), prop::collection::vec(any::<u8>(), 100..140)],
        before in "([A-Za-z]{1,8}[ .:,]{1,2}){0,6}", after in "([ .:,]{1,2}[A-Za-z]{1,8}){0,6}",
    ) {
        assert_unreadable(&key, &before, &after);
    }
}
