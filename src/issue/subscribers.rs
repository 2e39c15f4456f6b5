//! Who is subscribed to one proxy's certificate, and which of them hold a good leaf already. Pure.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;

use super::resume::Held;
use crate::model::held::HeldLeaf;

/// Names a subscription that came with a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReportId(pub(super) u64);

/// A leaf that a subscriber says it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// There is nothing to judge it by yet: the mesh's policy or trust is not known.
    Unjudged(HeldLeaf),
    /// The server stands by it. (One that it does not stand by is as good as none, and is not kept.)
    Good(Held),
}

/// The subscribers of one proxy, of which those count that need a leaf: as long as there is one, a leaf has to be issued,
/// whatever the others say. A report lives as long as its subscription, and no longer than until a leaf is issued.
#[derive(Debug, Default)]
pub struct Subscribers {
    count: usize,
    reports: HashMap<ReportId, Report>,
    good: Good,
}

/// When the leaves that are stood by are due and end, kept beside the reports: it is asked for with everyone who comes or
/// goes, and a proxy may have many subscribers.
#[derive(Debug, Default)]
struct Good {
    count: usize,
    renew_at: BTreeMap<Timestamp, usize>,
    usable_until: BTreeMap<Timestamp, usize>,
}

impl Good {
    fn add(&mut self, held: &Held) {
        self.count += 1;
        *self.renew_at.entry(held.renew_at).or_default() += 1;
        *self.usable_until.entry(held.usable_until).or_default() += 1;
    }

    fn remove(&mut self, held: &Held) {
        self.count = self.count.saturating_sub(1);
        take_one(&mut self.renew_at, held.renew_at);
        take_one(&mut self.usable_until, held.usable_until);
    }
}

fn take_one(counts: &mut BTreeMap<Timestamp, usize>, at: Timestamp) {
    if let Some(count) = counts.get_mut(&at) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&at);
        }
    }
}

/// How long all subscribers can do with what they hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// When the first of their leaves is due.
    pub renew_at: Timestamp,
    /// When the first of them ends.
    pub usable_until: Timestamp,
}

impl Subscribers {
    /// One more.
    pub fn add(&mut self, report: Option<(ReportId, Report)>) {
        self.count += 1;
        if let Some((id, report)) = report {
            if let Report::Good(held) = &report {
                self.good.add(held);
            }
            self.reports.insert(id, report);
        }
    }

