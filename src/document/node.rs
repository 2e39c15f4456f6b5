//! The located tree that YAML files and JSON objects are read into.

use std::fmt;

use zeroize::Zeroizing;

/// What stands for text that was not written down because there may have been a private key in it. Whoever reads it as text
/// is told so ([`Field::text`](super::Field::text)). Nobody writes it by accident: it begins with a NUL.
pub const NOT_KEPT: &str = "\0not kept";

/// A value, and where it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Line in the file, from 1; `None` if it did not come from a file.
    pub line: Option<usize>,
    /// What is there.
    pub value: Value,
}

/// What a [`Node`] holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Text, a number, a truth value or nothing.
    Scalar(Scalar),
    /// A list.
    List(Vec<Node>),
    /// A map.
    Map(Map),
}

/// A scalar: the text as it was written, and what YAML 1.2 (core schema) takes it for. The text is kept because a
/// version `1.10` or a mode `0660` is not the number that it looks like.
#[derive(Clone, PartialEq, Eq)]
pub struct Scalar {
    /// Wiped when dropped: nobody knows yet whether it is a secret.
    pub text: Zeroizing<String>,
    /// What it is taken for.
    pub kind: ScalarKind,
}

/// What a [`Scalar`] is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScalarKind {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number that fits.
    Integer(i64),
    /// Any other number.
    Number,
    /// Everything else, and whatever is quoted.
    Text,
}

/// A map with text keys, in the order in which they were written. Keys are distinct: whoever builds one sees to that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Map {
    /// Key and value.
    pub entries: Vec<Entry>,
}

/// One entry of a [`Map`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Line of the key, from 1.
    pub line: Option<usize>,
    /// The value.
    pub value: Node,
}

impl Node {
    /// Whether there is nothing: `null`, `~`, or a key without a value. It means the same as an absent field.
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(Scalar { kind: ScalarKind::Null, .. }))
    }

    /// The value of `key`, if this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(map) => map.get(key),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(Scalar { text, kind: ScalarKind::Text }) => Some(text),
            _ => None,
        }
    }

    /// What it is, for messages: never what it says.
    pub fn noun(&self) -> &'static str {
        match &self.value {
            Value::Scalar(scalar) => match scalar.kind {
                ScalarKind::Null => "nothing",
                ScalarKind::Bool(_) => "true or false",
                ScalarKind::Integer(_) | ScalarKind::Number => "a number",
                ScalarKind::Text => "text",
            },
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}

impl Map {
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }
}

impl Scalar {
    /// What an unquoted scalar means in YAML 1.2's core schema.
    pub fn plain(text: impl Into<Zeroizing<String>>) -> Self {
        let text = text.into();
        let kind = match text.as_str() {
            "" | "~" | "null" | "Null" | "NULL" => ScalarKind::Null,
            "true" | "True" | "TRUE" => ScalarKind::Bool(true),
            "false" | "False" | "FALSE" => ScalarKind::Bool(false),
            other => match other.parse() {
                Ok(integer) => ScalarKind::Integer(integer),
                // Rust reads `inf`, `nan` and `infinity` as numbers too; YAML wants a digit.
                Err(_) if other.contains(|c: char| c.is_ascii_digit()) && other.parse::<f64>().is_ok() => {
                    ScalarKind::Number
                }
                Err(_) => ScalarKind::Text,
            },
        };
        Self { text, kind }
    }

    /// A quoted scalar, which is text whatever it looks like.
    pub fn quoted(text: impl Into<Zeroizing<String>>) -> Self {
        Self { text: text.into(), kind: ScalarKind::Text }
    }
}

impl fmt::Debug for Scalar {
    /// Only what it is, as it may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scalar({} bytes)", self.text.len())
    }
}

impl From<serde_json::Value> for Node {
    /// An object from the cluster: the same tree, without lines.
    fn from(json: serde_json::Value) -> Self {
        use serde_json::Value as Json;
        let value = match json {
            Json::Null => Value::Scalar(Scalar::plain(String::new())),
            Json::Bool(value) => Value::Scalar(Scalar::plain(value.to_string())),
            Json::Number(number) => Value::Scalar(Scalar::plain(number.to_string())),
            Json::String(text) => Value::Scalar(Scalar::quoted(text)),
            Json::Array(items) => Value::List(items.into_iter().map(Self::from).collect()),
            Json::Object(fields) => Value::Map(Map {
                entries: fields
                    .into_iter()
                    .map(|(key, value)| Entry { key, line: None, value: Self::from(value) })
                    .collect(),
            }),
        };
        Self { line: None, value }
    }
}

impl From<&Node> for serde_json::Value {
    /// The object that it was made of.
    fn from(node: &Node) -> Self {
        match &node.value {
            Value::Scalar(Scalar { text, kind: ScalarKind::Text }) => Self::String(text.to_string()),
            // As JSON and YAML have them; a number that only YAML knows is left as text.
            Value::Scalar(Scalar { kind: ScalarKind::Null, .. }) => Self::Null,
            Value::Scalar(Scalar { kind: ScalarKind::Bool(value), .. }) => Self::Bool(*value),
            Value::Scalar(Scalar { text, .. }) => {
                serde_json::from_str(text).unwrap_or_else(|_not_json| Self::String(text.to_string()))
            }
            Value::List(items) => Self::Array(items.iter().map(Self::from).collect()),
            Value::Map(map) => {
                Self::Object(map.entries.iter().map(|entry| (entry.key.clone(), Self::from(&entry.value))).collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_comes_out_as_it_went_in() {
        let json = serde_json::json!({
            "a": null, "b": [true, false, "true", "", "null", "1.10"], "c": {"d": 1, "e": -2.5, "f": 1e30, "g": u64::MAX}, "h": {},
        });
        let node = Node::from(json.clone());
        assert_eq!(serde_json::Value::from(&node), json);
        assert_eq!(Node::from(serde_json::Value::from(&node)), node);
    }

    #[test]
    fn plain_scalars_follow_the_core_schema() {
        for (text, kind) in [
            ("", ScalarKind::Null),
            ("~", ScalarKind::Null),
            ("true", ScalarKind::Bool(true)),
            ("on", ScalarKind::Text),
            ("5678", ScalarKind::Integer(5678)),
            ("-1", ScalarKind::Integer(-1)),
            ("1.10", ScalarKind::Number),
            ("1e9", ScalarKind::Number),
            ("nan", ScalarKind::Text),
            ("24h", ScalarKind::Text),
            ("99999999999999999999", ScalarKind::Number),
        ] {
            assert_eq!(Scalar::plain(text.to_owned()).kind, kind, "{text:?}");
        }
    }

    #[test]
    fn debug_shows_no_content() {
        let node = Node::from(serde_json::json!({"data": {"value": "c2VjcmV0"}}));
        assert!(!format!("{node:?}").contains("c2VjcmV0"));
    }
}
