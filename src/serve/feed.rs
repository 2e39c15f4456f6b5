//! One subscribed secret of one stream: its changes, and its encoding when there is room to send it.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use futures::Stream;
use jiff::Timestamp;
use tokio::time::Instant;
use tokio_stream::wrappers::WatchStream;

use super::naming::{SecretKind, SecretRef, TrustStyle};
use super::source::{CertificateWatch, SecretSource};
use super::version::Version;
use super::wire::encoding::{Encoded, Encoder};
use crate::model::bundle::Bundle;
use crate::model::bundle_set::BundleSet;
use crate::model::held::HeldLeaf;
use crate::model::identity::Identity;
use crate::model::svid::Svid;

/// See the module. Dropping it ends the subscription.
pub(crate) struct Feed {
    source: Source,
    /// The newest, not yet sent.
    ready: Option<Ready>,
    /// The source is gone: nothing will change any more.
    ended: bool,
}

enum Source {
    Certificate { changes: WatchStream<Option<Arc<Svid>>>, _subscription: Arc<CertificateWatch> },
    Bundle { changes: WatchStream<Option<Arc<Bundle>>> },
    Domains(Box<Domains>),
}

/// All trust domains, or one that is not the proxy's own. It hears of every change of any of them.
struct Domains {
    changes: WatchStream<Option<Arc<BundleSet>>>,
    wanted: Wanted,
    style: TrustStyle,
    /// There was no such trust domain when the feed was opened.
    unknown: bool,
}

enum Wanted {
    /// All, once that of the proxy itself is there: with the others only, it would refuse its own mesh.
    AllWith(Arc<str>),
    /// This one; and its bundle that was seen last, since the others change too.
    Only(Arc<str>, Option<Arc<Bundle>>),
}

/// What a stream has subscribed to of its proxy's certificate: one subscription for all names that mean it, so that a
/// client cannot have more of them by asking under more names. It ends with the last of their feeds.
#[derive(Debug, Default)]
pub(crate) struct OwnCertificate {
    current: Weak<CertificateWatch>,
    /// What the client has said it holds. That speaks for the names that it was said of and for no other, so there is
    /// a second subscription, without, as soon as there is another: a name that nothing was said of needs a leaf.
    held: Option<HeldLeaf>,
}

impl OwnCertificate {
    fn subscribe(
        &mut self,
        source: &dyn SecretSource,
        identity: &Identity,
        held: Option<&HeldLeaf>,
    ) -> Arc<CertificateWatch> {
        let current = self.current.upgrade();
        if let Some(current) = &current
            && (self.held.is_none() || self.held.as_ref() == held)
        {
            return current.clone();
        }
        // Of two leaves one is not the proxy's newest: then it is as if nothing had been said.
        self.held = held.filter(|_| current.is_none()).cloned();
        let subscription = Arc::new(source.certificate(identity, self.held.as_ref()));
        self.current = Arc::downgrade(&subscription);
        subscription
    }

    /// The subscription, if there is one. While it is held, it does not end with its feeds.
    pub(crate) fn hold(&self) -> Option<Arc<CertificateWatch>> {
        self.current.upgrade()
    }
}

/// A secret that was taken from its feed, to be sent.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) secret: Encoded,
    /// When the feed first saw it.
    pub(crate) since: Instant,
    /// The serial number of the leaf, for a certificate.
    pub(crate) serial: Option<String>,
}

/// Holds on to a key for no longer than until it is sent.
enum Ready {
    Certificate { svid: Arc<Svid>, version: Version, since: Instant },
    Bundle { encoded: Encoded, since: Instant },
}

impl Feed {
    /// Subscribes; the present value comes as the first change. `style` is that of the stream
    /// ([`super::naming::Names::style`]).
    pub(crate) fn open(
        source: &dyn SecretSource,
        wanted: SecretRef,
        identity: &Identity,
        style: TrustStyle,
        own: &mut OwnCertificate,
        held: Option<&HeldLeaf>,
    ) -> Self {
        let source = match wanted {
            SecretRef::Certificate => {
                let subscription = own.subscribe(source, identity, held);
                let current = subscription.current.clone();
                let changes = if subscription.shows_changes_only {
                    WatchStream::from_changes(current)
                } else {
                    WatchStream::new(current)
                };
                Source::Certificate { changes, _subscription: subscription }
            }
            SecretRef::TrustBundle => Source::Bundle { changes: WatchStream::new(source.trust_bundle(&identity.mesh)) },
            SecretRef::AllTrustDomains => Source::Domains(Box::new(Domains {
                changes: WatchStream::new(source.trust_domains(&identity.mesh)),
                wanted: Wanted::AllWith(identity.spiffe_id.trust_domain_name().into()),
                style,
                unknown: false,
            })),
            SecretRef::TrustDomain(name) => Source::Domains(Box::new(Domains {
                changes: WatchStream::new(source.trust_domains(&identity.mesh)),
                unknown: !source.has_trust_domain(&identity.mesh, &name),
                wanted: Wanted::Only(name, None),
                style,
            })),
        };
        Self { source, ready: None, ended: false }
    }