    /// One less; `report` is the one that it came with.
    pub fn remove(&mut self, report: Option<ReportId>) {
        self.count = self.count.saturating_sub(1);
        if let Some(Report::Good(held)) = report.and_then(|report| self.reports.remove(&report)) {
            self.good.remove(&held);
        }
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All have been given a leaf: what they held before is of no interest.
    pub fn served(&mut self) {
        self.reports.clear();
        self.good = Good::default();
    }

    /// Judges the reports that could not be judged before; says whether there were any.
    pub fn judge(&mut self, mut judge: impl FnMut(HeldLeaf) -> Option<Held>) -> bool {
        if self.good.count == self.reports.len() {
            return false;
        }
        let good = &mut self.good;
        let reports = std::mem::take(&mut self.reports).into_iter();
        let judged = reports.filter_map(|(id, report)| match report {
            Report::Unjudged(leaf) => {
                let held = judge(leaf)?;
                good.add(&held);
                Some((id, Report::Good(held)))
            }
            good @ Report::Good(_) => Some((id, good)),
        });
        self.reports = judged.collect();
        true
    }

    /// The leaves that are stood by.
    pub fn held(&self) -> impl Iterator<Item = &Held> {
        self.reports.values().filter_map(|report| match report {
            Report::Good(held) => Some(held),
            Report::Unjudged(_) => None,
        })
    }

    /// `None` unless each of them (and there is one) holds a leaf that is stood by.
    pub fn term(&self) -> Option<Term> {
        if self.good.count < self.count {
            return None;
        }
        let (renew_at, _) = self.good.renew_at.first_key_value()?;
        let (usable_until, _) = self.good.usable_until.first_key_value()?;
        Some(Term { renew_at: *renew_at, usable_until: *usable_until })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::certs::timestamp;

    fn held(renew_at: i64, until: i64) -> Held {
        let leaf = HeldLeaf {
            not_before: timestamp(0),
            not_after: timestamp(until),
            policy_digest: "policy".into(),
            anchor: "anchor".into(),
            content: "content".into(),
        };
        Held { leaf, renew_at: timestamp(renew_at), usable_until: timestamp(until), outdated: false }
    }

    fn term(renew_at: i64, until: i64) -> Option<Term> {
        Some(Term { renew_at: timestamp(renew_at), usable_until: timestamp(until) })
    }

    #[test]
    fn the_first_renewal_of_those_who_are_there_counts() {
        let mut subscribers = Subscribers::default();
        assert_eq!(subscribers.term(), None);
        for (id, renew_at, until) in [(1, 60, 90), (2, 50, 100)] {
            subscribers.add(Some((ReportId(id), Report::Good(held(renew_at, until)))));
        }
        assert_eq!(subscribers.term(), term(50, 90));
        subscribers.remove(Some(ReportId(2)));
        assert_eq!(subscribers.term(), term(60, 90));
        subscribers.add(None);
        assert_eq!(subscribers.term(), None, "one needs a leaf");
        subscribers.remove(None);
        assert_eq!(subscribers.term(), term(60, 90));
        subscribers.served();
        assert_eq!(subscribers.term(), None);
        subscribers.remove(Some(ReportId(1)));
        assert!(subscribers.is_empty());
    }

    #[test]
    fn what_was_not_judged_is_judged_once_and_dropped_if_it_is_not_stood_by() {
        let mut subscribers = Subscribers::default();
        subscribers.add(Some((ReportId(1), Report::Unjudged(held(60, 90).leaf))));
        subscribers.add(Some((ReportId(2), Report::Unjudged(held(60, 80).leaf))));
        assert_eq!(subscribers.term(), None);
        let stands_by_the_longer = |leaf: HeldLeaf| (leaf.not_after == timestamp(90)).then(|| held(60, 90));
        assert!(subscribers.judge(stands_by_the_longer));
        assert!(!subscribers.judge(|_| unreachable!("all are judged")));
        assert_eq!(subscribers.term(), None);
        subscribers.remove(Some(ReportId(2)));
        assert_eq!(subscribers.term(), term(60, 90));
    }

    #[test]
    fn what_is_counted_is_what_is_there() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut subscribers = Subscribers::default();
        let mut there: Vec<Option<ReportId>> = Vec::new();
        for id in 0..2_000 {
            match random.u8(..6) {
                0 => {
                    subscribers.judge(|leaf| random.bool().then(|| held(random.i64(0..9), leaf.not_after.as_second())));
                }
                1 if id % 40 == 0 => subscribers.served(),
                1 | 2 if !there.is_empty() => subscribers.remove(there.swap_remove(random.usize(..there.len()))),
                kind => {
                    let held = held(random.i64(0..9), random.i64(10..20));
                    let report = match kind {
                        3 => Some(Report::Good(held)),
                        4 => Some(Report::Unjudged(held.leaf)),
                        _ => None,
                    };
                    there.push(report.is_some().then_some(ReportId(id)));
                    subscribers.add(report.map(|report| (ReportId(id), report)));
                }
            }
            let good = subscribers.held().count();
            assert_eq!((subscribers.count, subscribers.good.count), (there.len(), good));
            let first = |at: fn(&Held) -> Timestamp| subscribers.held().map(at).min();
            let first_of = |counts: &BTreeMap<Timestamp, usize>| counts.first_key_value().map(|(at, _)| *at);
            assert_eq!(first_of(&subscribers.good.renew_at), first(|held| held.renew_at));
            assert_eq!(first_of(&subscribers.good.usable_until), first(|held| held.usable_until));
        }
    }
}
