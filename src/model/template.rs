//! The template of a SPIFFE ID's path in a `MeshIdentity`: fixed text and Go-template fields (S4-6).

use std::fmt;

/// The path of SPIFFE IDs, such as `/ns/{{ .Namespace }}/sa/{{ .ServiceAccount }}`; always valid.
#[derive(Clone, PartialEq, Eq)]
pub struct PathTemplate {
    text: String,
    segments: Vec<Segment>,
}

/// What is between two slashes: text, with one field in it at most, so that no two workloads can meet in the middle.
#[derive(Debug, Clone, PartialEq, Eq)]
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
}

impl PathTemplate {
    /// Parses it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let error = |what: String| Err(TemplateError(what));
        let Some(path) = text.strip_prefix('/') else { return error("must begin with /".to_owned()) };
        let mut segments = Vec::new();
        for segment in path.split('/') {
            let Some((before, rest)) = segment.split_once("{{") else {
                segments.push(Segment { before: segment.to_owned(), field: None, after: String::new() });
                continue;
            };
            let Some((action, after)) = rest.split_once("}}") else { return error("a {{ is not closed".to_owned()) };
            let name = action.trim().strip_prefix('.').unwrap_or_default();
            let Some((_, field)) = TemplateField::ALL.iter().find(|(known, _)| *known == name) else {
                return error(format!("{{{{{action}}}}} is not a field"));
            };
            segments.push(Segment { before: before.to_owned(), field: Some(*field), after: after.to_owned() });
        }
        Ok(Self { text: text.to_owned(), segments })
    }

    /// The segments of the path, for the values that `value` gives.
    ///
    /// # Errors
    /// The field that has no value.
    pub fn render<'v>(&self, value: impl Fn(TemplateField) -> Option<&'v str>) -> Result<Vec<String>, TemplateField> {
        let of = |segment: &Segment| {
            let Segment { before, field, after } = segment;
            let value = match field {
                None => "",
                Some(field) => value(*field).filter(|value| !value.is_empty()).ok_or(*field)?,
            };
            Ok(format!("{before}{value}{after}"))
        };
        self.segments.iter().map(of).collect()
    }

    /// Whether the template names `field`.
    pub fn names(&self, field: TemplateField) -> bool {
        self.segments.iter().any(|segment| segment.field == Some(field))
    }
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
