//! The template of a SPIFFE ID's path in a `MeshIdentity`: fixed text and Go-template fields (S4-6).
//!
//! Go's templates can do much more. What is read here is what can be reasoned about: every name stays in the segment that it
//! was meant for, and of two templates it can be told whether they can ever give one ID to two workloads.

use std::fmt;

/// The path of SPIFFE IDs, such as `/ns/{{ .Namespace }}/sa/{{ .ServiceAccount }}`; always valid.
#[derive(Clone, PartialEq, Eq)]
pub struct PathTemplate {
    text: String,
    segments: Vec<Segment>,
}

/// What is between two slashes: text, with one field in it at most, so that no two workloads can meet in the middle.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Segment {
    before: String,
    field: Option<TemplateField>,
    after: String,
}

/// What a template can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TemplateField {
    /// `.Mesh`
    Mesh,
    /// `.Namespace`
    Namespace,
    /// `.Workload`
    Workload,
    /// `.ServiceAccount`
    ServiceAccount,
    /// `.Zone`
    Zone,
    /// `.Name`
    Name,
}

/// Why a text is no template of a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TemplateError(pub String);

impl TemplateField {
    const ALL: [(&'static str, Self); 6] = [
        ("Mesh", Self::Mesh),
        ("Namespace", Self::Namespace),
        ("Workload", Self::Workload),
        ("ServiceAccount", Self::ServiceAccount),
        ("Zone", Self::Zone),
        ("Name", Self::Name),
    ];

    /// Its name in templates.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, field)| *field == self).map_or("", |(name, _)| *name)
    }
}

impl PathTemplate {
    /// Parses it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut segments: Vec<Segment> = Vec::new();
        for piece in pieces(text)? {
            match piece {
                Piece::Text(literal) => {
                    let mut parts = literal.split('/');
                    let first = parts.next().unwrap_or_default();
                    match segments.last_mut() {
                        Some(segment) => segment.append(first),
                        None if first.is_empty() => {}
                        None => return Err(no_slash()),
                    }
                    segments.extend(parts.map(|part| Segment { before: part.to_owned(), ..Segment::default() }));
                }
                Piece::Field(field) => {
                    let segment = segments.last_mut().ok_or_else(no_slash)?;
                    if segment.field.is_some() {
                        return Err(TemplateError(
                            "there are two fields in one segment, which is ambiguous: a-b and c would read the same as a \
                             and b-c; put a / between them"
                                .to_owned(),
                        ));
                    }
                    segment.field = Some(field);
                }
            }
        }
        if segments.is_empty() {
            return Err(no_slash());
        }
        segments.iter().try_for_each(Segment::check)?;
        Ok(Self { text: text.to_owned(), segments })
    }

    /// The segments of the path, for the values that `value` gives. Each is one clean segment, whatever the values are.
    ///
    /// # Errors
    /// The field that has no value, or one that cannot be in a segment; [`is_clean`] tells which.
    pub fn render<'v>(&self, value: impl Fn(TemplateField) -> Option<&'v str>) -> Result<Vec<String>, TemplateField> {
        let of = |segment: &Segment| {
            let Segment { before, field, after } = segment;
            let Some(field) = field else { return Ok(before.clone()) };
            let value = value(*field).filter(|value| is_clean(value)).ok_or(*field)?;
            let rendered = format!("{before}{value}{after}");
            if is_dots(&rendered) { Err(*field) } else { Ok(rendered) }
        };
        self.segments.iter().map(of).collect()
    }

    /// Whether the template names `field`.
    pub fn names(&self, field: TemplateField) -> bool {
        self.segments.iter().any(|segment| segment.field == Some(field))
    }

    /// Whether it has a field that tells one workload from another: without one, all that it applies to share an ID.
    pub fn tells_workloads_apart(&self) -> bool {
        let shared = [None, Some(TemplateField::Mesh), Some(TemplateField::Zone)];
        self.segments.iter().any(|segment| !shared.contains(&segment.field))
    }

    /// The same template where a field always has the same value: it is text from here on. One that cannot be in a
    /// segment stays a field.
    #[must_use]
    pub fn with(mut self, field: TemplateField, value: &str) -> Self {
        for segment in self.segments.iter_mut().filter(|segment| segment.field == Some(field) && is_clean(value)) {
            segment.before = format!("{}{value}{}", segment.before, segment.after);
            (segment.field, segment.after) = (None, String::new());
        }
        self
    }

    /// Whether two workloads may get one ID, one by this template and the other by `other`, because of their names. Two
    /// that are the same function of the same fields do not: there, one ID means one workload.
    pub fn may_collide(&self, other: &Self) -> bool {
        self.segments.len() == other.segments.len()
            && self.segments != other.segments
            && self.segments.iter().zip(&other.segments).all(|(one, other)| one.may_equal(other))
    }
}

impl Segment {
    fn append(&mut self, text: &str) {
        let end = if self.field.is_some() { &mut self.after } else { &mut self.before };
        end.push_str(text);
    }

