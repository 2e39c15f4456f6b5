//! Feeds, without streams. Numbers are items of the conformance list.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};
use std::time::Duration;

use jiff::SignedDuration;

use super::*;
use crate::serve::testing::{FakeSource, bundle, identity, svid, svid_until};

/// How often a feed's task was woken.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A feed and what it is polled with.
struct Fed {
    feed: Feed,
    encoder: Encoder,
    wakes: Arc<Wakes>,
}

fn open(source: &FakeSource, wanted: SecretRef, style: TrustStyle) -> Feed {
    Feed::open(source, wanted, &identity("web"), style, &mut OwnCertificate::default(), None)
}

impl Fed {
    fn open(source: &FakeSource, wanted: SecretRef, style: TrustStyle) -> Self {
        Self { feed: open(source, wanted, style), encoder: Encoder::default(), wakes: Arc::default() }
    }

    /// The next change; `None` while there is none.
    fn change(&mut self) -> Option<Version> {
        let waker = Waker::from(self.wakes.clone());
        let mut cx = Context::from_waker(&waker);
        match self.feed.poll_change(&self.encoder, Timestamp::UNIX_EPOCH, &mut cx) {
            Poll::Ready(version) => Some(version),
            Poll::Pending => None,
        }
    }

    fn woken(&self) -> usize {
        self.wakes.0.swap(0, Ordering::Relaxed)
    }
}

fn domains(of: &[(&str, &Arc<Bundle>)]) -> Option<Arc<BundleSet>> {
    BundleSet::new(of.iter().map(|(name, bundle)| ((*name).into(), (*bundle).clone())).collect()).map(Arc::new)
}

#[test]
fn items_34_and_89_who_holds_a_newer_leaf_is_not_sent_what_is_there_until_it_is_announced_again() {
    let source = FakeSource::default();
    let svid = Arc::new(svid("web"));
    source.certificate.send_replace(Some(svid.clone()));
    let open = |seconds_later: i64| {
        let not_before = svid.validity().not_before + SignedDuration::from_secs(seconds_later);
        let held = HeldLeaf { not_before, ..HeldLeaf::from(&*svid) };
        let mut fed = Fed::open(&source, SecretRef::Certificate, TrustStyle::TrustedCa);
        let mut own = OwnCertificate::default();
        fed.feed =
            Feed::open(&source, SecretRef::Certificate, &identity("web"), TrustStyle::TrustedCa, &mut own, Some(&held));
        fed
    };
    let version = Some(Version::of_certificate(&svid));
    assert_eq!(open(0).change(), version);
    let mut newer = open(1);
    assert_eq!(newer.change(), None);
    source.certificate.send_modify(|_| {});
    assert_eq!(newer.change(), version);
}

#[test]
fn all_trust_domains_are_pending_until_the_proxys_own_is_known() {
    let source = FakeSource::default();
    let mut all = Fed::open(&source, SecretRef::AllTrustDomains, TrustStyle::SpiffeValidator);
    assert!(!all.feed.is_unknown() && all.feed.kind() == SecretKind::Bundle);
    assert_eq!(all.change(), None);
    let (own, other) = (Arc::new(bundle("own")), Arc::new(bundle("other")));
    source.domains.send_replace(domains(&[("other", &other)]));
    assert_eq!(all.change(), None, "with the others only, it would refuse its own mesh");
    let both = domains(&[("default", &own), ("other", &other)]);
    source.domains.send_replace(both.clone());
    assert_eq!(all.change(), Some(Version::of_bundle_set(&both.unwrap())));
    source.domains.send_replace(None);
    assert_eq!(all.change(), None, "nothing is said of what is gone");
}

#[test]
fn another_meshs_bundle_reaches_who_asked_for_it_and_wakes_nobody_else() {
    let source = FakeSource::default();
    let (own, one, two) = (Arc::new(bundle("own")), Arc::new(bundle("one")), Arc::new(bundle("two")));
    source.bundle.send_replace(Some(own.clone()));
    source.domains.send_replace(domains(&[("default", &own), ("other", &one), ("third", &one)]));
    let open = |wanted| Fed::open(&source, wanted, TrustStyle::SpiffeValidator);
    let mut all = open(SecretRef::AllTrustDomains);
    let mut rootca = open(SecretRef::TrustBundle);
    let mut other = open(SecretRef::TrustDomain("other".into()));
    let mut third = open(SecretRef::TrustDomain("third".into()));
    for fed in [&mut all, &mut rootca, &mut other, &mut third] {
        assert!(fed.change().is_some());
        assert_eq!(fed.change(), None);
        fed.woken();
    }
    let changed = domains(&[("default", &own), ("other", &two), ("third", &one)]);
    source.domains.send_replace(changed.clone());
    assert_eq!(rootca.woken(), 0);
    assert_eq!(rootca.change(), None);
    assert!(all.woken() > 0 && other.woken() > 0);
    assert_eq!(all.change(), Some(Version::of_bundle_set(&changed.unwrap())));
    assert_eq!(other.change(), Some(Version::of_bundle_set(&BundleSet::of_one("other".into(), two))));
    assert_eq!(third.change(), None, "its own has not changed");
}

