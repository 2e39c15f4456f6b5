//! Decoding with all problems at once: a [`Report`] collects them, [`Field`]s and [`Fields`] are the tree with a path.
//! A problem says what was expected and what kind of thing was there; it quotes short, harmless text only, so that no
//! secret and no private key can get into a log through a message.

use std::cell::RefCell;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::node::{Map, NOT_KEPT, Node, Scalar, ScalarKind, Value};
use crate::model::diagnostic::{Location, Problem};
use crate::model::duration;

/// Problems kept per document; what comes after helps nobody.
const MAX_PROBLEMS: usize = 100;

/// Collects the problems of one document.
#[derive(Debug, Default)]
pub struct Report {
    file: Option<Arc<PathBuf>>,
    resource: RefCell<Option<String>>,
    problems: RefCell<Vec<Problem>>,
    lapsed: RefCell<Vec<Problem>>,
    notices: RefCell<Vec<Problem>>,
}

impl Report {
    /// For a document from `file`, or from the cluster if there is none.
    pub fn new(file: Option<Arc<PathBuf>>) -> Self {
        Self { file, ..Self::default() }
    }

    /// From here on, problems are about `resource`, such as `Mesh default`.
    pub fn about(&self, resource: impl Into<String>) {
        *self.resource.borrow_mut() = Some(resource.into());
    }

    /// The document as a field, to decode.
    pub fn root<'t>(&'t self, node: &'t Node) -> Field<'t> {
        Field { report: self, node, line: node.line, path: String::new() }
    }

    /// Whether nothing was wrong so far, but for what has lapsed.
    pub fn is_clean(&self) -> bool {
        self.problems.borrow().is_empty()
    }

    /// How many problems there are so far, but for what has lapsed; to know whether a part of the document added some.
    pub fn count(&self) -> usize {
        self.problems.borrow().len()
    }

    /// Problems, and notices: things that are not wrong but that the user should know.
    pub fn finish(self) -> (Vec<Problem>, Vec<Problem>) {
        (self.problems.into_inner().into_iter().chain(self.lapsed.into_inner()).collect(), self.notices.into_inner())
    }

    fn location(&self, line: Option<usize>, path: &str) -> Location {
        Location {
            file: self.file.clone(),
            line,
            resource: self.resource.borrow().clone(),
            field: Some(path.to_owned()).filter(|path| !path.is_empty()),
        }
    }

    fn add(&self, at: Location, what: String, hint: Option<String>) {
        let mut problems = self.problems.borrow_mut();
        if problems.len() < MAX_PROBLEMS {
            problems.push(Problem { at, what, hint });
        }
    }
}

/// A value of the document, and the way to it. Each decoding method gives `None` after it has reported what is wrong.
#[derive(Clone)]
pub struct Field<'t> {
    report: &'t Report,
    node: &'t Node,
    line: Option<usize>,
    path: String,
}

