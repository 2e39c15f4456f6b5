//! The schedule where subscribers hold leaves that the server stands by.

use super::*;
use crate::issue::subscribers::{Report, ReportId};

fn leaf(until: Timestamp) -> HeldLeaf {
    HeldLeaf {
        not_before: at(0),
        not_after: until,
        policy_digest: "policy".into(),
        anchor: "anchor".into(),
        content: "content".into(),
    }
}

pub(super) fn good(id: u64, due: i64, until: i64) -> Option<(ReportId, Report)> {
    let held = Held { leaf: leaf(at(until)), renew_at: at(due), usable_until: at(until), outdated: false };
    Some((ReportId(id), Report::Good(held)))
}

fn id(id: u64) -> Option<ReportId> {
    Some(ReportId(id))
}

#[test]
fn a_held_leaf_is_renewed_when_due_and_counts_as_a_leaf() {
    let mut schedule = opened(1);
    schedule.wanted(&key("a"), good(1, 60, 90), at(0));
    assert_eq!(schedule.steps(at(59)), []);
    assert_eq!((schedule.held_until(&key("a")), schedule.due(&key("a"))), (Some(at(90)), Some(at(60))));
    schedule.wanted(&key("b"), None, at(60));
    assert_eq!(schedule.steps(at(60)), [sign("b")], "who has none goes first");
    schedule.issued(&key("b"), at(1_000), at(2_000));
    assert_eq!(schedule.steps(at(60)), [sign("a")]);
    let next = schedule.failed(&key("a"), at(70), |failures, left| {
        assert_eq!((failures, left), (1, Some(Duration::from_secs(20))));
        Duration::from_secs(3)
    });
    assert_eq!(next, Some(at(73)));
}

#[test]
fn who_needs_a_leaf_ends_the_wait_and_who_leaves_begins_it_again() {
    let mut schedule = opened(1);
    schedule.wanted(&key("a"), good(1, 60, 90), at(0));
    assert_eq!(schedule.steps(at(0)), []);
    schedule.wanted(&key("a"), None, at(10));
    schedule.unwanted(&key("a"), None, at(10));
    assert_eq!(schedule.steps(at(10)), [], "it was gone before anything was done");
    schedule.wanted(&key("a"), None, at(20));
    assert_eq!(schedule.steps(at(20)), [sign("a")]);
    assert_eq!(schedule.held_until(&key("a")), None);
    schedule.issued(&key("a"), at(80), at(110));
    schedule.wanted(&key("a"), good(2, 30, 50), at(20));
    assert_eq!(schedule.steps(at(79)), [], "it is given what was issued, so that its report does not matter");
    assert_eq!(schedule.steps(at(80)), [sign("a")]);
}

#[test]
fn backoff_is_not_cut_short_by_who_comes_or_goes() {
    let mut schedule = opened(1);
    schedule.wanted(&key("a"), good(1, 0, 90), at(0));
    assert_eq!(schedule.steps(at(0)), [sign("a")]);
    schedule.failed(&key("a"), at(0), |_, _| Duration::from_secs(30));
    for (report, gone) in [(good(2, 0, 90), id(2)), (None, None)] {
        schedule.wanted(&key("a"), report, at(5));
        assert_eq!(schedule.steps(at(5)), []);
        schedule.unwanted(&key("a"), gone, at(6));
        assert_eq!(schedule.steps(at(6)), []);
    }
    assert_eq!(schedule.steps(at(30)), [sign("a")]);
}

#[test]
fn who_needed_a_leaf_and_left_is_not_asked_for_again_after_a_failure() {
    let mut schedule = opened(1);
    schedule.wanted(&key("a"), good(1, 60, 90), at(0));
    schedule.wanted(&key("a"), None, at(0));
    assert_eq!(schedule.steps(at(0)), [sign("a")]);
    schedule.unwanted(&key("a"), None, at(1));
    assert_eq!(schedule.failed(&key("a"), at(1), |_, _| Duration::from_secs(5)), Some(at(60)));
    assert_eq!(schedule.steps(at(59)), []);
}

