//! Whether CA backends really sign, and what is held back because one does not: told by the stage that asks them for a
//! test certificate to all who report it.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

/// What is known of each backend that signs for somebody (`mtls.enabledBackend`, or an identity policy's), as the resources
/// name it now: by mesh and backend.
pub type Verdicts = BTreeMap<(Arc<str>, Arc<str>), Verdict>;

/// What is known of one backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// How its test certificate did.
    pub outcome: Outcome,
    /// Since when that is so; it does not move while the outcome is repeated.
    pub since: Timestamp,
    /// Whether the mesh's older policy stays in force because of it.
    pub holds_back: bool,
}

/// How a test certificate did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It has been asked for, or waits for a CA certificate that is not known yet.
    Pending,
    /// It was issued, and leads to the CA that the policy says to trust; maybe before the last restart.
    Passed,
    /// `mtls.skipValidation: true`: none is asked for.
    Skipped,
    /// A sentence that says why it is no good. It is asked for again.
    Failed(String),
}

impl Outcome {
    /// Whether a policy may come into force with it.
    pub fn is_good(&self) -> bool {
        matches!(self, Self::Passed | Self::Skipped)
    }

    /// A fixed label for metrics and conditions.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Passed => "passed",
            Self::Skipped => "skipped",
            Self::Failed(_) => "failed",
        }
    }
}
