//! Does this server stand by the leaf that a proxy says it holds? Then a server that has lost the key, or never had it, need
//! not issue another one: the proxy goes on with what it has, and is renewed when that is due. Pure functions.
//!
//! A report is the proxy's word (see [`HeldLeaf`]) and is judged for that proxy alone: believing a lie leaves the liar without a
//! leaf that it could have had, and nobody else.

use std::collections::HashMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::renewal::{Life, renew_at};
use crate::model::bundle::Bundle;
use crate::model::certificate::Validity;
use crate::model::held::HeldLeaf;

/// How far ahead the clock of the replica that took the leaf over may be; as much as is tolerated of a CA.
const SKEW: SignedDuration = SignedDuration::from_secs(60);

/// What CAs add to the lifetime asked for, by dating back and by rounding up to whole hours or days.
const ROUNDING: SignedDuration = SignedDuration::from_hours(24);

/// A leaf that a proxy holds and this server stands by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// As it was reported.
    pub leaf: HeldLeaf,
    /// When it is due for renewal; may be over.
    pub renew_at: Timestamp,
    /// Until when peers accept it. An intermediate that ends before the leaf does is not in the report, and not counted.
    pub usable_until: Timestamp,
}

/// Why a reported leaf is not stood by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// It is not what would be issued to this proxy now.
    #[error("it was issued for another identity or under another policy")]
    OtherPolicy,
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
#[derive(Debug, Default)]
pub struct Anchors(HashMap<String, Validity>);

impl Anchors {
    /// Those of `bundle`.
    pub fn new(bundle: &Bundle) -> Self {
        Self(bundle.certificates().iter().map(|ca| (ca.short_digest(), ca.validity())).collect())
    }

    /// Whether the CA of `leaf` is one of them.
    pub fn have_anchor_of(&self, leaf: &HeldLeaf) -> bool {
        self.0.contains_key(&*leaf.anchor)
    }
}

/// What reported leaves are measured by.
#[derive(Debug, Clone, Copy)]
pub struct Standard<'a> {
    /// Digest of what this proxy would be issued a leaf for now.
    pub policy_digest: &'a str,
    /// The lifetime that is asked for; `None` leaves it to the CA.
    pub lifetime: Option<Duration>,
    /// What is being served as the mesh's trust.
    pub anchors: &'a Anchors,
}

impl Standard<'_> {
    /// Judges a reported leaf at `now`.
    ///
    /// Its lifetime is plausible if it is no longer than twice the one asked for and a day (CAs date back and round up), or,
    /// where none is asked for, than its CA's own. Whoever really has a longer one is issued another: that is all.
    ///
    /// # Errors
    /// [`Doubt`]: the first thing that is wrong.
    pub fn judge(&self, leaf: HeldLeaf, now: Timestamp) -> Result<Held, Doubt> {
        if *leaf.policy_digest != *self.policy_digest {
            return Err(Doubt::OtherPolicy);
        }
        let anchor = self.anchors.0.get(&*leaf.anchor).ok_or(Doubt::UnknownCa)?;
        let usable_until = leaf.not_after.min(anchor.not_after);
        if usable_until <= now {
            return Err(Doubt::Ended);
        }
        let lasts = leaf.not_after.duration_since(leaf.not_before);
        let longest = match self.lifetime.and_then(|asked| SignedDuration::try_from(asked).ok()) {
            Some(asked) => asked.saturating_mul(2).saturating_add(ROUNDING),
            None => anchor.not_after.duration_since(anchor.not_before),
        };
        if leaf.not_before.duration_since(now) > SKEW || !lasts.is_positive() || lasts > longest {
            return Err(Doubt::Implausible);
        }
        // When it was received is not known; the begin of its validity is before that by what the CA dates back, so that it is
        // renewed a little early rather than late.
        let renew_at = renew_at(Life { begins: leaf.not_before, ends: usable_until, content: &leaf.content });
        Ok(Held { leaf, renew_at, usable_until })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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

    fn judge(ca: &TestCa, lifetime: Option<i64>, leaf: HeldLeaf) -> Result<Held, Doubt> {
        let anchors = Anchors::new(&ca.bundle());
        let lifetime = lifetime.map(|seconds| Duration::from_secs(seconds.unsigned_abs()));
        Standard { policy_digest: "policy", lifetime, anchors: &anchors }.judge(leaf, timestamp(NOW))
    }

    #[test]
    fn what_would_be_issued_now_is_stood_by_and_dated_from_its_validity() {
        let ca = TestCa::root_until("CA", timestamp(NOW + 2 * DAY));
        let held = judge(&ca, Some(DAY), leaf(&ca, -3_600, DAY - 3_600)).unwrap();
        assert_eq!(held.usable_until, timestamp(NOW + DAY - 3_600));
        assert_eq!(held.renew_at.as_second(), NOW - 3_600 + DAY * 2 / 3);
        let outlives_its_ca = judge(&ca, Some(3 * DAY), leaf(&ca, -DAY, 3 * DAY)).unwrap();
        assert_eq!(outlives_its_ca.usable_until, timestamp(NOW + 2 * DAY));
        assert_eq!(outlives_its_ca.renew_at.as_second(), NOW + DAY);
        let overdue = judge(&ca, Some(DAY), leaf(&ca, 60 - DAY, 60)).unwrap();
        assert!(overdue.renew_at < timestamp(NOW), "it is due, and good until it is replaced");
    }

    #[test]
    fn a_leaf_that_is_not_what_would_be_issued_now_is_not_stood_by() {
        let ca = TestCa::root_until("CA", timestamp(NOW + 1_000 * DAY));
        let good = || leaf(&ca, 0, DAY);
        let other = TestCa::root("CA").certificate().short_digest().into();
        for (expected, lifetime, leaf) in [
            (Doubt::OtherPolicy, Some(DAY), HeldLeaf { policy_digest: "other".into(), ..good() }),
            (Doubt::UnknownCa, Some(DAY), HeldLeaf { anchor: other, ..good() }),
            (Doubt::UnknownCa, Some(DAY), HeldLeaf { anchor: "".into(), ..good() }),
            (Doubt::Ended, Some(DAY), leaf(&ca, -DAY, 0)),
            (Doubt::Ended, Some(DAY), leaf(&ca, -DAY, -1)),
            (Doubt::Implausible, Some(DAY), leaf(&ca, 61, DAY)),
            (Doubt::Implausible, Some(DAY), leaf(&ca, 0, 3 * DAY + 1)),
            (Doubt::Implausible, None, leaf(&ca, 0, 1_000_000 * DAY)),
            (Doubt::Implausible, Some(DAY), leaf(&ca, 30, 30)),
        ] {
            assert_eq!(judge(&ca, lifetime, leaf.clone()), Err(expected), "{leaf:?}");
        }
        for (lifetime, leaf) in
            [(Some(DAY), leaf(&ca, 60, DAY)), (Some(DAY), leaf(&ca, 0, 3 * DAY)), (None, leaf(&ca, 0, 90 * DAY))]
        {
            assert!(judge(&ca, lifetime, leaf.clone()).is_ok(), "{leaf:?}");
        }
    }

    #[test]
    fn a_ca_that_is_over_makes_no_leaf_good() {
        let ca = TestCa::root_until("CA", timestamp(NOW - 1));
        assert_eq!(judge(&ca, Some(DAY), leaf(&ca, 0, DAY)), Err(Doubt::Ended));
    }
}