    fn check(&self) -> Result<(), TemplateError> {
        let Self { before, field, after } = self;
        if let Some(wrong) = before.chars().chain(after.chars()).find(|c| !is_legal(*c)) {
            let hint = if matches!(wrong, '{' | '}') { "; fields are written {{ .Name }}" } else { "" };
            return Err(TemplateError(format!(
                "{wrong:?} cannot be in the path of a SPIFFE ID: letters, digits, -, _ and . can{hint}"
            )));
        }
        match (before.as_str(), field) {
            ("", None) => Err(TemplateError("there is an empty segment: no // and no / at the end".to_owned())),
            ("." | "..", None) => Err(TemplateError("segments . and .. are not allowed in a SPIFFE ID".to_owned())),
            _ => Ok(()),
        }
    }

    /// Whether there are values for which both are the same.
    fn may_equal(&self, other: &Self) -> bool {
        match (self.field, other.field) {
            (None, None) => self.before == other.before,
            (None, Some(_)) => other.may_be(&self.before),
            (Some(_), None) => self.may_be(&other.before),
            (Some(_), Some(_)) => {
                let (a, b) = (&self.before, &other.before);
                let (c, d) = (&self.after, &other.after);
                (a.starts_with(b.as_str()) || b.starts_with(a.as_str()))
                    && (c.ends_with(d.as_str()) || d.ends_with(c.as_str()))
            }
        }
    }

    /// Whether there is a value of its field for which it is `text`.
    fn may_be(&self, text: &str) -> bool {
        let value = text.strip_prefix(self.before.as_str()).and_then(|rest| rest.strip_suffix(self.after.as_str()));
        value.is_some_and(|value| !value.is_empty())
    }
}

/// Whether a value can be in a segment of a SPIFFE ID's path: not empty, and only letters, digits, `-`, `_` and `.`
/// (SPIFFE-ID §2.2).
pub fn is_clean(value: &str) -> bool {
    !value.is_empty() && value.chars().all(is_legal)
}

/// The text with each `{{ .Mesh }}` and `{{ .Zone }}` replaced: `spec.spiffeID.trustDomain`.
///
/// # Errors
/// What is wrong with it; a field of a workload, as one trust domain is for all of a mesh's.
pub fn render_trust_domain(text: &str, mesh: &str, zone: &str) -> Result<String, TemplateError> {
    let mut rendered = String::new();
    for piece in pieces(text)? {
        match piece {
            Piece::Text(literal) => rendered.push_str(&literal),
            Piece::Field(TemplateField::Mesh) => rendered.push_str(mesh),
            Piece::Field(TemplateField::Zone) if zone.is_empty() => return Err(TemplateError(NO_ZONE.to_owned())),
            Piece::Field(TemplateField::Zone) => rendered.push_str(zone),
            Piece::Field(field) => {
                return Err(TemplateError(format!(
                    "{{{{ .{} }}}} is different for each workload, but the trust domain is the same for all of them: only \
                     .Mesh and .Zone can be in it",
                    field.name()
                )));
            }
        }
    }
    Ok(rendered)
}

/// Why a template that names the zone cannot be used.
pub const NO_ZONE: &str = "names the zone, and this server is in none: set `zone` in its configuration";

/// A part of a template.
enum Piece {
    Text(String),
    Field(TemplateField),
}

fn no_slash() -> TemplateError {
    TemplateError("must begin with /".to_owned())
}

/// Takes a template apart. `{{-` and `-}}` cut white space, as in Go.
fn pieces(text: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let (mut rest, mut cut) = (text, false);
    while let Some((literal, after)) = rest.split_once("{{") {
        let Some((action, after)) = after.split_once("}}") else {
            return Err(TemplateError("a {{ is not closed by }}".to_owned()));
        };
        let literal = if cut { literal.trim_start() } else { literal };
        let (literal, action) = match action.strip_prefix('-') {
            Some(action) if action.starts_with(char::is_whitespace) => (literal.trim_end(), action),
            _ => (literal, action),
        };
        let action = match action.strip_suffix('-') {
            Some(action) if action.ends_with(char::is_whitespace) => {
                cut = true;
                action
            }
            _ => {
                cut = false;
                action
            }
        };
        pieces.push(Piece::Text(literal.to_owned()));
        pieces.push(Piece::Field(field(action.trim())?));
        rest = after;
    }
    pieces.push(Piece::Text(if cut { rest.trim_start() } else { rest }.to_owned()));
    Ok(pieces)
}

fn field(action: &str) -> Result<TemplateField, TemplateError> {
    let known = action.strip_prefix('.').and_then(|name| TemplateField::ALL.iter().find(|(known, _)| *known == name));
    if let Some((_, field)) = known {
        return Ok(*field);
    }
    let fields = TemplateField::ALL.map(|(name, _)| format!(".{name}")).join(", ");
    let keywords = ["if", "else", "end", "range", "with", "define", "block", "template", "break", "continue"];
    let word = action.split_whitespace().next().unwrap_or_default();
    let what = if action.contains('|') {
        "pipes are not read in a template".to_owned()
    } else if keywords.contains(&word) {
        "conditionals, loops and definitions are not read in a template".to_owned()
    } else if word == "label" {
        "labels are not read in a template".to_owned()
    } else if word.starts_with('.') && word == action {
        format!("{:?} is not a field", action.chars().take(40).collect::<String>())
    } else {
        "functions are not read in a template".to_owned()
    };
    Err(TemplateError(format!("{what}; the fields are {fields}")))
}

fn is_legal(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

fn is_dots(segment: &str) -> bool {
    matches!(segment, "." | "..")
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PathTemplate({})", self.text)
    }
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
