//! YAML text to located trees. Built on the parser's events rather than on a ready-made tree, so that all duplicate keys
//! are told with both lines, scalars keep their text, and depth, size and alias expansion are bounded.

use std::collections::HashMap;
use std::fmt;

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};

use super::decode::quoted;
use super::node::{Entry, Map, Node, Scalar, ScalarKind, Value};

/// The largest text that is read, in bytes: etcd holds no resource half as large.
pub const MAX_BYTES: usize = 4 << 20;

/// The deepest nesting that is read.
pub const MAX_DEPTH: usize = 64;

/// What all anchors and aliases of a text may add up to, in bytes: enough for any honest use, too little for a "billion laughs".
const MAX_ALIASED_BYTES: usize = 4 << 20;

/// Errors that are told of a file; one with more is not a hand-written one.
const MAX_ERRORS: usize = 100;

/// Why a text is no YAML that this program reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    /// Line, from 1.
    pub line: Option<usize>,
    /// What is wrong. It never quotes a value.
    pub what: String,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// Reads all documents of a YAML (or JSON) text; empty ones are left out.
///
/// # Errors
/// What [`parse_each`] finds, if it is anything.
pub fn parse(text: &str) -> Result<Vec<Node>, Vec<SyntaxError>> {
    let (documents, errors) = parse_each(text);
    if errors.is_empty() { Ok(documents) } else { Err(errors) }
}

