//! One call of `sign`: POST, wait for the watch to tell the outcome, answer.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kube::Api;
use kube::api::PostParams;
use kube::core::Status;
use tokio::time::Instant;

use super::Shared;
use super::attempts::{Attempt, Progress};
use super::outcome::{RequestState, pending_hint, read_chain};
use super::pending::{PendingRequest, Posted};
use super::resource::CertificateRequest;
use crate::issue::ca::{CaError, CertificateAuthority, IssuedChain, Signed, SigningRequest};
use crate::issue::csr::SubjectKey;
use crate::model::policy::IssuerRef;
use crate::runtime::cluster::explain;
use crate::runtime::compute;

/// Has leaves signed by one cert-manager issuer.
#[derive(Debug, Clone)]
pub struct CertManagerAuthority {
    shared: Arc<Shared>,
    issuer: IssuerRef,
}

/// What became of a POST.
enum Posting {
    Created,
    /// It may have been carried out, or still be.
    Unclear(String),
}

/// A POST of which it is not known whether it was carried out.
struct Doubt {
    /// When a list that does not have the object is to be believed.
    until: Instant,
    /// How the POST failed.
    reason: String,
}

#[async_trait]
impl CertificateAuthority for CertManagerAuthority {
    async fn sign(&self, request: SigningRequest) -> Result<Signed, CaError> {
        let closing = &self.shared.closing;
        match closing.run_until_cancelled(Box::pin(self.request(&request))).await {
            Some(outcome) => outcome,
            None => Err(CaError::Unavailable("this server is shutting down".to_owned())),
        }
    }
}

impl CertManagerAuthority {
    pub(super) fn new(shared: Arc<Shared>, issuer: IssuerRef) -> Self {
        Self { shared, issuer }
    }

    async fn request(&self, request: &SigningRequest) -> Result<Signed, CaError> {
        let mut lease = self.shared.lease.clone();
        if tokio::time::timeout(request.request_timeout, lease.fresh(&self.shared.timing)).await.is_err() {
            return Err(CaError::Unavailable(format!("this server's Lease is not held: {}", lease.error())));
        }
        let (key, csr) = key_and_request(request.spiffe_id.clone()).await?;
        // From here on, whatever way this function is left, dropping the attempt deletes the object.
        let attempt = self.shared.attempts.open();
        let began = Instant::now();
        let card = self.post_card(&attempt, request);
        let mut doubt = None;
        if let Posting::Unclear(reason) = self.post(&attempt, request, csr).await? {
            // The API server may carry out a POST after its client has turned away: so much later, a list that does not
            // have it is believed. Should it come later still, it belongs to no call any more, and is deleted.
            let until = Instant::now() + request.request_timeout;
            attempt.doubtful(until);
            doubt = Some(Doubt { until, reason });
        }
        let chain = self.outcome(attempt, &card, began + request.request_timeout, doubt).await?;
        Ok(Signed { key, chain })
    }

    /// Waits for a final state, and tells people what is waited for.
    async fn outcome(
        &self,
        mut attempt: Attempt,
        card: &Posted,
        slow: Instant,
        mut doubt: Option<Doubt>,
    ) -> Result<IssuedChain, CaError> {
        let mut logged = None;
        let mut settles = doubt.as_ref().map(|doubt| doubt.until);
        loop {
            let progress = attempt.progress.borrow_and_update().clone();
            let reason = match progress {
                Progress::Unseen => "Unseen".to_owned(),
                Progress::Seen(RequestState::Pending { reason, message }) => {
                    settles = None;
                    let hint = pending_hint(&reason, &self.issuer, &self.shared.origin.namespace);
                    card.waits_for(reason.clone(), message, hint);
                    reason
                }
                Progress::Seen(RequestState::Issued { certificate, ca }) => return read_chain(&certificate, &ca),
                Progress::Seen(RequestState::Refused(error)) => return Err(error),
                Progress::Deleted => return Err(CaError::Deleted),
                Progress::NeverCreated => {
                    return Err(CaError::Unavailable(doubt.take().map_or_else(String::new, |doubt| doubt.reason)));
                }
            };
            if Instant::now() >= slow && logged.as_ref() != Some(&reason) {
                card.is_slow();
                logged = Some(reason);
            }
            tokio::select! {
                changed = attempt.progress.changed() => {
                    if changed.is_err() {
                        return Err(CaError::Deleted);
                    }
                }
                () = tokio::time::sleep_until(slow), if logged.is_none() => {}
                () = sleep_until(settles), if settles.is_some() => {
                    settles = None;
                    attempt.settle();
                }
            }
        }
    }

