//! `identify.proxyToken`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::document::Field;

/// `identify.proxyToken`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyToken {
    /// Keys to verify with; empty means the key of the state directory.
    pub public_keys: Vec<PublicKey>,
}

/// A key that proxy tokens may be signed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// Key id, as in the token's header.
    pub kid: String,
    /// PEM file.
    pub file: PathBuf,
}

impl ProxyToken {
    pub(super) fn decode(field: &Field<'_>) -> Option<Self> {
        let fields = field.map()?;
        let keys = fields.optional("publicKeys").and_then(|field| field.list()).unwrap_or_default();
        fields.refuse_others();
        let mut kids = BTreeSet::new();
        let mut public_keys = Vec::new();
        for item in keys {
            let Some(fields) = item.map() else { continue };
            let kid = fields.required("kid").and_then(|field| field.name());
            let file = fields.required("file").and_then(|field| field.name());
            fields.refuse_others();
            let (Some(kid), Some(file)) = (kid, file) else { continue };
            if !kids.insert(kid) {
                item.problem(format!("the kid {kid:?} is there twice"));
            }
            public_keys.push(PublicKey { kid: kid.to_owned(), file: PathBuf::from(file) });
        }
        Some(Self { public_keys })
    }
}
