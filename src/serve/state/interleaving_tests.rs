//! Random interleavings of what clients and the world do, for both variants of the protocol. The model is what a client
//! may expect; it knows nothing of how the machines keep it.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use self::spoken::{Said, Spoken};
use super::*;
use crate::serve::wire::{ErrorDetail, SECRET_TYPE};

#[path = "spoken_tests.rs"]
mod spoken;

/// From `BUNDLES` on they are bundles, and from `UNKNOWN` on there is no such secret.
const NAMES: [&str; 6] = ["a", "b", "c", "d", "x", "y"];
const BUNDLES: usize = 2;
const UNKNOWN: usize = 4;

const FOREIGN: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

#[derive(Debug, Clone)]
enum Event {
    /// The client wants these names now (or what it wanted before), and says so of `again` once more.
    Request {
        names: Option<BTreeSet<usize>>,
        again: BTreeSet<usize>,
        /// Which earlier response it answers, counted from the newest, and whether with an error.
        answers: Option<(usize, bool)>,
        is_foreign: bool,
    },
    /// There is a new version.
    Change(usize),
    /// What there was is not to be sent any more.
    Gone(usize),
    /// The transport has room.
    Send,
    /// Everything is to be sent again.
    Again,
    /// The stream breaks, and the client comes back with the versions that it has.
    Reconnect,
}

fn event() -> impl Strategy<Value = Event> {
    let names = || prop::collection::btree_set(0..NAMES.len(), 0..=NAMES.len());
    let answers = prop::option::of((0usize..5, any::<bool>()));
    prop_oneof![
        6 => (prop::option::of(names()), names(), answers, prop::bool::weighted(0.1)).prop_map(|(names, again, answers, is_foreign)| {
            Event::Request { names, again, answers, is_foreign }
        }),
        4 => (0..UNKNOWN).prop_map(Event::Change),
        1 => (0..BUNDLES).prop_map(Event::Gone),
        8 => Just(Event::Send),
        1 => Just(Event::Again),
        1 => Just(Event::Reconnect),
    ]
}

/// A response that the client has seen.
struct Seen {
    nonce: String,
    /// `None` for a removal.
    content: Option<(&'static str, Version)>,
    /// It has not been answered, and its stream lives.
    is_open: bool,
}

/// The client, and the world.
struct Model<M> {
    machine: M,
    door: Door,
    streams: u32,
    at: Duration,
    newest: BTreeMap<&'static str, u32>,
    /// Names of which the newest is not to be sent any more.
    gone: BTreeSet<&'static str>,
    wanted: BTreeSet<&'static str>,
    /// What it has been sent since it last asked, and by which response.
    has: BTreeMap<&'static str, (Version, String)>,
    /// What it holds, over reconnects.
    holds: BTreeMap<&'static str, Version>,
    /// Of what it has, what may come again unchanged.
    may_repeat: BTreeSet<&'static str>,
    /// Of what it has, what it has rejected.
    rejected: BTreeSet<&'static str>,
    /// Unknown names that it is to be told of.
    owed: BTreeSet<&'static str>,
    seen: Vec<Seen>,
    nonces: BTreeSet<String>,
    has_spoken: bool,
}

fn known(name: &str) -> &'static str {
    NAMES.into_iter().find(|known| *known == name).expect("a name that was asked for")
}

fn kind(name: &str) -> SecretKind {
    if NAMES[BUNDLES..].contains(&name) { SecretKind::Bundle } else { SecretKind::Certificate }
}

fn is_unknown(name: &str) -> bool {
    NAMES[UNKNOWN..].contains(&name)
}

fn version(number: &u32) -> Version {
    Version::from(number.to_string().as_str())
}

fn set<'a>(names: impl IntoIterator<Item = &'a Arc<str>>) -> BTreeSet<&'static str> {
    names.into_iter().map(|name| known(name)).collect()
}

const LIMITS: Limits = Limits { names: NAMES.len(), name_length: 10 };

impl<M: Spoken> Model<M> {
    fn new(door: Door) -> Self {
        Self {
            machine: M::new(Core::new(door, LIMITS, 0)),
            door,
            streams: 1,
            at: Duration::ZERO,
            newest: BTreeMap::new(),
            gone: BTreeSet::new(),
            wanted: BTreeSet::new(),
            has: BTreeMap::new(),
            holds: BTreeMap::new(),
            may_repeat: BTreeSet::new(),
            rejected: BTreeSet::new(),
            owed: BTreeSet::new(),
            seen: Vec::new(),
            nonces: BTreeSet::new(),
            has_spoken: false,
        }
    }