#[test]
fn a_report_outlives_neither_its_stream_nor_a_leaf_that_was_issued() {
    let mut schedule = opened(1);
    schedule.wanted(&key("a"), good(1, 60, 90), at(0));
    schedule.unwanted(&key("a"), id(1), at(1));
    assert_eq!(schedule.held(&key("a")).count(), 0);
    schedule.wanted(&key("a"), good(2, 60, 90), at(2));
    schedule.wanted(&key("a"), None, at(2));
    assert_eq!(schedule.steps(at(2)), [sign("a")]);
    schedule.issued(&key("a"), at(1_000), at(2_000));
    assert_eq!(schedule.held(&key("a")).count(), 0);
    schedule.unwanted(&key("a"), id(2), at(3));
    schedule.unwanted(&key("a"), None, at(3));
    assert_eq!(schedule.steps(at(603)), [Step::Forget(key("a"))]);
    assert_eq!(schedule.wake_at(), None);
}

#[test]
fn reports_wait_for_their_mesh_and_are_judged_before_it_signs() {
    let mut schedule = Schedule::new(8);
    for (name, number) in [("good", 1), ("bad", 2)] {
        schedule.wanted(&key(name), Some((ReportId(number), Report::Unjudged(leaf(at(90))))), at(0));
    }
    assert_eq!(schedule.steps(at(10)), []);
    let mut judged = schedule.judge(&Signer::classic("default"), at(10), |key, leaf| {
        (key.instance.name() == "good").then(|| Held { leaf, renew_at: at(60), usable_until: at(90), outdated: false })
    });
    judged.sort();
    assert_eq!(judged, [key("bad"), key("good")]);
    schedule.open(&Signer::classic("default"), true);
    assert_eq!(schedule.steps(at(10)), [sign("bad")]);
    assert_eq!(schedule.steps(at(60)), [sign("good")]);
}

#[test]
fn what_is_called_for_is_not_called_off_by_further_reports() {
    let mut schedule = opened(8);
    schedule.wanted(&key("a"), good(1, 60, 90), at(0));
    assert!(!schedule.restart(&key("a"), at(15), at(10)));
    schedule.wanted(&key("a"), good(2, 60, 90), at(11));
    assert_eq!(schedule.steps(at(14)), []);
    assert_eq!(schedule.steps(at(15)), [sign("a")]);
}

#[test]
fn a_leaf_that_was_lost_is_not_replaced_for_who_comes_back_with_a_good_one() {
    let mut schedule = opened(8);
    schedule.wanted(&key("a"), None, at(0));
    schedule.steps(at(0));
    schedule.issued(&key("a"), at(60), at(90));
    schedule.unwanted(&key("a"), None, at(10));
    schedule.restart(&key("a"), at(10), at(10));
    schedule.lost(&key("a"), at(10));
    schedule.wanted(&key("a"), good(1, 100, 150), at(20));
    assert_eq!(schedule.steps(at(99)), []);
    assert_eq!(schedule.steps(at(100)), [sign("a")]);
}

#[derive(Debug, Clone)]
enum Event {
    /// Comes with a leaf that is due so many seconds later, or with none.
    Comes(u8, Option<u16>),
    /// The same with one that is not judged yet.
    ComesUnjudged(u8, u16),
    /// Those that are not judged yet are found to be good, or not.
    Judge(bool),
    Rotate(u8),
    PolicyChanged,
    /// The so-manieth of its subscribers.
    Goes(u8, usize),
    Issued(u8),
    Failed(u8),
    Lost(u8),
    Open(bool),
    Pass(u16),
}

fn event() -> impl Strategy<Value = Event> {
    let who = 0..4_u8;
    prop_oneof![
        4 => (who.clone(), proptest::option::weighted(0.7, 0..300_u16)).prop_map(|(who, due)| Event::Comes(who, due)),
        2 => (who.clone(), 0..300_u16).prop_map(|(who, due)| Event::ComesUnjudged(who, due)),
        1 => any::<bool>().prop_map(Event::Judge),
        1 => who.clone().prop_map(Event::Rotate),
        1 => Just(Event::PolicyChanged),
        3 => (who.clone(), any::<usize>()).prop_map(|(who, which)| Event::Goes(who, which)),
        2 => who.clone().prop_map(Event::Issued),
        1 => who.clone().prop_map(Event::Failed),
        1 => who.prop_map(Event::Lost),
        1 => any::<bool>().prop_map(Event::Open),
        4 => (0..200_u16).prop_map(Event::Pass),
    ]
}

