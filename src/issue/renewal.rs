//! When to renew, and when to try again. Pure functions of time and chance.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::model::svid::Svid;

/// A leaf is renewed when between 60 % and 73 % of its life is over: two thirds, give or take a tenth, so that leaves
/// issued together are not renewed together.
const EARLIEST: f64 = 2.0 / 3.0 * 0.9;
const SPREAD: f64 = 2.0 / 3.0 * 0.2;

/// A CA that is about to end itself, or a clock that is far off, makes leaves with no life left: not asked again at once.
const AT_LEAST: SignedDuration = SignedDuration::from_secs(1);

/// When to renew `svid`, received at `received`. `chance` is between 0 and 1.
///
/// It goes by the real validity, not by the lifetime asked for: a CA may shorten (or lengthen) it. The life ends with the
/// first certificate of the chain that ends, the anchor included, because nobody accepts the leaf after that.
pub fn renew_at(svid: &Svid, received: Timestamp, chance: f64) -> Timestamp {
    // CAs date their leaves back (Vault by 30 s, the builtin CA too): that part of the life is over at birth.
    let begins = svid.validity().not_before.max(received);
    let ends = svid.usable_until();
    let life = ends.duration_since(begins).max(SignedDuration::ZERO);
    let after = life.mul_f64(EARLIEST + SPREAD * chance.clamp(0.0, 1.0)).max(AT_LEAST);
    begins.saturating_add(after).unwrap_or(ends)
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

    #[test]
    fn renews_at_two_thirds_give_or_take_a_tenth() {
        // leaf validity, anchor's end, received, chance -> due
        for (leaf, anchor_ends, received, chance, due) in [
            ((0, 86_400), 10_000_000, 0, 0.0, 51_840),
            ((0, 86_400), 10_000_000, 0, 0.5, 57_600),
            ((0, 86_400), 10_000_000, 0, 1.0, 63_360),
            // the CA ends first: so does the leaf's use
            ((0, 86_400), 3_600, 0, 0.5, 2_400),
            // dated back: what counts is what is left
            ((-30, 10), 10_000_000, 0, 0.5, 6),
            ((-300, 86_400), 10_000_000, 0, 0.5, 57_600),
        ] {
            let svid = svid_with((at(leaf.0), at(leaf.1)), at(anchor_ends));
            let got = renew_at(&svid, at(received), chance).as_second() - T0;
            assert!((got - due).abs() <= 1, "{leaf:?} {anchor_ends} {chance}: {got}, expected {due}");
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
        fn renewal_is_after_receipt_and_before_the_end(life in 5_i64..100_000_000, back in 0_i64..3_600, chance in 0.0..1.0_f64) {
            let svid = svid_with((at(-back), at(life)), at(200_000_000));
            let due = renew_at(&svid, at(0), chance);
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
