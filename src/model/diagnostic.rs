//! Problems in what a user wrote, told so that they can be mended: what, where, and what to do.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Where a problem is.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// The file, if it came from one.
    pub file: Option<Arc<PathBuf>>,
    /// Line in the file, from 1.
    pub line: Option<usize>,
    /// The resource, such as `Mesh default` or `Mesh default (cluster)`.
    pub resource: Option<String>,
    /// The field's path, such as `spec.mtls.backends[0].conf.issuerRef.name`.
    pub field: Option<String>,
}

/// One problem with a configuration or resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where it is.
    pub at: Location,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    /// `file:line: resource: field: what (hint)`, leaving out what is not known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.at.file, self.at.line) {
            (Some(file), Some(line)) => write!(f, "{}:{line}: ", file.display())?,
            (Some(file), None) => write!(f, "{}: ", file.display())?,
            (None, _) => {}
        }
        if let Some(resource) = &self.at.resource {
            write!(f, "{resource}: ")?;
        }
        if let Some(field) = &self.at.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.what)?;
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}
