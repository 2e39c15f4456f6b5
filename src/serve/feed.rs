//! One subscribed secret of one stream: its changes, and its encoding when there is room to send it.

use std::any::Any;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use jiff::Timestamp;
use tokio::time::Instant;
use tokio_stream::wrappers::WatchStream;

use super::naming::{SecretKind, SecretRef};
use super::source::SecretSource;
use super::version::Version;
use super::wire::encoding::{Encoded, Encoder};
use crate::model::bundle::Bundle;
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
    Certificate { changes: WatchStream<Option<Arc<Svid>>>, _interest: Box<dyn Any + Send + Sync> },
    Bundle { changes: WatchStream<Option<Arc<Bundle>>> },
}

/// Holds on to a key for no longer than until it is sent.
enum Ready {
    Certificate { svid: Arc<Svid>, version: Version, since: Instant },
    Bundle { encoded: Encoded, since: Instant },
}

impl Feed {
    /// Subscribes; the present value comes as the first change.
    pub(crate) fn open(
        source: &dyn SecretSource,
        wanted: SecretRef,
        identity: &Identity,
        held: Option<&HeldLeaf>,
    ) -> Self {
        let source = match wanted {
            SecretRef::Certificate => {
                let watch = source.certificate(identity, held);
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
    ///
    /// A certificate that has ended by `now` counts as not there (item 99): Envoy accepts one without a word and serves
    /// it, so silence until the next good one is better. The issuer keeps it in its slot when renewal fails for long,
    /// and when a proxy was away past its end.
    pub(crate) fn poll_change(
        &mut self,
        name: &Arc<str>,
        encoder: &Encoder,
        now: Timestamp,
        cx: &mut Context<'_>,
    ) -> Poll<Version> {
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
                        let encoded = encoder.trust_bundle(name, &bundle);
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

    /// Lets go of a certificate that has ended while it was waiting to be sent; says whether there was one.
    pub(crate) fn drop_ended(&mut self, now: Timestamp) -> bool {
        let ended = matches!(&self.ready, Some(Ready::Certificate { svid, .. }) if svid.usable_until() < now);
        if ended {
            self.ready = None;
        }
        ended
    }

    /// The encoding of the newest secret and when this feed first saw it; this is the feed's last hold on it.
    pub(crate) fn take(&mut self, name: &str, encoder: &Encoder) -> Option<(Encoded, Instant)> {
        Some(match self.ready.take()? {
            Ready::Certificate { svid, version, since } => {
                (Encoded { bytes: encoder.certificate(name, &svid, version.clone()), version }, since)
            }
            Ready::Bundle { encoded, since } => (encoded, since),
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
mod tests {
    use std::task::Waker;
    use std::time::Duration;

    use jiff::SignedDuration;

    use super::*;
    use crate::serve::testing::{FakeSource, bundle, identity, svid_until};
    use crate::serve::wire::encoding::Form;

    fn source() -> FakeSource {
        FakeSource::default()
    }

    #[test]
    fn item_99_a_certificate_that_ends_while_it_waits_is_let_go() {
        let (source, encoder) = (source(), Encoder::new(Form::Sotw, String::new()));
        let until = Timestamp::from_second(2_000_000_000).unwrap();
        let mut feed = Feed::open(&source, SecretRef::Certificate, &identity("web"), None);
        source.certificate.send_replace(Some(Arc::new(svid_until("web", until))));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(feed.poll_change(&"default".into(), &encoder, until, &mut cx).is_ready());
        assert!(!feed.drop_ended(until), "the last moment is within");
        assert!(feed.drop_ended(until + SignedDuration::from_secs(1)));
        assert!(feed.take("default", &encoder).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_back_to_an_encoding_that_is_kept_is_a_change_of_now() {
        let (source, encoder) = (source(), Encoder::new(Form::Sotw, String::new()));
        let mut feed = Feed::open(&source, SecretRef::TrustBundle, &identity("web"), None);
        let mut cx = Context::from_waker(Waker::noop());
        let (one, two) = (Arc::new(bundle("one")), Arc::new(bundle("two")));
        for bundle in [&one, &two, &one] {
            source.bundle.send_replace(Some(bundle.clone()));
            assert!(feed.poll_change(&"ROOTCA".into(), &encoder, Timestamp::UNIX_EPOCH, &mut cx).is_ready());
            tokio::time::advance(Duration::from_secs(60)).await;
            let (_, since) = feed.take("ROOTCA", &encoder).unwrap();
            assert_eq!(since.elapsed(), Duration::from_secs(60));
        }
    }
}
