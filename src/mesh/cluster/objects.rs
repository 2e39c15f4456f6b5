//! What the watches have told so far. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::api::DynamicObject;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::Event;
use tokio::time::Instant;

use super::object::{Object, ObjectKind, ObjectRef};
use crate::runtime::cluster::Refused;

/// How long the API server has to say that there is no such kind until the objects are given up that it had before. Whoever
/// removes a definition removes its objects, and then the watch tells of each of them; so this is for a removal that no
/// server has seen, and is in no hurry.
const GONE_AFTER: Duration = Duration::from_secs(600);
/// The longest that one such answer stands for until there is another: a watch asks at least once a minute.
const STANDS_FOR: Duration = Duration::from_secs(120);

/// The objects of one kind, by name.
pub(super) type ByName = BTreeMap<Arc<str>, Arc<Object>>;

/// What is known of the objects of one kind.
#[derive(Debug, Clone, Default)]
pub enum Listing {
    /// Nothing yet.
    #[default]
    Unknown,
    /// This server may not list them.
    Forbidden,
    /// The kind is not installed in the cluster.
    NotInstalled,
    /// The cluster has not answered yet; these were listed when the server ran before.
    Remembered(ByName),
    /// These; the last that were known, while the API server is away.
    Listed(ByName),
}

impl Listing {
    fn objects(&self) -> Option<&ByName> {
        match self {
            Self::Remembered(objects) | Self::Listed(objects) => Some(objects),
            Self::Unknown | Self::Forbidden | Self::NotInstalled => None,
        }
    }
}

/// Whether these are the same objects that say the same.
pub(super) fn same_objects(one: &ByName, other: &ByName) -> bool {
    one.len() == other.len() && one.values().zip(other.values()).all(|(one, other)| one.says_the_same(other))
}

/// What is known of all kinds.
#[derive(Debug, Clone, Default)]
pub struct ClusterObjects {
    pub(super) kinds: BTreeMap<ObjectKind, Listing>,
}

impl ClusterObjects {
    /// What is known of the objects of `kind`.
    pub fn of(&self, kind: ObjectKind) -> &Listing {
        self.kinds.get(&kind).unwrap_or(&Listing::Unknown)
    }

    /// Every object, by kind and name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.kinds.values().filter_map(Listing::objects).flat_map(BTreeMap::values)
    }

    /// An object, if there is one.
    pub fn get(&self, at: &ObjectRef) -> Option<&Arc<Object>> {
        self.of(at.kind).objects()?.get(&at.name)
    }

    /// Whether the cluster has answered for every kind, if only that there is none.
    pub fn is_complete(&self) -> bool {
        ObjectKind::ALL.into_iter().all(|kind| matches!(self.of(kind), Listing::Listed(_) | Listing::NotInstalled))
    }

    /// The kinds whose objects are those of the time when the server ran before.
    pub fn remembered(&self) -> Vec<ObjectKind> {
        let is_remembered = |kind: &ObjectKind| matches!(self.of(*kind), Listing::Remembered(_));
        ObjectKind::ALL.into_iter().filter(is_remembered).collect()
    }

    /// Whether it is known of every kind which objects there are, or were when the server ran before.
    pub fn is_known(&self) -> bool {
        self.unknown().is_none()
    }

    /// A kind whose objects nobody has told of, and whether that is because this server may not list them.
    pub fn unknown(&self) -> Option<(ObjectKind, bool)> {
        ObjectKind::ALL.into_iter().find_map(|kind| match self.of(kind) {
            Listing::Unknown => Some((kind, false)),
            Listing::Forbidden => Some((kind, true)),
            Listing::NotInstalled | Listing::Remembered(_) | Listing::Listed(_) => None,
        })
    }

    /// Whether the same follows from both: the same objects that say the same, and the same is known of each kind.
    pub fn says_the_same(&self, other: &Self) -> bool {
        ObjectKind::ALL.into_iter().all(|kind| match (self.of(kind), other.of(kind)) {
            (Listing::Listed(one), Listing::Listed(other)) => same_objects(one, other),
            (one, other) => std::mem::discriminant(one) == std::mem::discriminant(other),
        })
    }
}

/// What the watch of one kind adds up to.
#[derive(Debug)]
pub(super) struct Store {
    kind: ObjectKind,
    known: Option<ByName>,
    /// Whether the cluster has listed what is known since this server runs.
    is_listed: bool,
    /// What a list has shown so far; it replaces `known` once it is complete.
    listing: Option<ByName>,
    /// Since when the API server has said that there is no such kind, and when it did so last.
    absent: Option<(Instant, Instant)>,
}

impl Store {
    /// `remembered` was listed when the server ran before.
    pub(super) fn new(kind: ObjectKind, remembered: Option<ByName>) -> Self {
        Self { kind, known: remembered, is_listed: false, listing: None, absent: None }
    }

    /// What is known after `event`, which came at `now`; `None` while it is not: before the first list is complete, or while
    /// one is under way.
    pub(super) fn after(
        &mut self,
        event: Result<Event<DeserializeGuard<DynamicObject>>, Refused>,
        now: Instant,
    ) -> Option<Listing> {
        match event {
            Ok(Event::Init) => self.listing = Some(ByName::new()),
            Ok(Event::InitDone) => {
                self.known = self.listing.take().or(self.known.take());
                (self.is_listed, self.absent) = (true, None);
            }
            Ok(Event::InitApply(object) | Event::Apply(object)) => {
                let object = Object::new(self.kind, object.0)?;
                let known = self.listing.as_mut().or(self.known.as_mut())?;
                known.insert(object.at.name.clone(), Arc::new(object));
            }
            Ok(Event::Delete(object)) => {
                let name = kube::Resource::meta(&object).name.clone().unwrap_or_default();
                self.known.iter_mut().for_each(|known| drop(known.remove(name.as_str())));
            }
            Err(Refused::NotInstalled) => {
                self.listing = None;
                let steady = self.absent.filter(|(_, last)| now.duration_since(*last) <= STANDS_FOR);
                let since = steady.map_or(now, |(since, _)| since);
                self.absent = Some((since, now));
                let is_believed = match &self.known {
                    // The first word of an API server that may have just started; it is asked again at once.
                    None => steady.is_some(),
                    Some(known) => known.is_empty() || now.duration_since(since) >= GONE_AFTER,
                };
                if is_believed {
                    self.known = None;
                    return Some(Listing::NotInstalled);
                }
            }
            // A permission that was taken away says nothing of the objects: what was known stays, also over a restart.
            Err(Refused::Forbidden) => {
                (self.listing, self.absent) = (None, None);
                if self.known.is_none() {
                    return Some(Listing::Forbidden);
                }
            }
        }
        let known = self.known.clone().filter(|_| self.listing.is_none())?;
        Some(if self.is_listed { Listing::Listed(known) } else { Listing::Remembered(known) })
    }
}