#[test]
fn items_68_and_70_a_trust_domain_is_pending_if_there_is_such_a_mesh_and_unknown_if_not() {
    let source = FakeSource::default();
    source.pending_domains.lock().unwrap().insert("pending".to_owned());
    let style = TrustStyle::SpiffeValidator;
    let open = |name: &str| Fed::open(&source, SecretRef::TrustDomain(name.into()), style);
    let (mut pending, mut unknown) = (open("pending"), open("unknown"));
    assert!(!pending.feed.is_unknown() && unknown.feed.is_unknown());
    assert!(pending.change().is_none() && unknown.change().is_none());
    let ca = Arc::new(bundle("ca"));
    source.domains.send_replace(domains(&[("pending", &ca), ("unknown", &ca)]));
    assert!(pending.change().is_some() && unknown.change().is_some(), "what comes later is pushed, to both");
    assert!(unknown.feed.is_unknown(), "the answer to the request stands");
}

#[test]
fn without_the_spiffe_validator_it_is_plain_cas() {
    let source = FakeSource::default();
    let (own, other) = (Arc::new(bundle("own")), Arc::new(bundle("other")));
    let both = domains(&[("default", &own), ("other", &other)]);
    source.domains.send_replace(both.clone());
    let mut all = Fed::open(&source, SecretRef::AllTrustDomains, TrustStyle::TrustedCa);
    let mut one = Fed::open(&source, SecretRef::TrustDomain("other".into()), TrustStyle::TrustedCa);
    assert_eq!(all.change(), Some(Version::of_bundle(both.unwrap().union())));
    assert_eq!(one.change(), Some(Version::of_bundle(&other)));
}

#[test]
fn item_99_a_certificate_that_ends_while_it_waits_is_let_go() {
    let (source, encoder) = (FakeSource::default(), Encoder::default());
    let until = Timestamp::from_second(2_000_000_000).unwrap();
    let mut feed = open(&source, SecretRef::Certificate, TrustStyle::SpiffeValidator);
    source.certificate.send_replace(Some(Arc::new(svid_until("web", until))));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(feed.poll_change(&encoder, until, &mut cx).is_ready());
    assert!(!feed.drop_ended(until), "the last moment is within");
    assert!(feed.drop_ended(until + SignedDuration::from_secs(1)));
    assert!(feed.take(&encoder).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_change_back_to_an_encoding_that_is_kept_is_a_change_of_now() {
    let (source, encoder) = (FakeSource::default(), Encoder::default());
    let mut feed = open(&source, SecretRef::TrustBundle, TrustStyle::SpiffeValidator);
    let mut cx = Context::from_waker(Waker::noop());
    let (one, two) = (Arc::new(bundle("one")), Arc::new(bundle("two")));
    for bundle in [&one, &two, &one] {
        source.bundle.send_replace(Some(bundle.clone()));
        assert!(feed.poll_change(&encoder, Timestamp::UNIX_EPOCH, &mut cx).is_ready());
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(feed.take(&encoder).unwrap().since.elapsed(), Duration::from_secs(60));
    }
}

#[test]
fn items_63_and_107_all_names_of_a_stream_share_one_subscription_and_who_said_nothing_needs_a_leaf() {
    let source = FakeSource::default();
    let held = |content: &str| HeldLeaf {
        not_before: Timestamp::UNIX_EPOCH,
        not_after: Timestamp::MAX,
        policy_digest: "policy".into(),
        anchor: "anchor".into(),
        content: content.into(),
    };
    let (one, other) = (held("one"), held("other"));
    let (identity, style) = (identity("web"), TrustStyle::SpiffeValidator);
    let interest = || Arc::strong_count(&source.interest) - 1;
    let mut own = OwnCertificate::default();
    let mut open = |held| Feed::open(&source, SecretRef::Certificate, &identity, style, &mut own, held);
    let reported = vec![open(Some(&one)), open(Some(&one))];
    assert_eq!(interest(), 1);
    let others = vec![open(Some(&other)), open(None), open(Some(&one)), open(None)];
    assert_eq!(interest(), 2);
    assert_eq!(*source.held.lock().unwrap(), [Some(one.clone()), None], "of two leaves one is old");
    drop(reported);
    assert_eq!(interest(), 1);
    let again = open(None);
    drop(others);
    assert_eq!(interest(), 1);
    drop(again);
    assert_eq!(interest(), 0, "the last one ends it");
    drop(open(None));
    assert_eq!((interest(), source.held.lock().unwrap().len()), (0, 3));
}
