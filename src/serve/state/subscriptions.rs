//! The names that a client wants, what there is of each, and what it has been sent.

use std::sync::Arc;

use crate::serve::naming::SecretKind;
use crate::serve::version::Version;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions(Vec<Subscription>);

#[derive(Debug)]
struct Subscription {
    name: Arc<str>,
    /// The newest version there is; `None` while the secret is pending, unknown or withheld.
    newest: Option<(SecretKind, Version)>,
    sent: Option<Sent>,
    /// To be sent though it was sent before, once it is there.
    again: bool,
    /// The client is to be told that there is no such secret (Delta only).
    denied: bool,
    /// It has been told that.
    told: bool,
}

/// The newest response with this secret.
#[derive(Debug)]
struct Sent {
    version: Version,
    /// That of its nonce.
    number: u64,
    /// Nothing but a change of content, or the client's own wish, is a reason to send it again (item 43).
    rejected: bool,
}

/// What to send next.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) name: Arc<str>,
    pub(super) kind: SecretKind,
    pub(super) version: Version,
    pub(super) is_update: bool,
}

impl Subscription {
    fn new(name: Arc<str>) -> Self {
        Self { name, newest: None, sent: None, again: false, denied: false, told: false }
    }

    fn due(&self) -> Option<(SecretKind, Version)> {
        let (kind, version) = self.newest.clone()?;
        let is_due = match &self.sent {
            None => true,
            Some(sent) => sent.version != version || (self.again && !sent.rejected),
        };
        is_due.then_some((kind, version))
    }
}

impl Subscriptions {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    fn get_mut(&mut self, name: &str) -> Option<&mut Subscription> {
        self.0.iter_mut().find(|subscription| &*subscription.name == name)
    }

    /// Starts one; `None` if there is one already.
    pub(super) fn add(&mut self, name: &str) -> Option<Arc<str>> {
        if self.get_mut(name).is_some() {
            return None;
        }
        let name: Arc<str> = name.into();
        self.0.push(Subscription::new(name.clone()));
        Some(name)
    }

    /// Starts one once more, as if the name had never been asked for; `None` if there is none.
    pub(super) fn restart(&mut self, name: &str) -> Option<Arc<str>> {
        let subscription = self.get_mut(name)?;
        let name = subscription.name.clone();
        *subscription = Subscription::new(name.clone());
        Some(name)
    }

    /// Ends those that `keep` does not want, and forgets what was sent for them (item 59).
    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) -> Vec<Arc<str>> {
        self.0.extract_if(.., |subscription| !keep(&subscription.name)).map(|ended| ended.name).collect()
    }

    /// The newest version of a name is `version` now; older ones that were not sent yet never will be (item 94).
    pub(super) fn available(&mut self, name: &str, kind: SecretKind, version: Version) {
        if let Some(subscription) = self.get_mut(name) {
            subscription.newest = Some((kind, version));
            // What is sent is the answer; a name is never removed and sent at once (item 76).
            subscription.denied = false;
            subscription.told = false;
        }
    }

    /// There is nothing of a name to send any more; what was sent stays sent.
    pub(super) fn gone(&mut self, name: &str) {
        if let Some(subscription) = self.get_mut(name) {
            subscription.newest = None;
        }
    }

    /// There is no such secret for this client, and it is to be told so.
    pub(super) fn deny(&mut self, name: &str) {
        if let Some(subscription) = self.get_mut(name) {
            subscription.denied = subscription.newest.is_none();
        }
    }

    /// Ends the oldest that the client has been told there is nothing of, if there is one.
    pub(super) fn displace(&mut self) -> Option<Arc<str>> {
        let position = self.0.iter().position(|subscription| subscription.told)?;
        Some(self.0.remove(position).name)
    }

    /// Those that the client is to be told of, once for each [`Subscriptions::deny`].
    pub(super) fn take_denied(&mut self) -> Vec<Arc<str>> {
        let denied = self.0.iter_mut().filter(|subscription| subscription.denied);
        let denied = denied.map(|subscription| {
            (subscription.denied, subscription.told) = (false, true);
            subscription.name.clone()
        });
        denied.collect()
    }

    /// Sends again what has been sent and not rejected, when it is said once more what there is of it; says which names
    /// these are.
    pub(super) fn again(&mut self) -> Vec<Arc<str>> {
        let sent = self.0.iter_mut().filter(|subscription| subscription.sent.as_ref().is_some_and(|s| !s.rejected));
        sent.map(|subscription| {
            subscription.again = true;
            subscription.newest = None;
            subscription.name.clone()
        })
        .collect()
    }

    /// The client has rejected response `number`, which had this secret. Of an older one that is said too late.
    pub(super) fn rejected(&mut self, name: &str, number: u64) {
        if let Some(sent) = self.get_mut(name).and_then(|subscription| subscription.sent.as_mut())
            && sent.number == number
        {
            sent.rejected = true;
        }
    }

    /// The next that the client does not have, trust bundles first (item 92); it counts as sent in response `number`.
    /// The only reasons to send are those of items 43 and 86.
    pub(super) fn next_to_send(&mut self, number: u64) -> Option<Due> {
        let (subscription, kind, version) = self
            .0
            .iter_mut()
            .filter_map(|subscription| subscription.due().map(|(kind, version)| (subscription, kind, version)))
            .min_by_key(|(_, kind, _)| *kind)?;
        let sent = subscription.sent.replace(Sent { version: version.clone(), number, rejected: false });
        subscription.again = false;
        let is_update = sent.is_some_and(|sent| sent.version != version);
        Some(Due { name: subscription.name.clone(), kind, version, is_update })
    }
}