impl<'t> Field<'t> {
    /// The raw value.
    pub fn node(&self) -> &'t Node {
        self.node
    }

    /// The path, such as `spec.mtls.backends[0].name`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Where this is, to report something about it later.
    pub fn location(&self) -> Location {
        self.report.location(self.line, &self.path)
    }

    /// Reports a problem here.
    pub fn problem(&self, what: impl Into<String>) {
        self.report.add(self.location(), what.into(), None);
    }

    /// Reports a problem here, and what to do about it.
    pub fn problem_with_hint(&self, what: impl Into<String>, hint: impl Into<String>) {
        self.report.add(self.location(), what.into(), Some(hint.into()));
    }

    /// Reports a problem here that time alone has made: the document is told of, but is what it was, and counts.
    pub fn lapsed(&self, what: impl Into<String>) {
        self.report.lapsed.borrow_mut().push(Problem { at: self.location(), what: what.into(), hint: None });
    }

    /// Tells the user something about this that is not wrong.
    pub fn notice(&self, what: impl Into<String>) {
        self.report.notices.borrow_mut().push(Problem { at: self.location(), what: what.into(), hint: None });
    }

    /// The result, or `None` after its error was reported as a problem here.
    pub fn check<T, E: fmt::Display>(&self, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.problem(error.to_string())).ok()
    }

    /// The report that this field's problems go to.
    pub fn report(&self) -> &'t Report {
        self.report
    }

    fn expected(&self, what: &str) {
        self.problem(format!("expected {what}, found {}", self.node.noun()));
    }

    /// Text that may be empty. A number is not text: `1.10` would come out as something else in other programs.
    pub fn text(&self) -> Option<&'t str> {
        match &self.node.value {
            Value::Scalar(Scalar { text, kind: ScalarKind::Text }) if text.as_str() == NOT_KEPT => {
                let hint = "what was good before stays; it is known again as soon as the cluster has listed it";
                self.problem_with_hint(
                    "has not been kept over the restart, as there may have been a private key in it",
                    hint,
                );
                None
            }
            Value::Scalar(Scalar { text, kind: ScalarKind::Text }) => Some(text.as_str()),
            Value::Scalar(Scalar {
                kind: ScalarKind::Bool(_) | ScalarKind::Integer(_) | ScalarKind::Number, ..
            }) => {
                let what = format!("expected text, found {}", self.node.noun());
                self.problem_with_hint(what, "put it in quotes");
                None
            }
            _ => {
                self.expected("text");
                None
            }
        }
    }

    /// Text that is not empty.
    pub fn name(&self) -> Option<&'t str> {
        let text = self.text()?;
        if text.trim().is_empty() {
            self.problem("must not be empty");
            return None;
        }
        Some(text)
    }

    /// The text of any scalar, as written: for what looks like a number but is none, such as the mode `0660`.
    pub fn literal(&self) -> Option<&'t str> {
        match &self.node.value {
            Value::Scalar(scalar) if scalar.kind != ScalarKind::Null => Some(scalar.text.as_str()),
            _ => {
                self.expected("text");
                None
            }
        }
    }

    /// `true` or `false`.
    pub fn boolean(&self) -> Option<bool> {
        match &self.node.value {
            Value::Scalar(Scalar { kind: ScalarKind::Bool(value), .. }) => Some(*value),
            _ => {
                self.expected("true or false");
                None
            }
        }
    }

    /// A whole number in `range`.
    pub fn integer(&self, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
        match &self.node.value {
            Value::Scalar(Scalar { kind: ScalarKind::Integer(value), .. }) if range.contains(value) => Some(*value),
            Value::Scalar(Scalar { kind: ScalarKind::Integer(_) | ScalarKind::Number, .. }) => {
                self.problem(format!("must be a whole number from {} to {}", range.start(), range.end()));
                None
            }
            _ => {
                self.expected("a whole number");
                None
            }
        }
    }

    /// A duration such as `24h` within `range`; see [`duration::parse`].
    pub fn duration(&self, range: std::ops::RangeInclusive<Duration>) -> Option<Duration> {
        let text = match &self.node.value {
            Value::Scalar(Scalar { text, kind: ScalarKind::Integer(_) | ScalarKind::Number }) => {
                self.problem_with_hint(format!("{} has no unit", quoted(text)), "such as 10s, 24h, 1h30m or 30d");
                return None;
            }
            _ => self.text()?,
        };
        if text.len() > 40 {
            self.problem("is not a duration; expected one such as 10s, 24h, 1h30m or 30d");
            return None;
        }
        let value = self.check(duration::parse(text))?;
        if !range.contains(&value) {
            let (least, most) = (duration_text(*range.start()), duration_text(*range.end()));
            self.problem(format!("{text} is out of bounds; it must be from {least} to {most}"));
            return None;
        }
        Some(value)
    }

    /// One of some words.
    pub fn one_of<T: Clone>(&self, choices: &[(&str, T)]) -> Option<T> {
        let words = || choices.iter().map(|(word, _)| *word);
        let listed = || words().collect::<Vec<_>>().join(", ");
        let text = match &self.node.value {
            Value::Scalar(scalar) if scalar.kind != ScalarKind::Null => scalar.text.as_str(),
            _ => {
                self.expected(&format!("one of {}", listed()));
                return None;
            }
        };
        let found = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| value.clone());
        if found.is_none() {
            let what = format!("{} is not one of {}", quoted(text), listed());
            self.report.add(self.location(), what, did_you_mean(text, words()));
        }
        found
    }

    /// A list.
    pub fn list(&self) -> Option<Vec<Self>> {
        let Value::List(items) = &self.node.value else {
            self.expected("a list");
            return None;
        };
        let item = |(index, node): (usize, &'t Node)| Self {
            report: self.report,
            node,
            line: node.line,
            path: format!("{}[{index}]", self.path),
        };
        Some(items.iter().enumerate().map(item).collect())
    }

    /// A map.
    pub fn map(&self) -> Option<Fields<'t>> {
        match &self.node.value {
            Value::Map(map) => Some(Fields { of: self.clone(), map, asked: RefCell::default() }),
            Value::Scalar(Scalar { kind: ScalarKind::Null, .. }) => {
                self.problem_with_hint("expected a map, found nothing", "an empty map is written {}");
                None
            }
            _ => {
                self.expected("a map");
                None
            }
        }
    }

    /// A map in which every field must be known: decodes it with `decode`, then refuses what that did not ask for.
    pub fn strict_map<T>(&self, decode: impl FnOnce(&Fields<'t>) -> T) -> Option<T> {
        let fields = self.map()?;
        let decoded = decode(&fields);
        fields.refuse_others();
        Some(decoded)
    }
}