    fn take(&mut self, event: Event) -> Result<(), TestCaseError> {
        self.at += Duration::from_millis(700);
        match event {
            Event::Request { names, again, answers, is_foreign } => {
                let names = names.map(|names| names.into_iter().map(|name| NAMES[name]).collect());
                let names = names.unwrap_or_else(|| self.wanted.clone());
                let again = again.into_iter().map(|name| NAMES[name]).collect();
                self.request(names, again, answers, is_foreign && self.door == Door::Aggregated)?;
            }
            Event::Change(name) => {
                let number = self.newest.entry(NAMES[name]).or_default();
                *number += 1;
                self.machine.available(NAMES[name], kind(NAMES[name]), version(number));
                self.gone.remove(NAMES[name]);
            }
            Event::Gone(name) => {
                self.machine.gone(NAMES[name]);
                self.gone.insert(NAMES[name]);
            }
            Event::Send => self.send()?,
            Event::Again => {
                let names = set(&self.machine.again());
                let expected: BTreeSet<_> = self.has.keys().copied().filter(|n| !self.rejected.contains(n)).collect();
                prop_assert_eq!(&names, &expected);
                self.look_up(&names);
                self.may_repeat.extend(names);
            }
            Event::Reconnect => {
                self.machine = M::new(Core::new(self.door, LIMITS, self.streams));
                self.streams += 1;
                self.wanted.clear();
                self.has.clear();
                self.may_repeat.clear();
                self.rejected.clear();
                self.owed.clear();
                self.seen.iter_mut().for_each(|seen| seen.is_open = false);
                self.has_spoken = false;
            }
        }
        self.repeats()?;
        let core = self.machine.core();
        prop_assert!(core.nonces.awaited() <= LIMITS.names);
        prop_assert_eq!(core.subscribed(), self.wanted.len());
        Ok(())
    }

    /// Says what there is of names that the machine wants looked up.
    fn look_up(&mut self, names: &BTreeSet<&'static str>) {
        for name in names {
            if is_unknown(name) {
                self.machine.withheld(name);
            } else if let Some(number) = self.newest.get(name).filter(|_| !self.gone.contains(name)) {
                self.machine.available(name, kind(name), version(number));
            }
        }
    }

    /// Answers a client that has said the same twice.
    fn repeats(&mut self) -> Result<(), TestCaseError> {
        match self.machine.owed(self.at) {
            Owed::Nothing => {}
            Owed::Later(wait) => prop_assert!(!wait.is_zero() && wait <= Duration::from_secs(3)),
            Owed::Now(names) => {
                let names = set(&names);
                prop_assert!(!M::BY_NAME && self.door == Door::Aggregated);
                prop_assert!(names.iter().all(|name| self.has.contains_key(name) && !self.rejected.contains(name)));
                self.look_up(&names);
                self.may_repeat.extend(names);
                prop_assert_eq!(self.machine.owed(self.at), Owed::Nothing);
            }
        }
        Ok(())
    }

    fn request(
        &mut self,
        mut now: BTreeSet<&'static str>,
        again: BTreeSet<&'static str>,
        answers: Option<(usize, bool)>,
        is_foreign: bool,
    ) -> Result<(), TestCaseError> {
        let again: BTreeSet<_> = again.intersection(&self.wanted).copied().filter(|_| M::BY_NAME).collect();
        now.extend(&again);
        let count = self.seen.len();
        let answered = answers.filter(|(back, _)| *back < count).map(|(back, error)| (count - 1 - back, error));
        let seen = answered.map(|(position, _)| &self.seen[position]);
        let error = answered.filter(|(_, error)| *error).map(|_| ErrorDetail { code: 3, message: "no".to_owned() });
        let is_nack = error.is_some();
        let request = M::say(Said {
            before: &self.wanted,
            now: &now,
            again: &again,
            holds: &self.holds,
            nonce: seen.map_or("", |seen| seen.nonce.as_str()),
            version: seen.and_then(|seen| seen.content.as_ref()).map_or("", |(_, version)| version.as_str()),
            error,
            type_url: if is_foreign { FOREIGN } else { SECRET_TYPE },
        });
        let outcome = self.machine.request(&request, self.at).unwrap();
        let is_first = !std::mem::replace(&mut self.has_spoken, true);
        prop_assert!(outcome.reported.is_empty() || (is_first && self.door == Door::Dedicated));
        if is_foreign {
            prop_assert_eq!(Outcome { foreign: None, ..outcome }, Outcome::default());
            return Ok(());
        }

        // Its verdict, on what it names and nothing else, and once.
        let expected = answered.map(|(position, _)| &mut self.seen[position]).filter(|seen| seen.is_open);
        let expected = expected.and_then(|seen| {
            seen.is_open = false;
            Some((seen.content.clone()?, seen.nonce.clone()))
        });
        prop_assert_eq!(outcome.verdict.is_some(), expected.is_some());
        if let Some(verdict) = &outcome.verdict {
            let expected = expected.as_ref().map(|((name, version), _)| (*name, version.clone()));
            prop_assert_eq!(Some((known(&verdict.name), verdict.version.clone())), expected);
            prop_assert_eq!(verdict.result.is_err(), is_nack);
        }
        if let Some(((name, _), nonce)) = expected.filter(|_| is_nack)
            && self.has.get(name).is_some_and(|(_, of)| *of == nonce)
        {
            self.rejected.insert(name);
        }

        prop_assert_eq!(set(&outcome.unsubscribe), self.wanted.difference(&now).copied().collect());
        let new: BTreeSet<_> = now.difference(&self.wanted).copied().collect();
        prop_assert_eq!(&set(&outcome.subscribe), &new);
        let to_look_up = set(&outcome.again);
        prop_assert_eq!(&to_look_up, &again);
        // What is not wanted any more, and what is asked for as if it never had been.
        for name in self.wanted.difference(&now).chain(&again) {
            self.has.remove(name);
            self.may_repeat.remove(name);
            self.rejected.remove(name);
            self.owed.remove(name);
        }
        self.wanted = now;
        if M::BY_NAME {
            self.owed.extend(new.iter().chain(&to_look_up).filter(|name| is_unknown(name)));
        }
        self.look_up(&new);
        self.look_up(&to_look_up);
        Ok(())
    }

