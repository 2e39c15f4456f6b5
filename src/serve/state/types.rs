//! Through which service a stream has come, and what it may ask for there.

use tonic::Status;

use crate::serve::redact;
use crate::serve::wire::SECRET_TYPE;

/// The service of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// `SecretDiscoveryService`: secrets and nothing else.
    Dedicated,
    /// `AggregatedDiscoveryService`: secrets, among types that are not ours.
    Aggregated,
}

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    Secrets,
    /// To be ignored: an empty answer would delete what the client has of it (item 31).
    Foreign,
}

impl Door {
    /// What a request with this type is about.
    pub(super) fn subject(self, type_url: &str) -> Result<Subject, Status> {
        match self {
            Self::Dedicated => check_type(type_url).map(|()| Subject::Secrets),
            Self::Aggregated if type_url == SECRET_TYPE => Ok(Subject::Secrets),
            // Item 30.
            Self::Aggregated if type_url.is_empty() => Err(Status::invalid_argument("type_url is empty")),
            Self::Aggregated => Ok(Subject::Foreign),
        }
    }
}

/// Items 28 and 29: on the SDS methods no type means secrets, and any other type is an error.
pub(crate) fn check_type(type_url: &str) -> Result<(), Status> {
    match type_url {
        "" | SECRET_TYPE => Ok(()),
        _ => Err(Status::invalid_argument("this service has secrets only: wrong type_url")),
    }
}

/// The foreign types that a stream has asked for, so that each is logged once (item 31).
#[derive(Debug, Default)]
pub(super) struct ForeignTypes(Vec<Box<str>>);

impl ForeignTypes {
    /// More than Envoy has; what a client makes up beyond them is not kept, and not logged.
    const KEPT: usize = 16;

    /// More than the name of any of Envoy's types has; longer ones are told apart by so much of them.
    const BYTES: usize = 128;

    /// The type as it is to be logged, the first time.
    pub(super) fn note(&mut self, type_url: &str) -> Option<Box<str>> {
        let start = redact::start(type_url, Self::BYTES);
        if self.0.len() == Self::KEPT || self.0.iter().any(|known| **known == *start) {
            return None;
        }
        self.0.push(start.into());
        Some(start.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn item_31_foreign_types_are_told_once_each_and_their_memory_is_bounded() {
        let mut types = ForeignTypes::default();
        assert_eq!(types.note("cluster").as_deref(), Some("cluster"));
        assert_eq!(types.note("cluster"), None);
        let told = (0..1000).filter_map(|number| types.note(&format!("{number}{}", "é".repeat(1000)))).count();
        assert_eq!((told, types.0.len()), (15, 16));
        assert!(types.0.iter().all(|kept| kept.len() <= ForeignTypes::BYTES));
    }
}