impl fmt::Debug for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Field").field("path", &self.path).field("line", &self.line).finish_non_exhaustive()
    }
}

/// The fields of a map. Whoever asks for a field makes it known; [`Fields::refuse_others`] reports all that nobody asked
/// for. A map that is not to be strict is just dropped.
#[derive(Debug)]
pub struct Fields<'t> {
    of: Field<'t>,
    map: &'t Map,
    asked: RefCell<Vec<&'static str>>,
}

impl<'t> Fields<'t> {
    /// The map itself as a field, to report something about it as a whole.
    pub fn as_field(&self) -> &Field<'t> {
        &self.of
    }

    /// A field, if it is there and not null.
    pub fn optional(&self, key: &'static str) -> Option<Field<'t>> {
        self.given(key).filter(|field| !field.node.is_null())
    }

    /// A field, if its key is there, even with nothing after it: for maps like `proxyToken: {}`, where leaving out the
    /// braces must not quietly mean the opposite.
    pub fn given(&self, key: &'static str) -> Option<Field<'t>> {
        #[cfg(test)]
        crate::testing::asked::note(&self.of.path, key);
        self.asked.borrow_mut().push(key);
        let entry = self.map.entries.iter().find(|entry| entry.key == key)?;
        Some(self.field(&entry.key, entry.line, &entry.value))
    }

    /// A field that must be there.
    pub fn required(&self, key: &'static str) -> Option<Field<'t>> {
        let field = self.optional(key);
        if field.is_none() {
            self.field(key, self.of.line, self.of.node).problem("is missing");
        }
        field
    }

    /// All entries, for maps whose keys are free.
    pub fn entries(&self) -> impl Iterator<Item = (&'t str, Field<'t>)> + '_ {
        self.map.entries.iter().map(|entry| (entry.key.as_str(), self.field(&entry.key, entry.line, &entry.value)))
    }

    /// Ends a strict map: every field that was not asked for is a problem.
    pub fn refuse_others(self) {
        let asked = self.asked.borrow();
        for entry in self.map.entries.iter().filter(|entry| !asked.contains(&entry.key.as_str())) {
            let hint = match entry.key.as_str() {
                "<<" => Some("YAML merge keys are not read; repeat the fields".to_owned()),
                key => did_you_mean(key, asked.iter().copied())
                    .or_else(|| Some(format!("known here: {}", asked.join(", ")))),
            };
            let at = self.of.report.location(entry.line, &self.of.path);
            self.of.report.add(at, format!("unknown field {}", quoted(&entry.key)), hint);
        }
    }

    fn field(&self, key: &str, line: Option<usize>, node: &'t Node) -> Field<'t> {
        let path = if self.of.path.is_empty() {
            key.escape_debug().to_string()
        } else {
            format!("{}.{}", self.of.path, key.escape_debug())
        };
        Field { report: self.of.report, node, line: line.or(node.line), path }
    }
}

/// Quotes a short text for a message; a long one is no typing mistake, and may be a secret.
pub fn quoted(text: &str) -> String {
    if text.chars().count() <= 60 && !text.contains("-----") { format!("{text:?}") } else { "this text".to_owned() }
}

fn did_you_mean<'a>(text: &str, words: impl Iterator<Item = &'a str>) -> Option<String> {
    words.filter_map(|word| Some((slips(text, word)?, word))).min().map(|(_, word)| format!("did you mean {word}?"))
}

/// Whether `word` may be what is meant by `text`, written as it should be or with slips of the pen.
pub fn may_mean(text: &str, word: &str) -> bool {
    slips(text, word).is_some()
}

/// How many slips of the pen make `text` of `word`; `None` if they are too many for that.
fn slips(text: &str, word: &str) -> Option<usize> {
    let text: String = text.chars().take(60).collect();
    let slips = strsim::damerau_levenshtein(&text.to_lowercase(), &word.to_lowercase());
    (slips <= 1 + word.len() / 5).then_some(slips)
}

/// A bound, in words.
fn duration_text(duration: Duration) -> String {
    const DAY: u64 = 24 * 3600;
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    match seconds {
        0 => format!("{millis}ms"),
        _ if seconds % (365 * DAY) == 0 => format!("{}y", seconds / (365 * DAY)),
        _ if seconds % DAY == 0 => format!("{}d", seconds / DAY),
        _ if seconds % 3600 == 0 => format!("{}h", seconds / 3600),
        _ => format!("{seconds}s"),
    }
}
