//! `identify.proxyToken`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::document::Field;

/// The audience that proxy tokens must be for, unless told otherwise.
const DEFAULT_AUDIENCE: &str = "envoy-sds";

/// What stands for a mesh's name in that of its Secret.
const MESH: &str = "<mesh>";

/// `identify.proxyToken`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyToken {
    /// Keys to verify with; empty means the keys of the state directory.
    pub public_keys: Vec<PublicKey>,
    /// Audiences, one of which a token must be for; never empty.
    pub audiences: Vec<String>,
    /// Where the ids of revoked tokens are, if anywhere.
    pub revocations: Option<Revocations>,
}

/// A key that proxy tokens may be signed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// Key id, as in the token's header.
    pub kid: String,
    /// PEM file.
    pub file: PathBuf,
}

/// `identify.proxyToken.revocations`: token ids (`jti`), separated by commas or white space, with comments from `#` on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revocations {
    /// In a file, for every mesh.
    File(PathBuf),
    /// In the mesh Secret of this name, for its mesh, whose name it has at `<mesh>`.
    Secret(String),
}

impl Default for ProxyToken {
    fn default() -> Self {
        Self { public_keys: Vec::new(), audiences: vec![DEFAULT_AUDIENCE.to_owned()], revocations: None }
    }
}

impl ProxyToken {
    pub(super) fn decode(field: &Field<'_>) -> Option<Self> {
        let fields = field.map()?;
        // With nothing after it, none of them must quietly be what it is when it is left out: other keys, another audience,
        // nobody who is revoked.
        let public_keys = fields.given("publicKeys").and_then(|field| public_keys(&field)).unwrap_or_default();
        let audiences = fields.given("audiences").map(|field| audiences(&field).unwrap_or_default());
        let revocations = fields.given("revocations").and_then(|field| Revocations::decode(&field));
        fields.refuse_others();
        let default = Self::default();
        Some(Self { public_keys, audiences: audiences.unwrap_or(default.audiences), revocations })
    }
}

fn public_keys(field: &Field<'_>) -> Option<Vec<PublicKey>> {
    let mut kids = BTreeSet::new();
    let mut public_keys = Vec::new();
    let items = field.list()?;
    if items.is_empty() {
        field.problem_with_hint("must not be empty", "leave it out for the keys of the state directory");
    }
    for item in items {
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
    Some(public_keys)
}

fn audiences(field: &Field<'_>) -> Option<Vec<String>> {
    let items = field.list()?;
    if items.is_empty() {
        field.problem("must not be empty: a token for any audience could be replayed from elsewhere");
    }
    Some(items.iter().filter_map(|item| item.name().map(str::to_owned)).collect())
}

impl Revocations {
    fn decode(field: &Field<'_>) -> Option<Self> {
        let fields = field.map()?;
        let file = fields.optional("file");
        let secret = fields.optional("secret");
        fields.refuse_others();
        match (file, secret) {
            (Some(file), None) => Some(Self::File(PathBuf::from(file.name()?))),
            (None, Some(secret)) => {
                let name = secret.name()?;
                if name == MESH || name.matches(MESH).count() != 1 {
                    // Those of a cluster are in one namespace, and each is of one mesh.
                    let hint = "such as dataplane-token-revocations-<mesh>: each mesh has a Secret of its own name";
                    secret.problem_with_hint(format!("must have {MESH} in it, once, and more"), hint);
                    return None;
                }
                Some(Self::Secret(name.to_owned()))
            }
            (Some(_), Some(secret)) => {
                secret.problem("there is a file as well; one of them has to go");
                None
            }
            (None, None) => {
                field.problem_with_hint(
                    "says neither file nor secret",
                    "such as {file: revoked.txt} or {secret: dataplane-token-revocations-<mesh>}",
                );
                None
            }
        }
    }
}
