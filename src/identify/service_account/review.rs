//! One TokenReview: the question to the API server, and its answer.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo};
use kube::api::PostParams;
use kube::{Api, Client};

use super::claims::service_account;
use super::{Account, REVIEW_TIMEOUT};
use crate::model::identity::Pod;
use crate::runtime::cluster::explain;

pub(super) const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
pub(super) const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Who verifies tokens: the API server, or a fake.
#[async_trait]
pub trait ReviewTokens: fmt::Debug + Send + Sync + 'static {
    /// Whose token it is, if it is one for any of `audiences`.
    ///
    /// # Errors
    /// Why it could not be found out.
    async fn review(&self, token: &str, audiences: &[String]) -> Result<TokenReviewStatus, String>;
}

/// The API server.
pub struct ApiServer(Api<TokenReview>);

impl ApiServer {
    /// Asks the API server behind `client`, which must allow `create` on `tokenreviews`.
    pub fn new(client: Client) -> Self {
        Self(Api::all(client))
    }
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiServer")
    }
}

#[async_trait]
impl ReviewTokens for ApiServer {
    async fn review(&self, token: &str, audiences: &[String]) -> Result<TokenReviewStatus, String> {
        let spec = TokenReviewSpec { token: token.to_owned(), audiences: Some(audiences.to_vec()) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let params = PostParams::default();
        match tokio::time::timeout(REVIEW_TIMEOUT, Box::pin(self.0.create(&params, &review))).await {
            Ok(Ok(review)) => review.status.ok_or_else(|| "the API server's answer has no status".to_owned()),
            Ok(Err(error)) => Err(explain(&error)),
            Err(_elapsed) => Err(format!("the API server did not answer within {REVIEW_TIMEOUT:?}")),
        }
    }
}

/// Why the API server does not vouch for a token.
#[derive(Debug)]
pub(super) enum No {
    /// The token is no good.
    Refused(String),
    /// It says no, and that there was an error: that of the token, or its own, such as a webhook or a store that did not
    /// answer. It says the one as it says the other.
    Doubtful(String),
    /// It says nothing.
    Unavailable(String),
}

impl From<String> for No {
    fn from(reason: String) -> Self {
        Self::Refused(reason)
    }
}

/// What the API server's verdict proves.
pub(super) fn read(status: &TokenReviewStatus, audiences: &[String]) -> Result<Account, No> {
    let says_no = |why: &str| format!("the API server does not accept the token: {why}");
    if status.authenticated != Some(true) {
        return Err(match status.error.as_deref().filter(|error| !error.is_empty()) {
            Some(error) => No::Doubtful(says_no(error)),
            None => No::Refused(says_no("no reason was given")),
        });
    }
    // An authenticator that knows no audiences says yes to any token and names none.
    if !status.audiences.iter().flatten().any(|audience| audiences.contains(audience)) {
        let named = status.audiences.as_deref().unwrap_or_default();
        return Err(No::Refused(format!("the API server says the token is for {named:?}, not for {audiences:?}")));
    }
    let user = status.user.as_ref().ok_or_else(|| "the API server names no user".to_owned())?;
    let name = user.username.as_deref().unwrap_or_default();
    let (namespace, account) = service_account(name).ok_or_else(|| format!("{name:?} is no service account"))?;
    let uid = user.uid.as_deref().filter(|uid| !uid.is_empty()).map(Arc::from);
    Ok(Account { namespace: namespace.into(), name: account.into(), uid, pod: pod(user)? })
}

fn pod(user: &UserInfo) -> Result<Option<Pod>, String> {
    let extra = |key: &str| match user.extra.as_ref().and_then(|extra| extra.get(key)).map(Vec::as_slice) {
        None | Some([]) => Ok(None),
        Some([value]) => Ok(Some(Arc::from(value.as_str()))),
        Some(values) => Err(format!("the API server names {} values for {key}", values.len())),
    };
    Ok(extra(POD_NAME)?.zip(extra(POD_UID)?).map(|(name, uid)| Pod { name, uid }))
}
