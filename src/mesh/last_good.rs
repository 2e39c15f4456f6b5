//! What was good last time stays in force where what is there now is broken. Pure; knows neither files nor resources.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a file holds at present.
#[derive(Debug, Clone)]
pub struct Seen<K, V> {
    /// The file, or the folder if it was the folder that could not be read.
    pub file: Arc<PathBuf>,
    /// Whether all of it is in `resources`, and good. If not (it cannot be read, it is not YAML, a document in it has no
    /// usable name or is broken), what is missing there may be in the part that is not understood, or cut off.
    pub complete: bool,
    /// Each resource, and its value unless it is broken.
    pub resources: Vec<(K, Option<V>)>,
}

/// The newest good value of every resource, and the file it was last seen in.
#[derive(Debug, Clone)]
pub struct LastGood<K, V> {
    kept: BTreeMap<K, (Arc<PathBuf>, V)>,
}

impl<K, V> Default for LastGood<K, V> {
    fn default() -> Self {
        Self { kept: BTreeMap::new() }
    }
}

impl<K: Ord + Clone, V: Clone> LastGood<K, V> {
    /// Takes in what all files hold now:
    /// - a good resource replaces what there was;
    /// - a broken one keeps its last good value, whichever file that was in;
    /// - one that is in no file any more is gone, unless the file it was in is not completely understood.
    pub fn update(&mut self, seen: &[Seen<K, V>]) {
        let mut next: BTreeMap<K, (Arc<PathBuf>, V)> = BTreeMap::new();
        for Seen { file, resources, .. } in seen {
            for (key, value) in resources {
                let value = value.as_ref().or_else(|| self.kept.get(key).map(|(_, last)| last));
                if let Some(value) = value {
                    next.insert(key.clone(), (file.clone(), value.clone()));
                }
            }
        }
        for (key, (file, value)) in std::mem::take(&mut self.kept) {
            let may_be_there = seen.iter().any(|seen| !seen.complete && file.starts_with(seen.file.as_path()));
            if may_be_there {
                next.entry(key).or_insert((file, value));
            }
        }
        self.kept = next;
    }

    /// All values in force, and the file in which each was seen last.
    pub fn entries(&self) -> impl Iterator<Item = (&K, &Path, &V)> {
        self.kept.iter().map(|(key, (file, value))| (key, file.as_path(), value))
    }

    /// Forgets a value: it is not to be in force any more.
    pub fn forget(&mut self, key: &K) {
        self.kept.remove(key);
    }

    /// All values in force, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.kept.iter().map(|(key, (_, value))| (key, value))
    }

    /// The value in force, if there is one.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.kept.get(key).map(|(_, value)| value)
    }

    /// The file in which `key` was seen last, if there is a good value of it.
    pub fn place(&self, key: &K) -> Option<&Arc<PathBuf>> {
        self.kept.get(key).map(|(file, _)| file)
    }

    /// The same of all keys.
    pub fn places(&self) -> impl Iterator<Item = &Arc<PathBuf>> {
        self.kept.values().map(|(file, _)| file)
    }
}

/// What [`LastGood::entries`] gave.
impl<K: Ord, V> FromIterator<(K, PathBuf, V)> for LastGood<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, PathBuf, V)>>(entries: I) -> Self {
        Self { kept: entries.into_iter().map(|(key, file, value)| (key, (Arc::new(file), value))).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files as text: `a=1` is good, `a` is broken, `?` is something that is not understood.
    fn seen(files: &[(&str, &str)]) -> Vec<Seen<String, u32>> {
        let file = |(file, content): &(&str, &str)| Seen {
            file: Arc::new(file.into()),
            complete: !content.contains('?'),
            resources: content
                .split_whitespace()
                .filter(|word| *word != "?")
                .map(|word| match word.split_once('=') {
                    Some((key, value)) => (key.to_owned(), value.parse().ok()),
                    None => (word.to_owned(), None),
                })
                .collect(),
        };
        files.iter().map(file).collect()
    }

    #[test]
    fn keeps_what_was_good() {
        for (name, before, now, expected) in [
            ("nothing changed", &[("f", "a=1 b=2")][..], &[("f", "a=1 b=2")][..], "a=1 b=2"),
            ("a good one replaces", &[("f", "a=1")], &[("f", "a=2")], "a=2"),
            ("a broken one keeps its value", &[("f", "a=1 b=2")], &[("f", "a b=3")], "a=1 b=3"),
            ("broken from the start", &[("f", "a")], &[("f", "a b=1")], "b=1"),
            ("removed from a file", &[("f", "a=1 b=2")], &[("f", "b=2")], "b=2"),
            ("a file of a folder is gone", &[("d/f", "a=1"), ("d/g", "b=2")], &[("d/g", "b=2")], "b=2"),
            ("a file is not YAML", &[("f", "a=1"), ("g", "b=2")], &[("f", "?"), ("g", "b=3")], "a=1 b=3"),
            ("a document is without name", &[("f", "a=1 b=2")], &[("f", "b=3 ?")], "a=1 b=3"),
            ("a folder cannot be read", &[("d/f", "a=1"), ("g", "b=2")], &[("d", "?"), ("g", "")], "a=1"),
            ("a sibling's name begins alike", &[("d/fa", "a=1")], &[("d/f", "?")], ""),
            ("moved to another file", &[("f", "a=1"), ("g", "")], &[("f", ""), ("g", "a=2")], "a=2"),
            ("moved, while the old file is broken", &[("f", "a=1")], &[("f", "?"), ("g", "a=2")], "a=2"),
            ("moved and broken", &[("f", "a=1"), ("g", "")], &[("f", ""), ("g", "a")], "a=1"),
        ] {
            let mut last = LastGood::default();
            last.update(&seen(before));
            last.update(&seen(now));
            let got = last.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ");
            assert_eq!(got, expected, "{name}");
        }
    }

    #[test]
    fn a_kept_value_follows_its_resource_into_another_file() {
        let mut last = LastGood::default();
        for files in [[("f", "a=1"), ("g", "")], [("f", ""), ("g", "a")], [("f", ""), ("g", "?")]] {
            last.update(&seen(&files));
            assert_eq!(last.iter().count(), 1, "{files:?}");
        }
    }
}
