//! When to renew, and when to try again. Pure functions.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::model::svid::Svid;

/// A leaf is renewed when between 60 % and 73 % of its life is over: two thirds, give or take a tenth, so that leaves
/// issued together are not renewed together.
const EARLIEST: f64 = 2.0 / 3.0 * 0.9;
const SPREAD: f64 = 2.0 / 3.0 * 0.2;

/// A CA that is about to end itself, or a clock that is far off, makes leaves with no life left: not asked again at once.
const AT_LEAST: SignedDuration = SignedDuration::from_secs(1);

/// What a leaf's renewal is dated by.
#[derive(Debug, Clone, Copy)]
pub struct Life<'a> {
    /// Begin of its use: when it was received, or of its validity where that is not known or later.
    pub begins: Timestamp,
    /// End of its use: of the first certificate of the chain that ends, the anchor included, because nobody accepts the leaf
    /// after that.
    pub ends: Timestamp,
    /// Which leaf it is: [`Svid::content_digest`].
    pub content: &'a str,
}

/// When to renew a leaf.
///
/// It goes by the real validity, not by the lifetime asked for: a CA may shorten (or lengthen) it. Where in the spread it
/// falls is the leaf's own matter, not chance: a server that has just started, and another replica, find the same time again
/// for a leaf that a proxy reports, instead of drawing until it is early.
pub fn renew_at(life: Life<'_>) -> Timestamp {
    let lasts = life.ends.duration_since(life.begins).max(SignedDuration::ZERO);
    let after = lasts.mul_f64(EARLIEST + SPREAD * place(life.content)).max(AT_LEAST);
    life.begins.saturating_add(after).unwrap_or(life.ends)
}

/// When to renew a leaf that was received at `received`.
pub fn renew_issued_at(svid: &Svid, received: Timestamp) -> Timestamp {
    // CAs date their leaves back (Vault by 30 s, the builtin CA too): that part of the life is over at birth.
    let begins = svid.validity().not_before.max(received);
    renew_at(Life { begins, ends: svid.usable_until(), content: &svid.content_digest() })
}

/// A digest in hex as a number between 0 and 1, evenly spread.
pub(super) fn place(digest: &str) -> f64 {
    let digits = digest.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    digits.map_or(0.5, |number| f64::from(number) / f64::from(u32::MAX))
}

/// How a failed attempt is followed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// The CA is away: it is asked again soon, as asking costs it nothing.
    Away,
    /// The CA said no, or answered with something unusable: each further request may cost money or alarm somebody.
    Refused,
    /// It will not go well before somebody changes the configuration.
    Hopeless,
}

impl Patience {
    fn bounds(self) -> (Duration, Duration) {
        match self {
            Self::Away => (Duration::from_secs(1), Duration::from_secs(30)),
            Self::Refused => (Duration::from_secs(5), Duration::from_secs(300)),
            Self::Hopeless => (Duration::from_secs(30), Duration::from_secs(600)),
        }
    }
}

/// How long to wait after the `failures`-th failure in a row (from 1): doubling, with full jitter on the upper half, and
/// never longer than a quarter of what is left of the leaf in use, so that an outage near its end costs as little as can be.
pub fn retry_after(patience: Patience, failures: u32, left: Option<Duration>, chance: f64) -> Duration {
    let (first, most) = patience.bounds();
    let doubled = first.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX)).min(most);
    let jittered = doubled.mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0));
    match left {
        Some(left) if !left.is_zero() => jittered.min((left / 4).max(Duration::from_millis(500))),
        _ => jittered,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::issue::verify::tests::svid_with;

    const T0: i64 = 1_800_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(T0 + second).unwrap()
    }

    const FIRST: &str = "0000000000000000";
    const MIDDLE: &str = "8000000000000000";
    const LAST: &str = "ffffffffffffffff";

    #[test]
    fn renews_at_two_thirds_give_or_take_a_tenth() {
        // begin and end of use, digest -> due
        for (begins, ends, content, due) in [
            (0, 86_400, FIRST, 51_840),
            (0, 86_400, MIDDLE, 57_600),
            (0, 86_400, LAST, 63_360),
            (0, 3_600, MIDDLE, 2_400),
            (-30, 60, MIDDLE, 30),
            (0, 86_400, "no digest", 57_600),
        ] {
            let got = renew_at(Life { begins: at(begins), ends: at(ends), content }).as_second() - T0;
            assert!((got - due).abs() <= 1, "{begins} {ends} {content}: {got}, expected {due}");
        }
    }

    #[test]
    fn a_leaf_that_was_issued_lives_from_its_receipt_to_the_end_of_its_chain() {
        // leaf validity, anchor's end -> begin and end of use
        for (leaf, anchor_ends, life) in [
            ((0, 86_400), 10_000_000, (0, 86_400)),
            // the CA ends first: so does the leaf's use
            ((0, 86_400), 3_600, (0, 3_600)),
            // dated back: what counts is what is left
            ((-30, 10), 10_000_000, (0, 10)),
        ] {
            let svid = svid_with((at(leaf.0), at(leaf.1)), at(anchor_ends));
            let content = svid.content_digest();
            let expected = renew_at(Life { begins: at(life.0), ends: at(life.1), content: &content });
            assert_eq!(renew_issued_at(&svid, at(0)), expected);
            assert_eq!(renew_issued_at(&svid, at(0)), expected, "it is not drawn anew");
        }
    }

    #[test]
    fn backs_off_by_doubling_up_to_a_bound() {
        let seconds = |failures| retry_after(Patience::Refused, failures, None, 1.0).as_secs();
        assert_eq!([1, 2, 3, 7, 100].map(seconds), [5, 10, 20, 300, 300]);
        assert_eq!(retry_after(Patience::Away, 100, None, 1.0).as_secs(), 30);
    }

    #[test]
    fn hurries_when_the_leaf_in_use_is_about_to_end() {
        let left = Duration::from_secs(40);
        assert_eq!(retry_after(Patience::Refused, 10, Some(left), 1.0).as_secs(), 10);
    }

    proptest! {
        #[test]
        fn renewal_is_after_receipt_and_before_the_end(life in 5_i64..100_000_000, content in "[0-9a-f]{16}") {
            let due = renew_at(Life { begins: at(0), ends: at(life), content: &content });
            prop_assert!(at(0) < due && due < at(life));
        }

        #[test]
        fn retries_stay_within_their_bounds(failures in 1_u32..1_000, chance in 0.0..1.0_f64, left in proptest::option::of(0_u64..1_000_000)) {
            let delay = retry_after(Patience::Refused, failures, left.map(Duration::from_secs), chance);
            prop_assert!(delay <= Duration::from_secs(300));
            prop_assert!(delay >= Duration::from_millis(250));
        }
    }
}
