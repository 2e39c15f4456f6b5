//! One subscribed secret of one stream: its changes, and its encoding when there is room to send it.

use std::any::Any;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use tokio::time::Instant;
use tokio_stream::wrappers::WatchStream;

use super::naming::{SecretKind, SecretRef};
use super::source::SecretSource;
use super::version::Version;
use super::wire::encoding::{Encoded, Encoder};
use crate::model::bundle::Bundle;
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
    Certificate { changes: WatchStream<Option<Arc<Svid>>>, _interest: Box<dyn Any + Send + Sync> },
    Bundle { changes: WatchStream<Option<Arc<Bundle>>> },
}

/// Holds on to a key for no longer than until it is sent.
enum Ready {
    Certificate { svid: Arc<Svid>, version: Version, since: Instant },
    Bundle(Encoded),
}

impl Feed {
    /// Subscribes; the present value comes as the first change.
    pub(crate) fn open(source: &dyn SecretSource, wanted: SecretRef, identity: &Identity) -> Self {
        let source = match wanted {
            SecretRef::Certificate => {
                let watch = source.certificate(identity);
                Source::Certificate { changes: WatchStream::new(watch.current), _interest: watch.interest }
            }
            SecretRef::TrustBundle => Source::Bundle { changes: WatchStream::new(source.trust_bundle(&identity.mesh)) },
        };
        Self { source, ready: None, ended: false }
    }

    /// Which kind of secret comes from it.
    pub(crate) fn kind(&self) -> SecretKind {
        match self.source {
            Source::Certificate { .. } => SecretKind::Certificate,
            Source::Bundle { .. } => SecretKind::Bundle,
        }
    }

    /// Ready with the version of the newest secret when there is a new one; versions in between are skipped.
    pub(crate) fn poll_change(&mut self, name: &Arc<str>, encoder: &Encoder, cx: &mut Context<'_>) -> Poll<Version> {
        while !self.ended {
            let ready = match &mut self.source {
                Source::Certificate { changes, .. } => match Pin::new(changes).poll_next(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(None) => None,
                    Poll::Ready(Some(None)) => continue,
                    Poll::Ready(Some(Some(svid))) => {
                        let version = Version::of_certificate(&svid);
                        Some(Ready::Certificate { svid, version, since: Instant::now() })
                    }
                },
                Source::Bundle { changes } => match Pin::new(changes).poll_next(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(None) => None,
                    Poll::Ready(Some(None)) => continue,
                    Poll::Ready(Some(Some(bundle))) => Some(Ready::Bundle(encoder.trust_bundle(name, &bundle))),
                },
            };
            match ready {
                None => self.ended = true,
                Some(ready) => return Poll::Ready(self.ready.insert(ready).version().clone()),
            }
        }
        Poll::Pending
    }

    /// The encoding of the newest secret, and this feed's last hold on it.
    pub(crate) fn take(&mut self, name: &str, encoder: &Encoder) -> Option<Encoded> {
        Some(match self.ready.take()? {
            Ready::Certificate { svid, version, since } => {
                Encoded { bytes: encoder.certificate(name, &svid, version.clone()), version, since }
            }
            Ready::Bundle(encoded) => encoded,
        })
    }

    /// Lets go of a secret that will not be sent because the client has its like already.
    pub(crate) fn discard(&mut self) {
        self.ready = None;
    }
}

impl Ready {
    fn version(&self) -> &Version {
        match self {
            Self::Certificate { version, .. } => version,
            Self::Bundle(encoded) => &encoded.version,
        }
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("kind", &self.kind()).finish_non_exhaustive()
    }
}
