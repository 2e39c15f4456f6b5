//! One switch out of a node's metadata. That is a `google.protobuf.Struct` of the client's choice, as large as a request
//! may be and nested as deeply as it likes; nothing of it is wanted but one key at its top. So it is walked through where
//! it lies: nothing is built, nothing is nested, and what is not asked for is stepped over.

use prost::{DecodeError, decode_length_delimiter};

/// Why metadata cannot be read: it is no protobuf message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a message: {0}")]
pub(crate) struct Malformed(String);

impl From<DecodeError> for Malformed {
    fn from(error: DecodeError) -> Self {
        Self(error.to_string())
    }
}

/// Whether the entry `key` of a Struct is `true`, or the text `"true"`. It is not if there is none, or if it is anything
/// else.
pub(crate) fn switch(metadata: &[u8], key: &str) -> Result<bool, Malformed> {
    let mut on = false;
    for field in Fields(metadata) {
        // `map<string, Value> fields = 1`: repeated entries with key = 1 and value = 2; the last of a key counts.
        let (1, Value::Bytes(entry)) = field? else { continue };
        let (mut name, mut value): (&[u8], &[u8]) = (&[], &[]);
        for part in Fields(entry) {
            match part? {
                (1, Value::Bytes(bytes)) => name = bytes,
                (2, Value::Bytes(bytes)) => value = bytes,
                _ => {}
            }
        }
        if name != key.as_bytes() {
            continue;
        }
        on = false;
        // A `Value`: `string_value = 3`, `bool_value = 4`, and others.
        for kind in Fields(value) {
            on = matches!(kind?, (3, Value::Bytes(b"true")) | (4, Value::Number(1)));
        }
    }
    Ok(on)
}

/// The fields of a message, in the order in which they were written.
struct Fields<'b>(&'b [u8]);

enum Value<'b> {
    Number(usize),
    Bytes(&'b [u8]),
    Fixed,
}

impl<'b> Fields<'b> {
    fn next_field(&mut self) -> Result<(usize, Value<'b>), Malformed> {
        let tag = decode_length_delimiter(&mut self.0)?;
        let value = match tag & 7 {
            0 => Value::Number(decode_length_delimiter(&mut self.0)?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = decode_length_delimiter(&mut self.0)?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            other => return Err(Malformed(format!("wire type {other}"))),
        };
        Ok((tag >> 3, value))
    }

    fn take(&mut self, length: usize) -> Result<&'b [u8], Malformed> {
        let (taken, rest) =
            self.0.split_at_checked(length).ok_or_else(|| Malformed("it ends within a field".to_owned()))?;
        self.0 = rest;
        Ok(taken)
    }
}

impl<'b> Iterator for Fields<'b> {
    type Item = Result<(usize, Value<'b>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.next_field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use prost::Message;
    use prost_types::value::Kind;
    use prost_types::{ListValue, Struct};

    use super::*;

    const KEY: &str = "disable_spiffe_cert_validation";

    fn metadata(entries: &[(&str, Kind)]) -> Vec<u8> {
        let value = |kind: &Kind| prost_types::Value { kind: Some(kind.clone()) };
        let fields: BTreeMap<_, _> = entries.iter().map(|(key, kind)| ((*key).to_owned(), value(kind))).collect();
        Struct { fields }.encode_to_vec()
    }

    #[test]
    fn a_bool_or_its_text_switches() {
        let text = |text: &str| Kind::StringValue(text.to_owned());
        for (kind, on) in [
            (Kind::BoolValue(true), true),
            (Kind::BoolValue(false), false),
            (text("true"), true),
            (text("false"), false),
            (text("True"), false),
            (text("yes"), false),
            (Kind::NumberValue(1.0), false),
            (Kind::NullValue(0), false),
            (Kind::ListValue(ListValue::default()), false),
            (Kind::StructValue(Struct::default()), false),
        ] {
            let entries = [("CLUSTER_ID", text("Kubernetes")), (KEY, kind.clone()), ("z", Kind::BoolValue(true))];
            assert_eq!(switch(&metadata(&entries), KEY), Ok(on), "{kind:?}");
        }
        assert_eq!(switch(&[], KEY), Ok(false));
        assert_eq!(switch(&metadata(&[("x", Kind::BoolValue(true))]), KEY), Ok(false));
        let nested = Struct::decode(&*metadata(&[(KEY, Kind::BoolValue(true))])).unwrap();
        assert_eq!(switch(&metadata(&[("x", Kind::StructValue(nested))]), KEY), Ok(false), "at the top only");
    }

    #[test]
    fn the_last_of_two_counts() {
        let of = |on| metadata(&[(KEY, Kind::BoolValue(on))]);
        assert_eq!(switch(&[of(true), of(false)].concat(), KEY), Ok(false));
        assert_eq!(switch(&[of(false), of(true)].concat(), KEY), Ok(true));
    }

    /// Each level is a Value that holds a list of one.
    fn nested(levels: usize) -> Vec<u8> {
        let wrap = |tag: u8, inner: Vec<u8>| {
            let mut bytes = vec![tag << 3 | 2];
            prost::encode_length_delimiter(inner.len(), &mut bytes).unwrap();
            bytes.extend(inner);
            bytes
        };
        let value = (0..levels).fold(vec![0x20, 1], |inner, _| wrap(6, wrap(1, inner)));
        wrap(1, [wrap(1, b"deep".to_vec()), wrap(2, value)].concat())
    }

    #[test]
    fn depth_and_size_cost_nothing() {
        let deep = nested(5_000);
        assert!(Struct::decode(&*deep).is_err(), "beyond what a decoder that recurses accepts");
        let large = metadata(&[("x", Kind::StringValue("x".repeat(1 << 20)))]);
        let on = metadata(&[(KEY, Kind::BoolValue(true))]);
        assert_eq!(switch(&[deep, large, on].concat(), KEY), Ok(true));
    }

    #[test]
    fn what_is_no_message_is_said_to_be_none() {
        for bytes in [&b"\x0a"[..], b"\x0a\xff", b"\x0b", b"\x09abc", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"] {
            assert!(switch(bytes, KEY).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_looked_at(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_ne!(switch(&bytes, KEY), Ok(true));
        }
    }
}
