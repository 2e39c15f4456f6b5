//! `identify.serviceAccountToken`.

use crate::document::Field;

/// The audience that service account tokens must be for, unless told otherwise.
const DEFAULT_AUDIENCE: &str = "envoy-sds";

/// `identify.serviceAccountToken`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccountToken {
    /// Audiences, one of which a token must be for; never empty.
    pub audiences: Vec<String>,
}

impl ServiceAccountToken {
    pub(super) fn decode(field: &Field<'_>) -> Option<Self> {
        let fields = field.map()?;
        let audiences = fields.optional("audiences");
        fields.refuse_others();
        let audiences = match audiences {
            None => vec![DEFAULT_AUDIENCE.to_owned()],
            Some(field) => {
                let items = field.list()?;
                if items.is_empty() {
                    field.problem("must not be empty: a token for any audience could be replayed from elsewhere");
                }
                items.iter().filter_map(|item| item.name().map(str::to_owned)).collect()
            }
        };
        Some(Self { audiences })
    }
}