    async fn post(&self, attempt: &Attempt, request: &SigningRequest, csr: Vec<u8>) -> Result<Posting, CaError> {
        let origin = &self.shared.origin;
        let api: Api<CertificateRequest> = Api::namespaced(self.shared.client.clone(), &origin.namespace);
        let object = origin.request(attempt.id(), &self.issuer, request, csr);
        let params = PostParams::default();
        let call = Box::pin(api.create(&params, &object));
        match tokio::time::timeout(request.request_timeout, call).await {
            Ok(Ok(created)) => {
                attempt.created(&created.metadata);
                Ok(Posting::Created)
            }
            Ok(Err(kube::Error::Api(status))) if status.code < 500 => Err(refused(&status)),
            Ok(Err(error)) => Ok(Posting::Unclear(explain(&error))),
            Err(_elapsed) => Ok(Posting::Unclear(no_answer(request.request_timeout))),
        }
    }

    fn post_card(&self, attempt: &Attempt, request: &SigningRequest) -> Posted {
        let waiting = PendingRequest {
            mesh: request.mesh.clone(),
            proxy: request.proxy.clone(),
            spiffe_id: request.spiffe_id.clone(),
            issuer: self.issuer.clone(),
            since: self.shared.clock.now(),
            reason: "Unseen".to_owned(),
            message: "the API server has not told of the request yet".to_owned(),
            hint: None,
            slow: false,
        };
        self.shared.board.put(attempt.id().clone(), waiting)
    }
}

async fn key_and_request(spiffe_id: Arc<str>) -> Result<(SubjectKey, Vec<u8>), CaError> {
    let make = move || {
        let key = SubjectKey::generate().map_err(CaError::Unavailable)?;
        let request = key.request(&spiffe_id).map_err(CaError::Invalid)?;
        Ok((key, request))
    };
    compute::brief(make).await.map_err(CaError::Unavailable)?
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn no_answer(timeout: Duration) -> String {
    format!("the API server did not answer within {timeout:?}")
}

/// A POST that surely has not been carried out.
fn refused(status: &Status) -> CaError {
    let message = &status.message;
    match status.code {
        400 | 413 | 422 => CaError::Invalid(message.clone()),
        // Both mean 403; only one of them is somebody's decision about this very request.
        403 if message.contains("denied the request") => CaError::Denied(message.clone()),
        401 | 403 => CaError::Unavailable(format!(
            "the API server refuses this server's requests: {message} (see deploy/rbac.yaml for what it has to be allowed)"
        )),
        404 => CaError::Unavailable(format!("{message} (is cert-manager installed, and is there a system namespace?)")),
        _ => CaError::Unavailable(message.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_as_what_it_is() {
        for (code, message, label) in [
            (400, "admission webhook says: usages differ", "invalid"),
            (422, "spec.issuerRef.name: Required value", "invalid"),
            (403, "admission webhook \"policy\" denied the request: no", "denied"),
            (403, "certificaterequests is forbidden: User \"x\" cannot create", "unavailable"),
            (401, "Unauthorized", "unavailable"),
            (404, "the server could not find the requested resource", "unavailable"),
            (409, "already exists", "unavailable"),
            (429, "too many requests", "unavailable"),
        ] {
            let status = Status { code, message: message.to_owned(), ..Status::default() };
            assert_eq!(refused(&status).label(), label, "{code} {message}");
        }
    }
}
