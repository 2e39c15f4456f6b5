//! Does this server stand by the leaf that a proxy says it holds? Then a server that has lost the key, or never had it, need
//! not issue another one: the proxy goes on with what it has, and is renewed when that is due. Pure functions.
//!
//! A report is the proxy's word (see [`HeldLeaf`]) and is judged for that proxy alone: believing a lie leaves the liar without a
//! leaf that it could have had, and nobody else.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::renewal::{Life, place, renew_at};
use crate::model::bundle::Bundle;
use crate::model::certificate::Validity;
use crate::model::held::HeldLeaf;

/// How far ahead the clock of the replica that took the leaf over may be; as much as is tolerated of a CA.
const SKEW: SignedDuration = SignedDuration::from_secs(60);

/// A leaf of another policy is replaced no sooner than this: the new policy may have brought a new CA, and peers that have
/// lost their server as well take up to 30 s (Envoy's longest backoff) to come back and get it.
const PEERS_RETURN: SignedDuration = SignedDuration::from_secs(40);

/// Thousands come back at once; those whose leaf is of another policy are replaced within this.
const REPLACED_WITHIN: SignedDuration = SignedDuration::from_secs(20);

/// A leaf that a proxy holds and this server stands by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// As it was reported.
    pub leaf: HeldLeaf,
    /// When it is due for renewal, or to be replaced if it is `outdated`; may be over.
    pub renew_at: Timestamp,
    /// Until when peers accept it.
    pub usable_until: Timestamp,
    /// Peers accept it, but it was issued for another identity or under another policy than this server's when it was
    /// reported.
    pub outdated: bool,
}

/// Why a reported leaf is not stood by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// Its peers would refuse it.
    #[error("its CA is not in the mesh's trust bundle")]
    UnknownCa,
    /// It is over, or its CA is.
    #[error("it has ended")]
    Ended,
    /// No CA of this mesh would have made it.
    #[error("nobody is given a leaf with this validity")]
    Implausible,
}

/// The CAs of a trust bundle by the digest that versions name them by.
#[derive(Debug)]
pub struct Anchors {
    cas: HashMap<String, Validity>,
    bundle: Arc<str>,
}

impl Anchors {
    /// Those of `bundle`.
    pub fn new(bundle: &Bundle) -> Self {
        let cas = bundle.certificates().iter().map(|ca| (ca.short_digest(), ca.validity())).collect();
        Self { cas, bundle: bundle.full_digest().clone() }
    }

    /// Whether they are those of `bundle`.
    pub fn are_of(&self, bundle: &Bundle) -> bool {
        self.bundle == *bundle.full_digest()
    }

    /// Whether the CA of `leaf` is one of them.
    pub fn have_anchor_of(&self, leaf: &HeldLeaf) -> bool {
        self.cas.contains_key(&*leaf.anchor)
    }
}

/// What reported leaves are measured by.
#[derive(Debug, Clone, Copy)]
pub struct Standard<'a> {
    /// Digest of what this proxy would be issued a leaf for now.
    pub policy_digest: &'a str,
    /// What is being served as the mesh's trust.
    pub anchors: &'a Anchors,
}

impl Standard<'_> {
    /// Judges a reported leaf at `now`.
    ///
    /// A leaf that its peers accept is not taken from a proxy in a hurry, also where the policy is another now. How long it
    /// lives is its CA's matter, not the policy's: there are issuers that ignore what they are asked for. It is plausible if it
    /// ends no later than its CA, which is how versions are written ([`HeldLeaf::not_after`]).
    ///
    /// # Errors
    /// [`Doubt`]: the first thing that is wrong.
    pub fn judge(&self, leaf: HeldLeaf, now: Timestamp) -> Result<Held, Doubt> {
        let anchor = self.anchors.cas.get(&*leaf.anchor).ok_or(Doubt::UnknownCa)?;
        let usable_until = leaf.not_after.min(anchor.not_after);
        if usable_until <= now {
            return Err(Doubt::Ended);
        }
        let begins_late = leaf.not_before.duration_since(now) > SKEW || leaf.not_before >= leaf.not_after;
        if begins_late || leaf.not_after > anchor.not_after {
            return Err(Doubt::Implausible);
        }
        // When it was received is not known; the begin of its validity is before that by what the CA dates back, so that it is
        // renewed a little early rather than late.
        let due = renew_at(Life { begins: leaf.not_before, ends: usable_until, content: &leaf.content });
        let outdated = *leaf.policy_digest != *self.policy_digest;
        let renew_at = if outdated { due.min(replace_at(&leaf, now)) } else { due };
        Ok(Held { leaf, renew_at, usable_until, outdated })
    }
}

