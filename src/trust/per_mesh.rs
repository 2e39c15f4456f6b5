//! One watch channel for each mesh, so that a change of one mesh's trust wakes its own proxies only.

use std::collections::BTreeMap;
use std::sync::Arc;

use dashmap::DashMap;
use tokio::sync::watch;

/// What is published of each mesh now, and `None` for one that has nothing. Cheap to clone.
#[derive(Debug)]
pub(super) struct PerMesh<T>(Arc<DashMap<Arc<str>, Current<T>>>);

type Current<T> = watch::Sender<Option<Arc<T>>>;

impl<T> Clone for PerMesh<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for PerMesh<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: PartialEq> PerMesh<T> {
    /// What there is of `mesh`. `now` reads what was published last: what is published between the first look and it is in
    /// the entry's initial value, or sent to the entry.
    pub(super) fn of(&self, mesh: &str, now: impl FnOnce() -> Option<Arc<T>>) -> watch::Receiver<Option<Arc<T>>> {
        if let Some(sender) = self.0.get(mesh) {
            return sender.subscribe();
        }
        self.0.entry(mesh.into()).or_insert_with(|| watch::channel(now()).0).subscribe()
    }

    /// Hands out what there is of every mesh now, and returns those of which that is another than before.
    pub(super) fn publish<'a>(&self, all: &'a BTreeMap<Arc<str>, Arc<T>>) -> Vec<(&'a Arc<str>, &'a Arc<T>)> {
        let is_news = |(mesh, value): &(&'a Arc<str>, &'a Arc<T>)| {
            let sender = self.0.entry((*mesh).clone()).or_insert_with(|| watch::channel(None).0);
            sender.send_if_modified(|current| {
                let changed = current.as_deref() != Some(&***value);
                if changed {
                    *current = Some((*value).clone());
                }
                changed
            })
        };
        let news = all.iter().filter(is_news).collect();
        // Who watches a mesh that is gone keeps what it was given; whoever asks for a mesh of that name later must not be given
        // the CAs of this one.
        self.0.retain(|mesh, sender| {
            let is_there = all.contains_key(mesh);
            if !is_there {
                sender.send_if_modified(|current| current.take().is_some());
            }
            is_there || sender.receiver_count() > 0
        });
        news
    }

    /// The meshes that it has a channel for.
    #[cfg(test)]
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.0.iter().map(|mesh| mesh.key().to_string()).collect();
        names.sort();
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mesh_is_woken_by_its_own_change_alone() {
        let meshes = PerMesh::<u32>::default();
        let all = |values: &[(&str, u32)]| {
            values.iter().map(|(mesh, value)| ((*mesh).into(), Arc::new(*value))).collect::<BTreeMap<_, _>>()
        };
        let (one, mut other) = (meshes.of("one", || None), meshes.of("other", || None));
        assert_eq!(meshes.publish(&all(&[("one", 1), ("other", 1)])).len(), 2);
        other.mark_unchanged();
        let next = all(&[("one", 2), ("other", 1)]);
        assert_eq!(meshes.publish(&next).into_iter().map(|(mesh, _)| &**mesh).collect::<Vec<_>>(), ["one"]);
        assert!(!other.has_changed().unwrap());
        assert_eq!(one.borrow().as_deref(), Some(&2));
        drop(one);
        meshes.publish(&all(&[]));
        assert_eq!((meshes.names(), other.borrow_and_update().clone()), (vec!["other".to_owned()], None));
    }
}
