//! Who is subscribed to one proxy's certificate, and which of them hold a good leaf already. Pure.

use std::collections::HashMap;

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
        self.reports.extend(report);
    }

    /// One less; `report` is the one that it came with.
    pub fn remove(&mut self, report: Option<ReportId>) {
        self.count = self.count.saturating_sub(1);
        if let Some(report) = report {
            self.reports.remove(&report);
        }
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All have been given a leaf: what they held before is of no interest.
    pub fn served(&mut self) {
        self.reports.clear();
    }

    /// Judges the reports that could not be judged before; says whether there were any.
    pub fn judge(&mut self, mut judge: impl FnMut(HeldLeaf) -> Option<Held>) -> bool {
        let is_unjudged = |report: &Report| matches!(report, Report::Unjudged(_));
        if !self.reports.values().any(is_unjudged) {
            return false;
        }
        let reports = std::mem::take(&mut self.reports).into_iter();
        let judged = reports.filter_map(|(id, report)| match report {
            Report::Unjudged(leaf) => judge(leaf).map(|held| (id, Report::Good(held))),
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
        if self.held().count() < self.count {
            return None;
        }
        let terms = self.held().map(|held| Term { renew_at: held.renew_at, usable_until: held.usable_until });
        terms.reduce(|one, other| Term {
            renew_at: one.renew_at.min(other.renew_at),
            usable_until: one.usable_until.min(other.usable_until),
        })
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
}