/// When a leaf of another policy that is reported at `now` is replaced, if it is not due before.
fn replace_at(leaf: &HeldLeaf, now: Timestamp) -> Timestamp {
    let wait = PEERS_RETURN.saturating_add(REPLACED_WITHIN.mul_f64(place(&leaf.content)));
    now.saturating_add(wait).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::issue::renewal::renew_issued_at;
    use crate::issue::verify::tests::svid_with;
    use crate::testing::certs::{TestCa, timestamp};

    const NOW: i64 = 1_800_000_000;
    const DAY: i64 = 86_400;

    fn leaf(ca: &TestCa, from: i64, until: i64) -> HeldLeaf {
        HeldLeaf {
            not_before: timestamp(NOW + from),
            not_after: timestamp(NOW + until),
            policy_digest: "policy".into(),
            anchor: ca.certificate().short_digest().into(),
            content: "8000000000000000".into(),
        }
    }

    fn judge(ca: &TestCa, leaf: HeldLeaf) -> Result<Held, Doubt> {
        Standard { policy_digest: "policy", anchors: &Anchors::new(&ca.bundle()) }.judge(leaf, timestamp(NOW))
    }

    #[test]
    fn what_would_be_issued_now_is_stood_by_and_dated_from_its_validity() {
        let ca = TestCa::root_until("CA", timestamp(NOW + 2 * DAY));
        let held = judge(&ca, leaf(&ca, -3_600, DAY - 3_600)).unwrap();
        assert!(!held.outdated);
        assert_eq!(held.usable_until, timestamp(NOW + DAY - 3_600));
        assert_eq!(held.renew_at.as_second(), NOW - 3_600 + DAY * 2 / 3);
        let overdue = judge(&ca, leaf(&ca, 60 - DAY, 60)).unwrap();
        assert!(overdue.renew_at < timestamp(NOW), "it is due, and good until it is replaced");
    }

    #[test]
    fn a_leaf_that_its_peers_refuse_or_that_nobody_would_make_is_not_stood_by() {
        let ca = TestCa::root_until("CA", timestamp(NOW + 1_000 * DAY));
        let other = TestCa::root("CA").certificate().short_digest().into();
        for (expected, leaf) in [
            (Doubt::UnknownCa, HeldLeaf { anchor: other, ..leaf(&ca, 0, DAY) }),
            (Doubt::UnknownCa, HeldLeaf { anchor: "".into(), ..leaf(&ca, 0, DAY) }),
            (Doubt::Ended, leaf(&ca, -DAY, 0)),
            (Doubt::Ended, leaf(&ca, -DAY, -1)),
            (Doubt::Implausible, leaf(&ca, 61, DAY)),
            (Doubt::Implausible, leaf(&ca, 30, 30)),
            (Doubt::Implausible, leaf(&ca, 0, 1_000 * DAY + 1)),
        ] {
            assert_eq!(judge(&ca, leaf.clone()), Err(expected), "{leaf:?}");
        }
    }

    #[test]
    fn a_leaf_whose_intermediate_ends_first_is_renewed_when_the_server_that_issued_it_would_have() {
        let root = TestCa::root_until("Root", timestamp(NOW + 1_000 * DAY));
        let mut svid = svid_with((timestamp(NOW), timestamp(NOW + 90 * DAY)), timestamp(NOW + 1_000 * DAY));
        svid.anchor = root.certificate().clone();
        let issuing = TestCa::root_until("Issuing", timestamp(NOW + 20 * DAY));
        svid.intermediates.push(issuing.certificate().clone());
        let reported = HeldLeaf { policy_digest: "policy".into(), ..HeldLeaf::from(&svid) };
        let held = judge(&root, reported).unwrap();
        assert_eq!(held.usable_until, svid.usable_until());
        assert_eq!(held.usable_until, timestamp(NOW + 20 * DAY));
        assert_eq!(held.renew_at, renew_issued_at(&svid, timestamp(NOW)));
    }

    #[test]
    fn how_long_it_lives_is_its_cas_matter() {
        let ca = TestCa::root_until("CA", timestamp(NOW + 1_000 * DAY));
        // Dated back, of an issuer that gives 90 days whatever it is asked for, and as long as the CA itself.
        for (from, until) in [(60, DAY), (-3 * DAY, DAY), (0, 90 * DAY), (-DAY, 1_000 * DAY)] {
            assert!(judge(&ca, leaf(&ca, from, until)).is_ok(), "{from} to {until}");
        }
    }

    #[test]
    fn a_leaf_of_another_policy_is_replaced_when_peers_had_time_to_come_back_or_when_it_is_due() {
        let ca = TestCa::root("CA");
        let outdated = |from, until| HeldLeaf { policy_digest: "other".into(), ..leaf(&ca, from, until) };
        let held = judge(&ca, outdated(0, DAY)).unwrap();
        assert!(held.outdated);
        assert_eq!((held.renew_at.as_second(), held.usable_until), (NOW + 50, timestamp(NOW + DAY)));
        let last = HeldLeaf { content: "ffffffffffffffff".into(), ..outdated(0, DAY) };
        assert_eq!(judge(&ca, last).unwrap().renew_at.as_second(), NOW + 60);
        assert_eq!(judge(&ca, outdated(-180, 120)).unwrap().renew_at.as_second(), NOW + 20, "it is due before");
        assert_eq!(judge(&ca, outdated(-DAY, 0)), Err(Doubt::Ended));
    }

    #[test]
    fn a_ca_that_is_over_makes_no_leaf_good() {
        let ca = TestCa::root_until("CA", timestamp(NOW - 1));
        assert_eq!(judge(&ca, leaf(&ca, 0, DAY)), Err(Doubt::Ended));
    }
}
