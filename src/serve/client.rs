//! The client of a call, once its first request has said who it is: that, what it was made of, and what names mean for it.
//! The same for streams and for `FetchSecrets`.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use futures::stream::BoxStream;
use tonic::Status;

use super::admission::ProxyPlace;
use super::feed::{Feed, OwnCertificate, Taken};
use super::metrics::Withheld;
use super::naming::SecretKind;
use super::open::{self, label};
use super::shared::Shared;
use super::source::CertificateWatch;
use super::wire::Node;
use crate::identify::{NodeClaim, Proof};
use crate::model::held::HeldLeaf;
use crate::model::identity::Identity;

/// See the module.
pub(super) struct Client {
    pub(super) identity: Arc<Identity>,
    /// All that is kept of the node (items 8, 20 and 21).
    pub(super) claim: NodeClaim,
    /// Where it calls from.
    host: Arc<str>,
    /// What the identity was made of, for when policies change.
    proof: Option<Box<Proof>>,
    /// Changes of what decides about the identity.
    changes: BoxStream<'static, ()>,
    certificate: OwnCertificate,
    place: ProxyPlace,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("identity", &self.identity).field("claim", &self.claim).finish_non_exhaustive()
    }
}

/// What a name means for a client.
#[derive(Debug)]
pub(super) struct Found {
    /// Where the secret comes from, or would come from if it became known.
    pub(super) feed: Option<Feed>,
    /// Why there is no such secret for this client, if there is none now.
    pub(super) withheld: Option<Withheld>,
}

impl Found {
    /// Which kind of secret it is; `None` if there is none now.
    pub(super) fn kind(&self) -> Option<SecretKind> {
        self.feed.as_ref().filter(|_| self.withheld.is_none()).map(Feed::kind)
    }
}

impl Client {
    /// Who it is, by its proof and by the node of its first request.
    ///
    /// # Errors
    /// The status that ends the call; also if the proof has ended since it was shown (item 26).
    pub(super) fn new(
        shared: &Shared,
        host: Arc<str>,
        proof: Option<Box<Proof>>,
        node: Option<&Node>,
    ) -> Result<Self, Status> {
        let method = proof.as_ref().map(|proof| proof.method);
        let claim = open::claim(node).inspect_err(|status| {
            open::remember(shared, &host, node.map(|node| &*node.id), method, status.message());
        })?;
        // Before the identity is made, so that no change is missed.
        let changes = shared.authenticate.changes(proof.as_deref());
        let identity = open::complete(shared, &host, proof.as_deref(), &claim)?;
        if identity.proven_until.is_some_and(|until| until <= shared.clock.now()) {
            let what = "the proof of identity has ended meanwhile";
            tracing::info!(node = label(&claim.id), "refused: {what}");
            open::remember(shared, &host, Some(&claim.id), method, what);
            return Err(open::expired());
        }
        let place = shared.admission.enter_as(&identity)?;
        let certificate = OwnCertificate::default();
        Ok(Self { identity: Arc::new(identity), claim, host, proof, changes, certificate, place })
    }

    /// Item 26: why the client is no longer who it was when the call began, if that has changed.
    pub(super) fn poll_identity(&mut self, shared: &Shared, cx: &mut Context<'_>) -> Option<Status> {
        let mut changed = false;
        while let Poll::Ready(Some(_)) = Pin::new(&mut self.changes).poll_next(cx) {
            changed = true;
        }
        if !changed {
            return None;
        }
        match open::complete(shared, &self.host, self.proof.as_deref(), &self.claim) {
            Ok(identity) if identity == *self.identity => None,
            Ok(identity) => {
                tracing::info!(mesh = %identity.mesh, identity = %identity.spiffe_id, "policies give it another identity");
                Some(Status::unavailable("policies have changed"))
            }
            Err(status) => Some(status),
        }
    }

    /// What `name` means for it. `held` is the leaf that it says it has under this name.
    pub(super) fn find(&mut self, name: &str, held: Option<&HeldLeaf>, shared: &Shared) -> Found {
        let Some(wanted) = shared.names.resolve(name, &self.identity) else {
            return Found { feed: None, withheld: Some(Withheld::of(shared.names.kind(name))) };
        };
        let style = shared.names.style(&self.claim);
        let feed = Feed::open(&*shared.source, wanted, &self.identity, style, &mut self.certificate, held);
        let withheld = feed.is_unknown().then_some(Withheld::UnknownName);
        Found { feed: Some(feed), withheld }
    }

    /// Its subscription to its certificate, if it has one: it does not end for as long as this is held.
    pub(super) fn hold_certificate(&self) -> Option<Arc<CertificateWatch>> {
        self.certificate.hold()
    }

    /// All that counts when there is nothing left to do but to send.
    pub(super) fn into_place(self) -> ProxyPlace {
        self.place
    }
}

/// The audit log (item 106): each certificate that is handed out. Who gets it says the span of the call.
pub(super) fn audit(name: &str, taken: &Taken) {
    if let Some(serial) = &taken.serial {
        tracing::info!(name = label(name), version = %taken.secret.version, serial, "certificate handed out");
    }
}