/// What is to be expected of one proxy.
#[derive(Debug, Default)]
struct Proxy {
    subscribers: Vec<Subscriber>,
    has_leaf: bool,
    in_flight: bool,
    /// When what they hold is to be replaced, due or not.
    called_for: Option<i64>,
    /// An operator wants another leaf for it.
    is_owed: bool,
}

#[derive(Debug)]
struct Subscriber {
    report: Option<ReportId>,
    /// When its leaf is due; `None` for one that has not reported any, or was given one.
    due: Option<i64>,
    judged: bool,
}

impl Proxy {
    fn needs_one(&self) -> bool {
        !self.has_leaf && self.subscribers.iter().any(|one| one.due.is_none() || !one.judged)
    }

    fn first_due(&self) -> Option<i64> {
        self.subscribers.iter().filter_map(|one| one.due).chain(self.called_for).min()
    }

    fn call_for(&mut self, at: i64) {
        self.called_for = Some(self.called_for.map_or(at, |before| before.min(at)));
    }
}

#[derive(Debug)]
struct Model {
    schedule: Schedule,
    proxies: HashMap<ProxyKey, Proxy>,
    now: i64,
}

impl Model {
    fn proxy(&mut self, who: u8) -> (ProxyKey, &mut Proxy) {
        let key = key(&who.to_string());
        (key.clone(), self.proxies.entry(key).or_default())
    }

    /// Nothing is signed for a proxy whose subscribers all hold a good leaf, before the first of these is due.
    fn steps(&mut self) {
        for step in self.schedule.steps(at(self.now)) {
            match step {
                Step::Forget(key) => drop(self.proxies.remove(&key)),
                Step::Sign(key) => {
                    let proxy = self.proxies.get_mut(&key).unwrap();
                    let is_due = proxy.has_leaf || proxy.needs_one() || proxy.first_due() <= Some(self.now);
                    assert!(is_due, "too early: {proxy:?} at {}", self.now);
                    assert!(!std::mem::replace(&mut proxy.in_flight, true), "signed for twice");
                }
            }
        }
    }

    fn issue(&mut self, key: &ProxyKey) {
        let Some(proxy) = self.proxies.get_mut(key).filter(|proxy| proxy.in_flight) else { return };
        (proxy.in_flight, proxy.has_leaf) = (false, true);
        (proxy.called_for, proxy.is_owed) = (None, false);
        proxy.subscribers.iter_mut().for_each(|one| (one.due, one.judged) = (None, true));
        self.schedule.issued(key, at(self.now + 60), at(self.now + 90));
    }

    fn issue_all(&mut self) {
        for _ in 0..30 {
            self.steps();
            for key in self.proxies.keys().cloned().collect::<Vec<_>>() {
                self.issue(&key);
            }
            self.now += 1;
        }
    }

    fn comes(&mut self, who: u8, report: Option<(ReportId, Report)>, due: Option<i64>) {
        let now = at(self.now);
        let (key, proxy) = self.proxy(who);
        let judged = proxy.has_leaf || !matches!(report, Some((_, Report::Unjudged(_))));
        let due = due.filter(|_| !proxy.has_leaf);
        proxy.subscribers.push(Subscriber { report: report.as_ref().map(|(id, _)| *id), due, judged });
        self.schedule.wanted(&key, report, now);
    }

    fn judge(&mut self, is_good: bool) {
        self.schedule.judge(&Signer::classic("default"), at(self.now), |_, leaf| {
            let until = leaf.not_after;
            let renew_at = at(until.as_second() - at(30).as_second());
            is_good.then_some(Held { leaf, renew_at, usable_until: until, outdated: false })
        });
        for one in self.proxies.values_mut().flat_map(|proxy| &mut proxy.subscribers).filter(|one| !one.judged) {
            (one.judged, one.due) = (true, one.due.filter(|_| is_good));
        }
    }