    fn send(&mut self) -> Result<(), TestCaseError> {
        if let Some((names, nonce)) = self.machine.removed(self.at) {
            prop_assert!(!names.is_empty());
            for name in names {
                prop_assert!(self.wanted.contains(&*name), "unrequested: {}", name);
                prop_assert!(self.owed.remove(known(&name)), "removed more than once, or though known: {}", name);
            }
            prop_assert!(self.nonces.insert(nonce.clone()), "a nonce twice");
            self.seen.push(Seen { nonce, content: None, is_open: true });
            return Ok(());
        }
        let Some(push) = self.machine.next_push(self.at) else { return Ok(()) };
        let name = known(&push.name);
        prop_assert!(self.wanted.contains(name), "unrequested: {:?}", push);
        prop_assert_eq!(Some(push.version.clone()), self.newest.get(name).map(version), "not the newest");
        prop_assert!(!self.gone.contains(name), "not to be sent any more: {:?}", push);
        prop_assert_eq!(push.kind, kind(name));
        if push.kind == SecretKind::Certificate {
            let mut bundles = self.wanted.iter().filter(|name| kind(name) == SecretKind::Bundle);
            let behind = bundles
                .find(|name| self.has.get(*name).map(|(had, _)| had) != self.newest.get(*name).map(version).as_ref());
            prop_assert_eq!(behind, None, "item 92: before whom to trust");
        }
        let had = self.has.insert(name, (push.version.clone(), push.nonce.clone()));
        let may_repeat = self.may_repeat.remove(name);
        let was_rejected = self.rejected.remove(name);
        if let Some((had, _)) = &had
            && *had == push.version
        {
            prop_assert!(may_repeat && !was_rejected, "sent again without a change: {:?}", push);
        }
        prop_assert_eq!(had.is_some_and(|(had, _)| had != push.version), push.is_update);
        prop_assert!(self.nonces.insert(push.nonce.clone()), "a nonce twice");
        self.holds.insert(name, push.version.clone());
        self.seen.push(Seen { nonce: push.nonce, content: Some((name, push.version)), is_open: true });
        Ok(())
    }

    fn has_converged(&self) -> Result<(), TestCaseError> {
        for name in self.wanted.iter().filter(|name| !self.gone.contains(*name)) {
            let has = self.has.get(name).map(|(version, _)| version.clone());
            prop_assert_eq!(has, self.newest.get(name).map(version), "{} has not converged", name);
        }
        prop_assert!(self.owed.is_empty(), "not told: {:?}", self.owed);
        Ok(())
    }
}

fn any_interleaving<M: Spoken>(door: Door, events: Vec<Event>) -> Result<(), TestCaseError> {
    let mut model = Model::<M>::new(door);
    let drain = std::iter::repeat_n(Event::Send, NAMES.len() + 1);
    for event in events.into_iter().chain(drain) {
        model.take(event)?;
    }
    model.has_converged()
}

fn door() -> impl Strategy<Value = Door> {
    prop_oneof![Just(Door::Dedicated), Just(Door::Aggregated)]
}

proptest! {
    #[test]
    fn any_interleaving_of_sotw_converges_and_sends_nothing_needless(
        door in door(),
        events in prop::collection::vec(event(), 0..120),
    ) {
        any_interleaving::<sotw::State>(door, events)?;
    }

    #[test]
    fn any_interleaving_of_delta_converges_and_sends_nothing_needless(
        door in door(),
        events in prop::collection::vec(event(), 0..120),
    ) {
        any_interleaving::<delta::State>(door, events)?;
    }
}