    /// Which kind of secret comes from it.
    pub(crate) fn kind(&self) -> SecretKind {
        match self.source {
            Source::Certificate { .. } => SecretKind::Certificate,
            Source::Bundle { .. } | Source::Domains(_) => SecretKind::Bundle,
        }
    }

    /// Whether, when it was opened, there was no such thing: a trust domain that no mesh has. That is a definite "no" at
    /// the time of the request, to be counted as withheld, and on Delta to be answered with one removal (item 71); the
    /// feed stays, and a trust domain that comes later is pushed (item 70). A trust domain whose bundle is not known yet
    /// is pending instead (items 68 and 69): it is never unknown, and nothing is said of it.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(&self.source, Source::Domains(domains) if domains.unknown)
    }

    /// Ready with the version of the newest secret when there is a new one; versions in between are skipped.
    ///
    /// A certificate that has ended by `now` counts as not there (item 99): Envoy accepts one without a word and serves
    /// it, so silence until the next good one is better. The issuer keeps it in its slot when renewal fails for long,
    /// and when a proxy was away past its end.
    pub(crate) fn poll_change(&mut self, encoder: &Encoder, now: Timestamp, cx: &mut Context<'_>) -> Poll<Version> {
        while !self.ended {
            let ready = match &mut self.source {
                Source::Certificate { changes, .. } => match Pin::new(changes).poll_next(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(None) => None,
                    Poll::Ready(Some(None)) => continue,
                    Poll::Ready(Some(Some(svid))) if svid.usable_until() < now => {
                        tracing::warn!(until = %svid.usable_until(), "withheld: the certificate has ended");
                        continue;
                    }
                    Poll::Ready(Some(Some(svid))) => {
                        let version = Version::of_certificate(&svid);
                        Some(Ready::Certificate { svid, version, since: Instant::now() })
                    }
                },
                Source::Bundle { changes } => match Pin::new(changes).poll_next(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(None) => None,
                    Poll::Ready(Some(None)) => continue,
                    Poll::Ready(Some(Some(bundle))) => {
                        let encoded = encoder.trust_bundle(&bundle);
                        Some(Ready::Bundle { encoded, since: Instant::now() })
                    }
                },
                Source::Domains(domains) => match Pin::new(&mut domains.changes).poll_next(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(None) => None,
                    Poll::Ready(Some(all)) => {
                        let Some(bundles) = all.and_then(|all| domains.wanted.of(&all)) else { continue };
                        let encoded = encoder.bundle_set(&bundles, domains.style);
                        Some(Ready::Bundle { encoded, since: Instant::now() })
                    }
                },
            };
            match ready {
                None => self.ended = true,
                Some(ready) => return Poll::Ready(self.ready.insert(ready).version().clone()),
            }
        }
        Poll::Pending
    }

    /// Whether there is something to be sent.
    pub(crate) fn is_waiting(&self) -> bool {
        self.ready.is_some()
    }

    /// Lets go of a certificate that has ended while it was waiting to be sent; says whether there was one.
    pub(crate) fn drop_ended(&mut self, now: Timestamp) -> bool {
        let ended = matches!(&self.ready, Some(Ready::Certificate { svid, .. }) if svid.usable_until() < now);
        if ended {
            self.ready = None;
        }
        ended
    }

    /// The encoding of the newest secret; this is the feed's last hold on it.
    pub(crate) fn take(&mut self, encoder: &Encoder) -> Option<Taken> {
        Some(match self.ready.take()? {
            Ready::Certificate { svid, version, since } => {
                let serial = Some(svid.leaf.serial().to_owned());
                Taken { secret: encoder.certificate(&svid, version), since, serial }
            }
            Ready::Bundle { encoded, since } => Taken { secret: encoded, since, serial: None },
        })
    }

    /// Lets go of a secret that will not be sent because the client has its like already.
    pub(crate) fn discard(&mut self) {
        self.ready = None;
    }
}

impl Wanted {
    /// What is wanted of `all`, if it is there and not what was there before.
    fn of(&mut self, all: &Arc<BundleSet>) -> Option<Arc<BundleSet>> {
        match self {
            Self::AllWith(own) => all.get(own).map(|_| all.clone()),
            Self::Only(name, last) => {
                let bundle = all.get(name)?;
                if last.as_ref() == Some(bundle) {
                    return None;
                }
                *last = Some(bundle.clone());
                Some(Arc::new(BundleSet::of_one(name.clone(), bundle.clone())))
            }
        }
    }
}

impl Ready {
    fn version(&self) -> &Version {
        match self {
            Self::Certificate { version, .. } => version,
            Self::Bundle { encoded, .. } => &encoded.version,
        }
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("kind", &self.kind()).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;
