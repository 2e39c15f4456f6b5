//! `identify.serviceAccountToken`.

use std::path::PathBuf;

use crate::document::{Field, Fields};

/// The audience that service account tokens must be for, unless told otherwise.
const DEFAULT_AUDIENCE: &str = "envoy-sds";

/// `identify.serviceAccountToken`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccountToken {
    /// Audiences, one of which a token must be for; never empty.
    pub audiences: Vec<String>,
    /// Who verifies them.
    pub verify: VerifyTokens,
}

/// `identify.serviceAccountToken.verify`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VerifyTokens {
    /// `tokenReview`: the API server, asked for each token, and again while it is in use.
    TokenReview,
    /// `jwks`: this server itself, with the public keys of the cluster's issuer.
    Jwks {
        /// The issuer that tokens must be of; the one that the API server names, if absent.
        issuer: Option<String>,
        /// A file with the key set; the API server's, if absent. Never without `issuer`.
        file: Option<PathBuf>,
    },
}

#[derive(Clone, Copy)]
enum Way {
    TokenReview,
    Jwks,
}

impl ServiceAccountToken {
    pub(super) fn decode(field: &Field<'_>) -> Option<Self> {
        let fields = field.map()?;
        let audiences = fields.given("audiences");
        let verify = decode_verify(&fields);
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
        Some(Self { audiences, verify })
    }
}

fn decode_verify(fields: &Fields<'_>) -> VerifyTokens {
    let ways = [("tokenReview", Way::TokenReview), ("jwks", Way::Jwks)];
    let way = fields.optional("verify").and_then(|field| field.one_of(&ways)).unwrap_or(Way::TokenReview);
    // With nothing after it, neither must quietly be what the API server says.
    let (issuer, jwks) = (fields.given("issuer"), fields.given("jwks"));
    if matches!(way, Way::TokenReview) {
        for field in [issuer, jwks].into_iter().flatten() {
            field.problem_with_hint("is for tokens that are verified here", "add `verify: jwks`, or leave it out");
        }
        return VerifyTokens::TokenReview;
    }
    let issuer = issuer.and_then(|field| field.name().map(str::to_owned));
    let file = jwks.as_ref().and_then(|field| {
        let fields = field.map()?;
        let file = fields.required("file").and_then(|field| field.name().map(PathBuf::from));
        fields.refuse_others();
        file
    });
    if let (Some(field), None) = (&jwks, &issuer) {
        field.problem_with_hint(
            "a key set in a file does not say whose it is",
            "add `issuer`: what the API server has as --service-account-issuer, and tokens have as `iss`",
        );
    }
    VerifyTokens::Jwks { issuer, file }
}