    /// As the worker does it.
    fn rotate(&mut self, key: &ProxyKey) {
        let Some(proxy) = self.proxies.get_mut(key) else { return };
        proxy.is_owed = true;
        if !proxy.has_leaf {
            proxy.call_for(self.now);
        }
        let in_flight = proxy.in_flight;
        self.schedule.call_for(key, at(self.now));
        if !in_flight {
            self.restart(key, self.now);
        }
    }

    fn restart(&mut self, key: &ProxyKey, at_second: i64) {
        let Some(proxy) = self.proxies.get_mut(key) else { return };
        if proxy.subscribers.iter().any(|one| one.judged && one.due.is_some()) {
            proxy.call_for(if proxy.needs_one() { self.now } else { at_second });
        }
        let taken_back = self.schedule.restart(key, at(at_second), at(self.now));
        assert_eq!(taken_back, std::mem::take(&mut proxy.in_flight), "{proxy:?}");
    }

    fn apply(&mut self, event: Event, number: u64) {
        let now = self.now;
        match event {
            Event::Comes(who, due) => {
                let due = due.map(|after| now + i64::from(after));
                self.comes(who, due.and_then(|due| good(number, due, due + 30)), due);
            }
            Event::ComesUnjudged(who, after) => {
                let due = now + i64::from(after);
                self.comes(who, Some((ReportId(number), Report::Unjudged(leaf(at(due + 30))))), Some(due));
            }
            Event::Judge(is_good) => self.judge(is_good),
            Event::Rotate(who) => self.rotate(&key(&who.to_string())),
            Event::PolicyChanged => {
                for key in self.proxies.keys().cloned().collect::<Vec<_>>() {
                    self.restart(&key, now + 5);
                }
            }
            Event::Goes(who, which) => {
                let (key, proxy) = self.proxy(who);
                if !proxy.subscribers.is_empty() {
                    let gone = proxy.subscribers.remove(which % proxy.subscribers.len());
                    self.schedule.unwanted(&key, gone.report, at(now));
                }
            }
            Event::Issued(who) => self.issue(&key(&who.to_string())),
            Event::Failed(who) => {
                let (key, proxy) = self.proxy(who);
                if std::mem::take(&mut proxy.in_flight) {
                    self.schedule.failed(&key, at(now), |_, _| Duration::from_secs(5));
                }
            }
            Event::Lost(who) => {
                let (key, proxy) = self.proxy(who);
                if std::mem::take(&mut proxy.has_leaf) {
                    (proxy.called_for, proxy.is_owed) = (None, false);
                }
                self.schedule.lost(&key, at(now));
            }
            Event::Open(open) => self.schedule.open(&Signer::classic("default"), open),
            Event::Pass(seconds) => self.now += i64::from(seconds),
        }
        self.steps();
    }
}

proptest! {
    /// Whoever comes and goes with whatever leaves: nobody is signed for early, everybody who needs a leaf gets one, and
    /// everybody else does when theirs is due.
    #[test]
    fn held_leaves_are_neither_replaced_early_nor_forgotten(events in proptest::collection::vec(event(), 0..200)) {
        let mut model = Model { schedule: opened(2), proxies: HashMap::new(), now: 0 };
        for (number, event) in (0..).zip(events) {
            model.apply(event, number);
        }
        for key in model.proxies.keys().cloned().collect::<Vec<_>>() {
            model.rotate(&key);
        }
        model.judge(true);
        model.schedule.open(&Signer::classic("default"), true);
        model.issue_all();
        for (key, proxy) in &model.proxies {
            prop_assert!(!proxy.needs_one(), "{key} needs a leaf: {proxy:?}");
            prop_assert!(proxy.subscribers.is_empty() || !proxy.is_owed, "{key} was not renewed: {proxy:?}");
        }
        model.now += 300;
        model.issue_all();
        for (key, proxy) in &model.proxies {
            prop_assert!(proxy.subscribers.is_empty() || proxy.has_leaf, "{key} was due: {proxy:?}");
        }
    }
}
