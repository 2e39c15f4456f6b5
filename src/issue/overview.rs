//! What operators are shown of many proxies at once, without a copy of what they are not shown.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::manager::{Manager, Slots, Status};
use super::progress::Outlook;
use crate::model::identity::ProxyKey;
use crate::model::svid::Svid;

/// Proxies of one mesh whose last attempt failed.
#[derive(Debug, Default)]
pub struct Failing {
    /// How many there are.
    pub count: usize,
    /// The first of them.
    pub first: BTreeMap<ProxyKey, Status>,
}

impl Manager {
    /// The certificates and statuses of the proxies that are wanted, ordered.
    pub fn select(&self, wanted: impl Fn(&ProxyKey) -> bool) -> BTreeMap<ProxyKey, (Option<Arc<Svid>>, Status)> {
        let slots = self.slots.iter().filter(|slot| wanted(slot.key()));
        slots.map(|slot| (slot.key().clone(), (slot.current.borrow().clone(), slot.status.clone()))).collect()
    }

    /// How far issuing has come in the meshes in which somebody has to wait for a turn.
    pub fn outlooks(&self) -> BTreeMap<Arc<str>, Outlook> {
        self.progress.outlooks()
    }

    /// By mesh, the proxies whose last attempt failed, of which at most `shown` are told one by one.
    pub fn failing(&self, shown: usize) -> BTreeMap<Arc<str>, Failing> {
        failing(&self.slots, shown)
    }
}

fn failing(slots: &Slots, shown: usize) -> BTreeMap<Arc<str>, Failing> {
    let mut meshes: BTreeMap<Arc<str>, Failing> = BTreeMap::new();
    for slot in slots.iter().filter(|slot| slot.status.error.is_some()) {
        let Failing { count, first } = meshes.entry(slot.key().mesh.clone()).or_default();
        *count += 1;
        if first.len() < shown || first.last_key_value().is_some_and(|(last, _)| slot.key() < last) {
            first.insert(slot.key().clone(), slot.status.clone());
        }
        if first.len() > shown {
            first.pop_last();
        }
    }
    meshes
}

#[cfg(test)]
mod tests {
    use super::super::manager::Slot;
    use super::*;
    use crate::model::identity::Instance;

    #[test]
    fn of_the_failing_the_first_are_told_and_all_are_counted() {
        let slots = Slots::default();
        for number in (0..100).rev() {
            let key = ProxyKey {
                mesh: if number % 2 == 0 { "even" } else { "odd" }.into(),
                spiffe_id: "spiffe://mesh/web".into(),
                identity_policy: None,
                instance: Instance::Proven(format!("web-{number:02}").into()),
            };
            let error = (number < 50).then(|| "the CA is away".to_owned());
            let status = Status { error, ..Status::default() };
            slots.insert(key, Slot { status, ..Slot::default() });
        }
        let failing = failing(&slots, 2);
        assert_eq!(failing.keys().map(|mesh| &**mesh).collect::<Vec<_>>(), ["even", "odd"]);
        for (mesh, names) in [("even", ["web-00", "web-02"]), ("odd", ["web-01", "web-03"])] {
            let Failing { count, first } = &failing[mesh];
            assert_eq!((*count, first.keys().map(|key| key.instance.name()).collect::<Vec<_>>()), (25, names.to_vec()));
        }
    }
}