/// Reads the documents of a YAML (or JSON) text, each on its own: those that can be read, without the empty ones, and what is
/// wrong with the others. Of each that is every duplicate key, and the first thing that is not YAML: after that, there is no
/// telling what the rest of the document means. The next one begins at a line with `---`, which nothing inside of a document
/// can have (YAML 1.2.2, 9.1.2).
pub fn parse_each(text: &str) -> (Vec<Node>, Vec<SyntaxError>) {
    if text.len() > MAX_BYTES {
        let what = format!("{} bytes are too many; at most {MAX_BYTES} are read", text.len());
        return (Vec::new(), vec![SyntaxError { line: None, what }]);
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut whole = Builder::default();
    whole.read(text);
    if whole.errors.is_empty() {
        return (whole.documents, Vec::new());
    }
    let (mut documents, mut errors, mut aliased) = (Vec::new(), Vec::new(), 0);
    for (lines_before, document) in split(text) {
        let mut builder = Builder { lines_before, aliased, ..Builder::default() };
        builder.read(document);
        aliased = builder.aliased;
        if builder.errors.is_empty() {
            documents.append(&mut builder.documents);
        }
        errors.append(&mut builder.errors);
        errors.truncate(MAX_ERRORS);
    }
    // What is wrong may be between the documents.
    if errors.is_empty() { (Vec::new(), whole.errors) } else { (documents, errors) }
}

/// The parts of a text that begin with `---`, and what is before the first; with the number of lines before each.
fn split(text: &str) -> Vec<(usize, &str)> {
    let is_marker =
        |line: &str| line.strip_prefix("---").is_some_and(|rest| rest.trim_start() != rest || rest.is_empty());
    let (mut parts, mut begin, mut begin_line, mut at) = (Vec::new(), 0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if is_marker(line) && at > begin {
            parts.push((begin_line, &text[begin..at]));
            (begin, begin_line) = (at, number);
        }
        at += line.len();
    }
    parts.push((begin_line, &text[begin..]));
    parts
}

#[derive(Default)]
struct Builder {
    documents: Vec<Node>,
    open: Vec<Open>,
    /// By the parser's number; an anchor whose collection is still open is absent.
    anchors: HashMap<usize, Node>,
    aliased: usize,
    errors: Vec<SyntaxError>,
    /// Of the file, before what is read.
    lines_before: usize,
}

/// A collection whose end has not been seen.
struct Open {
    anchor: usize,
    line: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map { map: Map, lines: HashMap<String, usize>, key: Option<(String, usize)> },
}

impl Builder {
    /// Reads until the end or the first thing that is not YAML.
    fn read(&mut self, text: &str) {
        let mut parser = Parser::new_from_str(text);
        while let Some(event) = parser.next_event() {
            let built = match event {
                Ok((Event::StreamEnd, _)) => break,
                Ok((event, span)) => self.on_event(event, self.lines_before + span.start.line()),
                Err(error) => {
                    let what = format!("not valid YAML: {} (column {})", error.info(), error.marker().col() + 1);
                    Err(SyntaxError { line: Some(self.lines_before + error.marker().line()), what })
                }
            };
            if let Err(error) = built {
                self.errors.push(error);
                break;
            }
        }
    }

    fn on_event(&mut self, event: Event<'_>, line: usize) -> Result<(), SyntaxError> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let node = Node { line: Some(line), value: Value::Scalar(scalar(&text, style, tag.as_deref())) };
                self.add(node, anchor, line)
            }
            Event::SequenceStart(anchor, _) => self.begin(Open { anchor, line, content: Content::List(Vec::new()) }),
            Event::MappingStart(anchor, _) => {
                let content = Content::Map { map: Map::default(), lines: HashMap::new(), key: None };
                self.begin(Open { anchor, line, content })
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(Open { anchor, line, content }) = self.open.pop() else { return Ok(()) };
                let value = match content {
                    Content::List(items) => Value::List(items),
                    Content::Map { map, .. } => Value::Map(map),
                };
                self.add(Node { line: Some(line), value }, anchor, line)
            }
            Event::Alias(anchor) => {
                let node = self.resolve(anchor).map_err(|what| SyntaxError { line: Some(line), what })?;
                self.add(Node { line: Some(line), ..node }, 0, line)
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {
                Ok(())
            }
        }
    }

    fn begin(&mut self, open: Open) -> Result<(), SyntaxError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(SyntaxError { line: Some(open.line), what: format!("nested deeper than {MAX_DEPTH} levels") });
        }
        self.open.push(open);
        Ok(())
    }

    /// A finished node goes where it belongs: into the list or map that is open, as a key, or as a document.
    fn add(&mut self, node: Node, anchor: usize, line: usize) -> Result<(), SyntaxError> {
        if anchor > 0 {
            let copy = self.copy(&node).map_err(|what| SyntaxError { line: Some(line), what })?;
            self.anchors.insert(anchor, copy);
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            None if node.is_null() => {}
            None => self.documents.push(node),
            Some(Content::List(items)) => items.push(node),
            Some(Content::Map { map, lines, key }) => match key.take() {
                None => {
                    let Value::Scalar(scalar) = node.value else {
                        return Err(SyntaxError { line: Some(line), what: "a key must be text".to_owned() });
                    };
                    *key = Some((scalar.text.to_string(), line));
                }
                Some((key, line)) => match lines.insert(key.clone(), line) {
                    None => map.entries.push(Entry { key, line: Some(line), value: node }),
                    Some(_) if self.errors.len() >= MAX_ERRORS => {}
                    Some(first) => {
                        let what = format!("the key {} is there twice, first on line {first}", quoted(&key));
                        self.errors.push(SyntaxError { line: Some(line), what });
                    }
                },
            },
        }
        Ok(())
    }

    fn resolve(&mut self, anchor: usize) -> Result<Node, String> {
        let node = self.anchors.remove(&anchor).ok_or("an alias inside of what it stands for")?;
        let copy = self.copy(&node);
        self.anchors.insert(anchor, node);
        copy
    }

    /// A copy of `node`, if all copies together stay within bounds.
    fn copy(&mut self, node: &Node) -> Result<Node, String> {
        let left = MAX_ALIASED_BYTES.saturating_sub(self.aliased);
        let used = measure(node, left, MAX_DEPTH.saturating_sub(self.open.len()))
            .ok_or("anchors and aliases expand to more than this program reads")?;
        self.aliased += used;
        Ok(node.clone())
    }
}

