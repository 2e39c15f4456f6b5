//! One proxy in the schedule: what it has, what it needs, and where it stands. Pure.

use jiff::{SignedDuration, Timestamp};

use super::resume::Held;
use super::subscribers::{Report, ReportId, Subscribers};
use crate::model::held::HeldLeaf;

/// See the module.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) subscribers: Subscribers,
    pub(super) phase: Phase,
    pub(super) leaf: Leaf,
    pub(super) forget_at: Option<Timestamp>,
    /// In a row.
    pub(super) failures: u32,
    /// Not before this, because it has failed.
    pub(super) backoff: Option<Timestamp>,
    /// Leaves that subscribers hold are replaced then, if they are not due before: somebody wants them replaced.
    pub(super) called_for: Option<Timestamp>,
    /// When those of another policy are replaced, since the first of them was reported.
    pub(super) replace_at: Option<Timestamp>,
    /// When a leaf that was issued here was last given up for a newer one that was issued elsewhere.
    pub(super) given_up: Option<Timestamp>,
    /// It is among those of its mesh that are counted as [`Entry::retries_unserved`].
    pub(super) is_counted: bool,
}

/// The leaf that a proxy has in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaf {
    None,
    /// All its subscribers hold one, the first of which is good until then.
    Held(Timestamp),
    /// It was issued here, and is good until then.
    Issued(Timestamp),
}

impl Leaf {
    pub(super) fn usable_until(self) -> Option<Timestamp> {
        match self {
            Self::None => None,
            Self::Held(until) | Self::Issued(until) => Some(until),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not before this.
    Waiting(Timestamp),
    /// In the queue of its mesh.
    Ready(Turn),
    /// In flight.
    Signing(Flight),
}

impl Phase {
    /// When it has to be looked at, if nothing happens before: it is due, its leaf ends, or it has been in flight for long.
    pub(super) fn wakes_at(self) -> Option<Timestamp> {
        match self {
            Self::Waiting(at) | Self::Ready(Turn::Renewal(at)) | Self::Signing(Flight::Quick { look_at: at, .. }) => {
                Some(at)
            }
            Self::Ready(Turn::Unserved(_)) | Self::Signing(Flight::Slow) => None,
        }
    }
}

/// How a signing counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flight {
    /// It has a turn.
    Quick {
        /// Since when.
        began: Timestamp,
        /// When to see whether it is to give that back.
        look_at: Timestamp,
    },
    /// It has given its turn back.
    Slow,
}

/// The order within a mesh's queue: those without a usable leaf first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Turn {
    /// No leaf that can be served; since when it waits for one.
    Unserved(Timestamp),
    /// A leaf that is good until then.
    Renewal(Timestamp),
}

impl Turn {
    pub(super) fn is_unserved(self) -> bool {
        matches!(self, Self::Unserved(_))
    }
}

impl Entry {
    /// Due now, with nobody there yet.
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            subscribers: Subscribers::default(),
            phase: Phase::Waiting(now),
            leaf: Leaf::None,
            forget_at: None,
            failures: 0,
            backoff: None,
            called_for: None,
            replace_at: None,
            given_up: None,
            is_counted: false,
        }
    }

    /// When it has to be looked at, unless it is to be forgotten at that very moment.
    pub(super) fn wakes_apart(&self) -> Option<Timestamp> {
        self.phase.wakes_at().filter(|at| self.forget_at != Some(*at))
    }

    /// One more subscriber; its report does not count if there is a leaf that was issued here.
    pub(super) fn add(&mut self, report: Option<(ReportId, Report)>) {
        let report = report.filter(|_| !matches!(self.leaf, Leaf::Issued(_)));
        let report = report.map(|(id, report)| match report {
            Report::Good(held) => (id, Report::Good(self.date(held))),
            unjudged @ Report::Unjudged(_) => (id, unjudged),
        });
        self.subscribers.add(report);
    }

    /// Whether its next attempt follows up a failure.
    pub(super) fn is_retrying(&self) -> bool {
        match self.phase {
            Phase::Waiting(due) => self.backoff == Some(due),
            Phase::Ready(_) | Phase::Signing(_) => self.backoff.is_some(),
        }
    }

    /// Whether somebody waits for its certificate who has none, and it is not asked for at the moment because that has failed.
    pub(super) fn retries_unserved(&self, now: Timestamp) -> bool {
        matches!(self.phase, Phase::Waiting(_))
            && self.is_retrying()
            && !self.subscribers.is_empty()
            && self.leaf.usable_until().is_none_or(|until| until <= now)
    }

    /// Returns until when to wait, if that is what it waits for.
    pub(super) fn shorten_backoff(&mut self, by: SignedDuration) -> Option<Timestamp> {
        let waits = matches!(self.phase, Phase::Waiting(_)) && self.is_retrying();
        self.backoff = self.backoff.and_then(|at| at.saturating_sub(by).ok());
        self.backoff.filter(|_| waits)
    }

    /// A leaf of another policy that is reported again and again, because its stream breaks, is not put off again and again.
    fn date(&mut self, mut held: Held) -> Held {
        if held.outdated {
            held.renew_at = held.renew_at.min(*self.replace_at.get_or_insert(held.renew_at));
        }
        held
    }

    /// Judges the reports that could not be judged before; says whether there were any.
    pub(super) fn judge(&mut self, mut judge: impl FnMut(HeldLeaf) -> Option<Held>) -> bool {
        let mut subscribers = std::mem::take(&mut self.subscribers);
        let any = subscribers.judge(|leaf| judge(leaf).map(|held| self.date(held)));
        self.subscribers = subscribers;
        any
    }

    /// The leaves that subscribers hold are to be replaced at `at`, or before if that was said already.
    pub(super) fn call_for(&mut self, at: Timestamp) {
        self.called_for = Some(self.called_for.map_or(at, |called_for| called_for.min(at)));
    }

    /// Forgets what went wrong and what was to be done about the leaf before.
    pub(super) fn reset(&mut self, leaf: Leaf) {
        self.leaf = leaf;
        self.failures = 0;
        (self.backoff, self.called_for, self.replace_at) = (None, None, None);
    }

    /// Goes by what the subscribers need, as long as they have not been given a leaf that was issued here. Returns until when
    /// to wait, if it is not where it should be. Who waits in the queue for want of a leaf keeps its place, and backoff is not
    /// cut short by who comes or goes.
    pub(super) fn settle(&mut self, now: Timestamp) -> Option<Timestamp> {
        if matches!(self.leaf, Leaf::Issued(_)) {
            return None;
        }
        let term = self.subscribers.term();
        self.leaf = term.map_or(Leaf::None, |term| Leaf::Held(term.usable_until));
        if self.subscribers.is_empty() {
            return None;
        }
        let begin = term.map_or(now, |term| self.called_for.map_or(term.renew_at, |at| at.min(term.renew_at)));
        let begin = self.backoff.map_or(begin, |backoff| backoff.max(begin));
        let stays = match self.phase {
            Phase::Signing(_) => true,
            Phase::Ready(Turn::Unserved(_)) => term.is_none_or(|term| term.usable_until <= now),
            Phase::Ready(Turn::Renewal(_)) => term.is_some() && begin <= now,
            Phase::Waiting(due) => due == begin || (term.is_none() && due < begin),
        };
        (!stays).then_some(begin)
    }
}
