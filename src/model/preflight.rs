//! Whether CA backends really sign, and what is held back because one does not: told by the stage that asks them for a
//! test certificate to all who report it.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::policy::PolicySet;

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
    /// Whether its part of the mesh's policy is not in force: what was before stays, if there was anything.
    pub holds_back: bool,
    /// Why, if it is not for the test: what is in force elsewhere and cannot be beside it.
    pub conflict: Option<Arc<str>>,
    /// The backend that goes on signing in its place, and so stays trusted, though the mesh does not list it any more.
    pub unlisted: Option<Arc<str>>,
}

/// Which policies may be in force beside each other.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Finds the first part of a set of policies (the first argument) that may not be in force beside the others, what is in
    /// the second coming first. The third is `zone`.
    pub first_conflict: fn(&PolicySet, &PolicySet, &str) -> Option<Conflict>,
    /// The zone that this server is in.
    pub zone: String,
}

impl Default for Rules {
    /// Anything goes.
    fn default() -> Self {
        Self { first_conflict: |_, _, _| None, zone: String::new() }
    }
}

/// A part of a mesh's policy that may not be in force beside the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The mesh.
    pub mesh: Arc<str>,
    /// The backend that signs for that part; `None` if it is the mesh itself.
    pub signer: Option<Arc<str>>,
    /// A sentence that says why.
    pub reason: String,
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