/// How large `node` is, in bytes and roughly; `None` if it is larger than `bytes` or deeper than `depth`.
fn measure(node: &Node, bytes: usize, depth: usize) -> Option<usize> {
    let mut used = size_of::<Node>();
    match &node.value {
        Value::Scalar(scalar) => used += scalar.text.len(),
        Value::List(items) => {
            for item in items {
                used += measure(item, bytes.checked_sub(used)?, depth.checked_sub(1)?)?;
            }
        }
        Value::Map(map) => {
            for entry in &map.entries {
                used += entry.key.len();
                used += measure(&entry.value, bytes.checked_sub(used)?, depth.checked_sub(1)?)?;
            }
        }
    }
    (used <= bytes).then_some(used)
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Scalar {
    match tag {
        Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => Scalar::quoted(text.to_owned()),
        _ if style != ScalarStyle::Plain => Scalar { text: text.to_owned().into(), kind: ScalarKind::Text },
        _ => Scalar::plain(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn error(text: &str) -> String {
        let errors = parse(text).expect_err(text);
        errors.iter().map(|error| format!("{}: {error}", error.line.unwrap_or_default())).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn documents_keep_their_lines() {
        let documents = parse("# first\na:\n  b: 1\n---\n---\nc: [x,\n  y]\n").unwrap();
        assert_eq!(documents.len(), 2, "the empty document is left out");
        let b = documents[0].get("a").and_then(|a| a.get("b")).unwrap();
        assert_eq!(b.line, Some(3));
        let Some(Value::List(items)) = documents[1].get("c").map(|c| &c.value) else { panic!("no list") };
        assert_eq!(items.iter().map(|item| item.line).collect::<Vec<_>>(), [Some(6), Some(7)]);
    }

    #[test]
    fn a_broken_document_hides_none_of_the_others() {
        let text =
            "\u{feff}a: 1\n---\nb: [1,\n---\nc: 1\nc: 2\n--- # three\nd: |\n  ---\n  x\n---\n---\n----: 1\n---\n{e\n";
        let (documents, errors) = parse_each(text);
        let keys = ["a", "d", "----"];
        assert_eq!(documents.len(), keys.len());
        for (document, key) in documents.iter().zip(keys) {
            assert!(document.get(key).is_some(), "{key}: {document:?}");
        }
        assert_eq!(documents[1].get("d").and_then(Node::text), Some("---\nx\n"));
        assert_eq!(documents.iter().map(|document| document.line).collect::<Vec<_>>(), [Some(1), Some(8), Some(13)]);
        let lines: Vec<_> = errors.iter().map(|error| error.line.unwrap()).collect();
        assert_eq!((lines.len(), lines[1], lines[2] >= 15), (3, 6, true), "{errors:?}");
        assert_eq!(parse(text).unwrap_err(), errors);
        let broken_between = "a: 1\n...\n%YAML 9.9.9 x\n---\nb: 1\n";
        assert!(!parse_each(broken_between).1.is_empty());
    }

    #[test]
    fn aliases_are_bounded_over_all_documents() {
        let large = format!("a: &a {}\nb: [{}]\n---\n", "x".repeat(1 << 12), vec!["*a"; 100].join(", "));
        let (documents, errors) = parse_each(&(large.repeat(30) + "{"));
        assert!(documents.len() < 15 && errors.len() > 15, "{} {}", documents.len(), errors.len());
        assert!(parse_each(&"{\n---\n".repeat(1000)).1.len() <= MAX_ERRORS);
    }

    #[test]
    fn json_is_read_too_also_with_tabs() {
        let documents = parse("{\n\t\"a\": {\n\t\t\"b\": [1, \"x\\/y\"]\n\t}\n}\n").unwrap();
        assert!(documents[0].get("a").and_then(|a| a.get("b")).is_some());
    }

    #[test]
    fn every_duplicate_key_is_told() {
        assert_eq!(
            error("a: 1\nb: 2\na: 3\nb: {c: 1, c: 2}\n"),
            "3: the key \"a\" is there twice, first on line 1\n4: the key \"c\" is there twice, first on line 4\n\
             4: the key \"b\" is there twice, first on line 2"
        );
    }

    #[test]
    fn aliases_are_expanded_and_bounded() {
        let documents = parse("base: &b {x: 1}\ncopy: *b\n").unwrap();
        assert!(documents[0].get("copy").and_then(|copy| copy.get("x")).is_some());

        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let alias = format!("*a{}", level - 1);
            bomb += &format!("a{level}: &a{level} [{}]\n", vec![alias; 10].join(", "));
        }
        assert!(error(&bomb).contains("expand to more"));
        assert!(error("a: &a [*a]").contains("an alias inside of what it stands for"));
    }

    #[test]
    fn depth_and_size_are_bounded() {
        assert!(error(&"[".repeat(200)).contains("nested deeper"));
        assert!(error(&"- ".repeat(100_000)).contains("nested deeper"));
        assert!(error(&" ".repeat(MAX_BYTES + 1)).contains("too many"));
    }

    #[test]
    fn broken_yaml_says_where() {
        assert!(
            error("a: 1\nb: [1, 2\nc: 3\n").starts_with("3: not valid YAML"),
            "{}",
            error("a: 1\nb: [1, 2\nc: 3\n")
        );
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "\\PC{0,200}") {
            let _ = parse(&text);
        }

        #[test]
        fn text_that_looks_like_yaml_never_panics(text in "([a-c]: |- |\\[|\\]|\\{|\\}|&a |\\*a|\n|  |\\||>|\"|'|,|---\n|!t |#){0,60}") {
            let _ = parse(&text);
        }
    }
}
