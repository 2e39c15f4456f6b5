//! What is waited for, for people: the status page, readiness and the log.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use crate::model::policy::IssuerRef;

/// Every request that is waiting for cert-manager at the moment. Cheap to clone; all clones show the same.
#[derive(Clone, Default)]
pub struct PendingBoard(Arc<Mutex<BTreeMap<Arc<str>, PendingRequest>>>);

/// One request that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingRequest {
    /// The mesh that the proxy belongs to.
    pub mesh: Arc<str>,
    /// The proxy's name.
    pub proxy: Arc<str>,
    /// The SPIFFE ID asked for.
    pub spiffe_id: Arc<str>,
    /// Who is to sign.
    pub issuer: IssuerRef,
    /// Since when.
    pub since: Timestamp,
    /// On what, in a word: `WaitingForApproval`, `IssuerNotFound`, `Pending`, …; `Unseen` while it is not known whether
    /// the API server has the request.
    pub reason: String,
    /// What cert-manager says.
    pub message: String,
    /// What to do about it, where there is something.
    pub hint: Option<String>,
    /// Whether it has waited longer than the backend's request timeout.
    pub slow: bool,
}

impl PendingBoard {
    /// All of them, those that wait longest first.
    pub fn snapshot(&self) -> Vec<PendingRequest> {
        let mut requests: Vec<_> = self.with(|board| board.values().cloned().collect());
        requests.sort_by_key(|request| request.since);
        requests
    }

    pub(super) fn put(&self, id: Arc<str>, request: PendingRequest) -> Posted {
        self.with(|board| board.insert(id.clone(), request));
        Posted { board: self.clone(), id }
    }

    fn with<T>(&self, f: impl FnOnce(&mut BTreeMap<Arc<str>, PendingRequest>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for PendingBoard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingBoard").field("pending", &self.with(|board| board.len())).finish()
    }
}

/// An entry on the board; taken down when dropped.
#[derive(Debug)]
pub(super) struct Posted {
    board: PendingBoard,
    id: Arc<str>,
}

impl Posted {
    /// The request waits for something else now.
    pub(super) fn waits_for(&self, reason: String, message: String, hint: Option<String>) {
        self.change(|request| (request.reason, request.message, request.hint) = (reason, message, hint));
    }

    /// The request is called slow from now on. Logged, once per reason.
    pub(super) fn is_slow(&self) {
        let changed = self.change(|request| request.slow = true);
        let Some(PendingRequest { mesh, spiffe_id, issuer, reason, message, hint, .. }) = changed else { return };
        let hint = hint.unwrap_or_default();
        tracing::warn!(
            %mesh, %spiffe_id, issuer = %issuer.name, reason, message, hint,
            "a CertificateRequest waits long; it is kept, and answered once its issuer does"
        );
    }

    fn change(&self, f: impl FnOnce(&mut PendingRequest)) -> Option<PendingRequest> {
        self.board.with(|board| {
            let request = board.get_mut(&self.id)?;
            f(request);
            Some(request.clone())
        })
    }
}

impl Drop for Posted {
    fn drop(&mut self) {
        self.board.with(|board| board.remove(&self.id));
    }
}
